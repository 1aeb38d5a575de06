"""One row or a batch, as `Dataset.map` gives them, through a function of rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from c3l_hf.data.layouts import is_batch
from c3l_hf.data.stored_rows import stored_columns

__all__ = ["mapped"]


def mapped(
    rows: Mapping[str, Any],
    columns: Callable[[Iterable[str]], Sequence[str]],
    score: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
    names: Sequence[str],
) -> dict[str, Any]:
    """What a function says of one row or a batch of rows, in the form of `map`.

    Args:
        rows: A row (column → value) or a batch (column → list of values); `data.layouts.is_batch` tells them apart.
        columns: Columns that there are → those that `score` needs, at least those of the layout.
        score: Rows → the new columns of each.
        names: The new columns.

    Returns:
        The new columns with a value each, or with a list in the order of the batch.

    Raises:
        ValueError: If the columns are in no accepted layout, or hold arrays.
    """
    if not hasattr(rows, "keys"):  # an Arrow table
        raise ValueError(f"rows are {type(rows).__name__}; they are read as Python values: dataset.with_format(None)")
    needed = stored_columns(rows, columns(rows.keys()))
    if not is_batch(needed):
        return score([needed])[0]
    # `is_batch` has seen that the columns of the layout are lists of one length.
    batch = [dict(zip(needed, values, strict=True)) for values in zip(*needed.values(), strict=True)]
    scored = score(batch)
    return {name: [row[name] for row in scored] for name in names}
