"""What test_distributed_training.py runs, in as many processes as it is launched with: python distributed_script.py DIR

DIR/start has the model. Each training leaves its logs and weights in DIR, by its name and the process's number.
"""

import gc
import json
import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from tiny_training import config, message, pseudo_labels, with_pictures_elsewhere, with_tokens
from transformers import AutoModelForImageTextToText, AutoProcessor

from c3l_hf.common.processes import process_state
from c3l_hf.finetuning.answer_weights import AnswerWeights
from c3l_hf.finetuning.examples import encode_examples
from c3l_hf.finetuning.student import StudentConfig, StudentTrainer
from c3l_hf.training.checkpoints import last_checkpoint
from c3l_hf.training.resuming import train_from_last
from c3l_hf.training.trainer import C3LTrainer

STEPS, BATCH = 4, 4  # rows of all processes together
# Not Adam, which makes a step of full size of a gradient that is rounding error; bf16 has it.
SGD = {"optim": "sgd", "optim_args": "momentum=0.5"}
FULL = {**SGD, "use_lora": False, "learning_rate": 0.05}
LORA = {**SGD, "learning_rate": 0.3}
RUNS = {
    "full": FULL,
    "lora": {**LORA, "gradient_accumulation_steps": 2, "weight_column": "weight", "token_weights": "cal"},
    "full_in_batch": {**FULL, "in_batch_negatives": True},
    "lora_in_batch": {**LORA, "in_batch_negatives": True, "contrastive_loss": "sigmoid"},
    "likelihood": {**LORA, "similarity": "likelihood", "gradient_accumulation_steps": 2},
    "bf16": {"use_lora": False, "learning_rate": 1e-3, "bf16": True, "activation_checkpointing": True},
}
STUDENTS = ("student-float32", "student-bfloat16", "student-float32-mixed")
ALL = [*RUNS, *STUDENTS, "stream"]
SAVED, RESUMED = ("full", "lora"), ("lora", "bf16")


def rows(bad: bool) -> Dataset:
    """8 rows with 3 different positives, so that some in a batch are alike; and one that cannot be trained on."""
    first, features = pseudo_labels().to_list(), pseudo_labels().features
    more = [{**row, "images": other["images"]} for row, other in zip(first[:3], first[1:])]
    all_rows = [*first[:3], *more, *({**row, "image_id": f"{row['image_id']}b"} for row in first[:2])]
    if bad:
        all_rows.insert(3, {**first[1], "image_id": "bad", "chosen": message("assistant", " ")})
    return with_tokens(Dataset.from_list(all_rows, features=features))


