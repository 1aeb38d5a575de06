"""The texts of a row in any layout, as selection compares them and pseudo-labels have them; many as Arrow arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import IMAGE_COLUMNS, Layout
from c3l_hf.data.messages import messages_of
from c3l_hf.data.places import image_count, places
from c3l_hf.data.schema import PAIR_FEATURES
from c3l_hf.data.turns import Pair, to_turns, turn_reason

__all__ = [
    "EARLIER_TURNS",
    "RowTexts",
    "as_one",
    "conversation_of",
    "messages_of_turns",
    "question_and_answer",
    "turns_of",
]

# Without them, as in a pseudo-label, the question would mean something else.
EARLIER_TURNS = "the question follows earlier turns"

_MESSAGES = PAIR_FEATURES.arrow_schema.field("prompt").type
# Rows whose texts are Python strings at a time.
_BLOCK = 1 << 16


def question_and_answer(row: Mapping[str, Any], layout: Layout) -> tuple[str, str] | None:
    """The two texts that stand for a row.

    The question is all messages of the user, a line each, and the answer all answers: of a conversation near-duplicates
    and lengths then mean the whole of it. Answers that cannot be read are passed over if there are others.

    Args:
        row: With the columns of the layout. If it has none of images, it is read as if all its images were there; those
            that it has may be anything that is not null.
        layout: Of the dataset.

    Returns:
        Question and answer; None if the row has no pair: a text column is null.

    Raises:
        RowError: If it has one that cannot be used.
    """
    turns = _turns(row, layout)
    if turns is None:
        return None
    pairs = [turn for turn in turns if isinstance(turn, Pair)]
    if not pairs:
        raise next(turn for turn in turns if isinstance(turn, RowError))
    questions = [message["content"] for message in pairs[-1].prompt if message["role"] == "user"]
    return "\n".join(text for runs in map(_runs, questions) for text in runs), "\n".join(pair.answer for pair in pairs)


def conversation_of(row: Mapping[str, Any], layout: Layout) -> list[tuple[str, str]] | None:
    """The questions and answers of a row, as the text of a pseudo-label has them.

    Args:
        row: As for `question_and_answer`.
        layout: Of the dataset.

    Returns:
        For each turn question and answer; None if the row has no pair.

    Raises:
        RowError: If a turn cannot be read; if earlier turns are given, so that the questions alone would mean something
            else; or if a question has no text, an image between its texts, or images of its own in a later turn.
    """
    turns = _turns(row, layout)
    if turns is None:
        return None
    conversation: list[tuple[str, str]] = []
    for number, turn in enumerate(turns):
        if isinstance(turn, RowError):
            raise RowError(turn_reason(turn, number, len(turns)))
        said = [place for place, message in enumerate(turn.prompt) if message["role"] == "assistant"]
        if len(said) > number:
            raise RowError(EARLIER_TURNS)
        asked = turn.prompt[said[-1] + 1 :] if said else turn.prompt
        contents = [message["content"] for message in asked if message["role"] == "user"]
        runs = list(map(_runs, contents))
        if any(len(texts) > 1 for texts in runs):
            # Without it, as in a pseudo-label, the question would have a gap.
            raise RowError("the question has an image between its texts")
        if number and any(map(places, asked)):
            raise RowError("a question after the first has an image of its own")
        question = "\n".join(text for texts in runs for text in texts)
        if not question.strip():
            raise RowError("the question has no text")
        conversation.append((question, turn.answer))
    return conversation


def messages_of_turns(turns: Sequence[tuple[str, str]]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """`prompt` and `completion` of a conversation: the first question, and all that follows it."""
    roles = ("user", "assistant")
    messages = [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)]
    return messages[:1], messages[1:]


def turns_of(prompt: Sequence[Mapping[str, Any]], completion: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The turns of a pair, question and answer: the last message of the user in the prompt is the first question, ""
    if there is none; further questions stand between the answers of the completion."""
    questions = [message["content"] for message in prompt if message["role"] == "user"][-1:]
    turns: list[tuple[str, str]] = []
    for message in completion:
        if message["role"] == "assistant":
            turns.append(("\n".join(questions), message["content"]))
            questions = []
        elif message["role"] == "user":
            questions.append(message["content"])
    return turns


def as_one(turns: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The questions of a conversation, a line each, and the answers."""
    return "\n".join(question for question, _ in turns), "\n".join(answer for _, answer in turns)


def _turns(row: Mapping[str, Any], layout: Layout) -> list[Pair | RowError] | None:
    if any(row[name] is None for name in layout.text):
        return None
    if not any(name in row for name in IMAGE_COLUMNS):
        row = {**row, "images": [True] * image_count(messages_of(row, layout, None)[0])}
    return to_turns(row)


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
    """Conversations, collected in Arrow arrays of messages; few of them are Python strings at a time."""

    def __init__(self) -> None:
        self._chunks: list[tuple[pa.Array, pa.Array]] = []
        self._waiting: list[Sequence[tuple[str, str]] | None] = []

    def add(self, turns: Sequence[tuple[str, str]] | None) -> None:
        """Questions and answers of the next row; None if it has none."""
        self._waiting.append(turns)
        if len(self._waiting) == _BLOCK:
            self._flush()

    def arrays(self) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        """`prompt` and `completion` of all rows."""
        self._flush()
        prompts, completions = zip(*self._chunks) if self._chunks else ((), ())
        return pa.chunked_array(prompts, _MESSAGES), pa.chunked_array(completions, _MESSAGES)

    def _flush(self) -> None:
        if self._waiting:
            rows = [(None, None) if turns is None else messages_of_turns(turns) for turns in self._waiting]
            prompts, completions = zip(*rows)
            self._chunks.append((pa.array(prompts, _MESSAGES), pa.array(completions, _MESSAGES)))
            self._waiting = []
