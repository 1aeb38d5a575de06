"""What rounding explains, measured at a model."""

import math

import pytest
import torch
from scored_rows import picture
from tiny_models import tiny_llava

from c3l_hf.models.encoding import encode_prompt
from c3l_hf.models.rounding import Rounding, disturbed_runs


def never() -> list[float]:
    pytest.fail("measured where nothing had to be")


@pytest.mark.parametrize(
    "dtype,negligible",
    [(torch.float64, 1e-6), (torch.float32, 1e-4), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)],
)
def test_what_is_negligible_is_not_measured(dtype, negligible):
    assert Rounding(dtype, never).explains(negligible)
    assert not Rounding(dtype, lambda: [0.0]).explains(1.01 * negligible)


def test_what_is_more_is_compared_with_what_was_measured():
    calls = []
    rounding = Rounding(torch.bfloat16, lambda: calls.append(1) or [0.1, 0.9, 0.2])
    assert rounding.explains(0.39) and not rounding.explains(0.41)
    assert len(calls) == 1


def test_what_is_no_number_is_not_explained():
    assert not Rounding(torch.bfloat16, never).explains(math.nan)
    assert not Rounding(torch.bfloat16, never).explains(math.inf)
    for measured in ([0.3, math.nan], [math.nan, 0.3]):
        assert not Rounding(torch.bfloat16, lambda measured=measured: measured).explains(0.1)


def test_disturbed_runs():
    """As far from the plain one as the last bit says, the same each time, and nothing is left at the model."""
    model, processor = tiny_llava()
    row = encode_prompt(processor, [{"role": "user", "content": "Is there a dog?"}], [picture(0)])
    measured = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):  # Llama's norms are in float32, whatever the others
        model.to(dtype)

        def run(rows, dtype=dtype):
            (row,) = rows
            return model(**{**row, "pixel_values": row["pixel_values"].to(dtype)}).logits.double().log_softmax(-1)

        with torch.no_grad():
            plain = run([row])
            runs, again = disturbed_runs(model, [row], run), disturbed_runs(model, [row], run)
            assert torch.equal(run([row]), plain)
        assert all(map(torch.equal, runs, again)) and not torch.equal(runs[0], runs[1])
        # In units in the last place.
        measured[dtype] = max((one - plain).abs().max().item() for one in runs) / torch.finfo(dtype).eps
    assert all(1 < units < 100 for units in measured.values())
    assert not model.get_input_embeddings()._forward_hooks


def test_the_picture_is_disturbed_too():
    model, processor = tiny_llava()
    row = encode_prompt(processor, [{"role": "user", "content": "Is there a dog?"}], [picture(0)])
    for (given,) in disturbed_runs(model, [row], list):
        assert given["input_ids"] is row["input_ids"]
        change = (given["pixel_values"] / row["pixel_values"] - 1).abs()
        assert 0 < change.max() < 2e-7
