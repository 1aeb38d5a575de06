"""One image of a row: read, upright, in 8-bit RGB, and a key that tells it from others."""

import hashlib
import io
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageOps

from c3l_hf.common.errors import RowError

__all__ = ["image_key", "open_image"]

# Pillow's conversion of these to RGB clips instead of scaling.
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")

_OBJECT = re.compile(r" ?<[\w.]+ object at 0x[0-9a-f]+>")


def open_image(value: Any) -> PIL.Image.Image:
    """A row's image as an upright 8-bit RGB image; what is transparent is put on white, as models' own processors do.

    Args:
        value: A PIL image, a `datasets` dict with "bytes" or "path", or a path.

    Raises:
        RowError: If it is missing, cannot be decoded, or has more than 8 bits per channel.
    """
    name = "the image"
    try:
        if isinstance(value, Mapping):
            content, path = value.get("bytes"), value.get("path")
            value = path if content is None else PIL.Image.open(io.BytesIO(content))
        if isinstance(value, str | Path):
            name = f"the image {value}"
            value = PIL.Image.open(value)
        if not isinstance(value, PIL.Image.Image):
            raise RowError(f"the image is {type(value).__name__}, not a PIL image, bytes or a path")
        if value.mode in _DEEP_MODES:
            raise RowError(f"the image has mode {value.mode}; convert it to 8 bits per channel")
        return _on_white(PIL.ImageOps.exif_transpose(value))
    except RowError:
        raise
    except Exception as error:  # decoders raise errors of many types on damaged files
        # Without an object's address, so that the same image gives the same reason.
        reason = _OBJECT.sub("", " ".join(str(error).split()))[:160]
        raise RowError(f"{name} cannot be read: {type(error).__name__}: {reason}") from error


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    # Dropping alpha alone would show what nobody sees: a black drawing on nothing would be all black.
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image).convert("RGB")


def image_key(value: Any) -> Hashable:
    """A hashable key that is equal for rows with the same image, without decoding it where possible."""
    if isinstance(value, Mapping):
        content = value.get("bytes")
        return value.get("path") if content is None else hashlib.blake2b(content, digest_size=16).digest()
    if isinstance(value, PIL.Image.Image):
        try:
            # As the model gets it: palette and orientation are not among the bytes of a PIL image.
            image = open_image(value)
        except RowError:
            return id(value)
        return image.size, hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    return str(value)
