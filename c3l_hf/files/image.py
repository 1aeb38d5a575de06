"""One image of a row: read, upright, in 8-bit RGB, and a key that tells it from others."""

import base64
import hashlib
import io
import math
import os
import re
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import PIL.Image
import PIL.ImageOps
import pyarrow as pa
from PIL.ExifTags import Base as ExifTag

from c3l_hf.common.errors import RowError
from c3l_hf.common.words import what_is
from c3l_hf.files.addresses import download_problem, downloaded, is_address, shown_address
from c3l_hf.files.decoders import FORMATS, MOST_PIXELS, closed_format, opened
from c3l_hf.files.sixteen_bits import SIXTEEN_BITS, check_range, had_sixteen_bits, in_eight_bits
from c3l_hf.files.unreadable import cause_of, kind_of

__all__ = [
    "IN_DICT",
    "MAX_PIXELS",
    "content_of",
    "file_of",
    "image_key",
    "is_inline",
    "open_image",
    "orientation_of",
    "upright",
    "value_of",
]

# A picture of more pixels is drawn down to so many while it is read. No processor in transformers takes more: by
# default Qwen3-VL's takes the most, 4096 × 4096; Qwen2.5-VL's takes 3584 × 3584.
MAX_PIXELS = 4096 * 4096
# But its shorter side not below this: processors that cut out the middle go by the shorter side, of 336 or 448 pixels.
_SHORT_SIDE = 1024
_STRIP = 128  # rows of the smaller picture that are made at once
# The thread in which pictures of more are decoded, whoever asks: in several at once they would take gigabytes, and what
# one has freed no other can use, as each has its own part of the heap.
_LARGE = ThreadPoolExecutor(1, "c3l-hf-large-pictures")
if hasattr(os, "register_at_fork"):  # a child does not have the thread
    os.register_at_fork(after_in_child=lambda: globals().update(_LARGE=ThreadPoolExecutor(1, "c3l-hf-large-pictures")))

# What black and white are in these, no file says; Pillow's conversion of them to RGB clips.
_DEEP_MODES = ("I", "F")
# Where the orientation may stand, in what Pillow has of a file.
_WITH_ORIENTATION = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
# Where a dict has its image, the first that is there: as `datasets` has it, and as items of messages do.
IN_DICT = ("bytes", "image", "path", "url")
# What encoded pictures come in; a buffer where Arrow's memory is not copied.
_Content = bytes | bytearray | memoryview | pa.Buffer
# How JPEG, PNG, GIF, WebP, BMP and TIFF begin as base64; a file may be named by letters and digits alone, as by a hash.
_BASE64 = re.compile(r"\s*(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk[01]|SUkqA|TU0AK)[A-Za-z0-9+/\s]{40,}={0,2}\s*")
_LONGEST_NAME = 1000  # what is longer is no path that a file system has
_LONGEST_SHOWN = 130  # of a reason's 200 characters, so that the reason itself is among them


