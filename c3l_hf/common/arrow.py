"""Rows of Arrow tables whose texts together may be more than an Arrow array can hold (2 GB)."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

__all__ = ["take_rows"]


def take_rows(tables: Iterable[pa.Table], numbers: Sequence[int] | np.ndarray) -> pa.Table:
    """Some rows of a table that comes in parts. `pa.Table.take` would put all of its texts into one array first.

    Args:
        tables: The parts, with the same columns; each is looked at once.
        numbers: Numbers of rows, counted over all parts, in any order, each once.
    """
    numbers = np.asarray(numbers, dtype=np.int64)
    rising = np.sort(numbers)
    parts, start = [], 0
    for table in tables:
        first, last = np.searchsorted(rising, (start, start + len(table)))
        if first < last or not parts:  # the first part, for the columns
            parts.append(table.take(pa.array(rising[first:last] - start)))
        start += len(table)
    return pa.concat_tables(parts).take(pa.array(np.searchsorted(rising, numbers)))
