"""A row of any layout as one conversation: what has to be the same where it is written in another layout."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.messages import answer_text, messages_of
from c3l_hf.data.places import placed
from c3l_hf.data.turns import Pair, images_of_row, to_turns, turn_reason

__all__ = ["Conversation", "Said", "read_conversation", "turns_apart"]


@dataclass(frozen=True)
class Said:
    """One message.

    Attributes:
        role: Who says it.
        parts: Its texts, and None in the place of each picture. Texts are not empty.
        asked: Whether it is an answer of the row; the assistant's other messages are given.
    """

    role: str
    parts: tuple[str | None, ...]
    asked: bool = False

    @property
    def places(self) -> int:
        """How many pictures it has places for."""
        return self.parts.count(None)


@dataclass(frozen=True)
class Conversation:
    """All messages of a row, and its pictures in the order of their places.

    Attributes:
        messages: The last one is an answer. Every picture has a place.
        images: As the row has them.
    """

    messages: tuple[Said, ...]
    images: tuple[Any, ...]


def read_conversation(row: Mapping[str, Any]) -> Conversation:
    """The conversation of a row in any accepted layout.

    Pictures without places come before the first message of the user, as everywhere. A row without pictures is a
    conversation, too.

    Raises:
        ValueError: If the columns are in none of the accepted layouts.
        RowError: If one of its answers cannot be read, it ends with something else than an answer, or a text has half a
            character.
    """
    turns = to_turns(row)
    for number, turn in enumerate(turns):
        if not isinstance(turn, Pair):
            raise RowError(turn_reason(turn, number, len(turns)))
    layout = layout_of(row.keys())
    images = images_of_row(row, layout)
    messages, first = messages_of(row, layout, len(images))
    given = [number < first or "given" in message for number, message in enumerate(messages)]
    messages, images = placed(messages, images)
    said = [_said(message, is_given) for message, is_given in zip(messages, given, strict=True)]
    if not said[-1].asked:
        raise RowError("the conversation ends with something else than an answer that is asked for")
    if images and not any(message.places for message in said):
        user = next(number for number, message in enumerate(said) if message.role == "user")
        said[user] = replace(said[user], parts=(*[None] * len(images), *said[user].parts))
    return Conversation(tuple(said), tuple(images))


def turns_apart(conversation: Conversation) -> list[Conversation]:
    """For each answer a conversation that ends with it, and in which all before it is given."""
    result = []
    for number, message in enumerate(conversation.messages):
        if message.asked:
            before = tuple(replace(earlier, asked=False) for earlier in conversation.messages[:number])
            shown = sum(earlier.places for earlier in before)
            result.append(Conversation((*before, message), conversation.images[:shown]))
    return result


def _said(message: Mapping[str, Any], given: bool) -> Said:
    role, content = message["role"], message["content"]
    asked = role == "assistant" and not given
    if content is None:
        raise RowError(f"the content of the {role} message is null")
    if asked:
        content = answer_text(content)
    parts = [content] if isinstance(content, str) else [_part(item, role) for item in content]
    for text in (role, *parts):
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise RowError("a text has half a character (a surrogate), which no file can hold") from None
    return Said(role, tuple(part for part in parts if part != ""), asked)


def _part(item: Mapping[str, Any], role: str) -> str | None:
    if item.get("type") == "text" and isinstance(item.get("text"), str):
        return item["text"]
    if item.get("type") == "image" and role != "assistant":
        return None
    raise RowError(f"the {role} message has items that are neither text nor image")
