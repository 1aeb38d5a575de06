"""All pairs of bit strings that differ in few bits, exactly, without comparing all with all.

Multi-index hashing (Norouzi, Punjani and Fleet 2012): strings are cut into m bands. If two differ in at most d bits and
m (ρ + 1) > d, they differ in at most ρ bits in one of the bands: only pairs for which this is so are compared. Which ρ
is least work depends on how many strings there are.
"""

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np

__all__ = ["pairs_within"]

# Candidates that are in memory at once.
_AT_ONCE = 1 << 21
# The work of looking a band up, and of comparing two strings, in the same unit.
_LOOK_UP, _COMPARE = 1.0, 0.5
_MOST_CHANGED = 3  # ρ


def pairs_within(first: np.ndarray, second: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pairs of one string of the first and one of the second that differ in at most so many bits.

    Work and memory grow with how many pairs are found, too: collapse equal strings before.

    Args:
        first: (n, words) uint64.
        second: (k, words) uint64; the same array for pairs among its own, each of which comes once.
        distance: Less than the number of bits.

    Yields:
        Positions in the first and in the second, in pieces; each pair once.

    Raises:
        ValueError: If the distance is negative, or not less than the number of bits.
    """
    bits, same = 64 * first.shape[1], first is second
    if not 0 <= distance < bits:
        raise ValueError(f"distance is {distance}; it must be from 0 to {bits - 1}")
    if not len(first) or not len(second):
        return
    changed, bounds = _cut(bits, distance, len(first), len(second))
    ours, theirs = _bands(first, bounds), None if same else _bands(second, bounds)
    for band, (start, end) in enumerate(zip(bounds[:-1], bounds[1:])):
        left = _Buckets(ours[band])
        right = left if theirs is None else _Buckets(theirs[band])
        for mask in _masks(end - start, changed):
            for one, other in left.joined(right, mask):
                if same:
                    one, other = one[one < other], other[one < other]
                near = np.bitwise_count(first[one] ^ second[other]).sum(axis=1, dtype=np.int64) <= distance
                one, other = one[near], other[near]
                # A pair comes in the first band in which it can.
                earlier = np.zeros(len(one), bool)
                for before in range(band):
                    change = ours[before][one] ^ (ours if theirs is None else theirs)[before][other]
                    earlier |= np.bitwise_count(change) <= changed
                yield one[~earlier], other[~earlier]


class _Buckets:
    """The positions of strings by their value in a band."""

    def __init__(self, values: np.ndarray):
        self.order = np.argsort(values, kind="stable")
        self.values, self.starts, self.counts = np.unique(values[self.order], return_index=True, return_counts=True)

    def joined(self, other: "_Buckets", mask: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The pairs of positions whose values differ in exactly the mask's bits."""
        wanted = self.values ^ np.uint64(mask)
        found = np.minimum(np.searchsorted(other.values, wanted), len(other.values) - 1)
        ours = np.flatnonzero(other.values[found] == wanted)
        theirs = found[ours]
        products = self.counts[ours] * other.counts[theirs]
        ends = np.cumsum(products)
        for start in range(0, int(ends[-1]) if len(ends) else 0, _AT_ONCE):
            places = np.arange(start, min(start + _AT_ONCE, int(ends[-1])))
            number = np.searchsorted(ends, places, side="right")
            places -= (ends - products)[number]
            width = other.counts[theirs[number]]
            one = self.starts[ours[number]] + places // width
            yield self.order[one], other.order[other.starts[theirs[number]] + places % width]


def _cut(bits: int, distance: int, count: int, others: int) -> tuple[int, list[int]]:
    """ρ, and the bounds of the bands that are least work with it."""
    choices = []
    for changed in range(_MOST_CHANGED + 1):
        bands = max(distance // (changed + 1) + 1, -(-bits // 64))
        if bands > bits:
            continue
        width = bits // bands
        masks = sum(comb(width, flips) for flips in range(changed + 1))
        buckets = 2.0**width
        work = bands * masks * (_LOOK_UP * min(count, buckets) + _COMPARE * count * others / buckets)
        choices.append((work, changed, bands))
    _, changed, bands = min(choices)
    return changed, [bits * number // bands for number in range(bands + 1)]


def _bands(codes: np.ndarray, bounds: list[int]) -> list[np.ndarray]:
    """The bits of each band as numbers."""
    bits = np.unpackbits(np.ascontiguousarray(codes).view(np.uint8), axis=1, bitorder="little")
    values = []
    for start, end in zip(bounds[:-1], bounds[1:]):
        value = np.zeros(len(codes), np.uint64)
        for place in range(start, end):
            value |= bits[:, place].astype(np.uint64) << np.uint64(place - start)
        values.append(value)
    return values


def _masks(width: int, changed: int) -> Iterator[int]:
    for flips in range(changed + 1):
        for places in combinations(range(width), flips):
            yield sum(1 << place for place in places)
