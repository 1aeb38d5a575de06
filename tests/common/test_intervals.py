"""Standard errors, intervals and paired tests against hand-computed cases, plain loops, and their own coverage."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import beta

from c3l_hf.common.intervals import estimate, paired_test


def f1(sums):
    return 2 * sums[..., 0] / (2 * sums[..., 0] + sums[..., 1] + sums[..., 2])


def test_value_is_the_statistic_of_all_sums():
    assert estimate([1, 0, 1, 1], list("abcd")).value == 0.75
    found = estimate([(1, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1)], list("aabc"), f1)
    assert found.value == pytest.approx(4 / 6) and (found.questions, found.clusters) == (4, 3)


def test_standard_error_of_a_mean_is_the_usual_one():
    values = np.random.default_rng(0).normal(size=50)
    found = estimate(values, [str(row) for row in range(50)])
    assert found.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(50), rel=1e-9)


def test_standard_error_knows_clusters():
    # 4 images with 3 equal answers each are 4 observations, not 12: variance of 1, 1, 0, 0 is 1/3, over 4 clusters 1/12
    right, images = [1] * 6 + [0] * 6, [image for image in "abcd" for _ in range(3)]
    assert estimate(right, images).standard_error == pytest.approx(math.sqrt(1 / 12))
    # cluster-robust (CR0): sqrt(sum over clusters of (sum of residuals)^2) / n, times sqrt(G / (G - 1))
    residuals = np.array([1.5, 1.5, -1.5, -1.5])
    cr0 = math.sqrt((residuals**2).sum()) / 12
    assert estimate(right, images).standard_error == pytest.approx(cr0 * math.sqrt(4 / 3))
    alone = estimate(right, [str(row) for row in range(12)])
    assert alone.standard_error == pytest.approx(math.sqrt(0.25 / 11))


def test_standard_error_of_a_ratio_against_a_loop():
    rng = np.random.default_rng(1)
    counts, images = rng.integers(0, 4, (40, 3)), rng.integers(0, 9, 40).astype(str)
    left_out = [float(f1(counts[images != image].sum(axis=0))) for image in sorted(set(images))]
    size = len(left_out)
    expected = math.sqrt((size - 1) / size * sum((value - sum(left_out) / size) ** 2 for value in left_out))
    assert estimate(counts, images, f1).standard_error == pytest.approx(expected, rel=1e-9)


def test_interval_against_a_loop():
    rng = np.random.default_rng(2)
    counts, images = rng.integers(0, 4, (60, 3)), rng.integers(0, 12, 60).astype(str)
    groups = [counts[images == image] for image in sorted(set(images))]
    values = []
    for _ in range(4000):
        drawn = [groups[index] for index in rng.integers(0, len(groups), len(groups))]
        values.append(float(f1(np.concatenate(drawn).sum(axis=0))))
    found = estimate(counts, images, f1, resamples=4000)
    assert (found.low, found.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.01)
    assert found.low < found.value < found.high


def test_interval_covers_the_truth_of_clustered_answers():
    """Images are easy or hard: 95 % intervals over images hold about 95 % of the time, over questions they do not."""
    rng = np.random.default_rng(3)
    images = np.repeat(np.arange(60), 6).astype(str)
    hits = {"images": 0, "questions": 0}
    for trial in range(200):
        ease = beta(1, 0.5).rvs(60, random_state=rng)
        right = rng.random(360) < np.repeat(ease, 6)
        for name, clusters in (("images", images), ("questions", np.arange(360).astype(str))):
            found = estimate(right, clusters, resamples=300, seed=trial)
            hits[name] += found.low <= 2 / 3 <= found.high
    assert 0.91 <= hits["images"] / 200 <= 0.985
    assert hits["questions"] / 200 < 0.85


def test_estimates_repeat_and_do_not_depend_on_order():
    rng = np.random.default_rng(4)
    right, images = rng.integers(0, 2, 30), rng.integers(0, 10, 30).astype(str)
    order = rng.permutation(30)
    assert estimate(right, images) == estimate(right, images) == estimate(right[order], images[order])
    assert estimate(right, images) != estimate(right, images, seed=1)


def test_counts_of_any_shape():
    """By category and outcome: the mean of the accuracies of two categories."""
    counts = np.array([[[1, 1], [0, 0]], [[0, 1], [0, 0]], [[0, 0], [1, 1]], [[0, 0], [1, 1]]])  # right, asked
    found = estimate(counts, list("abcd"), lambda sums: (sums[..., 0] / sums[..., 1]).mean(axis=-1))
    assert found.value == pytest.approx(0.75)


@pytest.mark.parametrize(
    "right, clusters, value",
    [
        ([], [], math.nan),
        ([1, 0, 1, 0], list("aaaa"), 0.5),  # one cluster
        ([1, 1, 1], list("abc"), 1.0),  # that all are right does not say that all others would be
        ([0, 0], list("ab"), 0.0),
        ([1, 0, 1, 0], list("aabb"), 0.5),
    ],
)
def test_no_interval_where_there_is_none(right, clusters, value):
    found = estimate(right, clusters)
    assert found.value == pytest.approx(value, nan_ok=True)
    assert all(math.isnan(number) for number in (found.standard_error, found.low, found.high))


def test_undefined_in_some_resamples(recwarn):
    precision = estimate([(1, 1), (0, 0), (0, 0)], list("abc"), lambda sums: sums[..., 0] / sums[..., 1])
    assert precision.value == 1 and math.isnan(precision.low) and math.isnan(precision.standard_error)
    assert not recwarn


@pytest.mark.parametrize(
    "counts, clusters, statistic, message",
    [
        ([1, 0], ["a"], None, "clusters of 1 questions"),
        (1.0, ["a"], None, r"shape \(\)"),
        ([1, 0, math.nan], list("abc"), None, "row 2 has the counts nan"),
        ([(1, 2), (math.inf, 0)], list("ab"), f1, r"row 1 has the counts \[inf, 0.0\]"),
        ([(1, 2), (1, 0)], list("ab"), None, "need a statistic"),
    ],
)
def test_counts_that_do_not_fit(counts, clusters, statistic, message):
    with pytest.raises(ValueError, match=message):
        estimate(counts, clusters, statistic)


def compare(a, b, clusters, statistic=None, **options):
    ids = [f"q{row}" for row in range(len(clusters))]
    return paired_test(ids, a, ids, b, clusters, statistic, **options)


def test_mcnemar_by_hand():
    # 1 question only run a answers, 6 only run b: two-sided 2 (C(7,0) + C(7,1)) / 2^7 = 0.125
    a = [1] * 5 + [1] + [0] * 6 + [0] * 3
    b = [1] * 5 + [0] + [1] * 6 + [0] * 3
    found = compare(a, b, [str(row) for row in range(15)])
    assert found.test == "exact McNemar" and found.p_value == pytest.approx(0.125)
    assert (found.value_a, found.value_b, found.difference) == pytest.approx((6 / 15, 11 / 15, 5 / 15))
    assert found.low < found.difference < found.high
    back = compare(b, a, [str(row) for row in range(15)])
    assert back.p_value == found.p_value and back.difference == -found.difference


def test_mcnemar_only_where_a_cluster_is_a_right_or_wrong_question():
    a, b = [1, 0, 0, 0, 1, 0], [1, 1, 1, 1, 0, 1]
    own = [str(row) for row in range(6)]
    counts = [np.stack([right, np.ones(6)], axis=1) for right in (a, b)]
    permuted = compare(*counts, own, lambda sums: sums[..., 0] / sums[..., 1])
    assert permuted.test == "permutation over clusters" and compare(a, b, own).test == "exact McNemar"
    assert permuted.p_value == pytest.approx(compare(a, b, own).p_value)  # all exchanges were tried
    assert compare(a, b, list("aabbcc")).test == "permutation over clusters"
    assert compare(np.array(a) * 0.5, b, own).test == "permutation over clusters"


@pytest.mark.parametrize("statistic", [None, f1], ids=["mean", "f1"])
def test_permutation_over_clusters_against_a_loop(statistic):
    rng = np.random.default_rng(5)
    images = np.repeat(np.arange(8), 3).astype(str)
    a = rng.integers(0, 2, (24, 3) if statistic else 24)
    b = rng.integers(0, 5, a.shape) + [4, 0, 0] if statistic else np.maximum(a, rng.integers(0, 2, 24))
    figure = statistic or (lambda sums: sums / 24)
    observed = figure(b.sum(axis=0)) - figure(a.sum(axis=0))
    null = []
    for exchanged in itertools.product([False, True], repeat=8):
        swap = np.isin(images, np.flatnonzero(exchanged).astype(str)).reshape(-1, *[1] * (a.ndim - 1))
        null.append(figure(np.where(swap, a, b).sum(axis=0)) - figure(np.where(swap, b, a).sum(axis=0)))
    tails = [np.mean(np.array(null) >= observed - 1e-12), np.mean(np.array(null) <= observed + 1e-12)]
    found = compare(a, b, images, statistic)
    assert found.difference == pytest.approx(observed)
    assert found.p_value == pytest.approx(min(1, 2 * min(tails))) and 0.001 < found.p_value < 0.5
    # with random exchanges about the same
    assert compare(a, b, images, statistic, exchanges=200).p_value == pytest.approx(found.p_value, abs=0.1)


def test_interval_of_the_difference_is_that_of_pairs():
    """Runs that fail on the same questions differ surely, however hard the questions are."""
    rng = np.random.default_rng(6)
    a = rng.integers(0, 2, 200)
    b = a.copy()
    b[np.flatnonzero(a == 0)[:10]] = 1
    found = compare(a, b, [str(row) for row in range(200)], resamples=4000)
    deviations = (b - a) - (b - a).mean()
    half = 1.96 * math.sqrt((deviations**2).mean() / 200)
    assert (found.low, found.high) == pytest.approx((0.05 - half, 0.05 + half), abs=0.006)


def test_permutation_p_values_are_uniform_without_a_difference():
    rng = np.random.default_rng(7)
    images = np.repeat(np.arange(30), 5).astype(str)
    p_values = []
    for trial in range(200):
        ease = np.repeat(rng.random(30), 5)
        a, b = (rng.random((2, 150)) < ease).astype(float)
        p_values.append(compare(a, b, images, resamples=2, exchanges=300, seed=trial).p_value)
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.1
    assert 0.35 <= np.mean(np.array(p_values) < 0.5) <= 0.65


def test_runs_that_are_equal():
    for clusters in (list("abcdef"), list("aabbcc")):
        found = compare([1, 0, 1, 0, 1, 1], [1, 0, 1, 0, 1, 1], clusters)
        assert found.difference == 0 and found.p_value == 1 and math.isnan(found.low)


def test_one_cluster_compares_nothing():
    for clusters in (["a"], ["a", "a"]):
        found = compare([1] * len(clusters), [0] * len(clusters), clusters)
        assert found.difference == -1 and math.isnan(found.p_value) and math.isnan(found.low)


def test_an_exchange_that_leaves_the_figure_undefined(recwarn):
    found = compare([(0, 0), (1, 1)], [(1, 2), (0, 0)], list("ab"), lambda sums: sums[..., 0] / sums[..., 1])
    assert found.difference == -0.5 and math.isnan(found.p_value) and not recwarn


@pytest.mark.parametrize(
    "ids_a, ids_b, message",
    [
        (["q1", "q2"], ["q1", "q3"], "row 1 is 'q2' in run a and 'q3' in run b"),
        (["q1", "q2"], ["q2", "q1"], "row 0 is 'q1' in run a and 'q2' in run b"),
        (["q1", "q2"], ["q1"], r"run a has 2, run b 1; row 1 \('q2'\) is in run a only"),
        (["q1"], ["q1", "q2"], r"run a has 1, run b 2; row 1 \('q2'\) is in run b only"),
    ],
)
def test_runs_of_other_questions(ids_a, ids_b, message):
    with pytest.raises(ValueError, match=message):
        paired_test(ids_a, [1] * len(ids_a), ids_b, [1] * len(ids_b), ["a"] * len(ids_a))


def test_runs_with_counts_that_do_not_fit():
    with pytest.raises(ValueError, match="2 questions, but clusters for 1"):
        paired_test(["a", "b"], [1, 1], ["a", "b"], [1, 1], ["a"])
    with pytest.raises(ValueError, match=r"shape: \(2, 3\) and \(2, 4\)"):
        compare(np.ones((2, 3)), np.ones((2, 4)), ["a", "b"], f1)
