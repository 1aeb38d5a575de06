"""Students of the tests: five rows as a curated dataset has them, and a few steps of training on them."""

from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from tiny_models import tiny_llava

from c3l_hf.finetuning.examples import DataCollatorForAnswers, encode_examples
from c3l_hf.finetuning.student import StudentConfig, StudentTrainer

PAIRS = [
    ("Is there a dog in the picture?", "Yes, there is a dog."),
    ("Describe this picture.", "The picture shows an apple next to a ball on a table."),
    ("What colour is the background?", "red"),
    ("How many cats are there?", "two cats"),
    ("Where is the car?", "It is at the top left."),
]
MESSAGES = List({"role": Value("string"), "content": Value("string")})
FEATURES = Features(
    {
        "images": List(Image()),
        "prompt": MESSAGES,
        "completion": MESSAGES,
        "pair_id": Value("string"),
        "i2c": Value("float32"),
    }
)


def message(role, content):
    return [{"role": role, "content": content}]


def picture(number):
    return PILImage.linear_gradient("L").rotate(72 * number).resize((40 + 8 * number, 40)).convert("RGB")


def curated(pairs=PAIRS):
    """Rows as c3l.py writes them."""
    rows = [
        {
            "images": [picture(number)],
            "prompt": message("user", question),
            "completion": message("assistant", answer),
            "pair_id": f"pair-{number}",
            "i2c": 0.5,
        }
        for number, (question, answer) in enumerate(pairs)
    ]
    return Dataset.from_list(rows, features=FEATURES)


def config(folder, **options):
    defaults = {
        "bf16": False,
        "activation_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "max_steps": 2,
        "per_device_train_batch_size": 3,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "use_lora": False,
        "lora_r": 4,
        "lora_alpha": 8,
    }
    return StudentConfig(str(folder), **{**defaults, **options})


def make_trainer(folder, built=None, dataset=None, **options):
    model, processor = built or tiny_llava()
    return StudentTrainer(model, encode_examples(dataset or curated(), processor), config(folder, **options))


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def batch_of(examples):
    return DataCollatorForAnswers(examples)(list(examples.index))


def bad_rows():
    """Six rows, of which only the first can be trained on."""
    rows = curated([PAIRS[0]] * 6).to_list()
    rows[1]["completion"][0]["content"] = "The picture shows " + "a dog and " * 60 + "a cat."
    rows[2]["images"] = [{"bytes": b"no picture", "path": None}]
    rows[3]["prompt"] = None
    rows[4]["completion"][0]["content"] = "a dog<image>"
    rows[5]["images"] = [None]
    return Dataset.from_list(rows, features=FEATURES)


REASONS = {
    1: "the sequence is longer than 100 tokens; it has ",
    2: "the image cannot be read",
    3: "prompt is null",
    4: "contains the control token '<image>'",
    5: "images[0] is null",
}
