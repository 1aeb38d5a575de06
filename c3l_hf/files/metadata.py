"""A picture as it is published: without the place where it was taken, the camera, names, comments, small pictures."""

import io
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL.ExifTags import Base as ExifTag

from c3l_hf.common.errors import RowError
from c3l_hf.files.decoders import closed_format, opened
from c3l_hf.files.image import open_image, orientation_of, upright
from c3l_hf.files.segments import plain_gif, plain_jpeg, plain_png, plain_webp

__all__ = ["PlainPicture", "without_metadata"]

_COPIED: dict[str, Callable[[bytes, bytes], bytes]] = {
    "GIF": plain_gif,
    "JPEG": plain_jpeg,
    "MPO": plain_jpeg,
    "PNG": plain_png,
    "WEBP": plain_webp,
}
_HAVE_NONE = ("BMP", "DIB")
# What an AVIF has of them is in items and boxes of these kinds. They may be somewhere by chance: then it is encoded
# again in vain.
_OF_AVIF = re.compile(rb"Exif|mime|uri |uuid|jumb|moov")
# What a content that is not opened may have them in: how formats begin that have metadata (JPEG, PNG, GIF, WebP,
# TIFF and raw photographs, HEIC and AVIF, JPEG 2000 and XL, Photoshop's, Targa), and how these begin.
_OF_DAMAGED = re.compile(
    rb"\A(?:\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|II[*+RU]|MM\0|....ftyp|\0\0\0\x0c(?:jP|JXL)|\xff\x4f\xff\x51|8BPS)"
    rb"|Exif\0\0|xmpmeta|ns\.adobe\.com|TRUEVISION-XFILE",
    re.DOTALL,
)
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


class PlainPicture(NamedTuple):
    """The content of a picture without metadata, and the ending that its name needs, if it has another format now."""

    content: bytes
    ending: str = ""


def without_metadata(content: bytes) -> PlainPicture:
    """A picture without EXIF, XMP, IPTC, MakerNotes, comments, texts, thumbnails and what follows its end.

    It looks the same to the bit: `open_image` makes the same of it. The ICC profile stays, which says what the colours
    mean, and of EXIF the orientation, where the picture is to be turned. JPEG, PNG, WebP and GIF are not encoded again;
    the pictures of a JPEG behind its first one are left out. TIFF, HEIC, AVIF with metadata, JPEG 2000 and all other
    formats become PNG (TIFF, where PNG has no such colours) of their first picture, upright; so does what has broken
    metadata that cannot be taken apart.

    What is no picture at all, as a web page, stays as it is.

    Args:
        content: The encoded picture.

    Raises:
        RowError: If it cannot be read, and may have metadata: it is damaged, in a format that is not opened, or HEIC
            without pillow-heif.
    """
    try:
        with opened(io.BytesIO(content)) as image:
            kind = str(image.format)
            if kind in _HAVE_NONE or (kind == "AVIF" and not _OF_AVIF.search(content)):
                return PlainPicture(content)
            copied = _COPIED.get(kind)
            if copied is not None:
                if kind == "PNG" and _behind_pixels(content):
                    image.load()
                return PlainPicture(copied(content, _orientation_alone(image)))
    except Exception:  # parts that do not fit together, of which Pillow reads more; decoders raise errors of many types
        pass
    return _encoded_again(content)


def _behind_pixels(content: bytes) -> bool:
    """Whether a PNG may have metadata, and in these its orientation, where Pillow sees them only with the pixels."""
    return max(map(content.rfind, (b"eXIf", b"tEXt", b"zTXt", b"iTXt"))) > content.find(b"IDAT")


def _orientation_alone(image: PIL.Image.Image) -> bytes:
    """EXIF with the orientation, and nothing if the picture is upright."""
    orientation = orientation_of(image)
    if orientation == 1:
        return b""
    exif = PIL.Image.Exif()
    exif[ExifTag.Orientation] = orientation
    return exif.tobytes()


def _encoded_again(content: bytes) -> PlainPicture:
    try:
        seen = open_image(content)
    except RowError:
        if _is_no_picture(content):
            return PlainPicture(content)
        raise
    try:
        again = _as_it_is(content)
        if np.array_equal(np.asarray(open_image(again.content)), np.asarray(seen)):
            return again
    except Exception:  # colours that neither format has, and what Pillow cannot write
        pass
    return PlainPicture(_saved(seen, "PNG"), ".png")


def _is_no_picture(content: bytes) -> bool:
    try:
        opened(io.BytesIO(content)).close()
        return False
    except Exception:  # decoders raise errors of many types
        return not _OF_DAMAGED.search(content) and closed_format(content[:64]) is None


def _as_it_is(content: bytes) -> PlainPicture:
    """The first picture in its own colours and size, upright."""
    with opened(io.BytesIO(content)) as image:
        profile = image.info.get("icc_profile")
        plain = upright(image).copy()  # of which Pillow's writers copy nothing but `info`
        clear = plain.info.get("transparency")
        plain.info = {} if clear is None else {"transparency": clear}
        kind = "PNG" if plain.mode in _PNG_MODES else "TIFF"
        options = {"icc_profile": profile} if profile else {}
        return PlainPicture(_saved(plain, kind, **options), f".{kind.lower()}")


def _saved(image: PIL.Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    # Measured: the default level (6) takes twice as long, for a tenth of the size.
    how = {"compress_level": 1} if kind == "PNG" else {"compression": "tiff_adobe_deflate"}
    image.save(file, kind, **how, **options)
    return file.getvalue()
