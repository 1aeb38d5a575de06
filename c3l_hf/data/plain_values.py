"""Whether a row's values are plain ones: texts, numbers, lists and dicts of them, not too deep to be looked at."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from c3l_hf.common.errors import RowError

__all__ = ["check_plain"]

# Messages are lists of dicts with lists of items, whose pictures may be dicts: far deeper is no row of anybody's, and
# Python itself fails at a thousand.
_DEEPEST = 32
_LEAVES = (str, bytes, int, float)


def check_plain(row: Mapping[str, Any], columns: Iterable[str], may_be_arrays: Collection[str] = ()) -> None:
    """That nothing in some columns of a row is an array or a tensor, which is neither equal to a text nor true or
    false, or is nested deeper than a row can be.

    Args:
        row: Its columns.
        columns: Those that are looked at.
        may_be_arrays: Keys of dicts, and columns, whose values may be arrays: pictures.

    Raises:
        RowError: If something is; the message names the column.
    """
    for column in columns:
        left = [(row[column], 0, column in may_be_arrays)]
        while left:
            value, depth, picture = left.pop()
            if depth > _DEEPEST:
                raise RowError(f"{column} is nested more than {_DEEPEST} levels deep")
            if isinstance(value, Mapping):
                left += [(item, depth + 1, picture or key in may_be_arrays) for key, item in value.items()]
            elif isinstance(value, list | tuple):
                # The pixels of a picture may be numbers in lists.
                left += [(item, depth + 1, picture) for item in value if not isinstance(item, _LEAVES)]
            elif hasattr(value, "__array__") and not picture and not isinstance(value, str | np.generic):
                raise RowError(f"{column} has an array in it; write it as a text or a list")
