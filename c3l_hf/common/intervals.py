"""How sure a figure is: standard errors, bootstrap intervals, and the paired test of two runs on the same questions.

A figure is a function of sums over questions: an accuracy is right / asked, an F1 is 2 TP / (2 TP + FP + FN). Questions
about one image are not independent, so what is resampled, left out or exchanged is always a cluster (an image with all
its questions), as Miller (2024, arXiv:2411.00640) recommends for evaluations of language models.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, bootstrap, monte_carlo_test, permutation_test
from scipy.stats import t as student_t

__all__ = ["Difference", "Estimate", "bootstrap_interval", "estimate", "paired_test", "t_interval"]

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error and its 95 % interval `low`, `high`, and what it rests on."""

    value: float
    standard_error: float
    low: float
    high: float
    questions: int
    clusters: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Difference:
    """A figure of run b minus that of run a, its 95 % interval, and the p-value of "they do not differ" by `test`."""

    value_a: float
    value_b: float
    difference: float
    low: float
    high: float
    p_value: float
    test: str
    questions: int
    clusters: int

    def __str__(self) -> str:
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}], p = {self.p_value:.3g} ({self.test})"


def estimate(
    counts: ArrayLike,
    clusters: Sequence[str],
    statistic: Statistic | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """A figure, its standard error and its 95 % interval.

    The standard error is the jackknife over clusters (the figure without each cluster in turn), which for an accuracy
    with as many questions to each of G clusters is the cluster-robust one times sqrt(G / (G - 1)). The interval is the
    percentile bootstrap over clusters.

    Example:

    ```python
    counts = [(tp, fp, fn) for tp, fp, fn in …]  # of each question
    estimate(counts, images, lambda sums: 2 * sums[..., 0] / (2 * sums[..., 0] + sums[..., 1] + sums[..., 2]))
    ```

    Args:
        counts: (n, …): what each question adds to the sums.
        clusters: (n,): the cluster (image) of each question.
        statistic: Sums (resamples, …) → figures (resamples,). None: `counts` is (n,) and the figure its mean.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        The estimate. Its standard error and interval are NaN where they cannot be given: with fewer than two clusters,
        where the figure is undefined in some resample, and where all resamples agree (an accuracy of 0 or 1 is not
        certain because no cluster differs).

    Raises:
        ValueError: If `counts` and `clusters` differ in length, or a count is not finite (the row is named).
    """
    questions = len(clusters)
    sums, statistic = _cluster_sums(counts, clusters, statistic)
    value = _apply(statistic, sums.sum(axis=0))
    standard_error, low, high = np.nan, *_bootstrap_interval(sums, statistic, resamples, seed)
    if not np.isnan(low):
        without = _apply(statistic, sums.sum(axis=0) - sums)
        standard_error = np.sqrt((len(sums) - 1) * np.mean((without - without.mean()) ** 2))
    return Estimate(float(value), float(standard_error), low, high, questions, len(sums))


def paired_test(
    ids_a: Sequence[str],
    counts_a: ArrayLike,
    ids_b: Sequence[str],
    counts_b: ArrayLike,
    clusters: Sequence[str],
    statistic: Statistic | None = None,
    resamples: int = 1000,
    exchanges: int = 9999,
    seed: int = 0,
) -> Difference:
    """Does a figure differ between two runs on the same questions?

    Where every cluster is one question, and each answer right or wrong (`statistic` None, counts 0 or 1), the p-value
    is McNemar's exact one. Otherwise it is that of a permutation test: if the runs did not differ, the results of a
    cluster could as well have been exchanged between them. All exchanges are tried if there are no more than
    `exchanges`, else so many random ones. Both are two-sided.

    Args:
        ids_a, ids_b: (n,): the ids of the questions of each run.
        counts_a, counts_b: (n, …): what each question adds to the sums, as for `estimate`.
        clusters: (n,): the cluster (image) of each question.
        statistic: As for `estimate`.
        resamples: Number of bootstrap resamples.
        exchanges: Number of exchanges tried, at most.
        seed: Seed of both.

    Returns:
        The difference. Its interval is the percentile bootstrap over clusters, NaN where `estimate` has none; the
        p-value is NaN with fewer than two clusters and where an exchange leaves the figure undefined.

    Raises:
        ValueError: If the runs are not of the same questions in the same order (the first difference is named), or for
            the reasons of `estimate`.
    """
    for row, (id_a, id_b) in enumerate(zip(ids_a, ids_b)):
        if id_a != id_b:
            raise ValueError(f"not the same questions: row {row} is {id_a!r} in run a and {id_b!r} in run b")
    if len(ids_a) != len(ids_b):
        shorter = min(len(ids_a), len(ids_b))
        name, extra = ("a", ids_a[shorter]) if len(ids_a) > shorter else ("b", ids_b[shorter])
        raise ValueError(
            f"not the same questions: run a has {len(ids_a)}, run b {len(ids_b)}; row {shorter} ({extra!r}) is in run "
            f"{name} only"
        )
    if len(ids_a) != len(clusters):
        raise ValueError(f"{len(ids_a)} questions, but clusters for {len(clusters)}")
    right_or_wrong = statistic is None and np.isin(counts_a, (0, 1)).all() and np.isin(counts_b, (0, 1)).all()
    a, statistic_a = _cluster_sums(counts_a, clusters, statistic)
    b, _ = _cluster_sums(counts_b, clusters, statistic)
    if a.shape != b.shape:
        raise ValueError(f"the counts of the runs differ in shape: {np.shape(counts_a)} and {np.shape(counts_b)}")
    value_a, value_b = (float(_apply(statistic_a, sums.sum(axis=0))) for sums in (a, b))
    both = np.stack([a, b], axis=1)
    low, high = _bootstrap_interval(
        both, lambda sums: statistic_a(sums[:, 1]) - statistic_a(sums[:, 0]), resamples, seed
    )
    if right_or_wrong and len(a) == len(clusters):
        p_value, test = _mcnemar(a[:, 0], b[:, 0]), "exact McNemar"
    else:
        p_value, test = _exchange_test(a, b, statistic_a, exchanges, seed), "permutation over clusters"
    return Difference(value_a, value_b, value_b - value_a, low, high, p_value, test, len(ids_a), len(a))


def bootstrap_interval(
    sizes: Sequence[int], figure: Callable[..., np.ndarray], resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a figure whose clusters are drawn anew, with replacement.

    Example:

    ```python
    right, asked = ...  # (G,) each: of every image
    bootstrap_interval([len(right)], lambda times: (times @ right) / (times @ asked))
    ```

    Args:
        sizes: Clusters in each independent sample, such as the images of each seed; at least 2 each.
        figure: For each sample how often its clusters are drawn, (r, G), as floats that are whole → the figure, (r,).
        resamples: Number of resamples.
        seed: Seed of the drawing.

    Returns:
        (low, high); NaN where the figure is NaN in some resample.
    """
    low, high, _ = _bootstrap(sizes, figure, resamples, seed)
    return low, high


def t_interval(values: ArrayLike) -> tuple[float, float, float]:
    """(mean, low, high): the mean of independent values, such as those of several seeds, and its 95 % interval by
    Student's t; NaN where there is none: the interval of a single value, and all three of no value."""
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    mean = float(values.mean())
    if len(values) == 1:
        return mean, float("nan"), float("nan")
    half = float(student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def _cluster_sums(
    counts: ArrayLike, clusters: Sequence[str], statistic: Statistic | None
) -> tuple[np.ndarray, Statistic]:
    """(G, …) sums over the questions of each cluster, and the statistic of such sums."""
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim < 1 or len(counts) != len(clusters):
        raise ValueError(f"counts of shape {counts.shape} for the clusters of {len(clusters)} questions")
    finite = np.isfinite(counts).all(axis=tuple(range(1, counts.ndim)))
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"row {row} has the counts {counts[row].tolist()}; all must be finite")
    if statistic is None:
        if counts.ndim != 1:
            raise ValueError(f"counts of shape {counts.shape} need a statistic; only the mean of one column needs none")
        counts, statistic = np.stack([counts, np.ones_like(counts)], axis=1), _mean
    names, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), *counts.shape[1:]))
    np.add.at(sums, index, counts)
    return sums, statistic


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def _apply(statistic: Statistic, sums: np.ndarray) -> np.ndarray:
    """The statistic, undefined ones (0 / 0) as NaN without a warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(statistic(sums))


def _bootstrap_interval(sums: np.ndarray, statistic: Statistic, resamples: int, seed: int) -> tuple[float, float]:
    """Of a statistic of (G, …) sums of clusters; NaN where it cannot be given, see `estimate`."""
    if len(sums) < 2:
        return float("nan"), float("nan")

    def figure(times: np.ndarray) -> np.ndarray:
        return _apply(statistic, np.tensordot(times, sums, axes=1))

    low, high, values = _bootstrap([len(sums)], figure, resamples, seed)
    if np.ptp(values) <= 1e-12 * max(abs(low), abs(high)):
        return float("nan"), float("nan")
    return low, high


def _bootstrap(
    sizes: Sequence[int], figure: Callable[..., np.ndarray], resamples: int, seed: int
) -> tuple[float, float, np.ndarray]:
    """The ends of the interval, and the figure in all resamples."""

    def of_resamples(*drawn: np.ndarray, axis: int) -> np.ndarray:
        # How often each cluster was drawn: the sums of all resamples are then one product.
        return figure(*map(_times_drawn, drawn))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some resample has no figure is told by NaN
        found = bootstrap(
            [np.arange(size) for size in sizes],
            of_resamples,
            n_resamples=resamples,
            batch=50,  # with several samples, what is drawn depends on it
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    low, high = (float(end) for end in found.confidence_interval)
    return low, high, found.bootstrap_distribution


def _times_drawn(drawn: np.ndarray) -> np.ndarray:
    """(r, G) numbers of clusters → (r, G): how often each of them is among its row's."""
    rows, size = drawn.shape
    numbered = drawn + size * np.arange(rows)[:, None]
    return np.bincount(numbered.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)


