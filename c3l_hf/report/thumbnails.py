"""Thumbnails of the report's pictures: small WebP files without anything that a camera wrote into the picture."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import PIL.Image

from c3l_hf.common.errors import RowError
from c3l_hf.report.content import Picture

__all__ = ["SIDE", "Thumbnail", "thumbnail", "thumbnails"]

SIDE = 160  # of the longer side, in pixels
_QUALITY = 60  # at about 3 kB a photograph, what is in it can be told
_THREADS = 4  # decoding lets other threads run; more would only hold more large pictures at once


@dataclass(frozen=True)
class Thumbnail:
    """A small picture: its size in pixels and its file, WebP."""

    width: int
    height: int
    webp: bytes


def thumbnail(image: PIL.Image.Image) -> Thumbnail:
    """A picture with its longer side drawn down to `SIDE`; smaller ones keep their size."""
    small = image.convert("RGB") if image.mode != "RGB" else image.copy()
    small.thumbnail((SIDE, SIDE), PIL.Image.Resampling.LANCZOS, reducing_gap=3.0)
    small.info.clear()  # no EXIF, with the place where it was taken, and no colour profile larger than the picture
    file = io.BytesIO()
    small.save(file, "WEBP", quality=_QUALITY, method=4)
    return Thumbnail(small.width, small.height, file.getvalue())


def thumbnails(pictures: Sequence[Picture], threads: int = _THREADS) -> Iterator[Thumbnail | str]:
    """Of each picture its thumbnail, or the reason why it cannot be read, in order.

    Args:
        pictures: A few dozen at a time: all are submitted at once.
        threads: How many are read at the same time.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="thumbnails") as pool:
        yield from pool.map(_read, pictures)


def _read(picture: Picture) -> Thumbnail | str:
    try:
        return thumbnail(picture.open())
    except RowError as error:
        return str(error)
