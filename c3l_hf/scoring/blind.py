"""The blind baseline: what the model sees instead of the image; rows encoded with and without their images."""

import hashlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import PIL.Image
import PIL.ImageStat
from transformers import ProcessorMixin

from c3l_hf.common.choices import check_choice
from c3l_hf.common.errors import RowError
from c3l_hf.data.image_files import located
from c3l_hf.data.turns import Pair
from c3l_hf.files.image import image_key, open_image
from c3l_hf.models.control_tokens import ControlTokens
from c3l_hf.models.encoding import EncodedRow, encode_row, with_image_cache

__all__ = ["BASELINES", "Baseline", "PairEncoder"]

Baseline = Literal["drop", "blank", "noise", "shuffle"]
BASELINES: dict[Baseline, str] = {
    "drop": "no image and nothing that belongs to it: the conversation is rendered again without",
    "blank": "a picture of the same size in the image's mean colour",
    "noise": "a picture of the same size, every value uniformly random, drawn from the image's content",
    "shuffle": "another image: one of `blind_images`, chosen by the image's content",
}


class PairEncoder:
    """Encodes pairs with their images and for the blind pass; each distinct image and blind row once.

    Make one for a batch of rows: what it has encoded, it keeps. The decoded pictures, which are far larger, it keeps
    until `forget_images` is called.

    Args:
        processor: The model's processor.
        max_length: The longest sequence the model takes; longer rows are refused.
        blind: One of `BASELINES`.
        blind_images: For "shuffle": the images to choose from.
        image_folder: What relative paths of images are relative to. A path that leaves the folder is refused.
        control_tokens: What becomes of control tokens written out in a text, as in `encode_row`: "refuse" or "escape".
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        max_length: int | None,
        blind: Baseline = "drop",
        blind_images: Sequence[PIL.Image.Image] = (),
        image_folder: Path | None = None,
        control_tokens: ControlTokens = "refuse",
    ):
        check_choice("control_tokens", control_tokens, get_args(ControlTokens))
        self._plain_processor, self._max_length = processor, max_length
        self.blind, self._pool, self._folder = blind, blind_images, image_folder
        self.control_tokens: ControlTokens = control_tokens
        self._keys: dict[int, tuple[Any, Hashable]] = {}
        self._blind: dict[Hashable, EncodedRow] = {}
        self.forget_images()

    @property
    def settings(self) -> tuple[object, ...]:
        """What the encoding of rows depends on beside the processor; of blind images their sizes."""
        return self.blind, self.control_tokens, self._max_length, tuple(image.size for image in self._pool)

    def forget_images(self) -> None:
        """Let the decoded pictures go. A row with one of them that comes later reads it again."""
        self._processor = with_image_cache(self._plain_processor)
        self._images: dict[Hashable, PIL.Image.Image] = {}
        self._substitutes: dict[Hashable, tuple[PIL.Image.Image, Hashable]] = {}

    def image_keys(self, pair: Pair) -> tuple[Hashable, ...]:
        """A key for each image of the pair, equal for equal images.

        Raises:
            RowError: If an image is not where it may be.
        """
        return tuple(self._key(image) for image in pair.images)

    def encode(self, pair: Pair) -> tuple[EncodedRow, EncodedRow]:
        """The pair with its images, and for the blind pass.

        Raises:
            RowError: If one of them cannot be encoded, or the answer has other tokens in the one than in the other.
        """
        with_image = self.encode_seen(pair)
        keys = with_image.images
        substitutes: list[tuple[PIL.Image.Image, Hashable]] = []
        if self.blind != "drop":
            substitutes = [self._substitute(key, self._images[key]) for key in keys]
        blind_keys = tuple(key for _, key in substitutes)
        known = (repr((pair.prompt, pair.answer)), blind_keys)
        if known not in self._blind:
            self._blind[known] = self._encode(pair, [image for image, _ in substitutes], blind_keys)
        blind = self._blind[known]
        if with_image.answer_ids != blind.answer_ids:
            raise RowError("the answer has other tokens with the image than without")
        return with_image, blind

    def encode_seen(self, pair: Pair) -> EncodedRow:
        """The pair with its images alone.

        Raises:
            RowError: If it cannot be encoded.
        """
        keys = self.image_keys(pair)
        return self._encode(pair, [self._opened(key, value) for key, value in zip(keys, pair.images)], keys)

    def _encode(self, pair: Pair, images: list[PIL.Image.Image], keys: tuple[Hashable, ...]) -> EncodedRow:
        return encode_row(
            self._processor,
            pair.prompt,
            pair.answer,
            images,
            max_length=self._max_length,
            end_of_turn=False,
            image_keys=keys,
            control_tokens=self.control_tokens,
        )

    def _key(self, value: Any) -> Hashable:
        # Of each object once: it takes a digest of the content. The value is kept so that its identity stays its own.
        if id(value) not in self._keys:
            self._keys[id(value)] = value, image_key(located(value, self._folder))
        return self._keys[id(value)][1]

    def _opened(self, key: Hashable, value: Any) -> PIL.Image.Image:
        if key not in self._images:
            self._images[key] = open_image(located(value, self._folder))
        return self._images[key]

    def _substitute(self, key: Hashable, image: PIL.Image.Image) -> tuple[PIL.Image.Image, Hashable]:
        """What stands in an image's place, and its key."""
        if key not in self._substitutes:
            # From the content alone, so that a row's score does not depend on the rows around it.
            digest = hashlib.blake2b(image.tobytes(), digest_size=8).digest()
            if self.blind == "blank":
                mean = tuple(round(value) for value in PIL.ImageStat.Stat(image).mean)
                self._substitutes[key] = PIL.Image.new("RGB", image.size, mean), ("blank", image.size, mean)
            elif self.blind == "noise":
                rng = np.random.default_rng(list(digest))
                noise = PIL.Image.fromarray(rng.integers(0, 256, (image.height, image.width, 3), dtype=np.uint8))
                self._substitutes[key] = noise, ("noise", image.size, digest)
            else:
                others = [number for number, other in enumerate(self._pool) if not _equal(other, image)]
                if not others:
                    raise RowError("blind_images has no image other than the row's own")
                number = others[int.from_bytes(digest) % len(others)]
                self._substitutes[key] = self._pool[number], ("shuffle", number)
        return self._substitutes[key]


def _equal(a: PIL.Image.Image, b: PIL.Image.Image) -> bool:
    return a.size == b.size and a.tobytes() == b.tobytes()
