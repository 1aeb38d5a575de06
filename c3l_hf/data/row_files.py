"""The state of the files that rows name as their pictures, in columns of images or anywhere in the messages."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, LargeList, List, Value

from c3l_hf.common.files import digest
from c3l_hf.data.image import is_inline
from c3l_hf.data.image_files import file_state, files_state
from c3l_hf.data.layouts import Layout
from c3l_hf.data.stored_rows import stored_rows

__all__ = ["row_files_state"]

# Under which names a message's item, or a dict in the place of a picture, has the picture's file.
_NAMES = ("image", "image_url", "url", "path")
_LONGEST_NAME = 1000


def row_files_state(rows: Dataset, layout: Layout, folder: Path | None = None) -> str:
    """A digest of the files' paths, sizes and times: what a cache has to know beside the rows, which stay the same when
    a file is changed or appears.

    Args:
        rows: With the columns of the layout.
        layout: Their layout.
        folder: What relative paths are relative to; by default the working folder.
    """
    plain = [name for name in layout.images if _is_plain(rows.features[name])]
    states = [files_state(rows, name, folder) for name in plain]
    others = [name for name in layout.columns if name not in plain and _may_name_files(rows.features[name])]
    if not others:
        return digest(*states)
    needed = rows.select_columns(others)
    state = hashlib.blake2b(digest_size=16)
    for table in needed.with_format("arrow").iter(100) if len(needed) else ():
        for row in stored_rows(table, needed.features):
            for name, value in row.items():
                for path in _paths(value, name in layout.images):
                    state.update(f"{path} {file_state(path, folder)}\n".encode("utf-8", "surrogatepass"))
    return digest(*states, state.hexdigest())


def _is_plain(feature: Any) -> bool:
    """Whether a column has images as `datasets` stores them, or paths, and nothing else."""
    while isinstance(feature, List | LargeList):
        feature = feature.feature
    is_stored = isinstance(feature, Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})
    return is_stored or (isinstance(feature, Value) and "string" in feature.dtype)


def _may_name_files(feature: Any) -> bool:
    """Whether there can be more in it than texts, roles and numbers."""
    if isinstance(feature, List | LargeList):
        return _may_name_files(feature.feature)
    if isinstance(feature, dict):
        return any(name in feature for name in _NAMES) or any(map(_may_name_files, feature.values()))
    return not isinstance(feature, Value)


def _paths(value: Any, is_picture: bool) -> Iterator[str]:
    if isinstance(value, str):
        if is_picture and len(value) <= _LONGEST_NAME and not is_inline(value):
            yield value
    elif isinstance(value, Mapping):
        if value.get("bytes") is None:
            for name, item in value.items():
                yield from _paths(item, name in _NAMES)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item, is_picture)
