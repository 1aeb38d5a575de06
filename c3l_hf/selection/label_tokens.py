"""The tokens of a pseudo-label's chosen reply: its answers as the scorer read them, each with its gain."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from c3l_hf.common.errors import RowError
from c3l_hf.data.schema import CHOSEN_TOKENS, CHOSEN_TOKENS_FEATURES
from c3l_hf.prompts.reply_forms import ReplyForm, Turn
from c3l_hf.selection.token_weights import turn_gains

__all__ = ["CHOSEN_TOKENS_FIELD", "chosen_tokens"]

CHOSEN_TOKENS_FIELD = CHOSEN_TOKENS_FEATURES.arrow_schema.field(CHOSEN_TOKENS)


def chosen_tokens(
    scores: pa.Table, conversations: Sequence[Sequence[Turn]], forms: Sequence[str | None]
) -> tuple[pa.Array, int]:
    """The chosen replies in pieces: the column `CHOSEN_TOKENS`, from which `C3LTrainer` weighs tokens.

    Args:
        scores: For each reply the columns of `token_weights.GAIN_COLUMNS`, and perhaps `turns`.
        conversations: Questions and answers of each.
        forms: How each is written, see `ReplyForm.to_json`.

    Returns:
        Of each reply its pieces, which spell it but for white space: `gain` is null for what is no part of an answer.
        Null for a reply of which an answer has no scores of its tokens; and how many these are.
    """
    replies: list[list[dict[str, Any]] | None] = []
    for row, conversation, form in zip(scores.to_pylist(), conversations, forms, strict=True):
        try:
            replies.append(list(_pieces(row, conversation, ReplyForm() if form is None else ReplyForm.from_json(form))))
        except RowError:
            replies.append(None)
    return pa.array(replies, CHOSEN_TOKENS_FIELD.type), replies.count(None)


def _pieces(row: Mapping[str, Any], conversation: Sequence[Turn], form: ReplyForm) -> Iterator[dict[str, Any]]:
    between = form.around_answers(conversation)
    for turn in range(len(conversation)):
        # The space before an answer is not the question's: where a token has both, it has the answer's weight.
        yield {"text": between[turn].rstrip(), "gain": None}
        texts, gains = turn_gains(row, turn)
        yield from ({"text": form.in_reply(text), "gain": gain} for text, gain in zip(texts, gains))
    yield {"text": between[-1], "gain": None}
