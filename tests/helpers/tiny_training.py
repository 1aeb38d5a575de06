"""Pseudo-labels and a trainer small enough for tests."""

import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from tiny_models import tiny_llava

from c3l_hf.training.config import C3LConfig
from c3l_hf.training.trainer import C3LTrainer

ANSWERS = [
    ["Question: What colour is the ball?\nAnswer: red", "Question: Where is the ball?\nAnswer: left", "no"],
    ["Question: How many cats are there?\nAnswer: two", "Question: Is there a dog?\nAnswer: Yes, there is a dog."],
    ["Question: Describe this picture.\nAnswer: The picture shows an apple next to a ball on a table."],
    ["Question: Is there a car?\nAnswer: No", "Question: Is there a car?\nAnswer: Yes"],
]


def message(role, content):
    return [{"role": role, "content": content}]


def pseudo_labels(count=4):
    """Rows with 2, 1, 0 and 1 negatives, prompts and answers of different lengths, images that differ."""
    rows = []
    for number, (chosen, *rejected) in enumerate(ANSWERS[:count]):
        image = PILImage.linear_gradient("L").rotate(90 * number).resize((40 + 8 * number, 40)).convert("RGB")
        rows.append(
            {
                "images": [image],
                "image_id": f"image-{number}",
                "prompt": message("user", "Ask a question about this picture" + ", and answer it" * number + "."),
                "chosen": message("assistant", chosen),
                "rejected": [message("assistant", text) for text in rejected],
                "weight": 0.5 + number / 4,
            }
        )
    messages = List({"role": Value("string"), "content": Value("string")})
    features = {"images": List(Image()), "image_id": Value("string"), "weight": Value("float32")}
    features |= {"prompt": messages, "chosen": messages, "rejected": List(messages)}
    return Dataset.from_list(rows, features=Features(features))


def with_pictures_elsewhere(rows):
    """The rows without their pictures, which come from another place when a row is read."""
    stored = rows.cast_column("images", List(Image(decode=False)))["images"][:]
    referenced = rows.remove_columns("images").add_column("place", list(range(len(rows))))
    return referenced.with_transform(lambda batch: {**batch, "images": [stored[place] for place in batch["place"]]})


def config(folder, **options):
    defaults = {
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "similarity": "hidden",
    }
    if options.get("similarity", "hidden") == "hidden":
        defaults["projection_dim"] = 16
    return C3LConfig(str(folder), **{**defaults, **options})


def make_trainer(folder, built=None, train_dataset=None, eval_dataset=None, peft_config=None, **options):
    model, processor = built or tiny_llava()
    return C3LTrainer(
        model,
        config(folder, **options),
        train_dataset=train_dataset or pseudo_labels(),
        eval_dataset=eval_dataset,
        processing_class=processor,
        peft_config=peft_config,
    )


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def moved(trainer):
    """The names of the weights that training changes."""
    before = weights(trainer)
    trainer.train()
    return {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
