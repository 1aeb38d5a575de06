"""When two ways of writing are taken for the same."""

import numpy as np
import pytest
import torch

from c3l_hf.generation.written import Prompt, Written, alike, apart, kind
from c3l_hf.models.rounding import Rounding


def written(ids: list[int], *predictions: list[float], ended: bool | None = True) -> list[Written]:
    return [Written(ids, ended, [tops(top) for top in predictions])]


def tops(logprobs: list[float], ids: tuple[int, int] = (0, 1)) -> torch.Tensor:
    return torch.tensor([logprobs, ids], dtype=torch.float64).T


SURE, OTHER = [-0.1, -3.0], [-2.0, -2.5]
COARSE, FINE = (Rounding(torch.bfloat16, lambda: [0.05, 0.1]), Rounding(torch.float32, lambda: [1e-6]))


@pytest.mark.parametrize("rounding", [COARSE, FINE])
def test_equal_texts_are_alike_whatever_the_predictions(rounding):
    assert alike(written([1, 2], SURE, SURE), written([1, 2], OTHER, OTHER), rounding)
    assert not alike(written([1, 2], SURE, SURE), written([1, 2], OTHER, OTHER, ended=None), rounding)


def test_texts_may_part_where_the_predictions_are_alike():
    near = [-0.12, -2.95]
    one = written([1, 2, 3], SURE, SURE, SURE)
    assert alike(one, written([1, 5, 9], SURE, near, OTHER), COARSE)  # after the parting nothing is compared
    assert not alike(one, written([1, 5, 9], SURE, near, OTHER), FINE)
    assert alike(one, written([1, 5, 9], SURE, [-0.10001, -3.0], OTHER), FINE)
    assert not alike(one, written([1, 5, 9], SURE, OTHER, SURE), COARSE)
    assert not alike(one, written([1, 5, 9], OTHER, SURE, SURE), COARSE)
    # One ends where the other goes on.
    assert alike(one, written([1, 2], SURE, SURE, near), COARSE)
    assert not alike(one, written([1, 2], SURE, SURE, OTHER), COARSE)


def test_how_far_texts_are_apart():
    """Up to where they part, and there."""
    one, other = written([1, 2, 3], SURE, SURE, SURE), written([1, 5, 9], SURE, [-0.3, -3.0], OTHER)
    assert apart(one, other) == pytest.approx(0.2)
    assert apart([*one, *one], [*written([1, 2, 3], SURE, SURE, OTHER), *other]) == pytest.approx(1.9)


def test_other_tokens_are_likeliest():
    """The fourth token is at most as likely there as the least of those that are named, and the other way round."""
    one, other = ([Written([1], True, [tops([-0.5, -1.5], ids)])] for ids in ((0, 1), (0, 3)))
    assert apart(one, other) == pytest.approx(0)
    other = [Written([1], True, [tops([-0.5, -1.0], (3, 0))])]
    assert apart(one, other) == pytest.approx(1.0)
    assert apart(other, one) == pytest.approx(1.0)


def test_predictions_that_are_no_numbers_are_not_alike():
    assert not alike(written([1], SURE), written([2], [float("nan"), -3.0]), COARSE)


def test_kinds_need_no_filling():
    one = {"input_ids": torch.zeros(1, 5), "pixel_values": torch.zeros(1, 3, 8, 8)}
    longer = {"input_ids": torch.zeros(1, 9), "pixel_values": torch.zeros(2, 3, 8, 8)}
    larger = {"input_ids": torch.zeros(1, 5), "pixel_values": torch.zeros(1, 3, 8, 16)}
    assert kind(one) == kind(longer) != kind(larger)
    assert kind({"input_ids": torch.zeros(1, 5)}) != kind(one)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (5,)])
def test_texts_that_nothing_can_be_written_of(shape):
    with pytest.raises(ValueError, match="random numbers must be given for .texts, tokens., not of shape"):
        Prompt(0, {"input_ids": torch.zeros(1, 5)}, np.zeros(shape))
