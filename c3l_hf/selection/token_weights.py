"""Weights of an answer's tokens from what the picture adds to each: keep and weight, instead of drop.

The *gain* of a token a_t is Δ_t = ln p_t(a_t) - ln q_t(a_t), its log-probability with the picture minus that without,
in nats; both are in the columns that `I2CScorer` makes. Every function gives weights of mean 1 over an answer, so that
a learning rate means the same with them as without. They are of the scorer's tokens: `models.token_spans` carries them
over to those of the model that is trained.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from c3l_hf.common.choices import check_choice
from c3l_hf.common.errors import RowError
from c3l_hf.common.words import what_is
from c3l_hf.data.schema import TURNS

__all__ = [
    "GAIN_COLUMNS",
    "TokenWeights",
    "answer_weights",
    "cal_weights",
    "reply_weights",
    "row_weight",
    "turn_gains",
    "vig_weights",
]

TokenWeights = Literal["cal", "vig"]
# What gains are read from; and `TURNS`, where a row has several answers.
GAIN_COLUMNS = ("answer_tokens", "logprob_per_token", "logprob_blind_per_token")

_NO_GAINS = "the answer has no scores of its tokens"


def cal_weights(gains: Sequence[float], low: float = 1.0, high: float = 5.0, window: int = 3) -> np.ndarray:
    """Weights that grow with the gain, within bounds, smoothed:

        w_t ∝ mean of clip(Δ_s, low, high) over the s of a window around t

    after CAL (Xiao et al., "Seeing the Image: Prioritizing Visual Correlation by Contrastive Alignment", arXiv
    2405.17871), which contrasts the label's logits with and without the picture, clips and averages them likewise. Ours
    are log-probabilities, which do not change with a constant in the logits; at the ends the window has the tokens that
    are there; and the mean is 1.

    Args:
        gains: Δ of an answer's tokens, in nats.
        low: Least weight before the mean is made 1; above 0: every token is learned.
        high: Greatest.
        window: Tokens in a window, an odd number; 1 does not smooth.

    Returns:
        Weights, float64, with mean 1.

    Raises:
        ValueError: If there are no gains, one is not finite, or an option is out of range.
    """
    if not 0 < low <= high < math.inf:
        raise ValueError(f"low is {low} and high {high}; they must be above 0, low at most high")
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window is {window}; it must be an odd number")
    clipped = np.clip(_finite(gains), low, high)
    ones = np.ones(window)
    half = window // 2
    around = slice(half, half + len(clipped))
    smoothed = np.convolve(clipped, ones)[around] / np.convolve(np.ones(len(clipped)), ones)[around]
    return smoothed / smoothed.mean()


def vig_weights(gains: Sequence[float], keep: float = 0.5) -> np.ndarray:
    """The same weight for the share with the greatest gains, 0 for the others:

        w_t = N / n  if Δ_t is among the n = ⌈keep · N⌉ greatest, else 0

    after VIG (visual information gain, arXiv 2602.17186), which trains on the tokens, and the samples, whose loss the
    picture lowers most. That the share is taken of each answer, so that every answer is learned from, is this project's
    choice. For samples give it the `pmi` of all rows, which is their mean gain: the result is a column of row weights.

    Args:
        gains: Δ of an answer's tokens, or of rows, in nats. Of equal ones the earlier counts as greater.
        keep: The share, in (0, 1].

    Returns:
        Weights, float64, with mean 1.

    Raises:
        ValueError: If there are no gains, one is not finite, or `keep` is out of range.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep}; it must be in (0, 1]")
    values = _finite(gains)
    # A hair less: 0.07 · 100 is rounded to more than 7.
    kept = math.ceil(keep * len(values) * (1 - 1e-12))
    weights = np.zeros(len(values))
    weights[np.argsort(-values, kind="stable")[:kept]] = len(values) / kept
    return weights


def answer_weights(gains: Sequence[float], method: TokenWeights) -> np.ndarray:
    """The weights of an answer's tokens by `cal_weights` or `vig_weights`, with their defaults."""
    check_choice("token_weights", method, get_args(TokenWeights))
    return _METHODS[method](gains)


def turn_gains(row: Mapping[str, Any], turn: int) -> tuple[list[str], list[float]]:
    """The scorer's tokens of an assistant turn, as texts, and the gain of each.

    Args:
        row: A scored row, with `GAIN_COLUMNS` and, if it has several assistant turns, `TURNS`.
        turn: Which of them.

    Raises:
        RowError: If the turn has no scores of its tokens, or columns do not agree.
    """
    tokens, seen, blind = (row[name] for name in GAIN_COLUMNS)
    if not all(isinstance(values, list | tuple) for values in (tokens, seen, blind)):
        raise RowError(_NO_GAINS)
    if not len(tokens) == len(seen) == len(blind):
        raise RowError(f"the scores of tokens differ in number; {len(tokens)}, {len(seen)} and {len(blind)}")
    counts = [entry["tokens"] or 0 for entry in row.get(TURNS) or [{"tokens": len(tokens)}]]
    if sum(counts) != len(tokens):
        raise RowError(f"{TURNS} and answer_tokens do not agree; {sum(counts)} and {len(tokens)} tokens")
    if turn >= len(counts) or not counts[turn]:
        raise RowError(_NO_GAINS)
    start = sum(counts[:turn])
    part = slice(start, start + counts[turn])
    gains = [with_image - without for with_image, without in zip(seen[part], blind[part])]
    if not all(map(math.isfinite, gains)):
        raise RowError("the scores of the answer's tokens are not finite")
    return list(tokens[part]), gains


def reply_weights(pieces: Sequence[Mapping[str, Any]], method: TokenWeights) -> list[float]:
    """The weights of the pieces of a reply, as `label_tokens.chosen_tokens` has them: those of each answer by the gains
    of its tokens, with mean 1; and 1 for all else.

    Args:
        pieces: `text` and `gain` of each, `gain` None for what is no part of an answer.
        method: As for `answer_weights`.

    Raises:
        RowError: If a gain is not finite.
    """
    weights: list[float] = []
    for of_question, group in itertools.groupby(pieces, lambda piece: piece["gain"] is None):
        gains = [piece["gain"] for piece in group]
        if not of_question and not all(map(math.isfinite, gains)):
            raise RowError("the gains of the answer's tokens are not finite")
        weights += [1.0] * len(gains) if of_question else answer_weights(gains, method).tolist()
    return weights


def row_weight(row: Mapping[str, Any], column: str) -> float:
    """The weight of a row.

    Raises:
        RowError: If it is no number, negative, or not finite.
    """
    value = row.get(column)
    if not (isinstance(value, int | float) and 0 <= value < math.inf):
        found = value if isinstance(value, int | float) else what_is(value)
        raise RowError(f"{column}: it is {found}; give a number that is not negative")
    return float(value)


def _finite(gains: Sequence[float]) -> np.ndarray:
    values = np.asarray(gains, np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"gains must be finite numbers, one at least; they are {values[:5].tolist()}")
    return values


_METHODS: dict[str, Callable[[Sequence[float]], np.ndarray]] = {"cal": cal_weights, "vig": vig_weights}
