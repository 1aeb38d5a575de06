"""The losses against references written out in numpy float64, and in the limits that the formulas name."""

import math

import numpy as np
import pytest
import torch

from c3l_hf.training.losses import CONTRASTIVE_LOSSES, cosine_similarities, infonce, masked_mean, pool, sequence_nll

B, N, D = 4, 3, 6
COUNTS = (3, 1, 0, 2)  # negatives per row: full, ragged and none


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    mask = torch.arange(N) < torch.tensor(COUNTS)[:, None]
    return draw(B, D), draw(B, D), draw(B, N, D), mask


def reference_loss(anchor, positive, negatives, counts, temperature, kind="infonce"):
    """The formulas of `infonce` and `sigmoid`, row by row, pair by pair."""

    def similarity(a, b):
        return float(a @ b) / (math.sqrt(float(a @ a)) * math.sqrt(float(b @ b)))

    losses = []
    for a, p, row, count in zip(anchor, positive, negatives, counts):
        if kind == "sigmoid":
            values = [similarity(a, p) / temperature, *(-similarity(a, n) / temperature for n in row[:count])]
            losses.append(sum(math.log(1 + math.exp(-value)) for value in values) / len(values))
            continue
        good = math.exp(similarity(a, p) / temperature)
        bad = sum(math.exp(similarity(a, n) / temperature) for n in row[:count])
        losses.append(-math.log(good / (good + bad)))
    return np.array(losses)


@pytest.mark.parametrize("kind", CONTRASTIVE_LOSSES)
@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_contrastive_losses_equal_their_formulas(rows, temperature, kind):
    anchor, positive, negatives, mask = rows
    function = CONTRASTIVE_LOSSES[kind]
    expected = reference_loss(anchor.numpy(), positive.numpy(), negatives.numpy(), COUNTS, temperature, kind)
    loss = function(anchor, positive, negatives, mask, temperature)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-12, atol=1e-12)

    single = function(anchor.float(), positive.float(), negatives.float(), mask, temperature)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_contrastive_gradients_equal_finite_differences_of_the_formula(rows):
    anchor, positive, negatives, mask = rows
    inputs = [tensor.clone().requires_grad_() for tensor in (anchor, positive, negatives)]
    infonce(*inputs, mask, 0.5).sum().backward()

    step = 1e-6
    for which, tensor in enumerate(inputs):
        arrays = [tensor.detach().numpy().copy() for tensor in inputs]
        slopes = np.zeros(tensor.shape)
        for index in np.ndindex(*tensor.shape):
            value = arrays[which][index]
            arrays[which][index] = value + step
            above = reference_loss(*arrays, COUNTS, 0.5).sum()
            arrays[which][index] = value - step
            below = reference_loss(*arrays, COUNTS, 0.5).sum()
            arrays[which][index] = value
            slopes[index] = (above - below) / (2 * step)
        np.testing.assert_allclose(tensor.grad.numpy(), slopes, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", CONTRASTIVE_LOSSES)
def test_masked_negatives_have_no_influence(rows, kind):
    anchor, positive, negatives, mask = rows
    results = []
    for filler in (0.0, 1e6, torch.nan, torch.inf):
        inputs = [t.clone() for t in (anchor, positive, negatives)]
        inputs[2][~mask] = filler
        for tensor in inputs:
            tensor.requires_grad_()
        loss = CONTRASTIVE_LOSSES[kind](*inputs, mask, 0.1)
        loss.sum().backward()
        results.append((loss.detach(), *(tensor.grad for tensor in inputs)))
    for other in results[1:]:
        for value, expected in zip(other, results[0]):
            assert torch.equal(value, expected)


def test_limits_of_infonce(rows):
    anchor, positive, negatives, mask = rows
    by_count = torch.tensor([math.log(1 + count) for count in COUNTS], dtype=torch.float64)

    torch.testing.assert_close(infonce(anchor, positive, negatives, mask, 1e9), by_count, rtol=1e-6, atol=1e-8)
    alike = positive[:, None].expand(B, N, D)
    torch.testing.assert_close(infonce(anchor, positive, alike, mask, 0.1), by_count)
    assert infonce(anchor, positive, negatives, mask, 0.1)[2] == 0.0
    assert torch.equal(
        infonce(anchor, positive, negatives[:, :0], mask[:, :0], 0.1), torch.zeros(B, dtype=torch.float64)
    )


def test_limits_of_sigmoid(rows):
    anchor, positive, negatives, mask = rows
    sigmoid = CONTRASTIVE_LOSSES["sigmoid"]
    ln2 = torch.full((B,), math.log(2), dtype=torch.float64)
    torch.testing.assert_close(sigmoid(anchor, positive, negatives, mask, 1e9), ln2, rtol=1e-6, atol=1e-8)
    # the anchor itself as the positive: -ln σ(1/τ); without negatives nothing else
    alone = sigmoid(anchor, anchor, negatives[:, :0], mask[:, :0], 0.5)
    torch.testing.assert_close(alone, torch.full((B,), math.log(1 + math.exp(-2)), dtype=torch.float64))
    opposite = sigmoid(anchor.float(), -anchor.float(), anchor.float()[:, None], mask[:, :1] | True, 0.001)
    torch.testing.assert_close(opposite, torch.full((B,), 1000.0))


def test_infonce_is_stable_where_exponentials_overflow(rows):
    anchor, _, _, _ = rows
    anchor = anchor.float().requires_grad_()
    opposite = -anchor.detach()
    mask = torch.ones(B, 1, dtype=torch.bool)
    # s(a,p) = -1 and s(a,n) = 1 at τ = 0.001: ln(1 + e^2000) = 2000.
    loss = infonce(anchor, opposite, anchor.detach()[:, None], mask, 0.001)
    torch.testing.assert_close(loss, torch.full((B,), 2000.0))
    loss.sum().backward()
    assert anchor.grad.isfinite().all()


def test_low_precision_and_zero_vectors(rows):
    anchor, positive, negatives, mask = rows
    assert infonce(anchor.bfloat16(), positive.bfloat16(), negatives.bfloat16(), mask).dtype == torch.float32

    dead = torch.zeros(B, D, requires_grad=True)  # what a ReLU head may give
    assert torch.equal(cosine_similarities(dead, negatives.float()), torch.zeros(B, N))
    infonce(dead, positive.float(), negatives.float(), mask).sum().backward()
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


def test_sequence_nll_is_the_mean_per_token_of_each_row():
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[False, True, True, True], [False, False, True, False], [False] * 4])
    logits = 5 * torch.randn(4, 7, generator=generator, dtype=torch.float64)
    targets = torch.tensor([3, 0, 6, 2])

    array = logits.numpy()
    per_token = np.log(np.exp(array).sum(axis=1)) - array[np.arange(4), targets.numpy()]
    expected = [per_token[:3].mean(), per_token[3], 0.0]
    np.testing.assert_allclose(sequence_nll(logits, targets, mask).numpy(), expected, rtol=1e-12)

    logits = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: sequence_nll(logits, targets, mask), (logits,))
