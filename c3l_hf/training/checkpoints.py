"""Where a training goes on after an interruption, and what tells it from another training."""

import json
import logging
import re
import shutil
from dataclasses import MISSING, fields
from pathlib import Path

from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from c3l_hf.common.errors import RunError
from c3l_hf.common.processes import process_state
from c3l_hf.common.run_folder import RunFolder

__all__ = ["last_checkpoint", "remove_checkpoints", "training_folder", "training_options"]

logger = logging.getLogger(__name__)

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


def training_folder(run: RunFolder, stage: str) -> Path:
    """The folder of a training's checkpoints: under the stage's digest, so that no other training's are continued, and
    the number of processes, on which it depends what a step is."""
    folder = run.folder / f"training-{run.digest(stage)[:12]}-{process_state().num_processes}"
    others = [other.name for other in sorted(run.folder.glob("training-*")) if any(other.glob("checkpoint-*"))]
    if others and not folder.exists() and not run.is_done(stage) and process_state().is_main_process:
        logger.warning(
            "training starts at its first step: the checkpoints in %s (%s) are of a training with other options, or "
            "another number of processes (the last number). They stay there; with the same it goes on from them",
            run.folder,
            ", ".join(others),
        )
    return folder


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint in a folder that was written to its end; None if there is none."""
    # The last of its files. A checkpoint that was cut short has none, and will be written over.
    ends = folder.glob("checkpoint-*/trainer_state.json")
    steps = {int(end.parent.name.rpartition("-")[2]): end.parent for end in ends}
    return str(steps[max(steps)]) if steps else None


def remove_checkpoints(folder: Path) -> None:
    """Remove a training's checkpoints, once its result is complete; what else it has written there stays."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    (folder / "README.md").unlink(missing_ok=True)  # TRL's card of the checkpoints
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
