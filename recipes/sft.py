"""Fine-tune a vision-language student on a curated dataset, with TRL's `SFTTrainer`.

    accelerate launch recipes/sft.py --config recipes/configs/sft_llava15_7b.yaml --dataset user/c3l-5k

In full or by LoRA adapters; the loss is on the answers only. Nothing is truncated: rows that are too long or cannot be
read are left out before the first step, counted and named. The same command again goes on after an interruption; other
options need another `--output_dir`. The result is `<output_dir>/student` (`from_pretrained`), what made it is in
`training.json` there. From Python: `c3l_hf.finetuning.student.fine_tune`.
"""

import json
import logging
import os
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
import xxhash
import yaml
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from peft import PeftModel
from trl import TrlParser

from c3l_hf.common.errors import RunError
from c3l_hf.common.processes import process_state
from c3l_hf.common.run_folder import Run
from c3l_hf.common.tables import format_table
from c3l_hf.common.versions import versions
from c3l_hf.data.image_files import files_state
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.opening import folder_cache
from c3l_hf.finetuning.examples import encode_examples
from c3l_hf.finetuning.student import StudentConfig, StudentTrainer, max_length_of
from c3l_hf.models.loading import Source, find_model, load
from c3l_hf.publishing.cards import plain
from c3l_hf.training.checkpoints import last_checkpoint, remove_checkpoints, training_folder, training_options

_SHOWN = 20
_TOLD = ("rows", "rejected", "examples", "tokens", "parameters", "trained_parameters", "steps")


