"""Parquet, Arrow and tar files, looked at before their rows are read: a damaged one ends no process, and a small one
that says that it is huge fills no disk."""

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from c3l_hf.common.errors import RunError, said_by
from c3l_hf.files.other_kinds import other_than_rows
from c3l_hf.files.text_files import is_compressed

__all__ = ["check_columns", "check_tables"]

_START = 512
# Rows and bytes that a parquet file may say that it has, for each byte of its own: of equal rows it keeps one.
_MOST_ROWS, _MOST_BYTES = 100, 10_000
_ALWAYS = 2**28  # bytes that a parquet file may have in any case


def check_tables(kind: str, files: Sequence[Path]) -> None:
    """That files are "parquet", "arrow" or "tar", and can be read without harm.

    Raises:
        RunError: If one is of another kind, is damaged, or says that it has more than can be in it.
    """
    for file in files:
        with file.open("rb") as content:
            start = content.read(_START)
        if not start.strip():
            raise RunError(f"{file} is empty: it has no rows")
        expected = "gzip" if kind == "tar" and is_compressed(file) else kind
        if (other := other_than_rows(start, expected)) is not None:
            raise RunError(f"{file} is {other}")
        try:
            if kind == "parquet":
                _check_parquet(file)
            elif kind == "arrow":
                _check_arrow(file)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _damaged(file, error) from None


def check_columns(name: str, table: pa.Table) -> None:
    """That the columns of a table are what they say: texts in UTF-8, lists and texts within what there is.

    Arrow itself does not look: it reads beyond the end of a damaged file, which ends the process, or has its bytes as
    texts. Of pictures only the places are read.

    Args:
        name: Where the table is from.

    Raises:
        RunError: If they are not.
    """
    for column, values in zip(table.column_names, table.columns):
        try:
            values.validate(full=True)
        except pa.ArrowException as error:
            raise _damaged(f"{name}: column {column!r:.80}", error) from None


def _check_parquet(file: Path) -> None:
    with file.open("rb") as content:  # Arrow opens no file whose name is not UTF-8
        metadata, size = pq.read_metadata(content), file.stat().st_size
    bytes_there = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if metadata.num_rows > _MOST_ROWS * size or bytes_there > max(_ALWAYS, _MOST_BYTES * size):
        raise ValueError(f"it says that it has {metadata.num_rows:,} rows of {bytes_there:,} bytes in {size:,} bytes")


def _check_arrow(file: Path) -> None:
    with pa.memory_map(os.fsencode(file)) as content:
        try:
            batches: Sequence[pa.RecordBatch] | pa.RecordBatchStreamReader = pa.ipc.open_stream(content)
        except pa.ArrowInvalid:
            content.seek(0)
            reader = pa.ipc.open_file(content)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate(full=True)


def _damaged(path: str | Path, error: Exception) -> RunError:
    said = said_by(error, 200)
    return RunError(f"{path} cannot be read, as it is damaged or was cut off: {said}; write or fetch it again")
