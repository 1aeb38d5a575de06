"""Pairs in clusters of like ones, by any column of vectors: what a choice that keeps the variety is balanced by.

Choosing the best within clusters instead of the best of all is what VisNec does (arXiv 2603.01195: the top by score
within each cluster, 15 % of the data); that diversity alone goes far is the finding of arXiv 2605.26761. Both are
`selection.curation.curate` with `balance_by="cluster"`: by a score, by `cluster_similarity`, or at random.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_limits
from xxhash import xxh3_64_intdigest

from c3l_hf.common.arrow import beside, is_list
from c3l_hf.common.names import listed
from c3l_hf.common.tables import format_table
from c3l_hf.data.schema import CLUSTER, CLUSTER_SIMILARITY, EMBEDDING

__all__ = ["CLUSTER_FEATURES", "ClusterReport", "Clusters", "cluster_pairs", "cluster_vectors"]

CLUSTER_FEATURES = Features({CLUSTER: Value("int32"), CLUSTER_SIMILARITY: Value("float32")})

# Numbers of vectors that the centres are found from: 1 GiB in float32. More do not move the centres, but fill memory.
_MOST_NUMBERS = 2**28
# Of each cluster so many vectors on average are enough for its centre.
_PER_CLUSTER = 1024
# Up to so many vectors all are looked at in each step.
_ALL_AT_ONCE = 1 << 15
_BLOCK = 4096


@dataclass(frozen=True)
class ClusterReport:
    """What `cluster_pairs` did; `print(report)` shows it as a table.

    Attributes:
        rows: Rows of the input.
        without: Rows without a cluster, by reason.
        asked: Clusters asked for.
        sizes: Rows of each cluster that has any, the largest first. There are fewer than were asked for where fewer
            vectors are different.
    """

    rows: int
    without: dict[str, int]
    asked: int
    sizes: list[int]

    def __str__(self) -> str:
        quantiles = np.quantile(self.sizes, [0, 0.5, 1]) if self.sizes else [0, 0, 0]
        table = [
            ("clusters", "count"),
            ("rows", self.rows),
            *((f"  without a cluster: {reason}", count) for reason, count in self.without.items()),
            ("clusters", len(self.sizes)),
            *(
                (f"  rows of the {name}", f"{size:g}")
                for name, size in zip(("smallest", "middle", "largest"), quantiles)
            ),
        ]
        text = format_table(table)
        if len(self.sizes) < self.asked:
            text += f"\n\nFewer clusters than asked for: {len(self.sizes)} of {self.asked}; no more vectors differ."
        return text


@dataclass(frozen=True)
class Clusters:
    """The clusters of some rows.

    Attributes:
        table: Columns `cluster` (int32) and `cluster_similarity` (float32: the cosine of the row's vector with its
            centre, 1 for the most typical), both null in a row without a vector.
        report: Counts.
    """

    table: pa.Table
    report: ClusterReport


def cluster_pairs(
    dataset: Dataset, *, clusters: int, embeddings: str = EMBEDDING, seed: int = 0
) -> tuple[Dataset, ClusterReport]:
    """A dataset with the cluster of each row beside its own columns.

    k-means on the vectors scaled to length 1, so that what counts is the cosine: with x_i the vectors and c_k the
    centres, the sum over i of min_k |x_i - c_k|² becomes as small as seeded starts find it (scikit-learn's `KMeans`;
    of more than 32,768 vectors `MiniBatchKMeans`). The same vectors in the same order give the same clusters on one
    machine. Their numbers have no meaning.

    The vectors are read in pieces from where the dataset has them, on the disk. At most 1 GiB of them is in memory: of
    more, a seeded sample gives the centres.

    Args:
        dataset: With a column of vectors, of the same length in all rows: `PairEmbedder` makes one, any other will do.
        clusters: How many.
        embeddings: The column of vectors. Rows whose vector is null, not finite, or zero throughout get no cluster.
        seed: Of the starts, and of the sample.

    Returns:
        The dataset with `cluster` and `cluster_similarity`, and the report.

    Raises:
        TypeError: If the dataset is streamed, or a `DatasetDict`.
        ValueError: If there is no such column, it does not have vectors of one length, fewer rows have one than there
            are to be clusters, or the dataset has clusters already.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"the dataset is {type(dataset).__name__}; give a Dataset: one split, loaded without streaming")
    if present := [name for name in CLUSTER_FEATURES if name in dataset.column_names]:
        raise ValueError(f"the dataset has the columns {', '.join(present)} already; remove or rename them first")
    if embeddings not in dataset.column_names:
        raise ValueError(
            f"there is no column {embeddings!r}; found {listed(dataset.column_names, 20)}. Vectors come from "
            "PairEmbedder, or from any other model"
        )
    column = dataset.select_columns([embeddings]).with_format("arrow")

    def pieces() -> Iterator[pa.Array]:
        for table in column.iter(_BLOCK) if len(column) else ():
            yield from table[embeddings].chunks

    found = cluster_vectors(pieces, clusters, seed=seed, name=embeddings)
    return beside(dataset, Dataset(found.table)), found.report


