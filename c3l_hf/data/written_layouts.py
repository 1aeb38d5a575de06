"""Conversations written as rows of others' layouts, each read back at once: what a layout cannot say is refused."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from c3l_hf.common.errors import RowError
from c3l_hf.data.conversations import Conversation, Said, read_conversation, turns_apart
from c3l_hf.data.layouts import IMAGE_COLUMNS, UNREAD_COLUMNS
from c3l_hf.data.places import MARKER, PLACE
from c3l_hf.files.image import value_of

__all__ = ["TEXT_COLUMNS", "Written", "written_rows"]

Written = Literal["llava", "sharegpt", "texts", "openai", "jsonl", "csv", "webdataset", "trl"]

# Columns by which some layout is known, or that belong to one: beside another layout's they could be read in its place.
TEXT_COLUMNS = frozenset(
    "prompt completion messages question answer answers conversations texts response query instruction output input "
    "system history chosen rejected".split()
) | {*IMAGE_COLUMNS, *UNREAD_COLUMNS}

_FROM = {"user": "human", "assistant": "gpt"}
_TRL_ROLES = ("system", "user", "assistant", "tool")


def written_rows(conversation: Conversation, to: Written, pictures: Sequence[Any]) -> list[dict[str, Any]]:
    """A conversation in another layout.

    Every row is read back as all commands read rows. One that would mean something else than the conversation is
    refused, so that nothing is changed unseen.

    Args:
        conversation: Of a row.
        to: The layout. In that of "trl" every answer is a row, since TRL's loss is on all of a completion; elsewhere
            there is one.
        pictures: What stands for each of its images: a path, a data URL, a dict with "bytes".

    Returns:
        Rows with the columns of the layout. A "webdataset" row has its pictures in `images`.

    Raises:
        RowError: If the layout cannot say what the conversation says.
    """
    parts = turns_apart(conversation) if to == "trl" else [conversation]
    return [_read_back(part, to, pictures[: len(part.images)]) for part in parts]


def _read_back(conversation: Conversation, to: Written, pictures: Sequence[Any]) -> dict[str, Any]:
    """The row, if it says what the conversation says."""
    row = _FORMS[to](conversation, pictures)
    try:
        read = read_conversation(row)
    except RowError as error:
        raise RowError(f"the layout's row could not be read again: {error}") from None
    same = list(map(value_of, read.images)) == list(map(value_of, pictures))
    if read.messages != conversation.messages or not same:
        raise RowError(
            "the layout would change the message: blanks, line breaks or several texts beside a picture, or in one "
            "message"
        )
    return row


def _llava(conversation: Conversation, pictures: Sequence[Any]) -> dict[str, Any]:
    _check_first(conversation)
    exchanges = _exchanges(conversation.messages)
    row: dict[str, Any] = {"conversations": _marked(exchanges, f"{MARKER}\n")}
    if pictures:  # LLaVA's own reader asks whether the key is there
        row["image"] = pictures[0] if len(pictures) == 1 else list(pictures)
    return row


def _sharegpt(conversation: Conversation, pictures: Sequence[Any]) -> dict[str, Any]:
    _check_first(conversation)
    messages, system = conversation.messages, ""
    if messages[0].role == "system":
        system, messages = _text(messages[0]), messages[1:]
        _check_markers(system)
    return {
        "conversations": _marked(_exchanges(messages), MARKER),
        "system": system,
        "images": list(pictures),
    }


def _texts(conversation: Conversation, pictures: Sequence[Any]) -> dict[str, Any]:
    exchanges = _without_places(conversation)
    return {"images": list(pictures), "texts": [{"user": user, "assistant": answer} for user, answer in exchanges]}


def _csv(conversation: Conversation, pictures: Sequence[Any]) -> dict[str, Any]:
    if len(pictures) > 1:
        raise RowError("the row has several pictures, and a row of the layout one")
    if sum(message.role == "assistant" for message in conversation.messages) > 1:
        raise RowError("the row has several turns, and a row of the layout one")
    ((question, answer),) = _without_places(conversation)
    # An empty field is null: as the file will be read.
    return {"image": next(iter(pictures), None), "question": question or None, "answer": answer}


def _openai(conversation: Conversation, pictures: Sequence[Any]) -> dict[str, Any]:
    left = iter(pictures)
    messages = []
    for message in conversation.messages:
        content: Any = [
            {"type": "image_url", "image_url": {"url": next(left)}} if part is None else {"type": "text", "text": part}
            for part in message.parts
        ]
        if len(content) < 2 and not message.places:
            content = _text(message)
        messages.append(_message(message, content))
    return {"messages": messages}


def _with_items(conversation: Conversation, pictures: Sequence[Any]) -> dict[str, Any]:
    messages = [_message(message, _items(message)) for message in conversation.messages]
    return {"images": list(pictures), "messages": messages}


def _trl(conversation: Conversation, pictures: Sequence[Any]) -> dict[str, Any]:
    for said in conversation.messages:
        if said.role not in _TRL_ROLES:  # at which a training would end
            raise RowError(f"TRL has no messages of the role {said.role!r:.40}")
        if said.places and said.role != "user":
            raise RowError(f"TRL has no pictures in messages of the role {said.role!r:.40}")
    *prompt, completion = ({"role": said.role, "content": _items(said)} for said in conversation.messages)
    return {"images": list(pictures), "prompt": prompt, "completion": [completion]}


_FORMS: Mapping[Written, Callable[[Conversation, Sequence[Any]], dict[str, Any]]] = {
    "llava": _llava,
    "sharegpt": _sharegpt,
    "texts": _texts,
    "openai": _openai,
    "jsonl": _with_items,
    "csv": _csv,
    "webdataset": _with_items,
    "trl": _trl,
}


def _message(message: Said, content: Any) -> dict[str, Any]:
    given = message.role == "assistant" and not message.asked
    return {"role": message.role, "content": content, **({"weight": 0} if given else {})}


def _items(message: Said) -> list[dict[str, Any]]:
    """Always a list: columns have one type."""
    return [dict(PLACE) if part is None else {"type": "text", "text": part} for part in message.parts or ("",)]


def _exchanges(messages: Sequence[Said]) -> list[tuple[Said, Said]]:
    """Question and answer in turns, which is all that some layouts know."""
    roles = [message.role for message in messages]
    if other := next((role for role in roles if role not in _FROM), None):
        raise RowError(f"the layout has no messages of the role {other!r:.40}")
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise RowError("user and assistant do not take turns, as they do in the layout")
    if not all(message.asked for message in messages[1::2]):
        raise RowError("an earlier answer is given, not asked for, which the layout cannot say")
    return list(zip(messages[::2], messages[1::2], strict=True))


def _without_places(conversation: Conversation) -> list[tuple[str, str]]:
    """Questions and answers as texts, where pictures come before all of them."""
    exchanges = _exchanges(conversation.messages)
    count = len(conversation.images)
    if exchanges[0][0].parts[:count] != (None,) * count:
        raise RowError("a picture stands elsewhere than before the first question, which the layout cannot say")
    return [(_text(user), _text(answer)) for user, answer in exchanges]


def _marked(exchanges: Sequence[tuple[Said, Said]], marker: str) -> list[dict[str, str]]:
    """Messages with a marker in the place of each picture."""
    turns = []
    for user, answer in exchanges:
        _check_markers(_text(answer))
        value = "".join(marker if part is None else part for part in user.parts)
        turns += [{"from": "human", "value": value}, {"from": "gpt", "value": _text(answer)}]
    return turns


def _check_markers(text: str) -> None:
    if MARKER in text:
        raise RowError(
            f"{MARKER} is in an answer or a system message, and the layout's readers take it for the place of a picture"
        )


def _check_first(conversation: Conversation) -> None:
    if len(conversation.images) == 1 and not any(message.parts[:1] == (None,) for message in conversation.messages):
        raise RowError("the picture is not the first in its message, where the layout's readers put it")


def _text(message: Said) -> str:
    """All texts of a message; where there are several, reading back finds one, and the row is refused."""
    return "".join(part for part in message.parts if part is not None)
