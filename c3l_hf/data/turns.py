"""Rows in any layout → the assistant's turns: pairs of prompt and answer about images. The one way to read a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import Layout, layout_of
from c3l_hf.data.messages import answer_text, message_problem, messages_of
from c3l_hf.data.places import placed, places
from c3l_hf.data.plain_values import check_plain
from c3l_hf.data.unforeseen import with_row_errors

__all__ = ["Pair", "images_of_row", "to_turns", "turn_reason"]


@dataclass(frozen=True)
class Pair:
    """One instruction and its answer.

    Attributes:
        prompt: Messages up to the answer; contents are strings or lists of {"type": "text"/"image"} items.
        answer: The assistant's answer, a string that is not blank.
        images: The prompt's images as the row has them: whatever `files.image.open_image` takes. None in a conversation
            that has no picture before the answer.
    """

    prompt: list[dict[str, Any]]
    answer: str
    images: list[Any]


def to_turns(row: Mapping[str, Any]) -> list[Pair | RowError]:
    """The assistant's turns of a row in any accepted layout: the pair of each, or why it is none.

    The prompt of a later turn holds all messages before it. Its images are those placed in it by image items or by
    `<image>` markers in the texts of the user, or all of the row's, if nothing places them. A marker keeps its place
    and turn, but that in LLaVA's `conversations` the one image of a row comes first in its turn, as in LLaVA's own
    training. Answers that others give without asking for them (OpenAI's `weight` 0, ms-swift's `loss` false) are no
    turns, but stand in the prompts of later ones.

    Raises:
        ValueError: If the columns are in none of the accepted layouts.
        RowError: If the row as a whole cannot be read: it has no messages, no answer, or not as many places as images.
    """
    return _turns_of(row, layout_of(row.keys()))


@with_row_errors
def _turns_of(row: Mapping[str, Any], layout: Layout) -> list[Pair | RowError]:
    check_plain(row, layout.images, layout.images)
    images = images_of_row(row, layout)
    messages, first = messages_of(row, layout, len(images))
    said = [number for number, message in enumerate(messages) if message["role"] == "assistant" and number >= first]
    answers = [number for number in said if "given" not in messages[number]]
    if said and not answers:
        raise RowError("no answer of the assistant is asked for: all have weight 0 or loss false")
    messages, images = placed(messages, images)
    if not answers:
        raise RowError("there is no answer of the assistant")
    return [_turn(messages, number, images) for number in answers]


def turn_reason(reason: object, turn: int, turns: int) -> str:
    """Why a turn is none, for the whole row: with its number, counted from 0, where there are several."""
    return f"assistant turn {turn + 1}: {reason}" if turns > 1 else str(reason)


def images_of_row(row: Mapping[str, Any], layout: Layout) -> list[Any]:
    """The images that a row has in its columns of images.

    Raises:
        RowError: If one of several is null, or both columns have something.
    """
    values = {name: row[name] for name in layout.images if not _is_empty(row[name])}
    if len(values) > 1:
        raise RowError("the row has pictures in both images and image; keep one of the columns")
    for column, value in values.items():
        images = list(value) if isinstance(value, list | tuple) else [value]
        missing = [number for number, image in enumerate(images) if image is None]
        if missing:
            raise RowError(f"{column}[{missing[0]}] is null; the row has {len(images)} images")
        return images
    return []


def _is_empty(value: Any) -> bool:
    if isinstance(value, Mapping):  # what some tools write where there is no picture
        return all(item is None for item in value.values())
    return value is None or (isinstance(value, list | tuple) and not value)


def _turn(messages: list[dict[str, Any]], number: int, images: list[Any]) -> Pair | RowError:
    prompt = messages[:number]
    for message in messages[: number + 1]:
        if problem := message_problem(message):
            return RowError(problem)
    if not any(message["role"] == "user" for message in prompt):
        return RowError("there is no user message before the answer")
    try:
        answer = answer_text(messages[number]["content"])
    except RowError as error:
        return error
    shown = images[: sum(map(places, prompt))] if any(map(places, messages)) else images
    return Pair(prompt, answer, shown)
