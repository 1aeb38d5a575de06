"""One image of a row: read, upright, in 8-bit RGB, and a key that tells it from others."""

import base64
import hashlib
import io
import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import PIL.Image
import PIL.ImageOps
import pyarrow as pa

from c3l_hf.common.errors import RowError

__all__ = ["image_key", "is_inline", "open_image"]

# Pillow's conversion of these to RGB clips instead of scaling.
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")

# What encoded pictures come in; a buffer where Arrow's memory is not copied.
_Content = bytes | bytearray | memoryview | pa.Buffer
# How JPEG, PNG, GIF, WebP, BMP and TIFF begin as base64; a file may be named by letters and digits alone, as by a hash.
_BASE64 = re.compile(r"\s*(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk[01]|SUkqA|TU0AK)[A-Za-z0-9+/\s]{40,}={0,2}\s*")
_LONGEST_NAME = 1000  # what is longer is no path that a file system has

_OBJECT = re.compile(r" ?<[\w.]+ object at 0x[0-9a-f]+>")


def open_image(value: Any) -> PIL.Image.Image:
    """A row's image as an upright 8-bit RGB image; what is transparent is put on white, as models' own processors do.

    Args:
        value: A PIL image; its encoded content, as bytes, base64 text or a data URL; a path or a file:// URL; an array
            of (height, width) or (height, width, channels), uint8; or a dict of one of these: as `datasets` has it with
            "bytes" or "path", or with "url" or "image". Addresses on the web are not fetched.

    Raises:
        RowError: If it is missing, cannot be decoded, or has more than 8 bits per channel.
    """
    name = "the image"
    try:
        value = _value_of(value)
        if isinstance(value, str | Path) and not is_inline(value):
            if len(str(value)) > _LONGEST_NAME:
                raise RowError(f"the image is a text of {len(str(value)):,} characters, neither a path nor a picture")
            name = f"the image {value}"
        image = _opened(value)
        if image.mode in _DEEP_MODES:
            raise RowError(f"the image has mode {image.mode}; convert it to 8 bits per channel")
        return _on_white(PIL.ImageOps.exif_transpose(image))
    except RowError:
        raise
    except Exception as error:  # decoders raise errors of many types on damaged files
        # Without an object's address, so that the same image gives the same reason.
        reason = _OBJECT.sub("", " ".join(str(error).split()))[:160]
        raise RowError(f"{name} cannot be read: {type(error).__name__}: {reason}") from error


def is_inline(value: Any) -> bool:
    """Whether a value is an image's content, and not the name of a file."""
    if not isinstance(value, str):
        return isinstance(value, np.ndarray | _Content)
    return value.startswith("data:") or (_BASE64.fullmatch(value) is not None and not os.path.isfile(value))


def _value_of(value: Any) -> Any:
    """What a dict holds of an image; other values as they are."""
    if not isinstance(value, Mapping):
        return value
    return next((value[name] for name in ("bytes", "image", "path", "url") if value.get(name) is not None), None)


def _opened(value: Any) -> PIL.Image.Image:
    if isinstance(value, PIL.Image.Image):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8:
            raise RowError(f"the image is an array of {value.dtype}, shape {value.shape}; give uint8")
        return PIL.Image.fromarray(value)
    if isinstance(value, _Content):
        return PIL.Image.open(io.BytesIO(value))
    if isinstance(value, str) and is_inline(value):
        text = value.partition("base64,")[2] if value.startswith("data:") else value
        return PIL.Image.open(io.BytesIO(base64.b64decode("".join(text.split()), validate=True)))
    if isinstance(value, str) and value.startswith("file://"):
        value = url2pathname(urlsplit(value).path)
    elif isinstance(value, str) and value.startswith(("http://", "https://")):
        raise RowError(f"the image is an address, {value}, which is not fetched; download it and give its path")
    if isinstance(value, str | Path):
        return PIL.Image.open(value)
    raise RowError(f"the image is {type(value).__name__}, not a PIL image, bytes or a path")


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    # Dropping alpha alone would show what nobody sees: a black drawing on nothing would be all black.
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image).convert("RGB")


def image_key(value: Any) -> Hashable:
    """A hashable key that is equal for rows with the same image, without decoding it where possible."""
    value = _value_of(value)
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
    return str(value)