def _mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> float:
    only_a, only_b = int(np.sum(right_a > right_b)), int(np.sum(right_b > right_a))
    if len(right_a) < 2:
        return float("nan")
    return float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _exchange_test(a: np.ndarray, b: np.ndarray, statistic: Statistic, exchanges: int, seed: int) -> float:
    if len(a) < 2:
        return float("nan")
    middle, half = (a + b).sum(axis=0) / 2, (b - a) / 2
    half = half[(half != 0).any(axis=tuple(range(1, half.ndim)))]  # to exchange what is equal changes nothing
    if not len(half):
        return 1.0

    def difference(signs: np.ndarray, axis: int) -> np.ndarray:
        # Sign -1 exchanges what a cluster adds to the sums of the two runs.
        moved = np.tensordot(signs, half, axes=1)
        return _apply(statistic, middle + moved) - _apply(statistic, middle - moved)

    rng, as_found = np.random.default_rng(seed), np.ones(len(half))
    options = {"statistic": difference, "vectorized": True, "n_resamples": exchanges, "batch": 100}
    if 2 ** len(half) <= exchanges:
        found = permutation_test((as_found,), permutation_type="samples", **options)
    else:  # the same with random exchanges; permutation_test draws them a hundred times as slowly

        def random_signs(size: tuple[int, ...]) -> np.ndarray:
            return 2.0 * rng.integers(0, 2, size=size, dtype=np.int8) - 1

        found = monte_carlo_test(as_found, random_signs, **options)
    # An undefined exchange compares as "not as extreme", which would make the p-value too small.
    return float("nan") if np.isnan(found.null_distribution).any() else float(found.pvalue)
