"""The options of a scorer, checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import PIL.Image
import xxhash

from c3l_hf.common.choices import check_choices
from c3l_hf.data.schema import Ranking
from c3l_hf.models.control_tokens import ControlTokens
from c3l_hf.scoring.blind import Baseline

__all__ = ["RowPath", "ScorerOptions"]

RowPath = Literal["auto", "plain"]


@dataclass(frozen=True)
class ScorerOptions:
    """What a user may set; see `I2CScorer`.

    Raises:
        ValueError: If an option is none of its choices, or others that it needs are not there.
    """

    ranking: Ranking
    max_tokens: int | None
    path: RowPath
    blind: Baseline
    blind_images: tuple[PIL.Image.Image, ...]
    image_folder: str | None
    control_tokens: ControlTokens

    def __post_init__(self):
        check_choices(self)
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if (self.blind == "shuffle") != bool(self.blind_images):
            raise ValueError(
                'blind="shuffle", and only that, needs blind_images: some dozens of images, e.g. of your rows'
            )
        if self.image_folder is not None and not Path(self.image_folder).is_dir():
            raise ValueError(f"image_folder {self.image_folder} is not a folder")

    def digest(self) -> str:
        """What the scores depend on."""
        images = [xxhash.xxh3_128_hexdigest(f"{i.size}".encode() + i.tobytes()) for i in self.blind_images]
        return repr(
            (self.ranking, self.max_tokens, self.path, self.blind, images, self.image_folder, self.control_tokens)
        )
