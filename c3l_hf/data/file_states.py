"""The files of pictures, as they were when a run looked at them first: one that is replaced then is another picture.

Pairs, scores and the dataset that is written would be about different pictures under one name, and nobody would know.
So the state of each file stands in a column beside the images, and is compared whenever they are read.
"""

import os
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, List, Value

from c3l_hf.common.arrow import beside, in_lists
from c3l_hf.common.errors import RowError, RunError
from c3l_hf.common.names import listed
from c3l_hf.files.image import file_of
from c3l_hf.files.inventory import FileState, sha256_of

__all__ = ["FILE_STATES", "FILE_STATES_FEATURE", "check_files", "packed_state", "with_file_states"]

FILE_STATES = "c3l_file_states"
FILE_STATES_FEATURE = List(Value("binary"))
_TYPE = pa.list_(pa.binary())
_PACKED = struct.Struct("<qq32s")  # size, time of the last change, SHA-256
_UNKNOWN = bytes(32)


def packed_state(state: FileState, digest: bytes = _UNKNOWN) -> bytes:
    """What is kept of a file: its size, its time, and the SHA-256 of its content, where that is known."""
    return _PACKED.pack(state.size, state.changed_ns, digest)


def with_file_states(images: Dataset, column: str) -> Dataset:
    """Images with the states of the files that they name, in a column `FILE_STATES`; without it where all images have
    their contents in them.

    Args:
        images: The dataset.
        column: Its column of images, or of lists of them.
    """
    images = images.remove_columns([FILE_STATES]) if FILE_STATES in images.column_names else images
    states: list[pa.Array] = []
    names_files = False
    for table in images.select_columns([column]).with_format("arrow").iter(1000) if len(images) else ():
        values = in_lists(table.column(0).combine_chunks())
        flat = values.flatten()
        named = pc.and_(pc.is_null(pc.struct_field(flat, "bytes")), pc.is_valid(pc.struct_field(flat, "path")))
        if not pc.any(named).as_py():
            states.append(pa.nulls(len(values), _TYPE))
            continue
        names_files = True
        rows = values.to_pylist()
        states.append(pa.array([row and [_state_of(image) for image in row] for row in rows], _TYPE))
    if not names_files:
        return images
    return beside(images, Dataset(pa.table({FILE_STATES: pa.chunked_array(states, _TYPE)})))


def check_files(images: Iterable[Iterable[Mapping[str, Any] | None] | None], states: Iterable[Any]) -> None:
    """That the files which images name are those of their states. A file that was written again with the same content
    is, if its SHA-256 is known.

    Args:
        images: Of each row, as they are stored.
        states: Of each row, as `with_file_states` made them.

    Raises:
        RunError: If a file was changed or removed; names it.
    """
    other = []
    for row, known in zip(images, states, strict=True):
        for image, state in zip(row or (), known or ()):
            if image is not None and state is not None and not _is_the_same(image, state):
                other.append(os.path.basename(str(image["path"])))
    if other:
        raise RunError(
            f"pictures were changed or removed while the run worked: {listed(list(dict.fromkeys(other)), 5)}; put the "
            "old ones back and call it again, or begin anew with the pictures as they are (restart_from generate)"
        )


def _is_the_same(image: Mapping[str, Any], known: bytes) -> bool:
    now = _state_of(image)
    if now is None or now[:16] == known[:16]:
        return True
    digest = known[16:]
    if digest == _UNKNOWN or now[:8] != known[:8]:
        return False
    return (file := file_of(image["path"])) is not None and sha256_of(file) == digest


def _state_of(image: Mapping[str, Any] | None) -> bytes | None:
    """The state of the file that an image names; null if it names none. One that is not there has a state too."""
    if image is None or image["bytes"] is not None or not image["path"]:
        return None
    try:
        if (file := file_of(image["path"])) is None:
            return None
        return packed_state(FileState.of("", os.stat(file)))
    except (OSError, ValueError, RowError):
        return _PACKED.pack(-1, 0, _UNKNOWN)