def make_trainer(folder: Path, name: str, run: str, train_dataset: Dataset, **options) -> C3LTrainer:
    options = {"max_steps": STEPS, "save_steps": STEPS // 2, "invalid_rows": "drop", **RUNS[name], **options}
    processes, accumulation = process_state().num_processes, options.get("gradient_accumulation_steps", 1)
    args = config(
        folder / run,
        per_device_train_batch_size=BATCH // processes // accumulation,
        per_device_eval_batch_size=2 // processes,
        **options,
    )
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        # accelerate shards on accelerators only, and in silence uses DDP on CPUs. What it does under the name of GPUs
        # needs none.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    # 3 rows: the last evaluation batch is not full, and evaluation repeats a row to fill it. Further negatives would be
    # others then.
    evaluation = with_tokens(pseudo_labels(4 if args.in_batch_negatives else 3))
    return C3LTrainer(str(folder / "start"), args, train_dataset=train_dataset, eval_dataset=evaluation)


def all_weights(trainer: C3LTrainer) -> dict[str, torch.Tensor]:
    gathered = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # of a sharded model on the first process only
    return {name: weight.clone() for name, weight in (gathered or {}).items()}


def run(folder: Path, name: str) -> None:
    state = process_state()
    dataset = with_pictures_elsewhere(rows(bad=True)) if name == "full" else rows(bad=True)
    trainer = make_trainer(folder, name, name, dataset, save_strategy="steps" if name in RESUMED else "no")
    if state.num_processes == 1:
        torch.save(all_weights(trainer), folder / f"{name}-start.pt")
    train_from_last(trainer)
    weights = all_weights(trainer)
    torch.save(weights, folder / f"{name}-{state.process_index}.pt")
    result = {
        "wrapped": type(trainer.model_wrapped).__name__,
        "packed": trainer.data_collator.packed,
        "rows": list(trainer.train_dataset.with_format(None)["image_id"]),
        "logs": [log for log in trainer.state.log_history if "loss" in log],
        "evaluation": trainer.evaluate(),
    }
    if name in SAVED:
        trainer.save_model(str(folder / f"{name}-saved"))
        merged = trainer.merged_model()
        if state.is_main_process:
            merged.save_pretrained(folder / f"{name}-merged")
    if name in RESUMED:
        resumed = make_trainer(folder, name, f"{name}-resumed", rows(bad=False), save_strategy="no")
        resumed.train(resume_from_checkpoint=str(folder / name / f"checkpoint-{STEPS // 2}"))
        again = all_weights(resumed)
        result["resumed"] = all(torch.equal(weight, again[key]) for key, weight in weights.items())
        ended = make_trainer(folder, name, name, rows(bad=False), save_strategy="no")
        train_from_last(ended)  # from its last step: nothing is left to do
        again = all_weights(ended)
        result["ended"] = all(torch.equal(weight, again[key]) for key, weight in weights.items())
        result["last"] = (
            ended.state.global_step,
            last_checkpoint(folder / name) == str(folder / name / f"checkpoint-{STEPS}"),
        )
    (folder / f"{name}-{state.process_index}.json").write_text(json.dumps(result))


def run_student(folder: Path, name: str) -> None:
    """All weights of a student in bfloat16, and of one in float32, whose rows have weights; adapters and projector of
    one that has rows without pictures: in each step at most one process has a picture."""
    mixed = "mixed" in name
    model = AutoModelForImageTextToText.from_pretrained(folder / "start", dtype=name.split("-")[1])
    examples = rows(bad=False).remove_columns("rejected").rename_column("chosen", "completion")
    weights = AnswerWeights(weight_column="weight") if name == "student-float32" else None
    if mixed:
        bare = [{**row, "images": row["images"] if number in (0, 1, 6) else []} for number, row in enumerate(examples)]
        # With a step in which no process has one.
        bare += [{**row, "images": []} for row in bare[:4]]
        examples = Dataset.from_list(bare, features=examples.features)
    examples = encode_examples(examples, AutoProcessor.from_pretrained(folder / "start"), weights=weights)
    options = {**FULL, "max_steps": STEPS, "bf16": "bfloat16" in name, "train_sampling_strategy": "random"}
    if mixed:
        # Sequential: each process has the next two rows.
        options |= {"train_sampling_strategy": "sequential", "use_lora": True, "lora_r": 4, "lora_dropout": 0.0}
    options |= {"report_to": "none", "save_strategy": "no", "activation_checkpointing": False, "disable_tqdm": True}
    batch = BATCH // process_state().num_processes
    trainer = StudentTrainer(
        model, examples, StudentConfig(str(folder / name), per_device_train_batch_size=batch, **options)
    )
    trainer.train()
    if (trained := trainer.trained_model()) is not None:
        torch.save(trained.state_dict(), folder / f"{name}-{process_state().process_index}.pt")


def evaluate_stream(folder: Path) -> None:
    trainer = make_trainer(folder, "full", "stream", rows(bad=False))
    stream = pseudo_labels().to_iterable_dataset()
    args = config(folder / "stream", per_device_eval_batch_size=2 // process_state().num_processes)
    trainer = C3LTrainer(
        trainer.model, args, rows(bad=False), eval_dataset=stream, processing_class=trainer.processing_class
    )
    (folder / f"stream-{process_state().process_index}.json").write_text(json.dumps(trainer.evaluate()))


def spoil(folder: Path) -> None:
    """A training in which the pictures of one image, which few rows have, are not finite."""
    trainer = make_trainer(folder, "full", "spoiled", rows(bad=False))
    collate = trainer.data_collator

    def spoiled(examples: list[dict]) -> dict:
        batch = collate(examples)
        for place, example in enumerate(examples):
            if example["image_id"] == "image-2":
                batch["pixel_values"][place] = torch.nan
        return batch

    trainer.data_collator = spoiled
    try:
        trainer.train()
    except FloatingPointError as error:
        (folder / f"spoiled-{process_state().process_index}.txt").write_text(str(error))


def main(folder: Path, names: list[str]) -> None:
    try:
        make_trainer(folder, "full", "bad", rows(bad=True), invalid_rows="raise")
    except ValueError as error:
        (folder / f"error-{process_state().process_index}.txt").write_text(str(error))
    spoil(folder)
    for name in names:
        if name.startswith("student"):
            run_student(folder, name)
        elif name == "stream":
            evaluate_stream(folder)
        else:
            run(folder, name)


if __name__ == "__main__":
    gc.freeze()  # what is imported is no garbage; `Trainer` has it looked for after each training
    main(Path(sys.argv[1]), sys.argv[2:] or ALL)
