"""Rows of a chosen and rejected answers → a prompt and its candidates: pseudo-labels, TRL's preference datasets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import IMAGE_COLUMNS, UNREAD_COLUMNS, Layout, is_columns
from c3l_hf.data.messages import answer_text, check_unread, messages_of_value, placed
from c3l_hf.data.turns import images_of_row

__all__ = ["Candidates", "preference_columns", "read_candidates"]

_TEXTS = ("prompt", "chosen", "rejected")


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

    Raises:
        ValueError: If some are missing; the message names them and those that are there.
    """
    images = tuple(name for name in IMAGE_COLUMNS if name in columns)
    missing = [name for name in _TEXTS if name not in columns] + ["images"] * (not images)
    if missing:
        raise ValueError(f"no column {', '.join(map(repr, missing))}; it has {', '.join(columns)}")
    return Layout(_TEXTS, tuple(name for name in UNREAD_COLUMNS if name in columns), images)


def read_candidates(row: Mapping[str, Any]) -> Candidates:
    """The candidates of a row.

    `prompt` is a text or messages; `chosen` an answer: a text, or one message of the assistant, whose content is a text
    or a list of items of text; `rejected` a list of such answers, or one, as in TRL's preference datasets. Images stand
    in the prompt where `data.messages.placed` finds places.

    Args:
        row: With the columns of `preference_columns`.

    Raises:
        RowError: If the row cannot be used; the reason begins with the column.
    """
    column = "images"
    try:
        layout = Layout(_TEXTS, (), tuple(name for name in IMAGE_COLUMNS if name in row))
        images = images_of_row(row, layout)
        column = "prompt"
        check_unread(row)
        if not row["prompt"]:
            raise RowError("it is empty")
        prompt, images = placed(messages_of_value(row["prompt"], column, "user"), images)
        column = "images"
        if not images:
            raise RowError("there is none")
        column = "chosen"
        chosen, rejected = _answer(row["chosen"]), []
        column = "rejected"
        for number, answer in enumerate(_answers(row["rejected"])):
            column = f"rejected[{number}]"
            rejected.append(_answer(answer))
    except RowError as error:
        raise RowError(f"{column}: {error}") from error
    return Candidates(prompt, images, chosen, rejected)


def _answers(value: Any) -> list[Any]:
    """The answers in a column: those of a list; one answer, a text or messages, by itself; None: no answer."""
    if value is None:
        return []
    if isinstance(value, str | Mapping):
        return [value]
    if not isinstance(value, list | tuple):
        raise RowError(f"it is {type(value).__name__} {value!r:.40}, not an answer or a list of answers")
    if len(value) and all(isinstance(message, Mapping) and not is_columns(message) for message in value):
        return [value]  # one answer in messages, not an answer for each message
    return list(value)


def _answer(value: Any) -> str:
    """The text of an answer given as a text or as one message of the assistant."""
    if value is None:
        raise RowError("it is null")
    messages = messages_of_value(value, "the answer", "assistant")
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = [message["role"] for message in messages]
        raise RowError(f"found messages with the roles {roles}; give exactly one message, of the assistant")
    return answer_text(messages[0]["content"])
