"""All options of a run together: what stages would refuse, what changes results, what the cards are told."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from c3l_hf.common.choices import check_choices
from c3l_hf.common.errors import RunError
from c3l_hf.common.names import listed, nearest
from c3l_hf.data.schema import CLUSTER, LANGUAGE, SCORES
from c3l_hf.data.worlds import find_world
from c3l_hf.generation.pairs import PairGenerationConfig
from c3l_hf.pipeline.curation_options import CurationOptions
from c3l_hf.pipeline.options import (
    OF_PAIRS,
    STAGES,
    BackendOptions,
    GenerationOptions,
    ImageOptions,
    ModelOptions,
    PublishingOptions,
    RunOptions,
    ScoringOptions,
    SelectionOptions,
)
from c3l_hf.scoring.embeddings import EMBEDDING_KINDS
from c3l_hf.training.checkpoints import training_options
from c3l_hf.training.config import C3LConfig

__all__ = ["Settings", "check_options"]


def check_options(
    run: RunOptions,
    generation: GenerationOptions,
    scoring: ScoringOptions,
    selection: SelectionOptions,
    curation: CurationOptions,
) -> None:
    """What the stages would refuse, before the first of them has worked for hours.

    Raises:
        RunError: The message names the option, what it is and what it may be.
    """
    for name in run.stages if not run.restart_from else [*run.stages, run.restart_from]:
        if name not in STAGES:
            raise RunError(f"there is no stage {name!r}; the stages are {', '.join(STAGES)}{nearest(name, STAGES)}")
    if not run.stages:
        raise RunError(f"stages has nothing; the stages are {', '.join(STAGES)}")
    at_least_one: Sequence[tuple[object, str]] = [
        (generation, "shard_size"),
        (scoring, "scoring_batch_size"),
        (scoring, "scoring_max_tokens"),
        (selection, "max_rejected"),
        (curation, "target_size"),
        (curation, "max_per_image"),
    ]
    for options, name in at_least_one:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise RunError(f"{name} is {value}; it must be at least 1")
    _check_curation(curation)
    if not 0 < curation.near_duplicate_threshold <= 1:
        raise RunError(f"near_duplicate_threshold is {curation.near_duplicate_threshold}; it must be in (0, 1]")
    if run.calibrate is not None and run.calibrate < 0:
        raise RunError(f"calibrate is {run.calibrate}; it must not be negative")
    if selection.min_margin < 0:
        raise RunError(f"min_margin is {selection.min_margin}; it must not be negative")
    if run.pairs is None and any(STAGES.index(stage) >= STAGES.index("select") for stage in run.stages):
        of_type = math.ceil(generation.pairs_per_image / max(1, generation.types_per_image))
        if generation.sampling_temperature == 0:
            of_type = 1  # one instruction, to which greedy generation gives one text again and again
        types = 1 if selection.within == "type" else min(generation.types_per_image, generation.pairs_per_image)
        if min(of_type * types, generation.pairs_per_image) < 2:
            raise RunError(
                f"with pairs_per_image {generation.pairs_per_image}, types_per_image {generation.types_per_image}, "
                f"within {selection.within} and sampling_temperature {generation.sampling_temperature:g} no image has "
                "two different pairs to compare, and so no pseudo-label"
            )


def _check_curation(curation: CurationOptions) -> None:
    """What curation needs is what pairs and scores of a run have."""
    rules = curation.rules()
    if curation.embeddings is not None and curation.embeddings not in EMBEDDING_KINDS:
        raise RunError(f"embeddings is {curation.embeddings!r}; in a run it must be {' or '.join(EMBEDDING_KINDS)}")
    numbers = ("i2c", *SCORES)
    if others := sorted(set(rules["floors"]) - set(numbers)):
        raise RunError(f"floors has {listed(others)}; the scores of a run are {', '.join(numbers)}")
    groups = ("type", LANGUAGE, "template", "image_id", *[CLUSTER] * (curation.clusters is not None))
    if others := sorted(set(rules["balance_by"]) - set(groups)):
        raise RunError(f"balance_by has {listed(others)}; in this run it may have {', '.join(groups)}")


# What the cards say and no stage reads.
_WORDS = ("license", "images_license", "images_source")
# What does not change the results, and so is not part of their configuration.
_HOW = (
    "stages",
    "restart_from",
    "shard_size",
    "dry_run",
    "calibrate",
    "plan",
    "plan_image_size",
    "hub_namespace",
    "hub_dataset_name",
    "hub_generator_name",
    "public",
)
_WHERE = ("image_folder", "download_images")
_SERVER = (
    "base_url",
    "serve",
    "serve_timeout",
    "server_concurrency",
    "server_timeout",
    "server_retries",
    "prompt_price",
    "completion_price",
)


@dataclass(frozen=True)
class Settings:
    """All options of a run, see the groups."""

    run: RunOptions
    images: ImageOptions
    model: ModelOptions
    generation: GenerationOptions
    backend: BackendOptions
    scoring: ScoringOptions
    selection: SelectionOptions
    curation: CurationOptions
    publishing: PublishingOptions
    training: C3LConfig
    config_name: str | None = None

    def check(self) -> None:
        """Raises a RunError for what the stages would refuse, before the first of them has worked for hours."""
        try:
            for options in (self.model, self.backend, self.scoring, self.selection, self.curation):
                check_choices(options)
        except ValueError as error:
            raise RunError(str(error)) from None
        check_options(self.run, self.generation, self.scoring, self.selection, self.curation)
        asked = self.generating(0)
        # What is curated is the second round, which asks by these.
        templates = [template for type in asked.asked_types for template in asked.template_set.of_type(type)]
        languages = sorted({template.language for template in templates if template.language})
        for name, there in (("types", asked.asked_types), ("languages", languages)):
            if others := set(getattr(self.curation, f"keep_{name}") or ()) - set(there):
                raise RunError(
                    f"keep_{name} has {listed(sorted(others))}, which is not asked for; the {name} are "
                    f"{listed(there) or 'not said by the templates'}"
                )
        if self.training.control_tokens != "refuse":
            # Half of a run would read them as letters: what is generated, scored and checked later refuses them.
            raise RunError(
                f"control_tokens={self.training.control_tokens!r} is not for a whole run; score and train one after "
                "the other (c3l score, c3l select, c3l train), each with this option"
            )
        max_epochs, max_steps = self.run.max_epochs, self.training.max_steps
        if max_epochs is not None and not max_epochs > 0:
            raise RunError(f"max_epochs is {max_epochs:g}; it must be above 0")
        if max_epochs is not None and max_steps <= 0:
            raise RunError(
                f"max_epochs is {max_epochs:g}, a limit beside max_steps, which is not given; without it "
                "num_train_epochs says how long training takes"
            )
        if self.scoring.scorer_revision is not None and self.scoring.scorer_model is None:
            raise RunError("scorer_revision is of a scorer_model; the generator's is model_revision")
        if self.images.images is None and self.run.pairs is None and self.run.plan is None:
            raise RunError(
                "images is missing: a folder of pictures, a dataset, or scenes; or pairs, which have their images"
            )
        if self.images.images is not None and self.run.pairs is not None:
            raise RunError(
                f"pairs is given beside images, which is {self.images.images}, perhaps in the configuration; give one "
                "of them: pairs have their images"
            )
        if self.run.pairs is None:
            for name in OF_PAIRS:
                if getattr(self.run, name):
                    raise RunError(f"{name} says how pairs are read, and there are none; leave it out")

    @property
    def images_license(self) -> str | None:
        """Licence of the images: as stated; that of an embedded world is known."""
        world = find_world(self.images.images or "")
        return self.publishing.images_license or (world.IMAGES_LICENSE if world else None)

    def words(self) -> dict[str, Any]:
        """What the cards are told."""
        return {name: getattr(self.publishing, name) for name in _WORDS} | {"images_license": self.images_license}

    def generating(self, seed: int) -> PairGenerationConfig:
        """How pairs are generated, with a stage's seed."""
        return self.generation.config(seed, self.images.images, self.model.model)

    def generation_identity(self, trained: bool) -> dict[str, Any]:
        """The options that change what is generated, beside the model and how it is loaded.

        Args:
            trained: Of the trained generator, or of the one before; see `pipeline.writers.open_writer`.
        """
        identity = self.generating(0).identity()
        # Of the templates a digest: what they are called, and where they are, changes nothing.
        identity["templates"] = self.generating(0).template_set.digest()
        del identity["seed"]
        identity |= self.generation.retry_identity()
        backend = self.backend
        if backend.backend == "server" and (backend.serve is not None or not trained):
            identity |= {"backend": "server", "server_extra_body": backend.server_extra_body}
            if backend.base_url is not None and not trained:
                identity["served_model"] = backend.served_model
        return identity

    def configuration(self) -> dict[str, Any]:
        """The run as a configuration file: what it was made by, without how and where."""
        groups = (
            self.images,
            self.model,
            self.run,
            self.generation,
            self.backend,
            self.scoring,
            self.selection,
            self.curation,
            self.publishing,
        )
        values = {name: value for group in groups for name, value in vars(group).items()}
        values |= {"images_license": self.images_license}
        kept = {name: value for name, value in values.items() if name not in (*_HOW, *_WHERE, *_SERVER, "overwrite")}
        return kept | training_options(self.training)
