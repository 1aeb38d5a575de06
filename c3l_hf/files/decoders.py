"""Pillow's way to open a picture, and that of HEIC beside it, which needs the package pillow-heif."""

import contextlib
import functools
import io
from pathlib import Path
from typing import Any

import PIL.Image

__all__ = ["HEIC_BRANDS", "can_heic", "is_heic", "opened"]

HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def opened(source: str | Path | io.BytesIO, formats: list[str] | None = None) -> PIL.Image.Image:
    """A picture whose header is read. It raises what Pillow raises; HEIC is read where pillow-heif is installed.

    Args:
        source: A file, or a content.
        formats: As Pillow has them; HEIC is read whatever they are.
    """
    try:
        return PIL.Image.open(source, formats=formats)
    except PIL.UnidentifiedImageError:
        if not (_is_heic_source(source) and can_heic()):
            raise
    return PIL.Image.open(source, formats=["HEIF"])


def is_heic(beginning: bytes) -> bool:
    """Whether a content begins like HEIC."""
    return beginning[4:8] == b"ftyp" and beginning[8:12] in HEIC_BRANDS


@functools.cache
def can_heic() -> bool:
    """Whether HEIC can be read. Pillow then knows of it, too."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _is_heic_source(source: Any) -> bool:
    if isinstance(source, io.BytesIO):
        beginning = source.getvalue()[:12]
        source.seek(0)
        return is_heic(beginning)
    with contextlib.suppress(OSError), open(source, "rb") as file:
        return is_heic(file.read(12))
    return False
