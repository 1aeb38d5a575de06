"""A whole fine-tuning: a dataset and a student by their names → the trained student in a folder, and what made it."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import digest, write_json
from c3l_hf.common.nodes import check_run
from c3l_hf.common.plain import plain
from c3l_hf.common.processes import process_state
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.common.tables import format_table
from c3l_hf.common.versions import versions
from c3l_hf.data.image_files import row_files_state
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.reading import ColumnOptions, PictureOptions, fetch_pictures, read_dataset
from c3l_hf.finetuning.answer_weights import AnswerWeights
from c3l_hf.finetuning.examples import Examples, encode_examples
from c3l_hf.finetuning.student import StudentConfig, StudentTrainer, max_length_of
from c3l_hf.models.control_tokens import ControlTokens
from c3l_hf.models.finding import find_model
from c3l_hf.models.loading import Source, load
from c3l_hf.selection.token_weights import TokenWeights
from c3l_hf.training.checkpoints import keep_two, remove_checkpoints, training_folder, training_options
from c3l_hf.training.finite import refuse_spoiled
from c3l_hf.training.resuming import told_in_one_line, train_from_last

__all__ = ["SFTOptions", "load_rows", "rows_digest", "run_sft"]

_STAGE, _STUDENT = "train", "student"
_SHOWN = 20  # rows that are named
_TOLD_OF_ROWS = ("rows", "rejected", "shortened", "examples", "without_image", "tokens")
_TOLD = (*_TOLD_OF_ROWS, "parameters", "trained_parameters", "steps")


@dataclass(kw_only=True)
class SFTOptions(ColumnOptions, PictureOptions):
    """What is fine-tuned on; how is in `StudentConfig`, `seed` and `output_dir` too."""

    dataset: str = field(
        metadata={"help": "A file, a folder, a saved dataset, or a Hub id; in any layout of docs/layouts.md."}
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset, e.g. 'scored' for all pairs that were scored."}
    )
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub's dataset."})
    split: str = field(default="train", metadata={"help": "Split of the dataset."})
    control_tokens: ControlTokens = field(
        default="refuse",
        metadata={"help": "Control tokens written in a text: refuse the row, or read them as letters."},
    )
    token_weights: TokenWeights | None = field(
        default=None,
        metadata={
            "help": "Weigh the tokens of an answer by what the picture adds to each, from the columns of c3l score: "
            "'cal' (more for more) or 'vig' (the better half only). By default all alike."
        },
    )
    weight_column: str | None = field(
        default=None, metadata={"help": "Column with a number by which a row's loss is multiplied, with a mean of 1."}
    )
    max_rows: int | None = field(default=None, metadata={"help": "Train on so many rows, drawn at random by the seed."})
    keep_encoded: bool = field(
        default=False, metadata={"help": "Keep encoded rows in memory, instead of encoding them again: small pictures."}
    )
    merge_adapters: bool = field(
        default=True, metadata={"help": "Save the whole model with its adapters merged. If False, the adapters alone."}
    )

    @property
    def weights(self) -> AnswerWeights | None:
        """How much the tokens of the rows count; None if all alike."""
        given = self.token_weights is not None or self.weight_column is not None
        return AnswerWeights(self.token_weights, self.weight_column) if given else None


def run_sft(options: SFTOptions, source: Source, training: StudentConfig) -> Path:
    """Fine-tunes a student on a dataset, and saves it.

    Nothing is truncated: rows that are too long or cannot be read are left out before the first step, counted and
    named. The same call again goes on after an interruption; other options need another `output_dir`. All is checked,
    and the folder is claimed, before any work. Every process calls this.

    Args:
        options: What it is fine-tuned on.
        source: The student: an id on the Hub or a folder.
        training: How, and where to: `<output_dir>/student` gets the model, and `training.json` there what made it.
            Modified: the trainer's own folder for checkpoints is below it.

    Returns:
        The student's folder, for `from_pretrained`.

    Raises:
        RunError: If model or dataset cannot be used, options do not go together, no row can be trained on, or the
            folder holds something else. The message says what to do.
        OSError: If a model's files cannot be read.
    """
    state, folder = process_state(), Path(training.output_dir)
    keep_two(training)
    here, identity = find_model(source)
    if here.base_model is not None and not options.merge_adapters:
        raise RunError(
            f"model {source.model_id} is adapters, and others upon them could not be loaded; merge_adapters=False "
            "needs a whole model"
        )
    rows = load_rows(options, training.seed)
    settings = {**source.loading(), "merge_adapters": options.merge_adapters, **training_options(training)}
    if options.control_tokens != "refuse":
        settings["control_tokens"] = options.control_tokens
    read = []
    if options.weights is not None:
        settings |= {name: value for name, value in vars(options.weights).items() if value is not None}
        read = options.weights.columns(rows.column_names)
    inputs = {
        "model": identity,
        "dataset": rows_digest(rows, options.image_folder, read),
        "seed": training.seed,
        "c3l_hf": versions()["c3l-hf"],
    }
    check_run(folder, inputs | settings)
    run = RunFolder(folder, inputs, results=(_STUDENT,))
    run.plan({_STAGE: settings}, [_STAGE])
    checkpoints = training_folder(run, _STAGE)
    run.claim()

    made_by: dict[str, Any] = {"model": source.model_id, "dataset": options.dataset, "split": options.split}
    made_by |= {"inputs": inputs, "options": settings}
    training.output_dir = str(checkpoints)
    report = run.complete(_STAGE, lambda unfinished: _train(unfinished, options, here, rows, training, made_by))
    if state.is_main_process:
        remove_checkpoints(checkpoints)
        run.move_results()  # now that it is complete
    state.wait_for_everyone()
    student = folder / _STUDENT
    state.print(f"{_summary(report)}\nstudent  {student}")
    return student


def load_rows(options: SFTOptions, seed: int) -> Dataset:
    """The rows to train on.

    Raises:
        RunError: If there is no such dataset or split, or it is in no accepted layout.
    """
    if options.max_rows is not None and options.max_rows < 1:
        raise RunError(f"max_rows is {options.max_rows}; it must be at least 1")
    dataset = read_dataset(
        options.dataset,
        options,
        config=options.dataset_config,
        split=options.split,
        revision=options.dataset_revision,
    )
    try:
        layout_of(dataset.column_names)
        if options.weights is not None:
            options.weights.columns(dataset.column_names)
    except ValueError as error:
        raise RunError(f"the dataset {options.dataset} cannot be used: {error}") from None
    if options.max_rows is not None and options.max_rows < len(dataset):
        dataset = dataset.select(sorted(random.Random(seed).sample(range(len(dataset)), options.max_rows)))
    fetch_pictures(dataset, options)
    return dataset


def rows_digest(rows: Dataset, image_folder: str | None = None, others: Sequence[str] = ()) -> str:
    """What tells these rows from others: a digest of their texts and images, of files by their sizes and times, and of
    other columns that count."""
    layout = layout_of(rows.column_names)
    columns = list(dict.fromkeys([*layout.columns, *others]))
    tables = rows.select_columns(columns).with_format("arrow").iter(50)
    return digest(
        *(digest(repr(table.select(columns).to_pylist())) for table in tables),
        row_files_state(rows, layout, image_folder),
    )


def _train(
    folder: Path,
    options: SFTOptions,
    source: Source,
    rows: Dataset,
    training: StudentConfig,
    made_by: Mapping[str, Any],
) -> dict[str, Any]:
    """Trains, and saves the student below the folder; what is to be reported."""
    model, processor = load(source)
    with told_in_one_line(training, Path(training.output_dir)):
        limit = training.max_length or max_length_of(model)
        examples = encode_examples(
            rows,
            processor,
            limit,
            keep=options.keep_encoded,
            num_proc=training.dataset_num_proc,
            image_folder=options.image_folder,
            control_tokens=options.control_tokens,
            weights=options.weights,
        )
        report = _report_rows(rows, examples)
        trainer = StudentTrainer(model, examples, training)
    if not options.merge_adapters and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise RunError("merge_adapters=False is not possible with FSDP or DeepSpeed: leave it out")
    weights = list(trainer.model.parameters())
    report |= {
        "parameters": sum(weight.numel() for weight in weights),
        "trained_parameters": sum(weight.numel() for weight in weights if weight.requires_grad),
    }
    with told_in_one_line(training, Path(training.output_dir)):
        train_from_last(trainer, trainer.load_weights)
    report |= {"steps": trainer.state.global_step, "log": trainer.state.log_history}

    with told_in_one_line(training, folder):
        student: Any = trainer.trained_model(options.merge_adapters)  # None elsewhere than on the main process
        if not process_state().is_main_process:
            return report
        refuse_spoiled(student, processor, training)
        if isinstance(student, PeftModel):
            # Where the adapters find their model: not this machine's copy of what is on the Hub.
            student.peft_config["default"].base_model_name_or_path = made_by["model"]
            student.peft_config["default"].revision = made_by["inputs"]["model"].get("revision")
        student.save_pretrained(folder / _STUDENT)
        processor.save_pretrained(folder / _STUDENT)
        # Not the reasons and rows, which may name files of this machine.
        told = {"report": {name: report[name] for name in _TOLD}, "versions": versions()}
        write_json(folder / _STUDENT / "training.json", plain({**made_by, **told}))
    return report


def _report_rows(rows: Dataset, examples: Examples) -> dict[str, Any]:
    """What became of the rows; says which are left out."""
    reasons = [*examples.rejected.values(), *examples.shortened.values()]
    report = {
        "rows": len(rows),
        "examples": len(examples.index),
        "tokens": sum(examples.index["length"]),
        "rejected": len(examples.rejected),
        "shortened": len(examples.shortened),
        "without_image": examples.index["images"][:].count(0),
        # What comes after a semicolon is about one row.
        "reasons": dict(Counter(reason.partition(";")[0] for reason in reasons).most_common()),
        "rejected_rows": examples.rejected_lines(_SHOWN),
    }
    some = f", and some turns of {report['shortened']:,}" * bool(examples.shortened)
    process_state().print(f"{report['rejected']:,} of {report['rows']:,} rows are left out{some}")
    for line in report["rejected_rows"]:
        process_state().print(f"  {line}")
    return report


def _summary(report: Mapping[str, Any]) -> str:
    losses = [entry["loss"] for entry in report["log"] if "loss" in entry]
    lines: list[tuple[object, ...]] = [
        ("fine-tuning", ""),
        ("rows", report["rows"]),
        ("left out", report["rejected"]),
        *[("some turns left out", report["shortened"])] * bool(report["shortened"]),
        ("examples", report["examples"]),
        *[("without an image", report["without_image"])] * bool(report["without_image"]),
        ("steps", report["steps"]),
        ("parameters trained", f"{report['trained_parameters']:,} of {report['parameters']:,}"),
    ]
    if losses:
        lines.append(("loss, first and last logged", f"{losses[0]:.3f}  {losses[-1]:.3f}"))
    return format_table(lines)
