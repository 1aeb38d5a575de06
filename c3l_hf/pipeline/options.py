"""What can be set for the method beside the training, in groups; `C3LConfig` has the options of the training."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from c3l_hf.common.errors import RunError
from c3l_hf.data.reading import ColumnOptions, PictureOptions
from c3l_hf.data.schema import SCORES, Ranking
from c3l_hf.data.worlds import find_world

if TYPE_CHECKING:  # it loads transformers, which takes seconds that no help needs
    from c3l_hf.generation.pairs import PairGenerationConfig

__all__ = [
    "OF_PAIRS",
    "STAGES",
    "BackendOptions",
    "GenerationOptions",
    "ImageOptions",
    "ModelOptions",
    "PassOptions",
    "PublishingOptions",
    "RunOptions",
    "ScoringOptions",
    "SelectionOptions",
    "UsedModelOptions",
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
    max_epochs: float | None = field(
        default=None,
        metadata={"help": "Beside max_steps: training ends after so many passes over the pseudo-labels, if sooner."},
    )
    dry_run: bool = field(default=False, metadata={"help": "Print the merged settings and what would be done."})
    calibrate: int | None = field(
        default=None,
        metadata={
            "help": "Images that a dry run tries, to estimate time, memory and disk; 0: none. By default a batch of "
            "them, if there is an accelerator or the model is small."
        },
    )
    plan: str | None = field(
        default=None,
        metadata={
            "help": "Print what a run takes on such GPUs, as 8xh100, and do nothing: time, memory and disk, by the "
            "model's configuration. here: measured on this machine."
        },
    )
    plan_image_size: str | None = field(
        default=None, metadata={"help": "Width and height of the planned images, by default 1024x768."}
    )


@dataclass
class ImageOptions:
    """The images to write pairs about."""

    _argument_group_name: ClassVar[str] = "Images"
    images: str | None = field(
        default=None,
        metadata={"help": "A folder of pictures, a dataset (a folder or a Hub id), 'scenes', or 'scenes-shifted'."},
    )
    num_images: int | None = field(
        default=None, metadata={"help": "Take the first so many images; by default, or if there are fewer, all."}
    )
    images_split: str = field(default="train", metadata={"help": "Split of the images' dataset."})
    copies: Literal["once", "all"] = field(
        default="once", metadata={"help": "Files of a folder that are the same to the byte: take one, or each."}
    )


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
    pairs_per_image: int = field(default=5, metadata={"help": "Replies per image, k: pairs or conversations."})
    templates: str | None = field(
        default=None,
        metadata={
            "help": "What is asked: a YAML file of prompt templates, or a shipped set (c3l templates list); by default "
            "instruct, for an embedded world its own."
        },
    )
    types: list[str] | None = field(
        default=None, metadata={"help": "Types of templates to ask with; by default all, but general."}
    )
    types_per_image: int = field(
        default=1, metadata={"help": "Types of templates over which the pairs of an image are spread."}
    )
    sampling_temperature: float = field(default=1.0, metadata={"help": "Temperature of generation; 0 is greedy."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus of generation."})
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Longest reply, in tokens; by default that of its template."}
    )
    generation_batch_size: int = field(default=32, metadata={"help": "Pairs generated at once."})
    shard_size: int | None = field(
        default=None,
        metadata={
            "help": "Images whose pairs are kept in one file, once it is whole: what an interruption can lose. By "
            "default a 64th of them, at most 100; of more than 100,000 up to 500."
        },
    )
    retries: int = field(
        default=0,
        metadata={"help": "How often an image is asked about again, at most, while no pair of it reaches retry_floor."},
    )
    retry_floor: float = field(
        default=0.0,
        metadata={"help": "The pmi of an image's best pair below which it is asked about again."},
    )

    def retry_identity(self) -> dict[str, Any]:
        """What changes which images are asked about again, beside the scorer; {} if none is."""
        return {"retries": self.retries, "retry_floor": self.retry_floor} if self.retries else {}

    def config(self, seed: int, *sources: str | None) -> "PairGenerationConfig":
        """The same for `generate_pairs`.

        Args:
            seed: Of the stage.
            sources: The names of images and model: an embedded world has templates of its own.

        Raises:
            RunError: If an option is impossible; the message names it as it is called here.
        """
        from c3l_hf.generation.pairs import PairGenerationConfig

        if self.retries < 0:
            raise RunError(f"retries is {self.retries}; it must not be negative")
        if not math.isfinite(self.retry_floor):
            raise RunError(f"retry_floor is {self.retry_floor}; it must be a finite number")
        if self.retry_floor and not self.retries:
            raise RunError(
                f"retry_floor is {self.retry_floor:g}, but retries is 0: no image would be asked about again"
            )
        names = {"temperature": "sampling_temperature", "batch_size": "generation_batch_size"}
        values = {
            name: getattr(self, names.get(name, name))
            for name, one in PairGenerationConfig.__dataclass_fields__.items()
            if one.init and name not in ("seed", "attempt")
        }
        if self.templates is None:
            worlds = [world for name in sources if (world := find_world(name or ""))]
            values["templates"] = worlds[0].TEMPLATES if worlds else "instruct"
        if self.types is not None:
            values["types"] = tuple(self.types)
        try:
            return PairGenerationConfig(**values | {"seed": seed})
        except ValueError as error:
            name, _, rest = str(error).partition(" ")
            raise RunError(f"{names.get(name, name)} {rest}") from None


@dataclass
class BackendOptions:
    """Where replies are written: in this process, or by servers that speak OpenAI's chat API.

    The key comes from the environment variable C3L_API_KEY."""

    _argument_group_name: ClassVar[str] = "Server"
    backend: Literal["process", "server"] = field(
        default="process", metadata={"help": "Generate in this process, or ask a server."}
    )
    base_url: list[str] | None = field(
        default=None, metadata={"help": "Address of a server, http://host:8000/v1; several are asked side by side."}
    )
    served_model: str | None = field(
        default=None, metadata={"help": "The generator's name on the server; by default the only one that it has."}
    )
    serve: str | None = field(
        default=None,
        metadata={"help": "Command that serves a model, with {model} and {port}; started and stopped as needed."},
    )
    serve_timeout: float = field(default=1800.0, metadata={"help": "Seconds until what serve starts must answer."})
    server_concurrency: int = field(default=16, metadata={"help": "Requests under way at once, at each address."})
    server_timeout: float = field(default=300.0, metadata={"help": "Seconds without an answer until a request fails."})
    server_retries: int = field(default=4, metadata={"help": "How often a request is repeated that failed."})
    server_extra_body: str | None = field(
        default=None, metadata={"help": "Further fields of each request, an object in JSON."}
    )
    prompt_price: float | None = field(default=None, metadata={"help": "Price of a million tokens of prompts."})
    completion_price: float | None = field(default=None, metadata={"help": "Price of a million tokens of replies."})


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
    keep_metadata: bool = field(
        default=False, metadata={"help": "Publish the pictures with EXIF (places, cameras, ...) and the like."}
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