@dataclass
class SFTArguments:
    """What is not about training: the training options are those of `StudentConfig`, `seed` and `output_dir` among
    them."""

    model: str = field(metadata={"help": "Student: a folder, or a Hub id."})
    dataset: str = field(
        metadata={"help": "Dataset: a folder, as c3l.py writes it or of save_to_disk, or a Hub id. See schema.py."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a student on the Hub."})
    model_dtype: str = field(
        default="float32", metadata={"help": "float32, bfloat16 or float16; what trains is float32."}
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset, e.g. 'scored' for all pairs c3l.py had scored."}
    )
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub's dataset."})
    split: str = field(default="train", metadata={"help": "Split of the dataset."})
    max_rows: int | None = field(default=None, metadata={"help": "Train on so many rows, drawn at random by --seed."})
    keep_encoded: bool = field(
        default=False, metadata={"help": "Keep encoded rows in memory, instead of encoding them again: small pictures."}
    )
    merge_adapters: bool = field(
        default=True, metadata={"help": "Save the whole model with its adapters merged. If False, the adapters alone."}
    )


def load_rows(args: SFTArguments, seed: int) -> Dataset:
    """The rows to train on.

    Raises:
        RowError: If there is no such dataset, split or layout; the message names what was found.
    """
    path = Path(args.dataset)
    try:
        if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            dataset = load_from_disk(path)
            if isinstance(dataset, DatasetDict):
                if args.split not in dataset:
                    raise RunError(f"{path} has no split {args.split!r}; its splits are {', '.join(dataset)}")
                dataset = dataset[args.split]
        else:
            revision = None if path.is_dir() else args.dataset_revision
            dataset = load_dataset(
                args.dataset, args.dataset_config, split=args.split, revision=revision, cache_dir=folder_cache(path)
            )
        layout_of(dataset.column_names)
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(f"--dataset {args.dataset} cannot be used: {reason}") from None
    if args.max_rows is not None and args.max_rows < len(dataset):
        if args.max_rows < 1:
            raise RunError(f"--max_rows is {args.max_rows}; it must be at least 1")
        dataset = dataset.select(sorted(random.Random(seed).sample(range(len(dataset)), args.max_rows)))
    return dataset


def rows_digest(rows: Dataset) -> str:
    """What tells these rows from others: a digest of their texts and images, of files by their sizes and times."""
    columns = layout_of(rows.column_names)
    digest = xxhash.xxh3_128()
    for table in rows.select_columns(list(columns)).with_format("arrow").iter(50):
        digest.update(repr(table.select(columns).to_pylist()).encode())
    digest.update(files_state(rows, columns[-1]).encode())
    return digest.hexdigest()


class SFT:
    """One training: everything is checked, and the folder is claimed, before any work."""

    def __init__(self, args: SFTArguments, training: StudentConfig):
        self.args, self.training = args, training
        self.model_folder, identity = find_model(args.model, args.model_revision, training.trust_remote_code)
        self.rows = load_rows(args, training.seed)
        inputs = {"model": identity, "dataset": rows_digest(self.rows), "seed": training.seed}
        self.run = Run(Path(training.output_dir), inputs | {"c3l_hf": versions()["c3l-hf"]})
        self.options = {"model_dtype": args.model_dtype, "merge_adapters": args.merge_adapters}
        self.options |= training_options(training)
        self.run.plan({"train": self.options}, ["train"])
        self.checkpoints = training_folder(self.run, "train")
        self.student = self.run.folder / "student"
        if self.student.exists() and not self.run.is_done("train"):
            raise RunError(f"{self.student} is in the way; move it, or give another --output_dir")

    def train(self, folder: Path) -> dict:
        args, training = self.args, self.training
        model, processor = load(
            Source(str(self.model_folder), None, args.model_dtype, None, training.trust_remote_code)
        )
        examples = encode_examples(
            self.rows,
            processor,
            training.max_length or max_length_of(model),
            keep=args.keep_encoded,
            num_proc=training.dataset_num_proc,
        )
        report = {
            "rows": len(self.rows),
            "examples": len(examples.index),
            "tokens": sum(examples.index["length"]),
            "rejected": len(examples.rejected),
            # What comes after a semicolon is about one row.
            "reasons": dict(Counter(reason.partition(";")[0] for reason in examples.rejected.values()).most_common()),
            "rejected_rows": examples.rejected_lines(_SHOWN),
        }
        process_state().print(f"{report['rejected']:,} of {report['rows']:,} rows are left out")
        for line in report["rejected_rows"]:
            process_state().print(f"  {line}")

        training.output_dir = str(self.checkpoints)
        trainer = StudentTrainer(model, examples, training)
        if not args.merge_adapters and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            raise RunError("--merge_adapters false is not possible with FSDP or DeepSpeed: leave it out")
        weights = list(trainer.model.parameters())
        report |= {
            "parameters": sum(weight.numel() for weight in weights),
            "trained_parameters": sum(weight.numel() for weight in weights if weight.requires_grad),
        }
        trainer.train_from(last_checkpoint(self.checkpoints))
        report |= {"steps": trainer.state.global_step, "log": trainer.state.log_history}

        # Save
        student = trainer.trained_model(args.merge_adapters)
        if process_state().is_main_process:
            made = folder / "student"
            if isinstance(student, PeftModel):
                # Where the adapters find their model: not this machine's copy of what is on the Hub.
                student.peft_config["default"].base_model_name_or_path = args.model
            student.save_pretrained(made)
            processor.save_pretrained(made)
            made_by = {"model": args.model, "dataset": args.dataset, "split": args.split, "inputs": self.run.inputs}
            # Not the reasons and rows, which may name files of this machine.
            made_by |= {"options": self.options, "report": {name: report[name] for name in _TOLD}}
            made_by |= {"versions": versions()}
            (made / "training.json").write_text(json.dumps(plain(made_by), indent=1) + "\n")
        return report


def main(job: SFT) -> None:
    state = process_state()
    if state.device.type == "cpu":
        # `accelerate launch` gives every process one thread unless told otherwise.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // state.num_processes))
    try:
        report = job.run.complete("train", job.train)
        if state.is_main_process:
            remove_checkpoints(job.checkpoints)
            made = job.run.path("train") / "student"
            if made.exists():
                os.rename(made, job.student)  # now that it is complete
    except (RunError, ValueError) as error:
        sys.exit(f"sft: {error}")
    losses = [entry["loss"] for entry in report["log"] if "loss" in entry]
    table = [("rows", f"{report['rows']:,}"), ("left out", f"{report['rejected']:,}")]
    table += [("examples", f"{report['examples']:,}"), ("steps", f"{report['steps']:,}")]
    table += [("parameters trained", f"{report['trained_parameters']:,} of {report['parameters']:,}")]
    if losses:
        table += [("loss, first and last logged", f"{losses[0]:.3f}  {losses[-1]:.3f}")]
    state.print(f"{format_table(table)}\nstudent  {job.student}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        job = SFT(*TrlParser((SFTArguments, StudentConfig)).parse_args_and_config())
    except (RunError, OSError, ValueError, yaml.YAMLError) as error:
        # Nothing has been done yet: one line says what is wrong with the call.
        sys.exit(f"sft: {error}")
    main(job)
