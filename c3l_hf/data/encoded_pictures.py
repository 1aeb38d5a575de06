"""Pictures of rows as encoded files: checked once each, and named by what is in them."""

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from c3l_hf.common.errors import RowError
from c3l_hf.common.files import digest
from c3l_hf.data.image_files import located
from c3l_hf.data.row_images import as_stored
from c3l_hf.files.decoders import opened, read_file
from c3l_hf.files.image import content_of, file_of, is_inline, open_image, value_of
from c3l_hf.files.metadata import without_metadata

__all__ = ["EncodedPicture", "PictureReader"]

# What a file is called that holds this; others by the name of their format.
_ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "HEIF": "heic", "PPM": "ppm"}
# Pictures that are known to be readable without being decoded again: rows about one picture often follow each other.
_REMEMBERED = 4096


class EncodedPicture:
    """A picture as it is in a file.

    Attributes:
        content: Its encoded bytes, those of the source.
        name: A file name made of its content alone: safe, the same for the same picture, another for another.
    """

    def __init__(self, content: bytes, key: str, ending: str):
        self.content, self.name = content, f"{key}.{ending}"

    @property
    def ending(self) -> str:
        """Of its name, without the point: the kind of picture."""
        return self.name.rpartition(".")[2]

    @property
    def stored(self) -> dict[str, Any]:
        """As `datasets` stores a picture."""
        return {"bytes": self.content, "path": self.name}


class PictureReader:
    """Reads the pictures of rows as they are encoded.

    Args:
        folder: Where pictures are that rows name by a relative path; by default the working folder.
        keep_metadata: Leave what the files say of place, time, camera and people; see `files.metadata`.
    """

    def __init__(self, folder: str | Path | None = None, keep_metadata: bool = False):
        self._folder, self._keep_metadata = folder, keep_metadata
        self._known: OrderedDict[str, str] = OrderedDict()

    def read(self, image: Any) -> EncodedPicture:
        """A picture with the bytes that the row or the file has, but for metadata; one that is pixels only, as PNG.

        Raises:
            RowError: If it cannot be read.
        """
        image = located(image, self._folder)
        content = _content(image)
        if content is None:
            open_image(image)  # says why
            raise RowError("the image cannot be read")
        if not self._keep_metadata:
            content = without_metadata(content).content
        key = digest(content)
        if (ending := self._known.get(key)) is None:
            open_image(content)
            with opened(io.BytesIO(content)) as picture:
                kind = str(picture.format)
            ending = _ENDINGS.get(kind, "".join(filter(str.isalnum, kind.lower())))
            self._known[key] = ending
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return EncodedPicture(content, key, ending)


def _content(image: Any) -> bytes | None:
    """The encoded bytes of a picture; None where there are none to be had."""
    value = value_of(image)
    try:
        if isinstance(value, PIL.Image.Image | np.ndarray):
            return as_stored(value)["bytes"]
        if is_inline(value):
            return bytes(content_of(value))
        if isinstance(value, str | Path) and (file := file_of(value)) is not None:
            return read_file(file)
    except (OSError, ValueError):  # no such file, or no picture: as whoever opens it says
        pass
    return None
