"""Models that fail at a row, at all rows, or give no numbers."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_llava

from c3l_hf import I2CScorer
from c3l_hf.common.errors import RunError

ANSWERS = ("A dog.", "Two cats and a horse.", "a", "The car is at the top left.")


@pytest.fixture(scope="module")
def llava():
    return tiny_llava()


@pytest.fixture
def scorer(llava):
    """Of a model that is the test's own."""
    model, processor = llava
    return I2CScorer(copy.deepcopy(model), processor)


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8))


def rows(count=4):
    return [
        {"image": picture(number), "question": "What is in this picture?", "answer": ANSWERS[number % len(ANSWERS)]}
        for number in range(count)
    ]


def fail(scorer, monkeypatch, wrong, error):
    """Lets the model raise an error at inputs that are wrong."""
    model, _ = scorer.loaded()
    forward = model.forward

    def failing(*args, **inputs):
        if wrong(inputs):
            raise error
        return forward(*args, **inputs)

    monkeypatch.setattr(model, "forward", failing)


def has_word(scorer, word):
    ids = scorer.loaded()[1].tokenizer.encode(word, add_special_tokens=False)
    return lambda inputs: any(str(ids)[1:-1] in str(line)[1:-1] for line in inputs["input_ids"].tolist())


def test_a_row_at_which_the_model_fails_leaves_the_others(scorer, monkeypatch):
    plain = scorer.score(rows())
    fail(scorer, monkeypatch, has_word(scorer, " horse"), ValueError("image features and tokens do not match"))
    scored = scorer.score(rows())
    assert [row["i2c_status"] for row in scored] == [
        "ok",
        "the model fails at the row: ValueError: image features and tokens do not match",
        "ok",
        "ok",
    ]
    assert scored[1]["i2c"] is None
    for number in (0, 2, 3):
        np.testing.assert_allclose(scored[number]["i2c"], plain[number]["i2c"], rtol=2e-4)


@pytest.mark.parametrize(
    ("error", "of_rows"),
    [
        (torch.OutOfMemoryError("out of memory"), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), False),
        (KeyError("model"), True),
    ],
)
def test_what_is_no_row_s_fault_is_raised(scorer, monkeypatch, error, of_rows):
    """Too little memory at once; other errors once the model fails at a row of ours, too."""
    calls = []
    fail(scorer, monkeypatch, lambda inputs: not calls.append(1), error)
    with pytest.raises(type(error)):
        scorer.score(rows())
    assert (len(calls) > 1) == of_rows


def test_a_model_without_numbers_is_refused_at_once(llava):
    model, processor = llava
    broken = copy.deepcopy(model)
    torch.nn.init.constant_(broken.model.language_model.norm.weight, float("nan"))
    message = r"in float32 gives no numbers \(NaN\) for an answer of our own: the weights are broken .* another dtype"
    # A check that a model of this kind has passed says nothing about the numbers of this one.
    I2CScorer(model, processor)
    with pytest.raises(RunError, match=message):
        I2CScorer(broken, processor)


def test_a_model_that_loses_its_numbers_ends_the_run(scorer):
    norm = scorer.loaded()[0].model.language_model.norm.weight
    scorer.score(rows(4))
    with torch.no_grad():
        norm.fill_(float("nan"))
    assert {row["i2c_status"] for row in scorer.score(rows(30))} == {"the model's log-probabilities are not finite"}
    with pytest.raises(RunError, match=r"no numbers \(NaN\) for 60 of the first 64 answers"):
        scorer.score(rows(30))
