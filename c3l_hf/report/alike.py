"""Which pictures look alike, by the vectors of the pairs about them."""

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from c3l_hf.report.pools import Pool

__all__ = ["MOST_PICTURES", "alike_pictures"]

# Every picture is compared with every other.
MOST_PICTURES = 20_000
_NEAREST, _AT_ONCE = 6, 1000


def alike_pictures(pools: Sequence[Pool], pictures: Sequence[np.ndarray], count: int) -> dict[int, list[int]]:
    """For each picture those with the nearest vectors by cosine, nearest first.

    Args:
        pools: Those with vectors count: a picture's is the mean of its pairs'.
        pictures: Of each row of each pool the number of its picture, -1 of those that are not shown.
        count: How many pictures there are.

    Returns:
        Nothing if no pool has vectors, their lengths differ, or there are more than `MOST_PICTURES` pictures.
    """
    if count > MOST_PICTURES:
        return {}
    sums: np.ndarray | None = None
    for pool, of_pool in zip(pools, pictures):
        start = 0
        for vectors in pool.vectors() if pool.vectors is not None else ():
            numbers, there = of_pool[start : start + len(vectors)], vectors.is_valid().to_numpy(zero_copy_only=False)
            start += len(vectors)
            rows = np.flatnonzero(there & (numbers >= 0))
            lengths = set(pc.list_value_length(vectors.filter(vectors.is_valid())).unique().to_pylist())
            if not lengths:
                continue
            if len(lengths) > 1 or (sums is not None and lengths != {sums.shape[1]}):
                return {}
            values = np.array(vectors.take(rows).to_pylist(), np.float64).reshape(len(rows), -1)
            if sums is None:
                sums = np.zeros((count, lengths.pop()))
            norms = np.linalg.norm(values, axis=1, keepdims=True)
            np.add.at(sums, numbers[rows], np.divide(values, norms, out=np.zeros_like(values), where=norms > 0))
    return {} if sums is None else _nearest(sums)


def _nearest(sums: np.ndarray) -> dict[int, list[int]]:
    norms = np.linalg.norm(sums, axis=1)
    known = np.flatnonzero(np.isfinite(norms) & (norms > 0))
    units = (sums[known] / norms[known, None]).astype(np.float32)
    found = {}
    for start in range(0, len(known), _AT_ONCE):
        likeness = units[start : start + _AT_ONCE] @ units.T
        likeness[np.arange(len(likeness)), start + np.arange(len(likeness))] = -np.inf  # itself
        order = np.argsort(-likeness, axis=1, kind="stable")[:, : min(_NEAREST, len(known) - 1)]
        found |= {int(known[start + row]): known[places].tolist() for row, places in enumerate(order)}
    return {number: others for number, others in found.items() if others}
