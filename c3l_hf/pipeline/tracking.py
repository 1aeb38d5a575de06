"""The figures of all stages for the trackers that the trainer reports to (`report_to`)."""

import logging
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from transformers import TrainingArguments

from c3l_hf.common.run_folder import RunFolder
from c3l_hf.data.schema import STATUS, STATUS_OK
from c3l_hf.pipeline.summary import QUANTILES

__all__ = ["figures", "report_figures"]

logger = logging.getLogger(__name__)

_SCORED = ("score", "rescore")


def report_figures(folder: RunFolder, stages: Sequence[str], training: TrainingArguments) -> None:
    """Give the figures of the stages that are complete to the trackers of `report_to`, on the main process.

    It is done once, when the run ends: the trainer has its trackers for itself until then, and a run that goes on after
    an interruption gives all of them. A tracker that is still open from the training (wandb) gets them in the same run;
    others in one of their own, "stages". One that fails is named in a warning, and ends no run.
    """
    values = figures(folder, stages)
    for name in training.report_to if values else ():
        if name not in LOGGER_TYPE_TO_CLASS:
            logger.warning("report_to has %s, which gets the figures of the training alone", name)
            continue
        try:
            tracker = _open(name, folder, training)
            tracker.start()
            tracker.log(values, step=None)
            tracker.finish()
        except Exception as error:  # of a service that others run; what was made is complete
            logger.warning("%s did not get the figures of the stages: %s: %s", name, type(error).__name__, error)


def _open(name: str, folder: RunFolder, training: TrainingArguments) -> GeneralTracker:
    made: Any = LOGGER_TYPE_TO_CLASS[name]
    if made.requires_logging_directory:
        return made("stages", os.environ.get("TENSORBOARD_LOGGING_DIR") or str(folder.folder / "runs"))
    # Projects are named as the trainer names them.
    return made((os.environ.get("WANDB_PROJECT") if name == "wandb" else None) or training.project)


def figures(folder: RunFolder, stages: Sequence[str]) -> dict[str, float]:
    """What is known of complete stages, as `stage/name` → number: counts, steps, seconds, memory, quantiles of the
    ranking score, and the share of true pairs of each pool where the truth is known."""
    values: dict[str, float] = {}
    for stage in (stage for stage in stages if folder.is_done(stage)):
        report = folder.report(stage)
        named = dict(report.get("counts", {})) | folder.usage(stage)
        if "steps" in report:
            named["steps"] = report["steps"]
        if stage in _SCORED:
            named |= _quantiles(folder, stage)
        for pool in report.get("pools", ()):
            if pool["true"]:
                named |= dict(zip((f"{pool['name'].strip()}/{part}" for part in ("true", "low", "high")), pool["true"]))
        values |= {f"{stage}/{_name(name)}": value for name, value in named.items()}
    return values


def _quantiles(folder: RunFolder, stage: str) -> dict[str, float]:
    columns = folder.shards(stage).table(["i2c", STATUS])
    scores = columns["i2c"].to_numpy()[columns[STATUS].to_numpy() == STATUS_OK]
    if not len(scores):
        return {}
    return {f"i2c q{100 * q:.0f}": float(value) for q, value in zip(QUANTILES, np.quantile(scores, QUANTILES))}


def _name(name: str) -> str:
    """As all trackers take it: reasons have other characters, too, and may be long."""
    return re.sub(r"[^A-Za-z0-9_ /-]+", "", name)[:80].strip()
