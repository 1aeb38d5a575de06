"""Image files that rows name by their paths instead of holding the content."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from c3l_hf.common.versions import versions

__all__ = ["check_key", "files_state", "is_there"]


def files_state(rows: Dataset, column: str, folder: Path | None = None) -> str:
    """A digest of paths, sizes and times of the files: what a cache has to know beside the rows, which stay the same
    when a file is changed or appears.

    Args:
        rows: The dataset.
        column: Its column of images, or of lists of images: as `datasets` stores them, or paths.
        folder: What relative paths are relative to; by default the working folder.
    """
    state = hashlib.blake2b(digest_size=16)
    for table in rows.select_columns([column]).with_format("arrow").iter(1000):
        for path in _paths(table.column(0)):
            try:
                file = os.stat(Path(folder or "") / path)
                state.update(f"{path} {file.st_size} {file.st_mtime_ns}\n".encode())
            except (OSError, ValueError):
                state.update(f"{path} cannot be found\n".encode())
    return state.hexdigest()


def _paths(images: pa.Array | pa.ChunkedArray) -> list[str]:
    """The paths in a column of images that have no content of their own."""
    while pa.types.is_list(images.type) or pa.types.is_large_list(images.type):
        images = pc.list_flatten(images)
    if pa.types.is_struct(images.type):
        images = pc.filter(pc.struct_field(images, "path"), pc.is_null(pc.struct_field(images, "bytes")))
    if not (pa.types.is_string(images.type) or pa.types.is_large_string(images.type)):
        return []
    return images.drop_null().to_pylist()


def check_key(rows: Dataset, column: str) -> str:
    """What the outcome of a check of rows depends on beside the rows and the arguments: the files that they name, and
    the version that checks."""
    return f"{files_state(rows, column)} {versions()['c3l-hf']}"


def is_there(image: Mapping[str, Any]) -> bool:
    """Whether an image as `datasets` stores it has its content, or a file that exists, or an address."""
    path = image.get("path")
    return image.get("bytes") is not None or (path is not None and ("://" in path or Path(path).is_file()))
