"""The only door to Pillow's decoders: which formats are opened, how large a picture may be, and what is no file.

Left to itself Pillow tries everything that it knows, whatever a file is called: for EPS it starts Ghostscript, for WMF
it asks Windows, and others are guessed without a signature. So only the formats of `FORMATS` are opened.
"""

import contextlib
import functools
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import PIL.Image

__all__ = [
    "FORMATS",
    "HEIC_BRANDS",
    "MOST_PIXELS",
    "can_heic",
    "check_is_file",
    "closed_format",
    "is_heic",
    "opened",
    "read_file",
]

# As Pillow names them; what opens as JPEG may turn out to be MPO, several JPEGs in one file.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "HEIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM")
# Decoded it takes 4 bytes for each, 0.7 GB. It is Pillow's own limit, which programs like to take away.
MOST_PIXELS = 178_956_970
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# How formats begin that Pillow knows and that are not opened. Others have no signature that would tell.
_CLOSED = {
    "EPS": rb"%!PS|\xc5\xd0\xd3\xc6",
    "PSD": rb"8BPS",
    "WMF": rb"\xd7\xcd\xc6\x9a\0\0|\x01\0\0\0.{36} EMF",
    "ICO": rb"\0\0\x01\0.\0",
    "ICNS": rb"icns",
    "QOI": rb"qoif",
    "DDS": rb"DDS ",
    "FITS": rb"SIMPLE  =",
    "SGI": rb"\x01\xda[\0\x01][\x01\x02]",
    "PCX": rb"\n[\0\x02\x03\x05]\x01[\x01\x02\x04\x08]",
    "HDF5": rb"\x89HDF\r\n\x1a\n",
    "GRIB": rb"GRIB...\x01",
    "BUFR": rb"BUFR",
    "MPEG": rb"\0\0\x01\xb3",
    "XPM": rb"/\* XPM \*/",
    "FPX": rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
}
_CLOSED_ONES = {name: re.compile(beginning, re.DOTALL) for name, beginning in _CLOSED.items()}


def opened(source: str | Path | BinaryIO, formats: Sequence[str] = FORMATS) -> PIL.Image.Image:
    """A picture whose header is read. HEIC is read where pillow-heif is installed.

    Args:
        source: A file, or a content.
        formats: Those that are opened; HEIC is if it is among `FORMATS`, whatever they are.

    Raises:
        PIL.UnidentifiedImageError: If it is in none of these formats.
        PIL.Image.DecompressionBombError: If it has more than `MOST_PIXELS`.
        OSError: If the file cannot be read, or is a device or the like, which might never end.
        Exception: Of whatever type Pillow raises on damaged files.
    """
    if isinstance(source, str | Path):
        check_is_file(source)
    try:
        image = PIL.Image.open(source, formats=[name for name in formats if name in _known()])
    except PIL.UnidentifiedImageError:
        if not (_is_heic_source(source) and can_heic()):
            raise
        image = PIL.Image.open(source, formats=["HEIF"])
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise PIL.Image.DecompressionBombError(
            f"{image.width:,} × {image.height:,} pixels; at most {MOST_PIXELS:,} are read"
        )
    return image


def check_is_file(path: str | Path) -> None:
    """That reading a path ends: it is no pipe, device or socket. A folder fails by itself.

    Raises:
        OSError: If it is one, or is not there.
    """
    kind = os.stat(path).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise OSError("not a file but a pipe, a device or a socket")


def read_file(path: str | Path) -> bytes:
    """The content of a picture's file.

    Raises:
        OSError: If it cannot be read, or is none, see `check_is_file`.
    """
    check_is_file(path)
    return Path(path).read_bytes()


def closed_format(beginning: bytes) -> str | None:
    """The name of a format of pictures that is not opened, where the first 64 bytes of a content tell."""
    return next((name for name, pattern in _CLOSED_ONES.items() if pattern.match(beginning)), None)


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


@functools.cache
def _known() -> frozenset[str]:
    # Pillow ends at a format that it was built without, and has MPO only as what a JPEG turns out to be.
    PIL.Image.init()
    return frozenset(PIL.Image.OPEN) - {"HEIF"}


def _is_heic_source(source: str | Path | BinaryIO) -> bool:
    if not isinstance(source, str | Path):
        source.seek(0)
        beginning = source.read(12)
        source.seek(0)
        return is_heic(beginning)
    with contextlib.suppress(OSError), open(source, "rb") as file:
        return is_heic(file.read(12))
    return False
