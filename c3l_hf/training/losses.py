"""The mathematics of training as pure functions on tensors: pooling, likelihoods, the contrastive losses.

Everything is computed in float32 at least (float64 stays float64), whatever the precision of the inputs.
"""

import torch
import torch.nn.functional as F

__all__ = [
    "CONTRASTIVE_LOSSES",
    "cosine_similarities",
    "infonce",
    "masked_mean",
    "pool",
    "sequence_means",
    "token_logprobs",
]


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the positions of each row that a mask selects.

    Args:
        values: `(B, T)` or `(B, T, D)`.
        mask: `(B, T)` bool; True selects.

    Returns:
        `(B,)` or `(B, D)`, float32 or float64. A row whose mask is empty gives 0.
    """
    values = _at_least_float32(values)
    weights = mask.to(values.dtype)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
    if values.dim() == 2:
        return (values * weights).sum(dim=1)
    return torch.einsum("bt,btd->bd", weights, values)


def pool(hidden: torch.Tensor, line: torch.Tensor, mask: torch.Tensor, pooling: str = "mean") -> torch.Tensor:
    """One vector per sequence from the hidden states of the tokens that a mask selects.

    Several sequences may be in one line of a batch (packed), where their tokens are gathered: no copy of a line is made
    for each sequence in it.

    Args:
        hidden: `(L, T, D)`.
        line: `(R,)`, the line of each sequence.
        mask: `(R, T)` bool, where in its line a sequence has the tokens that count.
        pooling: "mean" over these tokens, or the "last" of them.

    Returns:
        `(R, D)`, float32 or float64. A sequence whose mask is empty gives 0.
    """
    if pooling == "last":
        last = mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)
        return _at_least_float32(hidden[line, last]) * mask.any(dim=1, keepdim=True)
    sequence, place = mask.nonzero(as_tuple=True)
    tokens = _at_least_float32(hidden[line[sequence], place])
    total = tokens.new_zeros(len(line), tokens.shape[-1]).index_add(0, sequence, tokens)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)


def token_logprobs(logits: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """ln p of tokens, in nats.

    Args:
        logits: `(M, V)`.
        rows: `(K,)`, which row of the logits predicts each token; several tokens may share one.
        targets: `(K,)` ids of the tokens.

    Returns:
        `(K,)`, float32 or float64.
    """
    logits = _at_least_float32(logits)
    return logits[rows, targets] - logits.logsumexp(dim=-1)[rows]


def sequence_means(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The *mean* of each sequence's tokens, so that length does not rank.

    Args:
        values: `(K,)`, of the tokens of all sequences, one after the other.
        mask: `(R, T)` bool with K True values: which position of which sequence each of them is.

    Returns:
        `(R,)`, float32 or float64. A sequence without tokens gives 0.
    """
    values = _at_least_float32(values)
    return masked_mean(values.new_zeros(mask.shape).masked_scatter(mask, values), mask)


def cosine_similarities(anchor: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Cosine between each row's anchor and each of its candidates.

    Args:
        anchor: `(B, D)`.
        candidates: `(B, C, D)`.

    Returns:
        `(B, C)` in [-1, 1], float32 or float64. A zero vector has similarity 0 to everything.
    """
    anchor = F.normalize(_at_least_float32(anchor), dim=-1)
    candidates = F.normalize(_at_least_float32(candidates), dim=-1)
    return torch.einsum("bd,bcd->bc", anchor, candidates)


def infonce(similarities: torch.Tensor, mask: torch.Tensor, temperature: float) -> torch.Tensor:
    """InfoNCE of each row, with s the similarity to its anchor, p the positive, n the row's negatives:

        -ln [ e^{s(a,p)/τ} / ( e^{s(a,p)/τ} + Σ_n e^{s(a,n)/τ} ) ]

    as in C3L (arXiv 2405.12752, which leaves τ and the similarity open) after CLAPS (Lee et al., ICLR 2021).

    Args:
        similarities: `(B, 1 + N)`, the positive first; N may be 0.
        mask: `(B, 1 + N)` bool, True where there is a candidate. What stands in the other places has no influence.
        temperature: τ > 0.

    Returns:
        `(B,)` ≥ 0, float32 or float64, in nats. A row without negatives gives 0, as the formula says; for τ → ∞, or
        for candidates that are all alike, a row with n negatives gives ln(1 + n).
    """
    scaled = (_at_least_float32(similarities) / temperature).masked_fill(~mask, -torch.inf)
    # log-sum-exp rather than the quotient of exponentials, which overflows for small τ.
    return scaled.logsumexp(dim=1) - scaled[:, 0]


def sigmoid_loss(similarities: torch.Tensor, mask: torch.Tensor, temperature: float) -> torch.Tensor:
    """Every candidate judged by itself, with σ the logistic function and n negatives:

        -( ln σ(s(a,p)/τ) + Σ_n ln σ(-s(a,n)/τ) ) / (1 + n)

    the pairwise loss of SigLIP (Zhai et al., ICCV 2023) without its learned bias, as a mean over a row's candidates.

    Args and returns as `infonce`. A row without negatives gives -ln σ(s(a,p)/τ); for τ → ∞ every row gives ln 2.
    """
    scaled = (_at_least_float32(similarities) / temperature).masked_fill(~mask, 0.0)
    sign = torch.ones_like(scaled)
    sign[:, 1:] = -1
    return -masked_mean(F.logsigmoid(sign * scaled), mask)


CONTRASTIVE_LOSSES = {"infonce": infonce, "sigmoid": sigmoid_loss}
