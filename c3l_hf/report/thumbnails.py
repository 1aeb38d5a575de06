"""Thumbnails of the report's pictures: small WebP files without anything that a camera wrote into the picture."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import PIL.Image

from c3l_hf.common.errors import RowError
from c3l_hf.data.status import without_folders
from c3l_hf.report.content import Picture

__all__ = ["SIDE", "Thumbnail", "thumbnail", "thumbnails"]

SIDE = 160  # of the longer side, in pixels
# WebP's quality, for few pictures and for many: 5,000 photographs of about 3 kB each fit into one page.
_QUALITY, _QUALITY_OF_MANY, _MANY = 72, 50, 2000
_THREADS = 4  # decoding lets other threads run; more would only hold more large pictures at once


@dataclass(frozen=True)
class Thumbnail:
    """A small picture: its size in pixels and its file, WebP."""

    width: int
    height: int
    webp: bytes


def thumbnail(image: PIL.Image.Image, quality: int) -> Thumbnail:
    """A picture with its longer side drawn down to `SIDE`; smaller ones keep their size.

    Args:
        image: The picture, upright.
        quality: WebP's, from 0 to 100.
    """
    small = image.convert("RGB") if image.mode != "RGB" else image.copy()
    small.thumbnail((SIDE, SIDE), PIL.Image.Resampling.LANCZOS, reducing_gap=3.0)
    file = io.BytesIO()
    # Of what a camera wrote into the picture (EXIF, with the place where it was taken) nothing is handed on.
    small.save(file, "WEBP", quality=quality, method=4)
    return Thumbnail(small.width, small.height, file.getvalue())


def thumbnails(pictures: Sequence[Picture], total: int) -> Iterator[Thumbnail | str]:
    """Of each picture its thumbnail, or the reason why it cannot be read, in order.

    Args:
        pictures: A few dozen at a time: all are read ahead.
        total: How many pictures the report has; of many each has a smaller file.
    """
    quality = _QUALITY if total <= _MANY else _QUALITY_OF_MANY
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="thumbnails") as pool:
        yield from pool.map(lambda picture: _read(picture, quality), pictures)


def _read(picture: Picture, quality: int) -> Thumbnail | str:
    try:
        return thumbnail(picture.open(), quality)
    except RowError as error:
        return without_folders(str(error))  # pages are sent to others
