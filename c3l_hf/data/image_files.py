"""Image files that rows name by their paths instead of holding the content."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Value

from c3l_hf.common.arrow import is_list, is_text
from c3l_hf.common.errors import RowError
from c3l_hf.common.files import digest
from c3l_hf.common.versions import versions
from c3l_hf.data.layouts import WITH_ITEMS, Layout
from c3l_hf.data.places import PICTURE_KEYS
from c3l_hf.files.addresses import download_problem, is_address
from c3l_hf.files.image import IN_DICT, content_of, file_of, is_inline

__all__ = ["check_key", "files_state", "located", "row_files_state", "stored_here"]

# Where the names of images are: in items of messages, and in what holds items, which may also be a text.
_CONTENTS = ("content", "value")
_PLACES = (*PICTURE_KEYS, *_CONTENTS)


def located(value: Any, folder: str | Path | None) -> Any:
    """An image of a row, with its path as a file in a folder.

    A relative path is one in the folder. An absolute path and a file:// URL stay, if they lead into the folder: so do
    those that a dataset has of its own files. Contents and addresses on the web stay as they are.

    Args:
        value: An image as `open_image` takes it.
        folder: The folder; None if relative paths are relative to the working folder, and paths may lead anywhere.

    Raises:
        RowError: If a path leaves the folder. By its name only: a link in the folder may lead to another disk.
    """
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return value
        names = [name for name in IN_DICT if isinstance(value.get(name), str | Path | Mapping)]
        return {**value, **{name: located(value[name], folder) for name in names}}
    if folder is None or not isinstance(value, str | Path) or is_inline(value) or is_address(value):
        return value
    root = os.path.abspath(folder)
    path = os.path.normpath(os.path.join(root, file_of(value) or ""))
    if not Path(path).is_relative_to(root):
        raise RowError(f"the image {value} is not in the folder {folder}")
    return path


def files_state(rows: Dataset, column: str, folder: str | Path | None = None) -> str:
    """A digest of names, sizes and times of the files: what a cache has to know beside the rows, which stay the same
    when a file is changed or appears, or an address is downloaded.

    Args:
        rows: The dataset.
        column: Its column of images, of lists of images, or of messages with images in their items: as `datasets`
            stores them, or paths, URLs, and dicts of these.
        folder: What relative paths are relative to; by default the working folder.
    """
    state = hashlib.blake2b(digest_size=16)
    for table in rows.select_columns([column]).with_format("arrow").iter(1000):
        for name in _names(table.column(0)):
            state.update(f"{name} {_state(name, folder)}\n".encode("utf-8", "surrogatepass"))
    return state.hexdigest()


def _state(name: str, folder: str | Path | None) -> str:
    if is_inline(name):
        return "is no file"
    try:
        path = file_of(name)
        if path is None:
            return download_problem(name) or "is not downloaded"
        file = os.stat(Path(folder or "") / path)
    except (OSError, ValueError):
        return "cannot be found"
    return f"{file.st_size} {file.st_mtime_ns}"


def _names(values: pa.Array | pa.ChunkedArray) -> Iterator[str]:
    """The names of images in a column that have no content of their own."""
    if isinstance(values, pa.ChunkedArray):
        for chunk in values.chunks:
            yield from _names(chunk)
    elif isinstance(values.type, pa.JsonType):
        for text in values.cast(pa.string()).drop_null().to_pylist():
            yield from _names_in(json.loads(text))
    elif isinstance(values.type, pa.BaseExtensionType):
        return  # numbers: an array is its own content
    elif is_list(values.type):
        yield from _names(pc.list_flatten(values))
    elif pa.types.is_struct(values.type):
        fields = [field.name for field in values.type]
        if "bytes" in fields:
            values = pc.filter(values, pc.is_null(pc.struct_field(values, "bytes")))
        for name in _PLACES:
            if name in fields and not (name in _CONTENTS and is_text(values.type.field(name).type)):
                yield from _names(pc.struct_field(values, name))
    elif is_text(values.type):
        yield from values.drop_null().to_pylist()


def _names_in(value: Any) -> Iterator[str]:
    """Likewise, in what JSON holds."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _names_in(inner)
    elif isinstance(value, dict) and value.get("bytes") is None:
        for name in _PLACES:
            if name in value and not (name in _CONTENTS and isinstance(value[name], str)):
                yield from _names_in(value[name])


def row_files_state(rows: Dataset, layout: Layout, folder: str | Path | None = None) -> str:
    """The same of all columns of a layout that name images: its columns of images, and messages with items."""
    items = [name for name in layout.text if name in WITH_ITEMS and not isinstance(rows.features[name], Value)]
    return digest(*(files_state(rows, name, folder) for name in (*layout.images, *items)))


def check_key(rows: Dataset, layout: Layout, folder: str | Path | None = None) -> str:
    """What the outcome of a check of rows depends on beside the rows and the arguments: the files that they name, and
    the version that checks."""
    return f"{row_files_state(rows, layout, folder)} {versions()['c3l-hf']}"


def stored_here(image: Mapping[str, Any]) -> dict[str, Any] | None:
    """An image as `datasets` stores it, with its content or the path of a file; None if it has neither on this machine.

    `datasets` would fetch an address itself, or end there, where it writes the image.

    Args:
        image: A dict with "bytes" and "path"; the path may be a data URL, a file:// URL or an address that is
            downloaded.
    """
    if image.get("bytes") is not None:
        return dict(image)
    try:
        if is_inline(image.get("path")):  # a data URL: `datasets` would take it for the name of a file
            return {"bytes": bytes(content_of(image["path"])), "path": None}
        file = None if image.get("path") is None else file_of(image["path"])
        return None if file is None or not file.is_file() else {**image, "path": str(file)}
    except (RowError, ValueError, OSError):  # another machine; a name that no file can have
        return None
