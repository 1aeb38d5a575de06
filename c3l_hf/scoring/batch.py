"""A batch of rows: encoded, which needs no model, and turned into score columns once the model has seen it."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import ProcessorMixin

from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import Pair, to_pairs
from c3l_hf.data.schema import SCORE_COLUMNS, STATUS, STATUS_OK, TURNS
from c3l_hf.models.encoding import EncodedRow, token_texts
from c3l_hf.scoring.blind import PairEncoder
from c3l_hf.scoring.formulas import scores_from_logprobs
from c3l_hf.scoring.likelihood import AnswerLogprobs

__all__ = ["EncodedBatch", "Turn", "batch_scores", "encode_batch"]


@dataclass(frozen=True)
class Turn:
    """An assistant turn, ready for the model.

    Attributes:
        row: The number of its row in the batch.
        seen: With the images.
        blind: For the pass without them.
        tokens: The text of each of the answer's tokens.
    """

    row: int
    seen: EncodedRow
    blind: EncodedRow
    tokens: list[str]


@dataclass(frozen=True)
class EncodedBatch:
    """Rows, ready for the model.

    Attributes:
        reasons: For each row why it cannot be scored; None if it can.
        turns: The assistant turns of the rows that can be scored, in the order of the rows.
    """

    reasons: list[str | None]
    turns: list[Turn]


def encode_batch(encoder: PairEncoder, processor: ProcessorMixin, rows: Sequence[Mapping[str, Any]]) -> EncodedBatch:
    """Encodes rows of any layout of `data.layouts.to_pairs`.

    The rows of an image are encoded one after the other, and then its decoded picture is let go: a photograph takes
    tens of megabytes, what the model takes of it often one.
    """
    reasons: list[str | None] = [None] * len(rows)
    turns: dict[int, list[Turn]] = {}
    for numbers in _by_images(encoder, rows, reasons):
        for number, pairs in numbers.items():
            try:
                encoded = [encoder.encode(pair) for pair in pairs]
            except RowError as error:
                reasons[number] = str(error)
                continue
            turns[number] = [
                Turn(number, seen, blind, token_texts(processor, seen.answer_ids)) for seen, blind in encoded
            ]
        encoder.forget_images()
    return EncodedBatch(reasons, [turn for number in sorted(turns) for turn in turns[number]])


def _by_images(
    encoder: PairEncoder, rows: Sequence[Mapping[str, Any]], reasons: list[str | None]
) -> Iterator[dict[int, list[Pair]]]:
    """The pairs of each row, rows with the same images together; the reasons of rows that have none are filled in."""
    groups: dict[Hashable, dict[int, list[Pair]]] = {}
    for number, row in enumerate(rows):
        try:
            pairs = to_pairs(row)
            groups.setdefault(encoder.image_keys(pairs[-1]), {})[number] = pairs  # the last turn has all images
        except RowError as error:
            reasons[number] = str(error)
    yield from groups.values()


def batch_scores(batch: EncodedBatch, logprobs: Sequence[AnswerLogprobs], ranking: str) -> list[dict[str, Any]]:
    """The columns of `SCORE_COLUMNS` for each row of a batch.

    Args:
        batch: The batch.
        logprobs: What the model says about each turn.
        ranking: Which score goes into the column `i2c`.
    """
    of_row: dict[int, list[tuple[Turn, AnswerLogprobs]]] = {}
    for turn, answer in zip(batch.turns, logprobs, strict=True):
        of_row.setdefault(turn.row, []).append((turn, answer))
    return [
        _row_scores(of_row[number], ranking) if reason is None else _without_score(reason)
        for number, reason in enumerate(batch.reasons)
    ]


def _row_scores(turns: Sequence[tuple[Turn, AnswerLogprobs]], ranking: str) -> dict[str, Any]:
    lists = [(answer.with_image.tolist(), answer.blind.tolist(), answer.kl.tolist()) for _, answer in turns]
    together = [[value for parts in lists for value in parts[number]] for number in range(3)]
    if not np.isfinite(together).all():
        return _without_score("the model's log-probabilities are not finite")
    each = [scores_from_logprobs(*parts) for parts in lists]
    row = scores_from_logprobs(*together)
    return {
        "i2c": row[ranking],
        **row,
        "answer_tokens": [text for turn, _ in turns for text in turn.tokens],
        "token_kl_per_token": together[2],
        "logprob_per_token": together[0],
        "logprob_blind_per_token": together[1],
        TURNS: [{"i2c": scores[ranking], **scores, "tokens": len(parts[0])} for scores, parts in zip(each, lists)],
        STATUS: STATUS_OK,
    }


def _without_score(reason: str) -> dict[str, Any]:
    return {**dict.fromkeys(SCORE_COLUMNS), STATUS: reason}
