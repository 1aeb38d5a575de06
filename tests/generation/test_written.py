"""When two ways of writing are taken for the same."""

import numpy as np
import pytest
import torch

from c3l_hf.generation.written import Prompt, Written, alike, kind


def written(ids: list[int], *predictions: list[float], size: float = 5.0, ended: bool | None = True) -> list[Written]:
    return [Written(ids, ended, [torch.tensor([*top, size]) for top in predictions])]


SURE, OTHER = [-0.1, -3.0], [-2.0, -2.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_texts_are_alike_whatever_the_predictions(dtype):
    assert alike(written([1, 2], SURE, SURE), written([1, 2], OTHER, OTHER), dtype)
    assert not alike(written([1, 2], SURE, SURE), written([1, 2], OTHER, OTHER, ended=None), dtype)


def test_texts_may_part_where_the_predictions_are_alike():
    near = [-0.12, -2.95]
    one = written([1, 2, 3], SURE, SURE, SURE)
    assert alike(one, written([1, 5, 9], SURE, near, OTHER), torch.bfloat16)  # after the parting nothing is compared
    assert not alike(one, written([1, 5, 9], SURE, near, OTHER), torch.float32)
    assert alike(one, written([1, 5, 9], SURE, [-0.10001, -3.0], OTHER), torch.float32)
    assert not alike(one, written([1, 5, 9], SURE, OTHER, SURE), torch.bfloat16)
    assert not alike(one, written([1, 5, 9], OTHER, SURE, SURE), torch.bfloat16)
    # One ends where the other goes on.
    assert alike(one, written([1, 2], SURE, SURE, near), torch.bfloat16)
    assert not alike(one, written([1, 2], SURE, SURE, OTHER), torch.bfloat16)


def test_what_rounding_explains_grows_with_the_logits():
    """In bfloat16 numbers from 32 to 64 are a quarter apart."""
    far = [-0.6, -2.5]
    for size, same in ((5.0, False), (40.0, True)):
        one, other = written([1], SURE, size=size), written([2], far, size=size)
        assert alike(one, other, torch.bfloat16) == same


def test_predictions_that_are_no_numbers_are_not_alike():
    assert not alike(written([1], SURE), written([2], [float("nan"), -3.0]), torch.bfloat16)


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
