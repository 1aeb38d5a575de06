"""Pictures as a server takes them: data URLs, of the stored content where every reader sees the same picture in it."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import PIL.Image
from PIL.ExifTags import Base as ExifTag

from c3l_hf.common.errors import RowError
from c3l_hf.data.status import publishable
from c3l_hf.files.decoders import opened
from c3l_hf.files.image import content_of, file_of, is_inline, open_image, value_of
from c3l_hf.files.metadata import without_metadata

__all__ = ["data_urls"]

# What OpenAI's API takes.
_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}


def data_urls(images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Pictures as data URLs.

    A JPEG, PNG, WebP or GIF goes as it is stored if it is upright, in RGB, and one picture; without its metadata, as
    the server may be anybody's. Anything else goes as a PNG of what `open_image` makes of it, which is what a model in
    this process sees: servers turn, clip and flatten pictures in ways of their own.

    Args:
        images: As they are stored: structs of "bytes" and "path".

    Raises:
        RowError: If one cannot be read; the reason names no file.
    """
    urls = []
    for number, image in enumerate(images):
        which = f"images[{number}]" if len(images) > 1 else "the image"
        if image is None:
            raise RowError(f"{which} is null")
        try:
            seen = open_image(image)
            media, content = _as_stored(image) or ("image/png", _png(seen))
        except RowError as error:
            raise RowError(publishable(str(error), which)) from None
        urls.append(f"data:{media};base64,{base64.b64encode(content).decode()}")
    return urls


def _as_stored(image: Any) -> tuple[str, bytes] | None:
    """The media type and content of a picture that needs no other encoding; None if it does."""
    value = value_of(image)
    if is_inline(value):
        content = bytes(content_of(value))
    elif isinstance(value, str) and (file := file_of(value)) is not None:
        content = file.read_bytes()
    else:
        return None
    with opened(io.BytesIO(content)) as picture:
        plain = picture.mode == "RGB" and picture.info.get("transparency") is None
        upright = picture.getexif().get(ExifTag.Orientation, 1) == 1
        if plain and upright and picture.format in _TYPES and not getattr(picture, "is_animated", False):
            return _TYPES[picture.format], without_metadata(content).content
    return None


def _png(image: PIL.Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
