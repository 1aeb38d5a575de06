"""Weights of tokens: by their formulas, what is refused, and where a row has the scores of its tokens."""

import math

import numpy as np
import pytest

from c3l_hf.common.errors import RowError
from c3l_hf.selection.token_weights import answer_weights, cal_weights, row_weight, turn_gains, vig_weights

GAINS = [-2.0, 0.5, 3.0, 8.0, 1.5]


def test_cal_is_its_formula():
    clipped = [1.0, 1.0, 3.0, 5.0, 1.5]
    means = [sum(clipped[max(0, t - 1) : t + 2]) / len(clipped[max(0, t - 1) : t + 2]) for t in range(5)]
    expected = [mean / (sum(means) / 5) for mean in means]
    assert cal_weights(GAINS).tolist() == pytest.approx(expected, rel=1e-12)
    assert answer_weights(GAINS, "cal").tolist() == cal_weights(GAINS).tolist()
    unsmoothed = cal_weights(GAINS, low=0.5, high=4.0, window=1)
    assert unsmoothed.tolist() == pytest.approx(np.array([0.5, 0.5, 3.0, 4.0, 1.5]) / 1.9, rel=1e-12)
    assert cal_weights([7.0]).tolist() == [1.0] and cal_weights([1.0, 9.0], window=9).tolist() == [1.0, 1.0]
    assert cal_weights([0.0, -3.0, 0.9]).tolist() == [1.0, 1.0, 1.0]  # below the bound all are alike


def test_vig_keeps_the_greatest():
    assert vig_weights(GAINS).tolist() == pytest.approx([0, 0, 5 / 3, 5 / 3, 5 / 3])
    assert vig_weights([1.0, 1.0, 1.0, 0.0], keep=0.5).tolist() == [2.0, 2.0, 0.0, 0.0]
    assert vig_weights(GAINS, keep=1).tolist() == [1.0] * 5 and vig_weights([-1.0], keep=0.1).tolist() == [1.0]
    assert np.count_nonzero(vig_weights(range(100), keep=0.07)) == 7  # 0.07 · 100 is rounded to more
    assert answer_weights(GAINS, "vig").tolist() == vig_weights(GAINS).tolist()


@pytest.mark.parametrize("method", ["cal", "vig"])
@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_the_mean_is_1(method, count):
    gains = np.random.default_rng(count).normal(size=count) * 4
    assert answer_weights(gains, method).mean() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: cal_weights([]), "one at least"),
        (lambda: vig_weights([1.0, math.nan]), "finite"),
        (lambda: cal_weights([1.0], low=0.0), "low is 0.0"),
        (lambda: cal_weights([1.0], low=2.0, high=1.0), "low at most high"),
        (lambda: cal_weights([1.0], window=2), "window is 2; it must be an odd number"),
        (lambda: vig_weights([1.0], keep=0.0), "keep is 0.0"),
        (lambda: answer_weights([1.0], "gain"), "token_weights is 'gain'; it must be one of cal, vig"),
    ],
)
def test_what_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def scored(**columns):
    row = {
        "answer_tokens": ["a", " dog", "two"],
        "logprob_per_token": [-1.0, -2.0, -0.5],
        "logprob_blind_per_token": [-2.0, -2.5, -3.5],
        "turns": [{"tokens": 2}, {"tokens": 0}, {"tokens": 1}],
    }
    return {**row, **columns}


def test_gains_of_each_turn():
    assert turn_gains(scored(), 0) == (["a", " dog"], [1.0, 0.5])
    assert turn_gains(scored(), 2) == (["two"], [3.0])
    without = {name: value for name, value in scored().items() if name != "turns"}
    assert turn_gains(without, 0) == (["a", " dog", "two"], [1.0, 0.5, 3.0])


@pytest.mark.parametrize(
    "row, turn, says",
    [
        (scored(), 1, "the answer has no scores of its tokens"),
        (scored(), 3, "the answer has no scores of its tokens"),
        (scored(answer_tokens=None), 0, "the answer has no scores of its tokens"),
        (scored(logprob_per_token=[-1.0]), 0, "differ in number; 3, 1 and 3"),
        (scored(turns=[{"tokens": 2}]), 0, "turns and answer_tokens do not agree; 2 and 3 tokens"),
        (scored(logprob_per_token=[math.nan, 0.0, 0.0]), 0, "are not finite"),
    ],
)
def test_rows_whose_gains_are_not_known(row, turn, says):
    with pytest.raises(RowError, match=says):
        turn_gains(row, turn)


def test_weights_of_rows():
    assert row_weight({"w": 2}, "w") == 2.0
    for value in (None, -1.0, math.nan, math.inf, "1"):
        with pytest.raises(RowError, match="w: it is .*; give a number that is not negative"):
            row_weight({"w": value}, "w")