def cluster_vectors(
    pieces: Callable[[], Iterable[pa.Array]], clusters: int, *, seed: int = 0, name: str = EMBEDDING
) -> Clusters:
    """`cluster_pairs` on arrays of vectors.

    Args:
        pieces: Gives the vectors of all rows in their order, as arrays of lists of numbers. It is called three times,
            so that they need not be in memory together.
        clusters: How many.
        seed: Of the starts, and of the sample.
        name: What the vectors are called in errors.

    Raises:
        ValueError: As `cluster_pairs`.
    """
    if clusters < 1:
        raise ValueError(f"clusters is {clusters}; it must be at least 1")
    usable, without, size = _look_at(pieces, name)
    rows = np.flatnonzero(usable)
    if len(rows) < clusters:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in without.items() if count)
        raise ValueError(
            f"clusters is {clusters}, but only {len(rows):,} of {len(usable):,} rows have a vector in {name!r}"
            + (f" ({reasons})" if reasons else "")
        )
    centres = _centres(_sample(pieces, usable, clusters, size, seed), clusters, seed)
    cluster, similarity = _nearest(pieces, usable, centres)
    table = pa.table(
        {
            CLUSTER: pa.array(cluster, pa.int32(), mask=~usable),
            CLUSTER_SIMILARITY: pa.array(similarity, pa.float32(), mask=~usable),
        }
    )
    sizes = sorted((int(count) for count in np.bincount(cluster[usable]) if count), reverse=True)
    return Clusters(table, ClusterReport(len(usable), without, clusters, sizes))


def _look_at(pieces: Callable[[], Iterable[pa.Array]], name: str) -> tuple[np.ndarray, dict[str, int], int]:
    """Which rows have a usable vector, how many have none by reason, and the vectors' length."""
    usable, size, start = [np.empty(0, bool)], 0, 0
    without = dict.fromkeys(("no vector", "vector not finite", "vector of zeros"), 0)
    for piece in pieces():
        if not is_list(piece.type) or not _is_number(piece.type.value_type):
            raise ValueError(f"column {name!r} has values of type {piece.type}; it must have lists of numbers")
        valid = piece.is_valid().to_numpy(zero_copy_only=False)
        lengths = piece.value_lengths().to_numpy(zero_copy_only=False)
        size = size or int(next(iter(lengths[valid]), 0))
        if odd := np.flatnonzero(valid & (lengths != size)).tolist():
            raise ValueError(
                f"column {name!r} has a vector of length {int(lengths[odd[0]])} in row {start + odd[0]}, before it of "
                f"length {size}; all must be equal"
            )
        vectors = _matrix(piece, size)
        finite = np.isfinite(vectors).all(1)
        zero = valid & finite & ~vectors.any(1)
        for reason, count in zip(without, (~valid, valid & ~finite, zero)):
            without[reason] += int(count.sum())
        usable.append(valid & finite & ~zero)
        start += len(piece)
    return np.concatenate(usable), without, size


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _matrix(piece: pa.Array, size: int) -> np.ndarray:
    """The vectors of a piece, (rows, size); of rows without one zeros, of null numbers NaN."""
    matrix = np.zeros((len(piece), size), np.float32)
    valid = piece.is_valid().to_numpy(zero_copy_only=False)
    # Not `safe`, which refuses whole numbers that float32 rounds.
    values = piece.drop_null().flatten().cast(pa.float32(), safe=False)
    matrix[valid] = values.to_numpy(zero_copy_only=False).reshape(-1, size)
    return matrix


def _units(
    pieces: Callable[[], Iterable[pa.Array]], taken: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of some rows, those for which `taken` is true: their numbers, and their vectors scaled to length 1."""
    start = 0
    for piece in pieces():
        some = taken[start : start + len(piece)]
        matrix = _matrix(piece.filter(pa.array(some)), size)
        # By the largest first: the square of 1e20 is not a float32.
        matrix /= np.abs(matrix).max(1, keepdims=True)
        yield start + np.flatnonzero(some), matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
        start += len(piece)


def _sample(
    pieces: Callable[[], Iterable[pa.Array]], usable: np.ndarray, clusters: int, size: int, seed: int
) -> np.ndarray:
    """The vectors, of length 1, that the centres are found from, in the order of the rows."""
    rows = np.flatnonzero(usable)
    most = max(clusters, min(_MOST_NUMBERS // size, max(_PER_CLUSTER * clusters, _ALL_AT_ONCE)))
    taken = usable
    if len(rows) > most:
        taken = np.zeros(len(usable), bool)
        taken[np.random.default_rng(seed).choice(rows, most, replace=False)] = True
    return np.concatenate([vectors for _, vectors in _units(pieces, taken, size)])


def _centres(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """The centres, (at most `clusters`, size): of fewer different vectors as many as there are."""
    # There may be far fewer different ones than rows, as of images: k-means would repeat centres, and warn.
    clusters = min(clusters, len({xxh3_64_intdigest(vector.tobytes()) for vector in vectors}))
    # In one thread: several add up in the order in which they end, and the last digits differ from run to run.
    with threadpool_limits(limits=1):
        if len(vectors) <= _ALL_AT_ONCE:
            kmeans = KMeans(clusters, n_init=3, random_state=seed)
        else:
            kmeans = MiniBatchKMeans(clusters, n_init=3, random_state=seed, batch_size=max(4096, 2 * clusters))
        return kmeans.fit(vectors).cluster_centers_


def _nearest(
    pieces: Callable[[], Iterable[pa.Array]], usable: np.ndarray, centres: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centre of each row and the cosine with it; without meaning where a row has no vector."""
    cluster, similarity = np.zeros(len(usable), np.int32), np.zeros(len(usable), np.float32)
    lengths = np.linalg.norm(centres, axis=1)
    for rows, vectors in _units(pieces, usable, centres.shape[1]):
        # |x - c|² less |x|², which is the same for all centres.
        products = vectors @ centres.T
        cluster[rows] = (lengths**2 - 2 * products).argmin(1)
        similarity[rows] = products[np.arange(len(rows)), cluster[rows]] / np.maximum(lengths[cluster[rows]], 1e-30)
    return cluster, similarity
