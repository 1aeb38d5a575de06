"""Scores of an answer from its log-probabilities, and how far two scores agree on the order of rows."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["PMI_K", "SCORE_DESCRIPTIONS", "rank_agreement", "scores_from_logprobs"]

# Between pmi (k = 1), which finds errors that come from the language prior, and the log-probability (k → ∞), which
# finds false answers; on pools of `recipes/experiments/evidence` that are not reported, 2 to 6 did about the same for
# both.
PMI_K = 4

# Name → (formula, meaning), as the cards say it. With p_t, q_t the predictions of token t with and without the image,
# a_t, t = 1 … N, the answer's tokens; teacher-forced, in nats.
SCORE_DESCRIPTIONS = {
    # C3L as implemented here: the paper's normalisation is not known.
    "answer_kl": (
        "sum_t P_t ln(P_t / Q_t), P_t = p_t(a_t) / sum_s p_s(a_s), Q_t alike",
        "divergence between the answer's scores, normalised over the answer",
    ),
    "token_kl": ("(1/N) sum_t sum_v p_t(v) ln(p_t(v) / q_t(v))", "divergence over the whole vocabulary, per token"),
    "pmi": ("(1/N) sum_t [ln p_t(a_t) - ln q_t(a_t)]", "how much likelier the image makes this answer, per token"),
    "ppl_ratio": ("exp(pmi)", "perplexity without the image by that with it"),
    # PMI^k (Daille, 1994), which asks an answer to be likely with the image as well: pmi + (k - 1) logprob.
    "pmi_k": (
        f"(1/N) sum_t [{PMI_K} ln p_t(a_t) - ln q_t(a_t)]",
        "pmi, with the answer's likelihood given the image counted more",
    ),
    "logprob": ("(1/N) sum_t ln p_t(a_t)", "with the image, per token"),
    "logprob_blind": ("(1/N) sum_t ln q_t(a_t)", "without it, per token"),
}


def scores_from_logprobs(with_image: Sequence[float], blind: Sequence[float], kl: Sequence[float]) -> dict[str, float]:
    """All scores of one answer from what its N tokens got in the two passes.

    `SCORE_DESCRIPTIONS` has their formulas.

    Args:
        with_image: ln p_t(a_t), (N,), nats.
        blind: ln q_t(a_t), (N,), nats.
        kl: The divergence over the vocabulary at each token, (N,), nats.

    Returns:
        The scores, computed in float64, with the names of `data.schema.SCORES`.

    Raises:
        ValueError: If the three differ in length or have no token.
    """
    p, q, divergence = (np.asarray(values, dtype=np.float64) for values in (with_image, blind, kl))
    if not p.shape == q.shape == divergence.shape or p.ndim != 1 or not p.size:
        raise ValueError(
            "needs three lists of one length with at least one token, "
            f"got shapes {p.shape}, {q.shape}, {divergence.shape}"
        )
    log_p, log_q = p - np.logaddexp.reduce(p), q - np.logaddexp.reduce(q)
    pmi = np.mean(p - q)
    scores = {
        "answer_kl": np.sum(np.exp(log_p) * (log_p - log_q)),
        "token_kl": np.mean(divergence),
        "pmi": pmi,
        "ppl_ratio": np.exp(pmi),
        "pmi_k": np.mean(PMI_K * p - q),
        "logprob": np.mean(p),
        "logprob_blind": np.mean(q),
    }
    return {name: float(value) for name, value in scores.items()}


def rank_agreement(scores: Mapping[str, Sequence[float | None]]) -> list[dict[str, Any]]:
    """How far score variants or blind baselines agree on the order of the same rows, for every two of them.

    Example:

    ```python
    rank_agreement({"pmi": scored["pmi"], "token_kl": scored["token_kl"], "pmi, blank": scored_with_blank["pmi"]})
    ```

    Args:
        scores: Name → score of each row, None where it has none. All of one length, for the same rows.

    Returns:
        For every two names: `a`, `b`, `n` (rows that have both scores), `spearman` and `kendall` (tau-b). Both are not
        a number where fewer than two rows have both scores, or one of them is constant.

    Raises:
        ValueError: If the scores differ in length.
    """
    lengths = {name: len(values) for name, values in scores.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the scores are not for the same rows: {lengths}")
    columns = {name: np.array([np.nan if value is None else value for value in v]) for name, v in scores.items()}
    result = []
    for a, b in itertools.combinations(columns, 2):
        both = ~(np.isnan(columns[a]) | np.isnan(columns[b]))
        x, y = columns[a][both], columns[b][both]
        ranks = len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0
        spearman, kendall = (
            (stats.spearmanr(x, y).statistic, stats.kendalltau(x, y).statistic) if ranks else (np.nan, np.nan)
        )
        result.append({"a": a, "b": b, "n": int(both.sum()), "spearman": float(spearman), "kendall": float(kendall)})
    return result
