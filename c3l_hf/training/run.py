"""A whole training: a generator and pseudo-labels → the trained generator in a folder, also after an interruption."""

import copy
import math
import warnings
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PrinterCallback, ProcessorMixin, TrainerCallback

from c3l_hf.common.processes import process_state
from c3l_hf.common.progress import ProgressLine
from c3l_hf.training.checkpoints import keep_two
from c3l_hf.training.config import C3LConfig
from c3l_hf.training.finite import refuse_spoiled
from c3l_hf.training.resuming import told_in_one_line, train_from_last
from c3l_hf.training.trainer import C3LTrainer

__all__ = ["planned_steps", "steps_in", "train_generator"]


def steps_in(epochs: float, rows: int, training: C3LConfig) -> int:
    """How many optimizer steps so many passes over the rows take, at least 1; all processes call this alike.

    Args:
        epochs: Passes, also a part of one.
        rows: To train on.
        training: Its batch size and accumulation.
    """
    batches = math.ceil(rows / (training.per_device_train_batch_size * process_state().num_processes))
    return max(1, math.ceil(epochs * math.ceil(batches / training.gradient_accumulation_steps)))


def planned_steps(training: C3LConfig, rows: int, max_epochs: float | None = None) -> int:
    """How many steps a training takes at most: `max_steps`, but no more than `max_epochs`; else `num_train_epochs`.

    Args:
        training: Its options.
        rows: To train on.
        max_epochs: Passes over the rows after which it ends, if `max_steps` does not end it before.
    """
    if training.max_steps <= 0:
        return steps_in(training.num_train_epochs, rows, training)
    most = training.max_steps if max_epochs is None else steps_in(max_epochs, rows, training)
    return min(training.max_steps, most)


def train_generator(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    labels: Dataset,
    training: C3LConfig,
    checkpoints: Path,
    folder: Path,
    max_epochs: float | None = None,
) -> dict[str, Any]:
    """Train a generator from its last checkpoint, or from the start, and save it. Every process calls this.

    Args:
        model: The generator, which is trained in place.
        processor: Its processor.
        labels: Rows of `PSEUDO_LABEL_FEATURES`.
        training: How; its `output_dir` and `push_to_hub` are not looked at.
        checkpoints: Where checkpoints are, or come to be.
        folder: Where the model is saved, its adapters merged, with its processor.
        max_epochs: Beside `training.max_steps`: training ends after so many passes over the rows, if that is sooner.

    Returns:
        How many steps it took, and what was logged; how many rows it had, and how many were left out; and the step of
        the checkpoint that this call went on from, if any.

    Raises:
        RunError: If rows cannot be trained on, memory or disk are full, or loss or weights are not finite: one line
            that says what to do.
    """
    training = copy.copy(training)
    training.output_dir = str(checkpoints)
    training.push_to_hub = False  # of results, by `publishing`: the trainer would push its checkpoints
    keep_two(training)
    shown, training.disable_tqdm = not training.disable_tqdm, True  # our line tells more, and stands in logs, too
    line = _Line(shown)
    with told_in_one_line(training, checkpoints), warnings.catch_warnings():
        # By which PEFT and TRL ask; users can do nothing about it.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        trainer = C3LTrainer(model, training, labels, processing_class=processor, callbacks=[line])
    if training.max_steps > 0:
        # Of the rows that are left: some may have been dropped.
        trainer.args.max_steps = planned_steps(training, len(trainer.train_dataset), max_epochs)
    # What it would print at every logging step is in the report.
    trainer.remove_callback(PrinterCallback)
    with told_in_one_line(training, checkpoints):
        train_from_last(trainer)
    with told_in_one_line(training, folder):
        trained = trainer.merged_model()
        if trained is not None and process_state().is_main_process:
            refuse_spoiled(trained, processor, training)
            trained.save_pretrained(folder)
            processor.save_pretrained(folder)
    rows = len(trainer.train_dataset)
    report = {"steps": trainer.state.global_step, "log": trainer.state.log_history}
    report |= {"rows": rows, "left_out": len(labels) - rows}
    return report | ({"from_step": line.from_step} if line.from_step else {})


class _Line(TrainerCallback):
    """The progress line of a training, over all its steps."""

    def __init__(self, shown: bool):
        self._shown, self.from_step = shown, 0

    def on_train_begin(self, args, state, control, **_):
        self.from_step = state.global_step
        self._line = ProgressLine("train", state.max_steps, "steps", lambda: self.from_step, self._shown)
        self._line.begin_part()

    def on_step_end(self, args, state, control, **_):
        self._line.advance()

    def on_train_end(self, args, state, control, **_):
        self._line.close()
