"""Rows of a published dataset as checks read them: the columns that they need, a few rows at a time."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from c3l_hf.data.schema import PAIR_FEATURES, PSEUDO_LABEL_FEATURES, SCORE_FEATURES
from c3l_hf.publishing.manifest import DataConfig

__all__ = ["COLUMNS", "LATER_COLUMNS", "Mismatch", "close", "columns_of", "read_batches", "read_rows"]

# Columns of each configuration. Where "images" is one of them, of the others only "default" has pictures.
COLUMNS = {
    "default": Features({**PAIR_FEATURES, **SCORE_FEATURES}),
    "images": Features({name: PAIR_FEATURES[name] for name in ("image_id", "images")}),
    "scored": Features({**PAIR_FEATURES, **SCORE_FEATURES}),
    "pseudo_labels": PSEUDO_LABEL_FEATURES,
}

# Those that the first versions did not write.
LATER_COLUMNS = ("language", "generation_prompt", "reply_form", "usage", "attempt")


class Mismatch(Exception):
    """What a check has found wrong, in one line."""


def columns_of(folder: Path, config: DataConfig) -> list[str]:
    """The columns that a configuration has."""
    return pq.read_schema(folder / config.files[0]).names


def read_batches(folder: Path, config: DataConfig, columns: list[str]) -> Iterator[tuple[str, int, pa.RecordBatch]]:
    """(file, number of the first row in it, rows) of some columns, in the order in which they are asked for."""
    size = 100 if "images" in columns else 1000
    for path in config.files:
        start = 0
        with pq.ParquetFile(folder / path) as file:
            for batch in file.iter_batches(size, columns=columns):
                yield path, start, batch.select(columns)
                start += len(batch)


def read_rows(folder: Path, config: DataConfig, columns: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it is, the row) of some columns."""
    for path, start, batch in read_batches(folder, config, columns):
        for number, row in enumerate(batch.to_pylist(), start):
            yield f"{path}, row {number}", row


def close(found: Any, expected: Any) -> bool:
    """Equality of JSON values, numbers up to rounding."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and list(found) == list(expected)
            and all(close(found[key], expected[key]) for key in expected)
        )
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, float) and isinstance(found, float | int):
        return math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9)
    return found == expected