def open_image(value: Any) -> PIL.Image.Image:
    """A row's image as an upright 8-bit RGB image; what is transparent is put on white, as models' own processors do.

    Only the formats of `decoders.FORMATS` are opened. A picture of more than `MAX_PIXELS` is drawn down to so many, its
    shorter side to 1,024 at least: one at a time is in memory as large as it is, of all threads. Of an animation it is
    the first frame. 16 bits are scaled to 8, see `files.sixteen_bits`. HEIC needs the package pillow-heif. Of the
    file's metadata nothing comes along but the ICC profile; what is broken among them does not matter.

    Args:
        value: A PIL image; its encoded content, as bytes, base64 text or a data URL; a path or a file:// URL; an array
            of (height, width) or (height, width, channels), uint8; an address on the web that `download_images` has
            fetched; or a dict of one of these: as `datasets` has it with "bytes" or "path", or with "url" or "image".

    Raises:
        RowError: If it is missing, in another format, cannot be decoded, has more than `decoders.MOST_PIXELS`, 32 bits
            or floats per channel, has 16 of which it uses so few that they may be meant otherwise, or is an address
            that has not been fetched.
    """
    name = "the image"
    try:
        if isinstance(value, Mapping) and value and not {"bytes", "image", "path", "url"} & set(value):
            raise RowError("the image is a dict without bytes, image, path or url")
        value = value_of(value)
        if isinstance(value, str) and not value:
            raise RowError("the image is an empty text, neither a path nor a picture; a row without one has null")
        if isinstance(value, str | Path) and not is_inline(value):
            if len(str(value)) > _LONGEST_NAME and not is_address(value):
                raise RowError(f"the image is a text of {len(str(value)):,} characters, neither a path nor a picture")
            name = f"the image {_shown(value)}"
        image = _opened(value)
        if image.mode in _DEEP_MODES:
            raise RowError(f"the image has mode {image.mode}; convert it to 8 bits per channel")
        if image.format not in (None, *FORMATS):  # before it is loaded, for which Pillow may start another program
            raise RowError(_not_read(name, image.format))
        if image.width * image.height > MOST_PIXELS:
            raise RowError(f"{name} has more than {MOST_PIXELS:,} pixels; draw it down")
        check = had_sixteen_bits(image)  # is not told once the pixels are read
        size = _bounded(image.size)
        if check and image.mode in SIXTEEN_BITS:
            check_range(image)  # the whole of it, of which only strips may be converted at a time
        if size == image.size:
            result = _on_white(upright(image))
        else:
            result = _LARGE.submit(_drawn_down, image, size).result()
        if check and image.mode not in SIXTEEN_BITS:
            check_range(result)
        result.info = {name: value for name, value in result.info.items() if name == "icc_profile"}
        return result
    except RowError:
        raise
    except Exception as error:  # decoders raise errors of many types on damaged files
        if isinstance(error, PIL.UnidentifiedImageError) and (closed := closed_format(_beginning(value))):
            raise RowError(_not_read(name, closed)) from None
        kind = kind_of(_beginning(value)) if isinstance(error, PIL.UnidentifiedImageError) else None
        raise RowError(f"{name} cannot be read: {f'it is {kind}' if kind else cause_of(error)}") from error


def _not_read(name: str, kind: str | None) -> str:
    return f"{name} is {kind}, which is not read; convert it to PNG or JPEG"


def _beginning(value: Any) -> bytes:
    """The first 64 bytes of what could not be read."""
    if isinstance(value, _Content) or (isinstance(value, str) and is_inline(value)):
        return bytes(memoryview(content_of(value))[:64])
    if isinstance(value, str | Path) and not is_inline(value) and (file := file_of(value)) is not None:
        with open(file, "rb") as content:
            return content.read(64)
    return b"?"


def _shown(name: str | Path) -> str:
    if is_address(name):
        return shown_address(str(name))
    if len(str(name)) <= _LONGEST_SHOWN:
        return str(name)
    # Whole names of folders, and that of the file.
    end = str(name)[1 - _LONGEST_SHOWN :]
    return f"…{end[end.index('/') :] if '/' in end else end}"


def is_inline(value: Any) -> bool:
    """Whether a value is an image's content, and not the name of a file."""
    if not isinstance(value, str):
        return isinstance(value, np.ndarray | _Content)
    return value.startswith("data:") or (_BASE64.fullmatch(value) is not None and not os.path.isfile(value))


def content_of(value: Any) -> bytes | bytearray | memoryview | pa.Buffer:
    """The encoded picture of bytes, base64 text or a data URL, for which `is_inline` holds.

    Raises:
        ValueError: If it is not base64.
    """
    if isinstance(value, _Content):
        return value
    text = value.partition("base64,")[2] if value.startswith("data:") else value
    return base64.b64decode("".join(text.split()), validate=True)


def file_of(name: str | Path) -> Path | None:
    """The file that a path, a file:// URL or an address on the web names; None for an address that is not downloaded.

    Raises:
        RowError: If a file:// URL names another machine.
    """
    if is_address(name):
        return downloaded(str(name))
    if str(name)[:5].lower() != "file:":
        return Path(name)
    parts = urlsplit(str(name))
    if parts.netloc not in ("", "localhost"):
        raise RowError(f"the image {_shown(name)} is on another machine; give a path, or a URL as file:///path")
    return Path(url2pathname(parts.path))


def value_of(value: Any) -> Any:
    """What a dict holds of an image, or a dict in it; None if it holds none. Other values as they are."""
    if not isinstance(value, Mapping):
        return value
    return next((inner for name in IN_DICT if (inner := value_of(value.get(name))) is not None), None)


