"""Rows of a chosen and rejected answers → a prompt and its candidates: pseudo-labels, TRL's preference datasets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from c3l_hf.common.errors import RowError
from c3l_hf.common.words import what_is
from c3l_hf.data.layouts import IMAGE_COLUMNS, UNREAD_COLUMNS, Layout, is_columns
from c3l_hf.data.messages import answer_text, check_unread, messages_of_value
from c3l_hf.data.places import placed
from c3l_hf.data.turns import images_of_row

__all__ = ["Candidates", "preference_columns", "read_candidates"]

_ANSWERS = ("chosen", "rejected")


@dataclass(frozen=True)
class Candidates:
    """A prompt about images, and answers to it.

    Attributes:
        prompt: Messages; contents are strings or lists of {"type": "text"/"image"} items.
        images: At least one, whatever `files.image.open_image` takes.
        chosen: The answer to learn.
        rejected: Answers to be told from it, perhaps none.
    """

    prompt: list[dict[str, Any]]
    images: list[Any]
    chosen: str
    rejected: list[str]


def preference_columns(columns: Sequence[str]) -> Layout:
    """The columns of a preference dataset.

    Without a column of images the messages have to hold them; without a prompt it is what chosen and rejected
    conversations begin with.

    Raises:
        ValueError: If some are missing; the message names them and those that are there.
    """
    images = tuple(name for name in IMAGE_COLUMNS if name in columns)
    if missing := [name for name in _ANSWERS if name not in columns]:
        raise ValueError(f"no column {', '.join(map(repr, missing))}; it has {', '.join(columns)}")
    unread = tuple(name for name in UNREAD_COLUMNS if name in columns)
    return Layout((*["prompt"] * ("prompt" in columns), *_ANSWERS), unread, images)


def read_candidates(row: Mapping[str, Any]) -> Candidates:
    """The candidates of a row.

    `prompt` is a text or messages; `chosen` an answer: a text, or one message of the assistant, whose content is a text
    or a list of items of text; `rejected` a list of such answers, or one, as in TRL's preference datasets. An answer
    may also be a whole conversation, whose last message it is: what comes before is the same for all answers of the
    row, and is the prompt, which then need not be there. Images stand in the prompt where `data.places.placed` finds
    places.

    Args:
        row: With the columns of `preference_columns`.

    Raises:
        RowError: If the row cannot be used; the reason begins with the column.
    """
    column = "images"
    try:
        layout = Layout(_ANSWERS, (), tuple(name for name in IMAGE_COLUMNS if name in row))
        images = images_of_row(row, layout)
        column = "prompt"
        check_unread(row)
        value = row.get(column)
        empty = value is None or (isinstance(value, str | list | tuple | Mapping) and not value)
        prompt = None if empty else messages_of_value(value, column, "user")
        column = "chosen"
        before, chosen = _answer(_value(row, column))
        if prompt is None:
            if not before:
                column = "prompt"
                raise RowError("it is empty, and chosen has no messages before its answer")
            prompt = before
        _check_before(before, prompt)
        rejected = []
        column = "rejected"
        for number, answer in enumerate(_answers(_value(row, column))):
            column = f"rejected[{number}]"
            before, text = _answer(answer)
            _check_before(before, prompt)
            rejected.append(text)
        column = "prompt"
        placed_prompt, images = placed(prompt, images)
        column = "images"
        if not images:
            raise RowError(
                "there is none" + ("" if layout.images else ", in a column images or image, or in the prompt")
            )
    except RowError as error:
        raise RowError(f"{column}: {error}") from error
    return Candidates(placed_prompt, images, chosen, rejected)


def _value(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:  # as of a stream whose columns nobody knows beforehand
        raise RowError(f"there is no such column, only {', '.join(map(str, row))}")
    return row[column]


def _answers(value: Any) -> list[Any]:
    """The answers in a column: those of a list; one answer, a text or messages, by itself; None: no answer."""
    if value is None:
        return []
    if isinstance(value, str | Mapping):
        return [value]
    if not isinstance(value, list | tuple):
        raise RowError(f"it is {what_is(value)}, not an answer or a list of answers")
    if len(value) and all(isinstance(message, Mapping) and not is_columns(message) for message in value):
        return [value]  # one answer in messages, not an answer for each message
    return list(value)


def _answer(value: Any) -> tuple[list[dict[str, Any]], str]:
    """An answer given as a text, as one message of the assistant, or as the last message of a conversation: the
    messages before it, and its text."""
    if value is None:
        raise RowError("it is null")
    messages = messages_of_value(value, "the answer", "assistant")
    roles = [message["role"] for message in messages]
    if roles[-1:] != ["assistant"] or (len(roles) > 1 and "user" not in roles):
        raise RowError("its messages are not one of the assistant, or a conversation that ends with one")
    return messages[:-1], answer_text(messages[-1]["content"])


def _check_before(before: Sequence[Mapping[str, Any]], prompt: Sequence[Mapping[str, Any]]) -> None:
    if before and before != prompt:
        raise RowError("its messages before the answer are not those of the prompt")
