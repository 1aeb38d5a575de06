"""Where a training goes on after an interruption, and what tells it from another training."""

import json
import logging
import re
import shutil
from dataclasses import MISSING, fields
from pathlib import Path

from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from c3l_hf.common.aside import ASIDE, set_aside
from c3l_hf.common.checksums import seal_damage
from c3l_hf.common.errors import RunError
from c3l_hf.common.processes import process_state
from c3l_hf.common.run_folder import RunFolder

__all__ = ["STATE", "keep_two", "last_checkpoint", "remove_checkpoints", "training_folder", "training_options"]

logger = logging.getLogger(__name__)

STATE = "trainer_state.json"  # of a checkpoint, the last that `Trainer` writes
_LEAST = 2  # checkpoints that are kept

# Options of a trainer that do not change what is trained.
_REPORTING = re.compile(
    r"output_dir|push_to_hub|hub_.*|run_name|report_to|disable_tqdm|use_cpu|ddp_timeout|dataset_num_proc"
    r"|log_.*|logging_.*|save_.*|trackio_.*|dataloader_(num_workers|pin_memory|prefetch_factor|persistent_workers)"
)


def training_options(training: TrainingArguments) -> dict:
    """The options of a trainer that are not at their default and change what is trained, as JSON reads them back.

    Raises:
        RunError: If the training could not go on after an interruption.
    """
    if training.save_only_model:
        raise RunError("save_only_model=True gives checkpoints from which a training cannot go on; leave it out")
    if training.resume_from_checkpoint:
        raise RunError("resume_from_checkpoint is not used here: the same call goes on by itself; leave it out")
    if 0 < (training.save_total_limit or 0) < _LEAST:
        raise RunError(
            f"save_total_limit is {training.save_total_limit}; it must be at least {_LEAST}, so that one is left where "
            "the last is damaged"
        )
    options = {}
    for field in fields(training):
        value = getattr(training, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.name == "accelerator_config":
            usual = AcceleratorConfig().to_dict()
            value, default = {key: item for key, item in value.to_dict().items() if item != usual[key]}, {}
        if value != default and isinstance(value, bool | int | float | str | list | dict):
            options[field.name] = value
    # Through JSON: enumerations become their values.
    return json.loads(json.dumps({name: value for name, value in options.items() if not _REPORTING.fullmatch(name)}))


def keep_two(training: TrainingArguments) -> None:
    """Keep two checkpoints of a training, if nothing else is said: all are removed once its result is there."""
    if training.save_total_limit is None:
        training.save_total_limit = _LEAST


def training_folder(run: RunFolder, stage: str) -> Path:
    """The folder of a training's checkpoints: under the stage's digest, so that no other training's are continued, and
    the number of processes, on which it depends what a step is."""
    digest, processes = run.digest(stage)[:12], process_state().num_processes
    folder = run.folder / f"training-{digest}-{processes}"
    if not folder.exists() and not run.is_done(stage) and process_state().is_main_process:
        _name_others(run.folder, digest, processes)
    return folder


def _name_others(run: Path, digest: str, processes: int) -> None:
    """Warn of the checkpoints that a training will not go on from: nothing is lost without a word."""
    for other in sorted(run.glob("training-*")):
        steps = _by_step(other)
        if not steps:
            continue
        if other.name.startswith(f"training-{digest}-"):
            logger.warning(
                "training starts at its first step: its checkpoints up to step %d, in %s, were made by %s process(es), "
                "and by %d a step is another one. Start it with as many as before to go on from them; they stay there",
                max(steps),
                other,
                other.name.rpartition("-")[2],
                processes,
            )
        else:
            logger.warning(
                "training starts at its first step: the checkpoints up to step %d in %s are of a training with other "
                "options. They stay there; with the same options it goes on from them",
                max(steps),
                other,
            )


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in a folder; None if there is none. Every process calls this, and gets the same.

    A whole checkpoint has a seal, which is written last (`training.saving`), and all its files are what they were. What
    is not whole is named in a warning, and the one before it is taken: a damaged one is set aside under another name,
    one that was not written to its end is removed.

    Raises:
        RunError: If a process does not see what the main process has found.
    """
    state = process_state()
    checkpoint = broadcast_object_list([_newest_whole(folder) if state.is_main_process else None])[0]
    seen = gather_object([checkpoint is None or Path(checkpoint).is_dir()])
    if not all(seen):
        raise RunError(
            f"{checkpoint} is not there for process {seen.index(False)}; output_dir has to be on a disk that all "
            "machines share"
        )
    return checkpoint


def _by_step(folder: Path) -> dict[int, Path]:
    """Step → checkpoint, whole or not."""
    names = {
        path: path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-") for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    }
    return {int(step): path for path, step in names.items() if step.isdecimal() and path.is_dir()}


def _newest_whole(folder: Path) -> str | None:
    steps, problems = _by_step(folder), {}
    whole = None
    for step in sorted(steps, reverse=True):
        problem = _problem(steps[step])
        if problem is None:
            whole = step
            break
        problems[step] = problem
    goes_on = "starts at its first step" if whole is None else f"goes on from step {whole}"
    cut_short = [step for step in problems if _is_cut_short(steps[step])]
    for step in cut_short:
        shutil.rmtree(steps[step])
    aside = set_aside(folder, [steps[step] for step in problems if step not in cut_short])
    for step, problem in problems.items():
        done = "it is removed" if step in cut_short else f"it is set aside in {aside}"
        logger.warning("the checkpoint %s %s: %s, and training %s", steps[step], problem, done, goes_on)
    return None if whole is None else str(steps[whole])


def _is_cut_short(checkpoint: Path) -> bool:
    """Whether not even the trainer had written all: such remains grow with every interruption, and nobody has use for
    them. Without a seal alone it may also be of an older version, and is kept."""
    return seal_damage(checkpoint) is None and not (checkpoint / STATE).is_file()


def _problem(checkpoint: Path) -> str | None:
    """Why a training cannot go on from a checkpoint; None if it can."""
    found = seal_damage(checkpoint)
    if found is None:
        return "was not written to its end (it has no checksums.json)"
    if found:
        (name, what), more = next(iter(found.items())), len(found) - 1
        return f"is damaged: {name} {what}{f', and so are {more:,} more files' if more else ''}"
    # DeepSpeed has folders of its own for optimizer and scheduler.
    of_deepspeed = any(checkpoint.glob("global_step*"))
    needed = [STATE, "rng_state*.pth", *([] if of_deepspeed else ["optimizer*", "scheduler.pt"])]
    missing = [pattern for pattern in needed if not any(checkpoint.glob(pattern))]
    return f"has no {', '.join(missing)}" if missing else None


def remove_checkpoints(folder: Path) -> None:
    """Remove a training's checkpoints, damaged ones too, once its result is complete; what else it has written there
    stays."""
    for pattern in (f"{PREFIX_CHECKPOINT_DIR}-*", f"{ASIDE}-*/{PREFIX_CHECKPOINT_DIR}-*"):
        for checkpoint in folder.glob(pattern):
            shutil.rmtree(checkpoint, ignore_errors=True)
    for aside in folder.glob(f"{ASIDE}-*"):
        if not any(aside.iterdir()):
            aside.rmdir()
    (folder / "README.md").unlink(missing_ok=True)  # TRL's card of the checkpoints
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