def _opened(value: Any) -> PIL.Image.Image:
    if isinstance(value, PIL.Image.Image):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8:
            raise RowError(f"the image is an array of {value.dtype}, shape {value.shape}; give uint8")
        return PIL.Image.fromarray(value)
    if is_inline(value):
        return opened(io.BytesIO(content_of(value)))
    if isinstance(value, str | Path):
        if (file := file_of(value)) is None:
            raise RowError(_not_fetched(str(value)))
        return opened(file)
    raise RowError("the image is null" if value is None else f"the image is {what_is(value)}, not a picture or a path")


def _not_fetched(address: str) -> str:
    shown = shown_address(address)
    if (problem := download_problem(address)) is not None:
        return f"the image is an address, {shown}, which could not be downloaded: {problem}"
    return (
        f"the image is an address, {shown}, which is not fetched; download it and give its path, or use download_images"
    )


def _bounded(size: tuple[int, int]) -> tuple[int, int]:
    """The size that a picture of a size is read in: see `MAX_PIXELS`."""
    width, height = size
    if width * height <= MAX_PIXELS:
        return size
    scale = max(math.sqrt(MAX_PIXELS / (width * height)), _SHORT_SIDE / min(size))
    return size if scale >= 1 else (max(1, int(width * scale)), max(1, int(height * scale)))


def _drawn_down(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """A picture in a smaller size, upright, on white. Of the large one only strips are converted at a time."""
    if image.format in ("JPEG", "MPO"):
        image.draft(None, size)  # not below the size; before it is loaded
    image.load()
    width, height = size
    scale = image.height / height
    margin = math.ceil(2 * scale) + 1  # what the filter takes of the rows beside a strip
    small = PIL.Image.new("RGB", size)
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        first = max(0, math.floor(top * scale) - margin)
        last = min(image.height, math.ceil(bottom * scale) + margin)
        strip = _on_white(image.crop((0, first, image.width, last)))
        # Float errors must not reach beyond the strip, which Pillow refuses.
        box = (0, top * scale - first, image.width, min(bottom * scale - first, last - first))
        small.paste(strip.resize((width, bottom - top), PIL.Image.Resampling.BICUBIC, box), (0, top))
    # Stands in a file behind its pixels too: it is known only now.
    small.getexif()[ExifTag.Orientation] = orientation_of(image)
    return PIL.ImageOps.exif_transpose(small)


def orientation_of(image: PIL.Image.Image) -> int:
    """How a picture lies, as EXIF counts it; 1, upright, if nothing says so, or what does is broken.

    It may stand in a file behind the pixels: then it is known once they are loaded.
    """
    try:
        orientation: Any = image.getexif().get(ExifTag.Orientation)
    except Exception:  # Pillow raises errors of many types on broken EXIF
        return 1
    return orientation if orientation in range(2, 9) else 1


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """A picture as it is to be seen; itself, if it lies so."""
    image.load()
    orientation = orientation_of(image)
    if orientation == 1:
        return image
    # Without the rest of EXIF, which may be broken, and which Pillow would write anew.
    turned = image.copy()
    turned.info = {name: value for name, value in turned.info.items() if name not in _WITH_ORIENTATION}
    turned.getexif()[ExifTag.Orientation] = orientation
    return PIL.ImageOps.exif_transpose(turned)


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode in SIXTEEN_BITS:
        image = in_eight_bits(image)
    # Dropping alpha alone would show what nobody sees: a black drawing on nothing would be all black.
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image).convert("RGB")


def image_key(value: Any) -> Hashable:
    """A hashable key that is equal for rows with the same image, without decoding it where possible.

    Of a file it is the name, of an address the name of the downloaded file, if there is one.
    """
    value = value_of(value)
    if isinstance(value, _Content):
        return hashlib.blake2b(value, digest_size=16).digest()
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, hashlib.blake2b(value.tobytes(), digest_size=16).digest()
    if isinstance(value, PIL.Image.Image):
        try:
            # As the model gets it: palette and orientation are not among the bytes of a PIL image.
            image = open_image(value)
        except RowError:
            return id(value)
        return image.size, hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    if isinstance(value, str) and is_inline(value):
        return hashlib.blake2b(value.encode(), digest_size=16).digest()
    if isinstance(value, str | Path) and is_address(value):
        # Another key once it is downloaded: what is kept by it is then another picture, or one at all.
        return str(downloaded(str(value)) or value)
    return str(value)
