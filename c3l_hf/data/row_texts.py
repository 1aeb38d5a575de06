"""Question and answer of a row in any layout, as selection compares them, and many of them as Arrow arrays."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import IMAGE_COLUMNS, Layout
from c3l_hf.data.messages import messages_of
from c3l_hf.data.places import image_count
from c3l_hf.data.schema import PAIR_FEATURES
from c3l_hf.data.turns import Pair, to_turns

__all__ = ["SEVERAL_ANSWERS", "RowTexts", "question_and_answer"]

SEVERAL_ANSWERS = "a conversation of several answers, not a pair"
# Alone, as a pseudo-label has it, the question would mean something else.
EARLIER_TURNS = "the question follows earlier turns"

_MESSAGES = PAIR_FEATURES.arrow_schema.field("prompt").type
# Rows whose texts are Python strings at a time.
_BLOCK = 1 << 16


def question_and_answer(row: Mapping[str, Any], layout: Layout, one_answer: bool = False) -> tuple[str, str] | None:
    """The texts that stand for a row.

    The question is all messages of the user, a line each, and the answer all answers: of a conversation near-duplicates
    and lengths then mean the whole of it. Answers that cannot be read are passed over if there are others.

    Args:
        row: With the columns of the layout. If it has none of images, it is read as if all its images were there; those
            that it has may be anything that is not null.
        layout: Of the dataset.
        one_answer: Whether rows of several answers cannot be used, nor questions that follow earlier turns, have no
            text, or an image between their texts.

    Returns:
        Question and answer; None if the row has no pair: a text column is null.

    Raises:
        RowError: If it has one that cannot be used.
    """
    if any(row[name] is None for name in layout.text):
        return None
    if not any(name in row for name in IMAGE_COLUMNS):
        row = {**row, "images": [True] * image_count(messages_of(row, layout, None)[0])}
    turns = to_turns(row)
    pairs = [turn for turn in turns if isinstance(turn, Pair)]
    if one_answer and len(turns) > 1:
        raise RowError(SEVERAL_ANSWERS)
    if not pairs:
        raise next(turn for turn in turns if isinstance(turn, RowError))
    questions = [message["content"] for message in pairs[-1].prompt if message["role"] == "user"]
    if one_answer and (len(questions) > 1 or any(message["role"] == "assistant" for message in pairs[-1].prompt)):
        raise RowError(EARLIER_TURNS)
    runs = list(map(_runs, questions))
    if one_answer and any(len(texts) > 1 for texts in runs):
        # Without it, as in a pseudo-label, the question would have a gap.
        raise RowError("the question has an image between its texts")
    question = "\n".join(text for texts in runs for text in texts)
    if one_answer and not question.strip():
        raise RowError("the question has no text")
    return question, "\n".join(pair.answer for pair in pairs)


def _runs(content: Any) -> list[str]:
    """The texts of a message, cut where images stand."""
    if isinstance(content, str):
        return [content]
    runs = [""]
    for item in content or ():
        if item.get("type") == "text" and isinstance(item.get("text"), str):
            runs[-1] += item["text"]
        elif item.get("type") == "image":
            runs.append("")
        else:
            raise RowError("the question has items that are neither text nor image")
    return [text for text in runs if text.strip()] or [""]


class RowTexts:
    """Questions and answers, collected in Arrow arrays of messages; few of them are Python strings at a time."""

    def __init__(self) -> None:
        self._chunks: list[tuple[pa.Array, pa.Array]] = []
        self._waiting: list[tuple[str, str] | None] = []

    def add(self, text: tuple[str, str] | None) -> None:
        """Question and answer of the next row; None if it has none."""
        self._waiting.append(text)
        if len(self._waiting) == _BLOCK:
            self._flush()

    def arrays(self) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        """`prompt` and `completion` of all rows."""
        self._flush()
        prompts, completions = zip(*self._chunks) if self._chunks else ((), ())
        return pa.chunked_array(prompts, _MESSAGES), pa.chunked_array(completions, _MESSAGES)

    def _flush(self) -> None:
        if self._waiting:
            chunk = [
                pa.array(
                    [None if text is None else [{"role": role, "content": text[place]}] for text in self._waiting],
                    _MESSAGES,
                )
                for place, role in enumerate(("user", "assistant"))
            ]
            self._chunks.append((chunk[0], chunk[1]))
            self._waiting = []
