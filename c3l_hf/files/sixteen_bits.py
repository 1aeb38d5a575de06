"""Pictures of 16 bits per channel in 8 bits: scaled, so that white stays white, if they use their range.

A file of 16 bits may hold values of 10, 12 or 14 (scanners, medical pictures), or no brightness at all (depth). No
format says so reliably. So a picture that uses less than a quarter of the range is refused: shown as it says, it would
be nearly black.
"""

import numpy as np
import PIL.Image

from c3l_hf.common.errors import RowError

__all__ = ["SIXTEEN_BITS", "check_range", "had_sixteen_bits", "in_eight_bits"]

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_LEAST = {8: 1 << 6, 16: 1 << 14}  # a quarter of the range


def had_sixteen_bits(image: PIL.Image.Image) -> bool:
    """Whether a picture has 16 bits per channel in its file, whose colours Pillow reads in 8. Not known any more once
    its pixels are loaded."""
    return image.mode in SIXTEEN_BITS or ";16" in str(getattr(image, "tile", ""))


def check_range(image: PIL.Image.Image) -> None:
    """That a picture that had 16 bits, as it is or in 8 bits, is not nearly black; all black is fine.

    Raises:
        RowError: If it is.
    """
    bits = 16 if image.mode in SIXTEEN_BITS else 8
    largest = int(np.asarray(image).max())
    if 0 < largest < _LEAST[bits]:
        raise RowError(
            "the image has 16 bits per channel and uses less than a quarter of their range: fewer bits may be meant; "
            "scale it, and save it with 8 bits"
        )


def in_eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """A grey picture of 16 bits in 8, each value divided by 257 and rounded; with an alpha channel where one grey is
    transparent. Without the metadata."""
    values = np.asarray(image).astype(np.uint32)
    grey = PIL.Image.fromarray(((values + 128) // 257).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(PIL.Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey
