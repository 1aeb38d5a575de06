"""Tokens are drawn from the model's distribution, whatever the random numbers and whichever rows are beside them."""

import numpy as np
import torch
from scipy.stats import chisquare
from transformers import TopPLogitsWarper

from c3l_hf.generation import drawing
from c3l_hf.generation.drawing import Draw, SeededSampling, tops


def test_sampling_follows_the_distribution():
    logits = torch.randn(12, generator=torch.Generator().manual_seed(0)) * 2
    logits[[3, 7, 11]] = -torch.inf
    uniforms = torch.from_numpy(np.random.default_rng(0).random(20000))
    tokens, broken = Draw(1.0, 1.0)(logits.expand(20000, -1), uniforms)
    assert not broken.any()
    possible = [token for token in range(12) if token not in (3, 7, 11)]
    counts = np.bincount(tokens, minlength=12)
    assert counts[[3, 7, 11]].sum() == 0
    assert chisquare(counts[possible], logits.double().softmax(0)[possible].numpy() * 20000).pvalue > 1e-3


def test_extreme_random_numbers_never_take_an_impossible_token():
    scores = torch.randn(1000, 30, generator=torch.Generator().manual_seed(0))
    scores[:, [0, 28, 29]] = -torch.inf
    for uniform, expected in ((0.0, 1), (1 - 2**-53, 27)):
        tokens, _ = Draw(1.0, 1.0)(scores, torch.full((1000,), uniform, dtype=torch.float64))
        assert set(tokens.tolist()) == {expected}


def test_it_is_the_inverse_of_the_cumulative_distribution_in_parts_too(monkeypatch):
    rng = np.random.default_rng(0)
    logits, uniforms = rng.normal(0, 3, (50, 40)).astype(np.float32), rng.random(50)
    probabilities = np.exp(logits.astype(np.float64) / 0.7)
    cumulative = np.cumsum(probabilities / probabilities.sum(axis=1, keepdims=True), axis=1)
    expected = (cumulative > uniforms[:, None]).argmax(axis=1).tolist()
    for at_once in (2**24, 100, 1):
        monkeypatch.setattr(drawing, "_AT_ONCE", at_once)
        tokens, _ = Draw(0.7, 1.0)(torch.from_numpy(logits), torch.from_numpy(uniforms))
        assert tokens.tolist() == expected


def test_top_p_keeps_to_the_smallest_set():
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(1))
    allowed = set(TopPLogitsWarper(0.5)(None, logits)[0].isfinite().nonzero().flatten().tolist())
    uniforms = torch.linspace(0, 1, 501, dtype=torch.float64)[:-1]
    seen = {top_p: set(Draw(1.0, top_p)(logits.expand(500, -1), uniforms)[0].tolist()) for top_p in (0.5, 1.0)}
    assert len(allowed) > 1 and seen[0.5] <= allowed and not seen[1.0] <= allowed


def test_rows_without_numbers_are_told_and_leave_the_others_alone():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    uniforms = torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for draw in (Draw(1.0, 0.9), Draw(0.0, 1.0)):
        expected, _ = draw(logits, uniforms)
        for wrong in (torch.nan, torch.inf):
            spoilt = logits.clone()
            spoilt[1, 3] = wrong
            tokens, broken = draw(spoilt, uniforms)
            assert broken.tolist() == [False, True, False, False]
            assert tokens[[0, 2, 3]].tolist() == expected[[0, 2, 3]].tolist()


def test_generate_is_left_one_token_per_row():
    """The same ones, and the end where the predictions are no numbers."""
    scores = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    uniforms = torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sampling = SeededSampling(Draw(1.0, 1.0), uniforms, prompt_length=4, end=7, watch=True)
    for step in range(2):
        if step:
            scores[2, 0] = torch.nan
        left = sampling(torch.zeros(3, 4 + step, dtype=torch.long), scores)
        assert (left.isfinite().sum(dim=1) == 1).all()
        expected, _ = Draw(1.0, 1.0)(scores, uniforms[:, step])
        assert left.argmax(dim=1).tolist() == [*expected[:2].tolist(), 7 if step else expected[2]]
    assert sampling.broken() == [-1, -1, 1]
    assert len(sampling.tops) == 2 and sampling.tops[0].shape == (3, 5, 2)


def test_tops_are_the_highest_log_probabilities():
    logits = torch.tensor([[1.0, -20.0, 3.0], [0.0, 0.0, 0.0]])
    values, ids = tops(logits).unbind(-1)
    assert torch.allclose(values, logits.log_softmax(1).sort(descending=True).values.double())
    assert ids[0].tolist() == [2, 0, 1] and ids[1].sort().values.tolist() == [0, 1, 2]
