"""Columns of pair tables as numpy arrays, and what is computed on them: codes, places in a group, the final order.

Row numbers count the rows of the table that selection was given. Nothing here joins the chunks of a text column: texts
of many rows together pass the 2 GB that one Arrow string array can hold.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = [
    "ChunkedColumn",
    "blocks",
    "check_columns",
    "encode",
    "pieces",
    "place_in_group",
    "text_order",
]

# Rows whose texts are in memory as Python strings at a time; fewer where they have more than 256 bytes each: the words
# of a text take twenty times its bytes.
_BLOCK, _BYTES = 1 << 16, 256


def check_columns(found: Sequence[str], needed: Sequence[str]) -> None:
    """Does nothing if all needed columns are there.

    Raises:
        ValueError: If columns are missing; the message names them and those that are there.
    """
    missing = [name for name in needed if name not in found]
    if missing:
        raise ValueError(
            f"there are columns missing: {', '.join(missing)}; found {', '.join(found)}. "
            "Pairs come from generate_pairs, their scores from I2CScorer"
        )


class ChunkedColumn:
    """Reads rows of a column in any order, a block at a time, chunk by chunk."""

    def __init__(self, column: pa.ChunkedArray):
        self._chunks = column.chunks
        self._type = column.type
        self._starts = np.cumsum([0, *(len(chunk) for chunk in self._chunks)])

    def per_chunk(self, count: Callable[[pa.Array], np.ndarray]) -> np.ndarray:
        """An integer for each value, as a function counts it in a chunk; int64."""
        return np.concatenate([np.zeros(0, np.int64), *map(count, self._chunks)])

    def take(self, rows: np.ndarray) -> pa.Array:
        """The values at these rows, in the order of `rows`; they must fit into one Arrow array."""
        if not len(rows):
            return pa.array([], self._type)
        chunk_of = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(chunk_of, kind="stable")
        numbers, firsts = np.unique(chunk_of[order], return_index=True)
        parts = [
            self._chunks[number].take(pa.array(rows[part] - self._starts[number]))
            for number, part in zip(numbers, np.split(order, firsts[1:]))
        ]
        values = parts[0] if len(parts) == 1 else pa.concat_arrays(parts)
        if np.all(order[1:] > order[:-1]):
            return values
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return values.take(pa.array(back))


def encode(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Equal values as equal numbers.

    Returns:
        For each row the number of its value (int32, -1 for null), and the values by number, in the order in which they
        first appear.
    """
    parts = column.dictionary_encode().chunks
    if not parts:
        return np.empty(0, np.int32), pa.array([], column.type)
    codes = [part.indices.fill_null(-1).to_numpy() for part in parts]
    # All parts of one column share the dictionary.
    return np.concatenate(codes), parts[-1].dictionary


def text_order(values: pa.Array) -> np.ndarray:
    """The place of each value in their order; of texts, that by code point, as in Python."""
    order = pc.sort_indices(values).to_numpy()
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places


def place_in_group(groups: np.ndarray) -> np.ndarray:
    """How many elements before each one have its group: 0 for the first of a group."""
    order = np.argsort(groups, kind="stable")
    arranged = groups[order]
    starts = np.flatnonzero(np.r_[True, arranged[1:] != arranged[:-1]])[: len(groups)]
    sizes = np.diff(np.r_[starts, len(groups)])
    places = np.empty(len(groups), np.int64)
    places[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    return places


def pieces(length: int, sizes: np.ndarray | None = None) -> Iterator[slice]:
    """Cuts so many elements into pieces of at most 65,536.

    Args:
        length: How many there are.
        sizes: The bytes of each, if they count: a piece of several has at most 16 MB.
    """
    ends, start = _weights(length, sizes), 0
    while start < length:
        stop = max(int(np.searchsorted(ends, ends[start] + _BLOCK, side="right")) - 1, start + 1)
        yield slice(start, stop)
        start = stop


def _weights(length: int, sizes: np.ndarray | None) -> np.ndarray:
    """What the elements before each one, and all of them, count among the elements of a block."""
    if sizes is None:
        return np.arange(length + 1)
    return np.r_[0, np.cumsum(np.maximum(1, sizes // _BYTES))]


def blocks(groups: np.ndarray, sizes: np.ndarray | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """Cuts sorted groups into blocks of about 65,536 elements; no group is cut.

    Args:
        groups: Of each element.
        sizes: As for `pieces`.

    Yields:
        The elements of the block, and the bounds of its groups relative to the block's start: group g has the elements
        `bounds[g]` to `bounds[g + 1]`.
    """
    bounds = np.r_[np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])[: len(groups)], len(groups)]
    first, before = 0, _weights(len(groups), sizes)[bounds]
    while first < len(bounds) - 1:
        last = max(int(np.searchsorted(before, before[first] + _BLOCK, side="right")) - 1, first + 1)
        yield slice(int(bounds[first]), int(bounds[last])), bounds[first : last + 1] - bounds[first]
        first = last
