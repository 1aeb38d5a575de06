"""The losses against references written out in numpy float64, and in the limits that the formulas name."""

import math

import numpy as np
import pytest
import torch

from c3l_hf.training.losses import (
    CONTRASTIVE_LOSSES,
    cosine_similarities,
    infonce,
    masked_mean,
    pool,
    sequence_means,
    token_logprobs,
)

B, N, D = 4, 3, 6
COUNTS = (3, 1, 0, 2)  # negatives per row: full, ragged and none


@pytest.fixture
def rows():
    """Similarities (the positive's first) and which of them there are."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(1 + N) <= torch.tensor(COUNTS)[:, None]
    return torch.randn(B, 1 + N, generator=generator, dtype=torch.float64), mask


def reference_loss(similarities, temperature, kind="infonce"):
    """The formulas of `infonce` and `sigmoid`, row by row, pair by pair."""
    losses = []
    for row, count in zip(similarities, COUNTS):
        positive, negatives = float(row[0]) / temperature, [float(n) / temperature for n in row[1 : 1 + count]]
        if kind == "sigmoid":
            values = [positive, *(-value for value in negatives)]
            losses.append(sum(math.log(1 + math.exp(-value)) for value in values) / len(values))
            continue
        bad = sum(math.exp(value) for value in negatives)
        losses.append(-math.log(math.exp(positive) / (math.exp(positive) + bad)))
    return np.array(losses)


@pytest.mark.parametrize("kind", CONTRASTIVE_LOSSES)
@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_contrastive_losses_equal_their_formulas(rows, temperature, kind):
    similarities, mask = rows
    function = CONTRASTIVE_LOSSES[kind]
    expected = reference_loss(similarities.numpy(), temperature, kind)
    loss = function(similarities, mask, temperature)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-12, atol=1e-12)

    single = function(similarities.float(), mask, temperature)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_contrastive_gradients_equal_finite_differences_of_the_formula(rows):
    similarities, mask = rows
    inputs = similarities.clone().requires_grad_()
    infonce(inputs, mask, 0.5).sum().backward()
    step = 1e-6
    slopes = np.zeros(inputs.shape)
    for index in np.ndindex(*inputs.shape):
        values = []
        for change in (step, -step):
            array = similarities.numpy().copy()
            array[index] += change
            values.append(reference_loss(array, 0.5).sum())
        slopes[index] = (values[0] - values[1]) / (2 * step)
    np.testing.assert_allclose(inputs.grad.numpy(), slopes, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", CONTRASTIVE_LOSSES)
def test_places_without_a_candidate_have_no_influence(rows, kind):
    similarities, mask = rows
    results = []
    for filler in (0.0, 1e6, torch.nan, torch.inf):
        inputs = similarities.masked_fill(~mask, filler).requires_grad_()
        loss = CONTRASTIVE_LOSSES[kind](inputs, mask, 0.1)
        loss.sum().backward()
        results.append((loss.detach(), inputs.grad))
    for other in results[1:]:
        for value, expected in zip(other, results[0]):
            assert torch.equal(value, expected)


def test_limits_of_infonce(rows):
    similarities, mask = rows
    by_count = torch.tensor([math.log(1 + count) for count in COUNTS], dtype=torch.float64)
    torch.testing.assert_close(infonce(similarities, mask, 1e9), by_count, rtol=1e-6, atol=1e-8)
    alike = similarities[:, :1].expand(B, 1 + N)
    torch.testing.assert_close(infonce(alike, mask, 0.1), by_count)
    assert infonce(similarities, mask, 0.1)[2] == 0.0
    assert torch.equal(infonce(similarities[:, :1], mask[:, :1], 0.1), torch.zeros(B, dtype=torch.float64))


def test_limits_of_sigmoid(rows):
    similarities, mask = rows
    sigmoid = CONTRASTIVE_LOSSES["sigmoid"]
    ln2 = torch.full((B,), math.log(2), dtype=torch.float64)
    torch.testing.assert_close(sigmoid(similarities, mask, 1e9), ln2, rtol=1e-6, atol=1e-8)
    # the anchor itself as the positive: -ln σ(1/τ); without negatives nothing else
    alone = sigmoid(torch.ones(B, 1, dtype=torch.float64), mask[:, :1], 0.5)
    torch.testing.assert_close(alone, torch.full((B,), math.log(1 + math.exp(-2)), dtype=torch.float64))
    opposite = sigmoid(torch.tensor([[-1.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool), 0.001)
    torch.testing.assert_close(opposite, torch.full((1,), 1000.0))


def test_infonce_is_stable_where_exponentials_overflow():
    opposite = torch.tensor([[-1.0, 1.0]], requires_grad=True)
    # s(a,p) = -1 and s(a,n) = 1 at τ = 0.001: ln(1 + e^2000) = 2000.
    loss = infonce(opposite, torch.ones(1, 2, dtype=torch.bool), 0.001)
    torch.testing.assert_close(loss, torch.full((1,), 2000.0))
    loss.sum().backward()
    assert opposite.grad.isfinite().all()


def test_cosines():
    generator = torch.Generator().manual_seed(3)
    anchor, candidates = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((B, D), (B, N, D))
    )
    a, c = anchor.numpy(), candidates.numpy()
    expected = [[a[b] @ c[b, n] / math.sqrt((a[b] @ a[b]) * (c[b, n] @ c[b, n])) for n in range(N)] for b in range(B)]
    np.testing.assert_allclose(cosine_similarities(anchor, candidates).numpy(), expected, rtol=1e-12)


def test_low_precision_and_zero_vectors(rows):
    similarities, mask = rows
    assert infonce(similarities.bfloat16(), mask, 0.1).dtype == torch.float32

    dead = torch.zeros(B, D, requires_grad=True)  # what a ReLU head may give
    candidates = torch.randn(B, 1 + N, D, generator=torch.Generator().manual_seed(3))
    cosines = cosine_similarities(dead, candidates)
    assert torch.equal(cosines, torch.zeros(B, 1 + N))
    infonce(cosines, mask, 0.1).sum().backward()
    assert dead.grad.isfinite().all()


def test_masked_mean():
    values = torch.arange(24, dtype=torch.float64).reshape(2, 4, 3)
    mask = torch.tensor([[True, False, True, False], [False] * 4])
    expected = np.stack([values.numpy()[0, [0, 2]].mean(axis=0), np.zeros(3)])
    np.testing.assert_allclose(masked_mean(values, mask).numpy(), expected)
    np.testing.assert_allclose(masked_mean(values[..., 0], mask).numpy(), expected[:, 0])
    assert masked_mean(values.bfloat16(), mask).dtype == torch.float32


def test_pool():
    hidden = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    line = torch.tensor([0, 0, 1, 1])
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    array = hidden.numpy()
    mean = [array[0, [0, 1]].mean(0), array[0, [0, 3]].mean(0), array[1, 4], np.zeros(3)]
    last = [array[0, 1], array[0, 3], array[1, 4], np.zeros(3)]
    for pooling, expected in (("mean", mean), ("last", last)):
        found = pool(hidden, line, mask, pooling)
        np.testing.assert_allclose(found.numpy(), np.stack(expected), rtol=1e-12)
        assert pool(hidden.bfloat16(), line, mask, pooling).dtype == torch.float32
        inputs = hidden.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda hidden, how=pooling: pool(hidden, line, mask, how), (inputs,))


def test_likelihoods_are_the_mean_per_token_of_each_sequence():
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[False, True, True, True], [False, False, True, False], [False] * 4])
    logits = 5 * torch.randn(3, 7, generator=generator, dtype=torch.float64)
    rows, targets = torch.tensor([1, 0, 2, 1]), torch.tensor([3, 0, 6, 2])  # the first and last share a place

    array = logits.numpy()[rows]
    per_token = array[np.arange(4), targets.numpy()] - np.log(np.exp(array).sum(axis=1))
    expected = [per_token[:3].mean(), per_token[3], 0.0]
    found = sequence_means(token_logprobs(logits, rows, targets), mask)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert token_logprobs(logits.bfloat16(), rows, targets).dtype == torch.float32

    logits = logits.requires_grad_()
    compute = lambda logits: sequence_means(token_logprobs(logits, rows, targets), mask)  # noqa: E731
    assert torch.autograd.gradcheck(compute, (logits,))
