"""Which pairs come into the compact dataset: the options of `c3l curate`, and those of a run's curation."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from c3l_hf.common.errors import RunError
from c3l_hf.data.schema import CLUSTER, SCORES
from c3l_hf.selection.marks import Marks, read_marks

__all__ = ["ChoiceOptions", "CurationOptions"]


@dataclass
class ChoiceOptions:
    """Which pairs come into the compact dataset, whatever ranks them."""

    _argument_group_name: ClassVar[str] = "Curation"
    target_size: int = field(default=5000, metadata={"help": "Pairs in the compact dataset."})
    floors: list[str] | None = field(
        default=None,
        metadata={
            "help": "Pairs with less in a column are dropped, as pmi=0: the image speaks against the answer. In YAML "
            "also a mapping.",
            "metavar": "COLUMN=LEAST",
        },
    )
    embeddings: str | None = field(
        default=None,
        metadata={
            "help": "Vectors that pairs are clustered by: hidden (states of the model that scores), image (features of "
            "its vision tower), or, of rows that have one, a column."
        },
    )
    clusters: int | None = field(
        default=None, metadata={"help": "So many clusters share the places equally; needs embeddings."}
    )
    balance_by: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns whose groups share the places equally; by default cluster, if there are any, else type."
        },
    )
    near_duplicate_scope: Literal["image", "dataset", "none"] = field(
        default="image", metadata={"help": "Compare the pairs of an image, of the dataset, or none."}
    )
    near_duplicate_threshold: float = field(default=0.8, metadata={"help": "Jaccard similarity of a near-duplicate."})
    max_per_image: int | None = field(
        default=None, metadata={"help": "Most pairs about one image in the compact dataset; by default any number."}
    )
    keep_types: list[str] | None = field(
        default=None, metadata={"help": "Only pairs of these types of question; by default of all."}
    )
    keep_languages: list[str] | None = field(
        default=None, metadata={"help": "Only pairs of these languages (en, de, ...); by default of all."}
    )
    near_duplicate_images: Literal["auto", "none", "same", "similar"] = field(
        default="auto",
        metadata={
            "help": "Of images with the same file, or that look alike, only that with the best pair keeps its pairs; "
            "auto: similar in a run on a folder of pictures, else none."
        },
    )
    near_duplicate_distance: int = field(
        default=32, metadata={"help": "Bits of 256 in which the hashes of such images differ, at most."}
    )
    decontaminate: list[str] | None = field(
        default=None,
        metadata={
            "help": "No pairs about pictures, or with texts, of these: pope, seed, mmbench, llava_w (or pope=file), "
            "folders of pictures, datasets (name#split)."
        },
    )
    marks: str | None = field(
        default=None, metadata={"help": "A report's file of marks: pairs to keep whatever their score, or to reject."}
    )

    def read_marks(self) -> Marks | None:
        """The marks, if a file of them is named; see `selection.marks.read_marks`."""
        return None if self.marks is None else read_marks(self.marks)

    def image_comparison(self) -> Literal["none", "same", "similar"]:
        """Which images are near-duplicates; "auto" that nobody has decided (`inputs.with_image_comparison`) is none."""
        return "none" if self.near_duplicate_images == "auto" else self.near_duplicate_images

    def rules(self) -> dict[str, Any]:
        """The same for `curate`, whatever the clusters are made of.

        Raises:
            RunError: If an option is impossible; the message names it.
        """
        if (self.clusters is None) != (self.embeddings is None):
            given, missing = ("embeddings", "clusters") if self.clusters is None else ("clusters", "embeddings")
            raise RunError(f"{given} is {getattr(self, given)}, but {missing} is not given: clusters need both")
        if self.clusters is not None and self.clusters < 1:
            raise RunError(f"clusters is {self.clusters}; it must be at least 1")
        if self.balance_by is not None and self.clusters is not None and CLUSTER not in self.balance_by:
            raise RunError(f"clusters is {self.clusters}, but balance_by has no {CLUSTER}: they would change nothing")
        if not 0 <= self.near_duplicate_distance < 256:
            raise RunError(f"near_duplicate_distance is {self.near_duplicate_distance}; it must be from 0 to 255")
        # What pictures are looked at for has a place of its own (`pipeline.image_checks`), and marks are a file.
        elsewhere = {"embeddings", "clusters", "near_duplicate_images", "near_duplicate_distance", "decontaminate"}
        values = {name: value for name, value in vars(self).items() if name not in elsewhere | {"marks"}}
        balance_by = self.balance_by or ["type" if self.clusters is None else CLUSTER]
        return values | {"floors": self._floors(), "balance_by": balance_by}

    def _floors(self) -> dict[str, float]:
        floors: dict[str, float] = {}
        for text in self.floors or ():
            column, _, least = text.partition("=")
            try:
                value = float(least)
            except ValueError:
                value = math.nan
            if not column or column in floors or not math.isfinite(value):
                raise RunError(f"floors has {text!r}; each must be COLUMN=LEAST once, as pmi=0")
            floors[column] = value
        return floors


@dataclass
class CurationOptions(ChoiceOptions):
    """Which pairs come into the compact dataset of a run."""

    target_size: int | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "Pairs in the compact dataset; by default a third of a round's, at most 5000."},
    )
    curation_score: Literal["i2c", *SCORES] = field(  # type: ignore[valid-type]
        default="pmi_k",
        metadata={"help": f"The score whose best pairs are kept: i2c (the one of --ranking), {', '.join(SCORES)}."},
    )

    def rules(self) -> dict[str, Any]:
        """The options of `choose_pairs`; see `ChoiceOptions.rules`."""
        values = super().rules()
        return values | {"score": values.pop("curation_score")}
