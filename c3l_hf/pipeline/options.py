"""What can be set for the method beside the training, in groups; `C3LConfig` has the options of the training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from c3l_hf.common.choices import check_choices
from c3l_hf.common.errors import RunError
from c3l_hf.data.reading import ColumnOptions, PictureOptions
from c3l_hf.data.schema import SCORES, Ranking
from c3l_hf.data.worlds import find_world
from c3l_hf.generation.pairs import PairGenerationConfig
from c3l_hf.generation.templates import QUESTION_TYPES
from c3l_hf.training.checkpoints import training_options
from c3l_hf.training.config import C3LConfig

__all__ = [
    "OF_PAIRS",
    "STAGES",
    "CurationOptions",
    "GenerationOptions",
    "ImageOptions",
    "ModelOptions",
    "PassOptions",
    "PublishingOptions",
    "RunOptions",
    "ScoringOptions",
    "SelectionOptions",
    "Settings",
    "UsedModelOptions",
    "check_options",
]

# The options of `RunOptions` that say how pairs are read.
OF_PAIRS = ("columns", "answers", "image_folder", "download_images")
STAGES = ("generate", "score", "select", "train", "regenerate", "rescore", "curate", "write")


@dataclass(kw_only=True)
class RunOptions(ColumnOptions, PictureOptions):
    """What of a run is done; how `pairs` are read, if they are given."""

    _argument_group_name: ClassVar[str] = "Run"
    stages: list[str] = field(
        default_factory=lambda: list(STAGES), metadata={"help": f"By default all: {' '.join(STAGES)}."}
    )
    pairs: str | None = field(
        default=None,
        metadata={"help": "Pairs in place of the first generation: a file, a folder or a Hub id."},
    )
    restart_from: str | None = field(
        default=None, metadata={"help": "Make this stage and those after it again; their old results are set aside."}
    )
    dry_run: bool = field(default=False, metadata={"help": "Print the merged settings and what would be done."})


@dataclass
class ImageOptions:
    """The images to write pairs about."""

    _argument_group_name: ClassVar[str] = "Images"
    images: str | None = field(
        default=None,
        metadata={"help": "A folder of pictures, a dataset (a folder or a Hub id), 'scenes', or 'scenes-shifted'."},
    )
    num_images: int | None = field(default=None, metadata={"help": "Take the first so many images."})
    images_split: str = field(default="train", metadata={"help": "Split of the images' dataset."})


@dataclass
class ModelOptions:
    """The vision-language model and how it is loaded. A trainer's options have `trust_remote_code` themselves."""

    _argument_group_name: ClassVar[str] = "Model"
    model: str = field(metadata={"help": "A folder, a Hub id, or 'scenes' for the small generator that is shipped."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a model on the Hub."})
    base_model: str | None = field(
        default=None, metadata={"help": "Of LoRA adapters: in place of the model that they name."}
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "auto: bfloat16 on an accelerator that has it, else float32."}
    )
    device_map: str | None = field(
        default=None, metadata={"help": "Where its layers go: auto, cpu, cuda:1, ...; by default one device."}
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa, eager, flash_attention_2, ..."})
    load_in_4bit: bool = field(default=False, metadata={"help": "Quantise the weights to 4 bits (bitsandbytes)."})
    load_in_8bit: bool = field(default=False, metadata={"help": "Quantise the weights to 8 bits (bitsandbytes)."})


@dataclass
class UsedModelOptions(ModelOptions):
    """The same, of commands that train nothing."""

    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether code from the model's repository may be run."}
    )


@dataclass
class GenerationOptions:
    """How pairs are written."""

    _argument_group_name: ClassVar[str] = "Generation"
    pairs_per_image: int = field(default=5, metadata={"help": "Pairs per image, k."})
    types: list[str] = field(
        default_factory=lambda: list(QUESTION_TYPES),
        metadata={"help": "Question types; general: any."},
    )
    types_per_image: int = field(
        default=1, metadata={"help": "Question types over which the pairs of an image are spread."}
    )
    sampling_temperature: float = field(default=1.0, metadata={"help": "Temperature of generation; 0 is greedy."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus of generation."})
    max_new_tokens: int = field(default=128, metadata={"help": "Longest generated text, in tokens."})
    generation_batch_size: int = field(default=32, metadata={"help": "Pairs generated at once."})

    def config(self, seed: int) -> PairGenerationConfig:
        """The same for `generate_pairs`.

        Raises:
            RunError: If an option is impossible; the message names it as it is called here.
        """
        names = {"temperature": "sampling_temperature", "batch_size": "generation_batch_size"}
        values = {
            name: getattr(self, names.get(name, name))
            for name in PairGenerationConfig.__dataclass_fields__
            if name != "seed"
        }
        try:
            return PairGenerationConfig(**values | {"types": tuple(self.types), "seed": seed})
        except ValueError as error:
            name, _, rest = str(error).partition(" ")
            raise RunError(f"{names.get(name, name)} {rest}") from None


@dataclass
class PassOptions:
    """How answers are scored, whoever the scorer is."""

    _argument_group_name: ClassVar[str] = "Scoring"
    ranking: Ranking = field(
        default="pmi", metadata={"help": f"Which score goes into the column i2c: {', '.join(SCORES)}."}
    )
    scoring_batch_size: int = field(default=250, metadata={"help": "Rows whose images are in memory together."})
    scoring_max_tokens: int | None = field(
        default=None,
        metadata={"help": "Most tokens in a pass; by default 8192, on a CPU 4096, or 1024 in float32."},
    )


@dataclass
class ScoringOptions(PassOptions):
    """How pairs are scored."""

    scorer_model: str | None = field(
        default=None, metadata={"help": "Another model that scores; by default the generator before its training."}
    )
    scorer_revision: str | None = field(default=None, metadata={"help": "Its branch, tag or commit on the Hub."})


@dataclass
class SelectionOptions:
    """Which pairs become pseudo-labels."""

    _argument_group_name: ClassVar[str] = "Pseudo-labels"
    within: Literal["type", "all"] = field(
        default="type", metadata={"help": "Rank the pairs of an image within their type, or all of them."}
    )
    max_rejected: int = field(default=4, metadata={"help": "Negatives per image, at most."})
    min_margin: float = field(default=0.0, metadata={"help": "Smallest score of the best over the worst pair."})


@dataclass
class CurationOptions:
    """Which pairs come into the compact dataset."""

    _argument_group_name: ClassVar[str] = "Curation"
    target_size: int = field(default=5000, metadata={"help": "Pairs in the compact dataset."})
    near_duplicate_scope: Literal["image", "dataset", "none"] = field(
        default="image", metadata={"help": "Compare the pairs of an image, of the dataset, or none."}
    )
    near_duplicate_threshold: float = field(default=0.8, metadata={"help": "Jaccard similarity of a near-duplicate."})
    max_per_image: int | None = field(
        default=None, metadata={"help": "Most pairs about one image in the compact dataset; by default any number."}
    )


@dataclass
class PublishingOptions:
    """What the cards say, and where the results are published."""

    _argument_group_name: ClassVar[str] = "Publishing"
    license: str | None = field(
        default=None, metadata={"help": "Licence of dataset and generator (an identifier of the Hub), for the cards."}
    )
    images_license: str | None = field(
        default=None, metadata={"help": "Licence of the images, for the cards; that of the scenes is known."}
    )
    images_source: str | None = field(
        default=None, metadata={"help": "Where the images come from, in words or as an address, for the cards."}
    )
    hub_namespace: str | None = field(
        default=None, metadata={"help": "User or organisation on the Hub; by default the token's user."}
    )
    hub_dataset_name: str = field(default="c3l-pairs", metadata={"help": "Name of the dataset's repository."})
    hub_generator_name: str = field(default="c3l-generator", metadata={"help": "Name of the generator's repository."})
    public: bool = field(default=False, metadata={"help": "Make the repositories public; else they are private."})
    overwrite: bool = field(
        default=False, metadata={"help": "Replace files of the same name in repositories that hold something else."}
    )


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
            raise RunError(f"there is no stage {name!r}; the stages are {', '.join(STAGES)}")
    generation.config(seed=0)
    if not run.stages:
        raise RunError(f"stages has nothing; the stages are {', '.join(STAGES)}")
    at_least_one: Sequence[tuple[object, str]] = [
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
    if not 0 < curation.near_duplicate_threshold <= 1:
        raise RunError(f"near_duplicate_threshold is {curation.near_duplicate_threshold}; it must be in (0, 1]")
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


# What the cards say and no stage reads.
_WORDS = ("license", "images_license", "images_source")
# What does not change the results, and so is not part of their configuration.
_HOW = ("stages", "restart_from", "dry_run", "hub_namespace", "hub_dataset_name", "hub_generator_name", "public")
_WHERE = ("image_folder", "download_images")
_HOW_FAST = ("generation_batch_size",)


@dataclass(frozen=True)
class Settings:
    """All options of a run, see the groups."""

    run: RunOptions
    images: ImageOptions
    model: ModelOptions
    generation: GenerationOptions
    scoring: ScoringOptions
    selection: SelectionOptions
    curation: CurationOptions
    publishing: PublishingOptions
    training: C3LConfig
    config_name: str | None = None

    def check(self) -> None:
        """Raises a RunError for what the stages would refuse, before the first of them has worked for hours."""
        try:
            for options in (self.model, self.scoring, self.selection, self.curation):
                check_choices(options)
        except ValueError as error:
            raise RunError(str(error)) from None
        check_options(self.run, self.generation, self.scoring, self.selection, self.curation)
        if self.training.control_tokens != "refuse":
            # Half of a run would read them as letters: what is generated, scored and checked later refuses them.
            raise RunError(
                f"control_tokens={self.training.control_tokens!r} is not for a whole run; score and train one after "
                "the other (c3l score, c3l select, c3l train), each with this option"
            )
        if self.scoring.scorer_revision is not None and self.scoring.scorer_model is None:
            raise RunError("scorer_revision is of a scorer_model; the generator's is model_revision")
        if (self.images.images is None) == (self.run.pairs is None):
            raise RunError("a run needs either images, or pairs (which have their images)")
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

    def generation_identity(self) -> dict[str, Any]:
        """The options that change what is generated, beside the model and how it is loaded."""
        return {name: value for name, value in vars(self.generation).items() if name not in _HOW_FAST}

    def configuration(self) -> dict[str, Any]:
        """The run as a configuration file: what it was made by, without how and where."""
        groups = (
            self.images,
            self.model,
            self.run,
            self.generation,
            self.scoring,
            self.selection,
            self.curation,
            self.publishing,
        )
        values = {name: value for group in groups for name, value in vars(group).items()}
        values |= {"images_license": self.images_license}
        kept = {name: value for name, value in values.items() if name not in (*_HOW, *_WHERE, "overwrite")}
        return kept | training_options(self.training)
