"""The mathematics of training as pure functions on tensors: pooling, the answer's likelihood, the contrastive losses.

Everything is computed in float32 at least (float64 stays float64), whatever the precision of the inputs.
"""

import torch
import torch.nn.functional as F

__all__ = ["CONTRASTIVE_LOSSES", "cosine_similarities", "infonce", "masked_mean", "pool", "sequence_nll"]


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


def sequence_nll(logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each row's tokens: the *mean* per token, in nats, so that length does not rank.

    Args:
        logits: `(M, V)`, the logits that predict the M selected tokens of all rows, row after row.
        targets: `(M,)` ids of these tokens, in the same order.
        mask: `(B, T)` bool with M True values: which position of which row each of them is.

    Returns:
        `(B,)`, float32 or float64. A row without tokens gives 0.
    """
    per_token = F.cross_entropy(_at_least_float32(logits), targets, reduction="none")
    per_position = per_token.new_zeros(mask.shape).masked_scatter(mask, per_token)
    return masked_mean(per_position, mask)


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


def _scaled_similarities(
    anchor: torch.Tensor,
    positive: torch.Tensor,
    negatives: torch.Tensor,
    negative_mask: torch.Tensor,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """s(a, c)/τ of every candidate, the positive first, and which candidates there are; both `(B, 1 + N)`."""
    # Padding is zeroed before the cosine, not only masked after it: backwards 0 · NaN would reach the anchor.
    negatives = negatives.masked_fill(~negative_mask[..., None], 0.0)
    candidates = torch.cat([positive[:, None], negatives], dim=1)
    there = torch.cat([negative_mask.new_ones(len(positive), 1), negative_mask], dim=1)
    return cosine_similarities(anchor, candidates) / temperature, there


def infonce(
    anchor: torch.Tensor,
    positive: torch.Tensor,
    negatives: torch.Tensor,
    negative_mask: torch.Tensor,
    temperature: float = 0.1,
) -> torch.Tensor:
    """InfoNCE of each row, with s the cosine, a the anchor, p the positive, n the row's negatives:

        -ln [ e^{s(a,p)/τ} / ( e^{s(a,p)/τ} + Σ_n e^{s(a,n)/τ} ) ]

    as in C3L (arXiv 2405.12752, which leaves τ open) after CLAPS (Lee et al., ICLR 2021).

    Args:
        anchor: `(B, D)`.
        positive: `(B, D)`.
        negatives: `(B, N, D)`; N may be 0.
        negative_mask: `(B, N)` bool, True where there is a negative. What stands in the other places has no influence.
        temperature: τ > 0.

    Returns:
        `(B,)` ≥ 0, float32 or float64, in nats. A row without negatives gives 0, as the formula says; for τ → ∞, or
        for candidates that are all alike, a row with n negatives gives ln(1 + n).
    """
    similarities, there = _scaled_similarities(anchor, positive, negatives, negative_mask, temperature)
    similarities = similarities.masked_fill(~there, -torch.inf)
    # log-sum-exp rather than the quotient of exponentials, which overflows for small τ.
    return similarities.logsumexp(dim=1) - similarities[:, 0]


def sigmoid_loss(
    anchor: torch.Tensor,
    positive: torch.Tensor,
    negatives: torch.Tensor,
    negative_mask: torch.Tensor,
    temperature: float = 0.1,
) -> torch.Tensor:
    """Every candidate judged by itself, with σ the logistic function and n negatives:

        -( ln σ(s(a,p)/τ) + Σ_n ln σ(-s(a,n)/τ) ) / (1 + n)

    the pairwise loss of SigLIP (Zhai et al., ICCV 2023) without its learned bias, as a mean over a row's candidates.

    Args and returns as `infonce`. A row without negatives gives -ln σ(s(a,p)/τ); for τ → ∞ every row gives ln 2.
    """
    similarities, there = _scaled_similarities(anchor, positive, negatives, negative_mask, temperature)
    sign = torch.ones_like(similarities)
    sign[:, 1:] = -1
    return -masked_mean(F.logsigmoid(sign * similarities), there)


CONTRASTIVE_LOSSES = {"infonce": infonce, "sigmoid": sigmoid_loss}
