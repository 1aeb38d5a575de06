"""Question and answer of published rows, in whichever accepted layout these are."""

from collections.abc import Iterable, Sequence

import pyarrow.compute as pc
from datasets import Dataset

from c3l_hf.data.layouts import Layout, layout_of
from c3l_hf.data.pair_columns import UNREAD, read_pair_columns

__all__ = ["plain_pairs", "text_layout"]


def text_layout(columns: Iterable[str]) -> Layout:
    """The layout of rows whose images may be stored apart.

    Raises:
        ValueError: If the columns are in no accepted layout.
    """
    columns = list(columns)
    return layout_of(columns if {"images", "image"} & set(columns) else [*columns, "images"])


def plain_pairs(dataset: Dataset, columns: Sequence[str]) -> Dataset:
    """Some columns of a dataset, with `prompt` and `completion` as messages of plain texts.

    Args:
        dataset: Rows in any accepted layout.
        columns: Those that are wanted, beside `prompt` and `completion`.

    Raises:
        ValueError: If the dataset lacks one of them, is in no accepted layout, or a pair cannot be read; the message
            names the column or the row.
    """
    if missing := [name for name in columns if name not in (*dataset.column_names, "prompt", "completion")]:
        raise ValueError(f"there are columns missing: {', '.join(missing)}; found {', '.join(dataset.column_names)}")
    table = read_pair_columns(dataset, [*columns, "prompt", "completion"]).table
    if UNREAD in table.column_names:
        row = pc.index(pc.is_valid(table[UNREAD]), True).as_py()
        raise ValueError(f"row {row}: {table[UNREAD][row]}")
    return Dataset(table)
