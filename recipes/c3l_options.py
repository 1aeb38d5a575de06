"""What can be set for `c3l.py` beside the training."""

import math
from dataclasses import dataclass, field

from c3l_hf.common.errors import RunError
from c3l_hf.data.schema import SCORES
from c3l_hf.generation.templates import QUESTION_TYPES
from c3l_hf.publishing.hub import Publication
from c3l_hf.scoring.scorer import DEFAULT_RANKING

STAGES = ("generate", "score", "select", "train", "regenerate", "rescore", "curate", "write")


@dataclass
class C3LArguments:
    """What is not about training: the training options are those of `C3LConfig`, `seed` and `output_dir` among them."""

    images: str = field(
        metadata={"help": "'scenes', 'scenes-shifted', a folder of pictures, a saved dataset, or a dataset on the Hub."}
    )
    model: str = field(
        metadata={"help": "Generator: a folder, a Hub id, or 'scenes' for the small one that is shipped."}
    )
    stages: list[str] = field(
        default_factory=lambda: list(STAGES), metadata={"help": f"Stages to run, of: {' '.join(STAGES)}."}
    )

    # Images
    num_images: int | None = field(default=None, metadata={"help": "Take the first so many images."})
    images_split: str = field(default="train", metadata={"help": "Split of the images' dataset."})
    images_license: str | None = field(
        default=None, metadata={"help": "Licence of the images, for the cards; that of the scenes is known."}
    )
    images_source: str | None = field(
        default=None, metadata={"help": "Where the images come from, in words or as an address, for the cards."}
    )

    # Generator
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a generator on the Hub."})
    model_dtype: str = field(default="float32", metadata={"help": "float32, bfloat16 or float16."})

    # generate, regenerate
    pairs_per_image: int = field(default=5, metadata={"help": "Pairs per image, k."})
    types: list[str] = field(
        default_factory=lambda: list(QUESTION_TYPES),
        metadata={"help": "Question types to ask for; 'general' lets the generator choose."},
    )
    types_per_image: int = field(
        default=1, metadata={"help": "Question types over which the pairs of an image are spread."}
    )
    sampling_temperature: float = field(default=1.0, metadata={"help": "Temperature of generation; 0 is greedy."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus of generation."})
    max_new_tokens: int = field(default=128, metadata={"help": "Longest generated text, in tokens."})
    generation_batch_size: int = field(default=32, metadata={"help": "Pairs generated at once."})

    # score, rescore
    ranking: str = field(default=DEFAULT_RANKING, metadata={"help": "Which score goes into the column i2c."})
    scoring_batch_size: int = field(default=250, metadata={"help": "Rows whose images are in memory together."})
    scoring_max_tokens: int | None = field(
        default=None,
        metadata={"help": "Most tokens in a scoring pass; by default 8192, on a CPU 4096, or 1024 in float32."},
    )

    # select
    within: str = field(default="type", metadata={"help": "Rank the pairs of an image within their 'type', or 'all'."})
    max_rejected: int = field(default=4, metadata={"help": "Negatives per image, at most."})
    min_margin: float = field(default=0.0, metadata={"help": "Smallest score of the best over the worst pair."})

    # curate
    target_size: int = field(default=5000, metadata={"help": "Pairs in the compact dataset."})
    near_duplicate_scope: str = field(default="image", metadata={"help": "'image', 'dataset' or 'none'."})
    near_duplicate_threshold: float = field(default=0.8, metadata={"help": "Jaccard similarity of a near-duplicate."})
    max_per_image: int | None = field(
        default=None, metadata={"help": "Most pairs about one image in the compact dataset; by default any number."}
    )

    # push_to_hub
    hub_namespace: str | None = field(
        default=None, metadata={"help": "User or organisation on the Hub; by default the token's user."}
    )
    hub_dataset_name: str = field(
        default=Publication.dataset_name, metadata={"help": "Name of the dataset's repository."}
    )
    hub_generator_name: str = field(
        default=Publication.generator_name, metadata={"help": "Name of the generator's repository."}
    )
    public: bool = field(default=False, metadata={"help": "Make the repositories public; else they are private."})
    overwrite: bool = field(
        default=False, metadata={"help": "Replace files of the same name in repositories that hold something else."}
    )
    license: str | None = field(
        default=None, metadata={"help": "Licence of dataset and generator (an identifier of the Hub), for the cards."}
    )

    def options(self, *names: str) -> dict:
        return {name: getattr(self, name) for name in names}

    def check(self) -> None:
        """What the stages would refuse, before the first of them has worked for hours."""
        choices = {"ranking": SCORES, "within": ("type", "all"), "near_duplicate_scope": ("image", "dataset", "none")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise RunError(f"--{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        unknown = [stage for stage in self.stages if stage not in STAGES]
        if unknown or not self.stages:
            raise RunError(f"--stages has {', '.join(unknown) or 'nothing'}; the stages are {', '.join(STAGES)}")
        for name in ("max_rejected", "target_size", "max_per_image", "scoring_batch_size", "scoring_max_tokens"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise RunError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.near_duplicate_threshold <= 1:
            raise RunError(f"--near_duplicate_threshold is {self.near_duplicate_threshold}; it must be in (0, 1]")
        if self.min_margin < 0:
            raise RunError(f"--min_margin is {self.min_margin}; it must not be negative")
        of_type = math.ceil(self.pairs_per_image / max(1, self.types_per_image))
        if self.sampling_temperature == 0:
            of_type = 1  # one instruction, to which greedy generation gives one text again and again
        types = 1 if self.within == "type" else min(self.types_per_image, self.pairs_per_image)
        selects = any(STAGES.index(stage) >= STAGES.index("select") for stage in self.stages)
        if selects and min(of_type * types, self.pairs_per_image) < 2:
            raise RunError(
                f"with --pairs_per_image {self.pairs_per_image}, --types_per_image {self.types_per_image}, --within "
                f"{self.within} and --sampling_temperature {self.sampling_temperature:g} no image has two different "
                "pairs to compare, and so no pseudo-label"
            )
