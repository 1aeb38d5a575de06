"""What `c3l run --dry_run` tells: what would be made, of how many rows, what it takes, and what will not fit."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from c3l_hf.common.processes import process_state
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.common.usage import format_bytes, format_seconds
from c3l_hf.pipeline.calibration import Calibration, calibrate
from c3l_hf.pipeline.inputs import RESULTS, Inputs
from c3l_hf.pipeline.memory_needed import memory_free, memory_needed, parameters_of
from c3l_hf.pipeline.options import STAGES
from c3l_hf.pipeline.settings import Settings
from c3l_hf.training.run import planned_steps

__all__ = ["format_dry_run", "images_to_try"]

# The stages that a try tells something of → which of the tried ones is like them.
_LIKE = {"generate": "generate", "score": "score", "train": "train", "regenerate": "generate", "rescore": "score"}
# On a CPU nobody waits for the try of a larger model without having asked.
_MOST_PARAMETERS_ON_CPU = 3e8
_MOST_IMAGES = 64
# What a CPU's memory gives in a second (a usual figure, not measured here), while each token of a reply reads all
# weights once: for an idea of how long a try takes.
_BYTES_PER_SECOND = 20e9
_USUAL_TOKENS = 256


def format_dry_run(folder: RunFolder, inputs: Inputs, settings: Settings, stages: Sequence[str]) -> str:
    """What a run would do. Nothing is written into its folder.

    Args:
        folder: The run's folder, planned.
        inputs: What the run starts from.
        settings: Its options; `calibrate` says how many images are tried.
        stages: Those that would be made, or are there and would be shown.
    """
    restart = settings.run.restart_from
    again = STAGES[STAGES.index(restart) :] if restart else ()
    missing = [stage for stage in stages if stage in again or not folder.is_done(stage)]
    images, why_not = images_to_try(settings, inputs, missing)
    began = time.monotonic()
    tried = calibrate(settings, inputs, images) if images else None
    took = time.monotonic() - began
    rows = _Rows.of(folder, inputs, settings, tried, again)
    seconds = rows.seconds(tried, folder, missing, restart is None, inputs.pairs is not None) if tried else {}
    lines = [f"{len(inputs.images):,} images; {folder.folder}:"]
    for stage in stages:
        there = folder.is_done(stage)
        lines.append(f"  {stage}: {'to be made' if stage in missing else 'is there'}")
        if stage in missing:
            lines[-1] += f", {rows.told[stage]}"
            lines[-1] += f", about {format_seconds(seconds[stage])}" if stage in seconds else ""
            lines[-1] += ", what is there is set aside" if there else ""
    results = [name for name in RESULTS if (folder.folder / name).exists()]
    lines += [f"  {name} {'is set aside' if again else 'is there'}" for name in results]
    if tried is not None:
        lines.append(f"estimated from {tried.images:,} images, tried in {format_seconds(took)}")
        lines += [tried.problem] if tried.problem else []
        others = [stage for stage in missing if stage not in seconds]
        lines.append(f"time: about {format_seconds(sum(seconds.values()))}")
        lines[-1] += f", without {', '.join(others)}" if others else ""
        lines += [f"memory: up to {_told_memory(tried.usage)} at the try"] if tried.usage else []
    elif missing:
        lines.append(f"no estimate of time: {why_not}")
    return "\n".join(lines + (_limits(folder, inputs, settings, tried, rows, missing) if missing else []))


def images_to_try(settings: Settings, inputs: Inputs, missing: Sequence[str]) -> tuple[int, str]:
    """How many images are tried to make some stages; where none are, why."""
    asked = settings.run.calibrate
    if asked == 0:
        return 0, "calibrate is 0"
    if not set(_LIKE) & set(missing):
        return 0, "no stage with a model is to be made"
    if settings.backend.backend == "server":
        return 0, "a dry run asks no server"
    if process_state().num_processes > 1:
        return 0, "it is measured in one process; call it without a launcher"
    if asked is not None:
        return asked, ""
    parameters = parameters_of(inputs.generator)
    if process_state().device.type == "cpu" and parameters > _MOST_PARAMETERS_ON_CPU:
        weights = memory_needed(settings, inputs, training=False)
        seconds = weights / _BYTES_PER_SECOND * (settings.generation.max_new_tokens or _USUAL_TOKENS)
        return 0, (
            f"the model has {parameters / 1e9:.1f} billion parameters, and there is no accelerator; calibrate 1 tries "
            f"one image, which takes {format_seconds(seconds)} or more"
        )
    # So many that a batch is full, as it will be.
    k = settings.generation.pairs_per_image
    return min(max(4, math.ceil(settings.generation.generation_batch_size / k)), _MOST_IMAGES), ""


class _Rows:
    """How many rows each stage has, known or expected."""

    def __init__(self, numbers: Mapping[str, float], told: Mapping[str, str], pairs: float):
        self.numbers, self.told, self.pairs = numbers, told, pairs

    @classmethod
    def of(
        cls, folder: RunFolder, inputs: Inputs, settings: Settings, tried: Calibration | None, again: Sequence[str]
    ) -> "_Rows":
        def there(stage: str) -> int | None:
            return folder.shards(stage).num_rows if folder.is_done(stage) and stage not in again else None

        images, k = len(inputs.images), settings.generation.pairs_per_image
        expected = images * k
        if tried is not None and tried.pairs_per_image is not None and not inputs.pairs:
            expected = round(images * tried.pairs_per_image)
        first = there("generate") or (expected if inputs.pairs is None else len(inputs.pairs.table))
        second = there("regenerate") or expected
        each = 1.0 if tried is None or tried.labels_per_image is None else tried.labels_per_image
        labels = there("select") or math.ceil(images * each)
        training, processes = settings.training, process_state().num_processes
        batch = training.per_device_train_batch_size * training.gradient_accumulation_steps * processes
        steps = planned_steps(training, labels, settings.run.max_epochs)
        replies = f"{images:,} images, {images * k:,} replies"
        target = settings.curation.target_size or second
        told = {
            "generate": replies if inputs.pairs is None else f"{first:,} pairs that are given",
            "score": f"{first:,} pairs",
            "select": f"{first:,} pairs",
            "train": f"{steps:,} steps of {batch} pseudo-labels",
            "regenerate": replies,
            "rescore": f"{second:,} pairs",
            "curate": f"{second:,} pairs, of which at most {target:,} are kept",
            "write": f"at most {min(target, second):,} pairs, {images:,} images",
        }
        numbers = {"generate": images, "score": first, "train": steps, "regenerate": images, "rescore": second}
        return cls(numbers, told, first + second)

    def seconds(
        self, tried: Calibration, folder: RunFolder, missing: Sequence[str], goes_on: bool, imported: bool
    ) -> dict[str, float]:
        """Stage → about how long it takes, of those that the try tells something of."""
        known = {}
        for stage, like in _LIKE.items():
            if stage not in missing or like not in tried.per_row or (imported and stage == "regenerate"):
                continue
            there = self._share_there(folder, stage) if goes_on else 0.0
            known[stage] = tried.fixed.get(stage, tried.fixed.get(like, 0.0)) + tried.per_row[like] * self.numbers[
                stage
            ] * (1 - there)
        return known

    def _share_there(self, folder: RunFolder, stage: str) -> float:
        """Of a stage that was interrupted, by its shards."""
        parts = folder.begun_parts(stage)
        source = {"generate": "", "regenerate": "", "score": "generate", "rescore": "regenerate"}.get(stage)
        if not parts or source is None:
            return 0.0
        whole = len(folder.shards(source)) if source else self.numbers[stage]
        return min(1.0, sum(map(len, parts)) / whole)


def _told_memory(usage: Mapping[str, int]) -> str:
    told = f"{format_bytes(usage['peak_memory_bytes'])} of the process"
    if "peak_accelerator_bytes" in usage:
        told += f", {format_bytes(usage['peak_accelerator_bytes'])} of the accelerator"
    return told


def _limits(
    folder: RunFolder,
    inputs: Inputs,
    settings: Settings,
    tried: Calibration | None,
    rows: _Rows,
    missing: Sequence[str],
) -> list[str]:
    """Disk and memory: what is needed, what there is, and what will not fit."""
    free = shutil.disk_usage(_existing(folder.folder)).free
    disk = _disk_needed(inputs, settings, tried, rows, missing)
    least = "" if tried else "at least "
    lines = [f"disk: {least}about {format_bytes(disk)} in {folder.folder}, {format_bytes(free)} are free"]
    if disk > free:
        lines.append(f"WILL NOT FIT: the disk of {folder.folder} lacks {format_bytes(disk - free)}")
    there, where = memory_free()
    for what, needed in (
        ("the weights alone", memory_needed(settings, inputs, training=False)),
        ("weights, gradients and optimizer of the training", memory_needed(settings, inputs, "train" in missing)),
    ):
        if needed > there:
            lines.append(
                f"WILL NOT FIT: {what} need {format_bytes(needed)}, and {where} has {format_bytes(there)} free"
            )
            break
    return lines


def _disk_needed(
    inputs: Inputs, settings: Settings, tried: Calibration | None, rows: _Rows, missing: Sequence[str]
) -> float:
    """Tables of both rounds, those that are published once more, pictures as they are published, the trained generator
    in its stage and as it is published. Checkpoints come to it."""
    weights = memory_needed(settings, inputs, training=False)
    needed = weights * sum(stage in missing for stage in ("train", "write"))
    if tried is not None:
        needed += 1.5 * tried.bytes_of_pair * rows.pairs
        kept = min(settings.curation.target_size or math.inf, rows.numbers["rescore"])
        needed += tried.bytes_of_image * (len(inputs.images) + kept) if "write" in missing else 0
    return needed


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())
