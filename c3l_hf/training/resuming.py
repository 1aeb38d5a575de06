"""A training goes on from its last checkpoint, ends where it should, and tells in one line what went wrong."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError
from torch.utils.data import Subset
from transformers import Trainer, TrainerState, TrainingArguments

from c3l_hf.common.errors import RunError
from c3l_hf.common.memory_errors import told_of_memory
from c3l_hf.training.checkpoints import STATE, last_checkpoint
from c3l_hf.training.saving import SaveInTime, SealCheckpoints

__all__ = ["told_in_one_line", "train_from", "train_from_last"]

# How safetensors and `torch.save` say that a file cannot be written, each without an OSError.
_WRITING = re.compile("I/O error|inline_container|PytorchStreamWriter|Parent directory")
# How a DataLoader hands on what was raised in one of its processes, and says that one has been ended.
_OF_WORKER = re.compile(r"Caught \w+ in DataLoader worker")
_WORKER_ENDED = re.compile(r"DataLoader worker \(pid.*?\) (is killed|exited)")


def train_from_last(trainer: Trainer, load: Callable[[str], None] | None = None) -> None:
    """Train from the newest whole checkpoint in the trainer's folder, or from the start. Every process calls this.

    Checkpoints are sealed, and saved at least about every 15 minutes, unless `save_strategy` is "no".

    Args:
        trainer: Not yet trained.
        load: Loads the weights of a checkpoint, where the trainer cannot do so itself.
    """
    checkpoint = last_checkpoint(Path(trainer.args.output_dir))
    trainer.add_callback(SaveInTime())
    trainer.add_callback(SealCheckpoints())  # the last
    if checkpoint is not None and load is not None:
        load(checkpoint)
    train_from(trainer, checkpoint)


def train_from(trainer: Trainer, checkpoint: str | None) -> None:
    """`trainer.train(resume_from_checkpoint=checkpoint)`, which makes no step if the checkpoint is of the last one."""
    if checkpoint is None:
        trainer.train()
        return
    there = TrainerState.load_from_json(str(Path(checkpoint, STATE))).global_step
    steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1]
    if there < steps:
        trainer.train(resume_from_checkpoint=checkpoint)
        return
    # `Trainer` looks whether it has come to the end after a step, not before one. With as many rows as a step takes, a
    # step is an epoch; and epochs are counted before.
    rows, limit = trainer.train_dataset, trainer.args.max_steps
    of_step = range(min(len(rows), trainer.args.per_device_train_batch_size * trainer.args.world_size))
    trainer.train_dataset = rows.select(of_step) if hasattr(rows, "select") else Subset(rows, of_step)
    trainer.args.max_steps = steps
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        trainer.train_dataset, trainer.args.max_steps = rows, limit


@contextlib.contextmanager
def told_in_one_line(training: TrainingArguments, folder: Path) -> Iterator[None]:
    """A context in which a model is trained or saved: what may well happen there is a RunError, which says what to do.

    That is a disk that is full (the writers of weights raise errors of their own for it), want of memory, a loss that
    is not finite, rows that cannot be trained on. A checkpoint before it stays.

    Args:
        training: The trainer's options.
        folder: What is written into.
    """
    size, accumulated = training.per_device_train_batch_size, training.gradient_accumulation_steps
    smaller = (
        f"lower per_device_train_batch_size, which is {size}, and raise gradient_accumulation_steps, which is "
        f"{accumulated}, to keep their product; training starts at its first step then"
        if size > 1
        else "per_device_train_batch_size is 1 already; smaller pictures, activation_checkpointing, use_lora, or a "
        "lower max_length need less"
    )
    try:
        with told_of_memory(smaller):
            yield
    except FloatingPointError as error:
        raise RunError(f"training has ended: {error}. Checkpoints from before stay") from error
    except ValueError as error:
        raise RunError(_line(str(error))) from error
    except (SafetensorError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if _WORKER_ENDED.search(text):  # by the system, as a rule, for want of memory
            raise RunError(
                f"a process that loads rows has ended ({text[:160]}); lower dataloader_num_workers, which is "
                f"{training.dataloader_num_workers}, or give it more memory (in a container also /dev/shm)"
            ) from error
        if not _WRITING.search(text):
            raise
        raise RunError(
            f"{folder}: the weights cannot be written ({text[:200]}); make room on the disk, or make it writable, and "
            "call it again"
        ) from error


def _line(text: str) -> str:
    """The words of an error about rows, in one line; of one in another process the words that were raised there."""
    lines = [line.strip() for line in text.strip().splitlines()]
    if lines and _OF_WORKER.match(lines[0]):
        lines = [lines[-1].partition(": ")[2] or lines[-1]]
    return " ".join(lines)
