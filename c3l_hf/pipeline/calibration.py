"""A short try of a run in a folder that is thrown away: what an image, a pair and a training step take here."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from c3l_hf.common.errors import RunError
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.common.shards import Shards
from c3l_hf.common.usage import UsageMeter, one_after_the_other
from c3l_hf.data.stored_images import stored_images
from c3l_hf.pipeline import stages
from c3l_hf.pipeline.inputs import Inputs
from c3l_hf.pipeline.model_in_use import ModelInUse
from c3l_hf.pipeline.options import STAGES
from c3l_hf.pipeline.pair_tables import ScoredPairs
from c3l_hf.pipeline.settings import Settings

__all__ = ["Calibration", "calibrate"]

# Of the training. The first one, which takes longer, counts like the others.
_STEPS = 4


@dataclass
class Calibration:
    """What a try took, as far as it came.

    Attributes:
        images: How many were tried.
        fixed: Stage → seconds that it takes whatever the number of rows.
        per_row: Stage ("generate", "score", "train") → seconds of an image, a pair, a training step.
        pairs_per_image, labels_per_image: What came of an image; None if the try did not come so far.
        bytes_of_pair: In the tables of a round.
        bytes_of_image: As it is stored.
        prompt_tokens, reply_tokens, answer_tokens: Of a request (with its images), a reply, and the answer of a pair
            that has scores, on average; None if none is known.
        usage: The most memory, see `UsageMeter`.
        problem: Which stage could not be tried, and why; None if all were.
    """

    images: int
    fixed: dict[str, float] = field(default_factory=dict)
    per_row: dict[str, float] = field(default_factory=dict)
    pairs_per_image: float | None = None
    labels_per_image: float | None = None
    bytes_of_pair: float = 0.0
    bytes_of_image: float = 0.0
    prompt_tokens: float | None = None
    reply_tokens: float | None = None
    answer_tokens: float | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


def calibrate(settings: Settings, inputs: Inputs, images: int) -> Calibration:
    """Try generation, scores and training with some images, by the stages themselves, in one process.

    Nothing is written into the run's folder; what is made lies in a temporary one until the end. The images are spread
    over all of them. If there are several, they are generated and scored twice: what the first time takes longer
    (checks of the model with prompts of all lengths) is what a process does once.

    Args:
        settings: Of the run.
        inputs: Of the run.
        images: How many are tried, at most.
    """
    total = len(inputs.images)
    tried = Calibration(min(images, total))
    rows = np.linspace(0, total - 1, tried.images).astype(int).tolist()
    if inputs.pairs is not None:
        rows = list(range(tried.images))  # pairs that somebody has are read from the first on
    models = ModelInUse(settings.model, settings.training.trust_remote_code)
    with tempfile.TemporaryDirectory(prefix="c3l-dry-run-") as place:
        ahead, whole = (_empty_run(Path(place, name)) for name in ("ahead", "whole"))
        try:
            some = _some(inputs, rows)
            if len(rows) > 1:
                meter = UsageMeter()
                models.load(inputs.generator)
                loading = meter.stop()["seconds"]
                _go_ahead(settings, some, ahead, models)
                # Of the second round the checks are known, but the models are loaded again.
                tried.fixed = {"regenerate": loading, "rescore": loading}
            _measure(_short(settings, place), some, whole, models, tried)
            for stage, once in (("generate", tried.fixed.get("regenerate", 0.0)), ("score", 0.0)):
                if ahead.is_done(stage):
                    more = ahead.usage(stage)["seconds"] - whole.usage(stage)["seconds"]
                    tried.fixed[stage] = once + max(0.0, more)
        except (RunError, ValueError, RuntimeError, MemoryError) as error:  # a RuntimeError is torch's out-of-memory
            stage = next(stage for stage in STAGES if not whole.is_done(stage))
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            tried.problem = f"{stage} could not be tried: {reason}"
        tried.usage = one_after_the_other(whole.usage(stage) for stage in STAGES if whole.is_done(stage))
    return tried


def _measure(settings: Settings, inputs: Inputs, folder: RunFolder, models: ModelInUse, tried: Calibration) -> None:
    pairs = stages.generate("generate", folder, settings, inputs, models, inputs.generator)
    tried.per_row["generate"] = folder.usage("generate")["seconds"] / tried.images
    tried.pairs_per_image = pairs.num_rows / tried.images
    tried.prompt_tokens = _mean(pairs, "usage", "prompt_tokens")
    tried.reply_tokens = _mean(pairs, "usage", "completion_tokens")
    scored = ScoredPairs(pairs, stages.score("score", folder, settings, inputs, models, pairs))
    tried.answer_tokens = _mean(scored.scores, "answer_tokens")
    if tried.answer_tokens is not None:  # else no pair went through the model
        tried.per_row["score"] = folder.usage("score")["seconds"] / len(scored)
    files = [*scored.pairs.files, *scored.scores.files]
    tried.bytes_of_pair = sum(file.stat().st_size for file in files) / max(1, len(scored))
    tried.bytes_of_image = _bytes_of(inputs) / tried.images
    labels = stages.select(folder, settings, scored)
    tried.labels_per_image = labels.num_rows / tried.images
    stages.train(folder, settings, inputs, models, labels)
    seconds = next(entry["train_runtime"] for entry in folder.report("train")["log"] if "train_runtime" in entry)
    tried.per_row["train"] = seconds / _STEPS
    tried.fixed["train"] = max(0.0, folder.usage("train")["seconds"] - seconds)


def _mean(shards: Shards, column: str, part: str | None = None) -> float | None:
    """The mean of a part of a column of structs, or of the lengths of lists; None if there is none."""
    values = shards.table([column])[column]
    return pc.mean(pc.list_value_length(values) if part is None else pc.struct_field(values, part)).as_py()


def _go_ahead(settings: Settings, inputs: Inputs, folder: RunFolder, models: ModelInUse) -> None:
    pairs = stages.generate("generate", folder, settings, inputs, models, inputs.generator)
    stages.score("score", folder, settings, inputs, models, pairs)


def _empty_run(folder: Path) -> RunFolder:
    run = RunFolder(folder, {})
    run.plan({stage: {} for stage in STAGES}, STAGES)
    run.claim()
    return run


def _some(inputs: Inputs, rows: Sequence[int]) -> Inputs:
    return replace(inputs, images=replace(inputs.images, dataset=inputs.images.dataset.select(rows)))


def _short(settings: Settings, place: str) -> Settings:
    """With a training of a few steps that tells nobody and keeps nothing."""
    training = copy.copy(settings.training)
    training.output_dir, training.max_steps, training.report_to = place, _STEPS, []
    training.save_strategy, training.disable_tqdm = type(training.save_strategy)("no"), True
    return replace(settings, training=training, run=replace(settings.run, max_epochs=None))


def _bytes_of(inputs: Inputs) -> int:
    """Size of all images as they are stored, also in files beside the dataset."""
    dataset = inputs.images.dataset
    return sum(
        len(image["bytes"]) if image.get("bytes") else Path(image["path"]).stat().st_size
        for row in range(len(dataset))
        for image in stored_images(dataset, [row])[0]
        if image and (image.get("bytes") or (image.get("path") and Path(image["path"]).is_file()))
    )
