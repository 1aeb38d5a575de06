"""Arrow tables in parts (an array holds 2 GB of text at most), kinds of their columns, and datasets side by side."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets

__all__ = ["beside", "in_lists", "in_tables_of", "is_list", "is_text", "take_rows"]


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


def in_tables_of(size: int, tables: Iterable[pa.Table | pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows in tables of `size` rows, the last one with what is left."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        table = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
        while rows + len(table) >= size:
            part = table.slice(0, size - rows)
            yield pa.concat_tables([*waiting, part])
            waiting, rows, table = [], 0, table.slice(len(part))
        if len(table):
            waiting.append(table)
            rows += len(table)
    if waiting:
        yield pa.concat_tables(waiting)


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is of lists, of whichever kind."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is of texts."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def in_lists(values: pa.Array) -> pa.Array:
    """An array of lists as it is; each value of another one, also null, in a list of its own, nothing copied."""
    if is_list(values.type):
        return values
    return pa.ListArray.from_arrays(pa.array(range(len(values) + 1), pa.int32()), values)


def beside(dataset: Dataset, *others: Dataset) -> Dataset:
    """A dataset with the columns of others, of as many rows, beside its own; also where there are no rows."""
    if len(dataset):
        return concatenate_datasets([dataset, *others], axis=1)
    # Of datasets without rows it would drop the columns.
    features = Features({name: kind for part in (dataset, *others) for name, kind in part.features.items()})
    return Dataset.from_dict({name: [] for name in features}, features=features)
