"""A batch of rows: encoded, which needs no model, and turned into score columns once the model has seen it."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import ProcessorMixin

from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.schema import SCORE_COLUMNS, SCORES, STATUS, STATUS_OK, TURNS
from c3l_hf.data.turns import Pair, to_turns, turn_reason
from c3l_hf.models.encoding import EncodedRow, token_texts
from c3l_hf.scoring.blind import PairEncoder
from c3l_hf.scoring.formulas import scores_from_logprobs
from c3l_hf.scoring.likelihood import AnswerLogprobs

__all__ = [
    "EncodedBatch",
    "Turn",
    "batch_scores",
    "encode_batch",
    "pairs_by_images",
    "read_rows",
    "reason_of_row",
    "reasons_of",
]


@dataclass(frozen=True)
class Turn:
    """An assistant turn, ready for the model.

    Attributes:
        row: The number of its row in the batch.
        number: Which of the row's turns it is.
        seen: With the images.
        blind: For the pass without them.
        tokens: The text of each of the answer's tokens.
    """

    row: int
    number: int
    seen: EncodedRow
    blind: EncodedRow
    tokens: list[str]


@dataclass(frozen=True)
class EncodedBatch:
    """Rows, ready for the model.

    Attributes:
        reasons: For each row and each of its turns why it cannot be scored; None if it can. A row that cannot be read
            has one reason.
        turns: The assistant turns that can be scored, in the order of the rows.
    """

    reasons: list[list[str | None]]
    turns: list[Turn]


def read_rows(rows: Iterable[Mapping[str, Any]]) -> list[list[Pair | RowError]]:
    """The turns of rows of any layout of `data.layouts`, for `encode_batch`: of each the pair, which has images, or why
    it cannot be scored. A row that cannot be read has one reason."""
    return list(map(_read, rows))


def _read(row: Mapping[str, Any]) -> list[Pair | RowError]:
    try:
        turns = to_turns(row)
    except RowError as error:
        return [error]
    has_image = any(isinstance(turn, Pair) and turn.images for turn in turns)
    return [
        RowError("there is no image before the answer" if has_image else _no_image(row))
        if isinstance(turn, Pair) and not turn.images
        else turn
        for turn in turns
    ]


def encode_batch(
    encoder: PairEncoder, processor: ProcessorMixin, rows: Sequence[Sequence[Pair | RowError]]
) -> EncodedBatch:
    """Encodes rows as `read_rows` gives them.

    The rows of an image are encoded one after the other, and then its decoded picture is let go: a photograph takes
    tens of megabytes, what the model takes of it often one.
    """
    reasons = reasons_of(rows)
    turns: dict[tuple[int, int], Turn] = {}
    for group in pairs_by_images(encoder, rows, reasons):
        for (row, number), pair in group.items():
            try:
                seen, blind = encoder.encode(pair)
            except RowError as error:
                reasons[row][number] = str(error)
                continue
            turns[row, number] = Turn(row, number, seen, blind, token_texts(processor, seen.answer_ids))
        encoder.forget_images()
    return EncodedBatch(reasons, [turns[place] for place in sorted(turns)])


def reasons_of(rows: Iterable[Sequence[Pair | RowError]]) -> list[list[str | None]]:
    """Why each turn of rows from `read_rows` is no pair; None if it is one."""
    return [[str(turn) if isinstance(turn, RowError) else None for turn in row] for row in rows]


def pairs_by_images(
    encoder: PairEncoder, rows: Sequence[Sequence[Pair | RowError]], reasons: list[list[str | None]]
) -> Iterator[dict[tuple[int, int], Pair]]:
    """The pairs by row and turn, rows with the same images together.

    Args:
        encoder: It says which images are the same.
        rows: From `read_rows`.
        reasons: From `reasons_of`; those of images that may not be read are filled in.
    """
    groups: dict[Hashable, dict[tuple[int, int], Pair]] = {}
    for number, row in enumerate(rows):
        pairs = {(number, place): turn for place, turn in enumerate(row) if isinstance(turn, Pair)}
        if not pairs:
            continue
        last = pairs[max(pairs)]  # it has the images of all
        try:
            groups.setdefault(encoder.image_keys(last), {}).update(pairs)
        except RowError as error:
            for _, place in pairs:
                reasons[number][place] = str(error)
    yield from groups.values()


def _no_image(row: Mapping[str, Any]) -> str:
    columns = layout_of(row.keys()).images
    return "the row has no image" + (f" (column {' or '.join(columns)})" if columns else "")


def batch_scores(batch: EncodedBatch, logprobs: Sequence[AnswerLogprobs], ranking: str) -> list[dict[str, Any]]:
    """The columns of `SCORE_COLUMNS` for each row of a batch.

    Args:
        batch: The batch.
        logprobs: What the model says about each turn.
        ranking: Which score goes into the column `i2c`.
    """
    scored: list[dict[int, tuple[Turn, AnswerLogprobs]]] = [{} for _ in batch.reasons]
    for turn, answer in zip(batch.turns, logprobs, strict=True):
        scored[turn.row][turn.number] = turn, answer
    return [_row_scores(turns, reasons, ranking) for turns, reasons in zip(scored, batch.reasons)]


def _row_scores(
    turns: Mapping[int, tuple[Turn, AnswerLogprobs]], reasons: Sequence[str | None], ranking: str
) -> dict[str, Any]:
    """The columns of one row: its turns' scores, and those over all tokens of the turns that have some."""
    lists = {
        number: (answer.with_image.tolist(), answer.blind.tolist(), answer.kl.tolist())
        for number, (_, answer) in turns.items()
    }
    unfit = [number for number, parts in lists.items() if not np.isfinite(parts).all()]
    reasons = [
        turns[number][1].problem or "the model's log-probabilities are not finite" if number in unfit else reason
        for number, reason in enumerate(reasons)
    ]
    good = [number for number in lists if number not in unfit]
    if not good:
        return {**dict.fromkeys(SCORE_COLUMNS), STATUS: reason_of_row(reasons)}
    each = [
        _turn_scores(lists[number], ranking) if reason is None else _turn_without_score(reason)
        for number, reason in enumerate(reasons)
    ]
    with_image, blind, kl = ([value for number in good for value in lists[number][part]] for part in range(3))
    scores = scores_from_logprobs(with_image, blind, kl)
    return {
        "i2c": scores[ranking],
        **scores,
        "answer_tokens": [text for number in good for text in turns[number][0].tokens],
        "token_kl_per_token": kl,
        "logprob_per_token": with_image,
        "logprob_blind_per_token": blind,
        TURNS: each,
        STATUS: STATUS_OK,
    }


def _turn_scores(lists: tuple[list[float], list[float], list[float]], ranking: str) -> dict[str, Any]:
    scores = scores_from_logprobs(*lists)
    return {"i2c": scores[ranking], **scores, "tokens": len(lists[0]), "status": STATUS_OK}


def _turn_without_score(reason: str) -> dict[str, Any]:
    return {**dict.fromkeys(("i2c", *SCORES)), "tokens": 0, "status": reason}


def reason_of_row(reasons: Sequence[str | None]) -> str:
    """Why a row has no score at all: what all its turns lack, or each reason with the first turn that has it."""
    if len(set(reasons)) == 1:
        return str(reasons[0])
    first = {reason: reasons.index(reason) for reason in reasons}
    return str(RowError("; ".join(turn_reason(reason, turn, len(reasons)) for reason, turn in first.items())))
