"""The texts of a row in any layout as messages."""

import re
from collections.abc import Mapping
from typing import Any

from c3l_hf.common.errors import RowError
from c3l_hf.common.words import what_is
from c3l_hf.data.layouts import UNREAD_COLUMNS, Layout, is_columns
from c3l_hf.data.places import MARKER, PICTURE_KEYS, PLACE, is_nothing, plain_item
from c3l_hf.data.plain_values import check_plain
from c3l_hf.data.schema import GENERATION_STATUS, STATUS_OK
from c3l_hf.data.unforeseen import with_row_errors

__all__ = ["answer_text", "check_unread", "message_problem", "messages_of", "messages_of_value"]

_LLAVA_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
# Chat templates write others as they are, control tokens among them, or leave them out.
_ROLES = ("user", "assistant", "system", "developer", "tool")
# What an assistant says beside its content: without it the message would be another.
_UNREAD_KEYS = ("tool_calls", "function_call", "reasoning_content")
# Messages that were written as a text, by pandas in a CSV, say.
_WRITTEN_OUT = re.compile(r"\s*\[\s*\{\s*['\"](?:role|from|content|value|user)['\"]\s*:")


@with_row_errors
def messages_of(row: Mapping[str, Any], layout: Layout, images: int | None) -> tuple[list[dict[str, Any]], int]:
    """The messages of a row, with `role` and `content`; what the contents hold is looked at by `message_problem`.

    Messages of the assistant that are not to be learned (OpenAI's `weight` 0, ms-swift's `loss` false) have the key
    `given`: they are no answers of the row. One from whose text the marker of a row's only image was taken has the key
    `marked`.

    Args:
        row: Its columns.
        layout: Of the dataset.
        images: How many images the row has; None if they are not there to be counted.

    Returns:
        The messages, and how many of them come before those that are asked for: the assistant's earlier messages in a
        prompt or a history are no answers of the row.

    Raises:
        RowError: If there are no messages to be seen, or the row has something in a column of `UNREAD_COLUMNS`. Where
            generation has made no pair, the reason is that of `generation_status`.
    """
    check_plain(row, (*layout.text, *layout.further), PICTURE_KEYS)
    check_unread(row)
    column, last = layout.text[0], layout.text[-1]
    answers: list[dict[str, Any]] | None = None
    if column == "conversations":
        messages = _llava_messages(row[column], images)
    elif column == "texts":
        messages = _exchanges(row[column])
    elif column == "messages":
        messages = messages_of_value(row[column], column, "user")
    else:
        said = row.get(GENERATION_STATUS)
        if row[column] is None and isinstance(said, str) and said != STATUS_OK:
            raise RowError(said)  # why there is no pair
        messages = messages_of_value(row[column], column, "user")
        if "input" in layout.further:
            messages = _with_input(messages, row["input"])
        answers = _answers(row[last], last)
        messages += answers
    for name, add in (("history", _with_history), ("system", _with_system)):
        if name in layout.further:
            messages = add(messages, row[name])
    return messages, 0 if answers is None else len(messages) - len(answers)


def check_unread(row: Mapping[str, Any]) -> None:
    """That a row has nothing in the columns of `data.layouts.UNREAD_COLUMNS`.

    Raises:
        RowError: If it has.
    """
    for name in UNREAD_COLUMNS:
        if not is_nothing(row.get(name)):
            raise RowError(
                f"the row has something in its column {name}, which is not read; leave the column out if the "
                "texts mean the same without it"
            )


def messages_of_value(value: Any, column: str, role: str) -> list[dict[str, Any]]:
    """A text as one message of a role; a list of messages as they are, by OpenAI's names or LLaVA's.

    Raises:
        RowError: If it is something else; the message names the column.
    """
    value = _as_list(value)
    if value is None:
        raise RowError(f"{column} is null")
    if isinstance(value, str):
        if _WRITTEN_OUT.match(value):
            raise RowError(f"{column} is a list of messages written as a text; store it as a list")
        return [{"role": role, "content": value}]
    if not isinstance(value, list | tuple):
        raise RowError(f"{column} is {what_is(value)}, not a text or a list of messages")
    messages = []
    for message in value:
        if isinstance(message, Mapping) and {"role", "content"} <= set(message):
            name, content = message["role"], message["content"]
        elif isinstance(message, Mapping) and {"from", "value"} <= set(message):
            name, content = message["from"], message["value"]
        else:
            raise RowError(f"{column} has a message without role and content")
        name = _LLAVA_ROLES.get(name, name) if isinstance(name, str) else name
        messages.append(_message(message, name, content))
    return messages


def _message(message: Mapping[str, Any], role: Any, content: Any, marked: bool = False) -> dict[str, Any]:
    """A message by our names, with the keys `given` and `marked`, see `messages_of`, where they hold."""
    if unread := [name for name in _UNREAD_KEYS if not is_nothing(message.get(name))]:
        raise RowError(f"a message has {unread[0]}, which is not read")
    weight = message.get("weight")
    if not (weight is None or isinstance(weight, int | float)) or weight not in (None, 0, 1):
        raise RowError("a message has a weight other than 0 and 1")
    given = role == "assistant" and (weight == 0 or message.get("loss") is False)
    marks = {"given": given, "marked": marked}
    return {"role": role, "content": content, **{name: True for name, holds in marks.items() if holds}}


def message_problem(message: Mapping[str, Any]) -> str | None:
    """What is wrong with a message, whatever stands before and after it; None if nothing is."""
    role, content = message["role"], message["content"]
    if not isinstance(role, str):
        return f"a message has a role that is {what_is(role)}, not a text"
    if role not in _ROLES:
        return f"a message has an unknown role; known are {', '.join(_ROLES)}"
    items = isinstance(content, list | tuple) and all(isinstance(item, Mapping) for item in content)
    if not (content is None or isinstance(content, str) or items):
        return f"the content of the {role} message is neither a text nor a list of items"
    texts = [content] if isinstance(content, str) else [item.get("text") for item in content or ()]
    if any(isinstance(text, str) and not _is_whole(text) for text in texts):
        return f"the content of the {role} message has half a character (a surrogate), which no tokenizer reads"
    return None


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def answer_text(content: Any) -> str:
    """The text of an answer: of an assistant message's content, a text or a list of items of text.

    Raises:
        RowError: If it is something else, or blank.
    """
    if isinstance(content, list | tuple):
        items = [plain_item(item)[0] for item in content]
        if any(not isinstance(item, Mapping) or item.get("type") != "text" for item in items):
            raise RowError("the answer has items that are not text")
        texts = [item.get("text") for item in items]
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(content, str):
        raise RowError(f"the answer is not a text but {what_is(content)}")
    if not content.strip():
        raise RowError("the answer is empty")
    return content


def _answers(value: Any, column: str) -> list[dict[str, Any]]:
    """The assistant's messages of a row's answer; of a list of texts only if it has one."""
    if isinstance(value, list | tuple) and value and not any(isinstance(item, Mapping) for item in value):
        if len(value) > 1:
            raise RowError(f"{column} has {len(value)} answers; say which (answers: first, or each)")
        value = value[0]
    elif column == "answers":
        what = "null" if value is None else "a text" if isinstance(value, str) else "no list of texts"
        raise RowError(f"answers is {what}; say which (answers: first, or each)")
    return messages_of_value(value, column, "assistant")


def _exchanges(value: Any) -> list[dict[str, Any]]:
    """FineVision's turns, each with what the user and what the assistant says, as messages."""
    turns = _as_list(value)
    if not isinstance(turns, list | tuple):
        raise RowError(f"texts is {what_is(turns)}, not a list of turns")
    messages = []
    for turn in turns:
        if not isinstance(turn, Mapping) or not {"user", "assistant"} <= set(turn):
            raise RowError("texts has a turn without user and assistant")
        messages += [{"role": role, "content": turn[role]} for role in ("user", "assistant")]
    return messages


def _with_input(messages: list[dict[str, Any]], value: Any) -> list[dict[str, Any]]:
    """An instruction with the input that it is about, in a line of its own, as the Alpaca format has it."""
    if value is None or (isinstance(value, str) and not value):
        return messages
    if not (isinstance(value, str) and messages and isinstance(messages[0]["content"], str)):
        raise RowError(f"input is {what_is(value)}, beside an instruction; both must be texts")
    return [{**messages[0], "content": f"{messages[0]['content']}\n{value}"}, *messages[1:]]


def _with_history(messages: list[dict[str, Any]], value: Any) -> list[dict[str, Any]]:
    """Earlier turns before the others: pairs of what the user and what the assistant said."""
    earlier: list[dict[str, Any]] = []
    if value is None:
        return messages
    if not isinstance(value, list | tuple):
        raise RowError(f"history is {what_is(value)}, not a list of pairs")
    for exchange in value:
        if not isinstance(exchange, list | tuple) or len(exchange) != 2:
            raise RowError("history has something else than pairs of what user and assistant said")
        earlier += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), exchange)]
    return earlier + messages


def _with_system(messages: list[dict[str, Any]], value: Any) -> list[dict[str, Any]]:
    """A system message before the others, if there is one and they have none."""
    if value is None or (isinstance(value, str) and not value):
        return messages
    if not isinstance(value, str):
        raise RowError(f"system is {what_is(value)}, not a text")
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"] != value:
            raise RowError("the column system says something else than the system message of the conversation")
        return messages
    return [{"role": "system", "content": value}, *messages]


def _as_list(value: Any) -> Any:
    """Messages as a list of dicts, if they were a dict of lists of one length."""
    if not is_columns(value):
        return value
    lengths = {len(column) if isinstance(column, list | tuple) else None for column in value.values()}
    if len(lengths) > 1:
        return value
    return [dict(zip(value, message)) for message in zip(*value.values())]


def _llava_messages(value: Any, images: int | None) -> list[dict[str, Any]]:
    turns = _as_list(value)
    if not isinstance(turns, list | tuple):
        raise RowError(f"conversations is {what_is(turns)}, not a list of turns")
    messages, markers = [], 0
    for turn in turns:
        if isinstance(turn, Mapping) and {"role", "content"} <= set(turn):
            turn = {**turn, "from": turn["role"], "value": turn["content"]}
        if not isinstance(turn, Mapping) or not {"from", "value"} <= set(turn):
            raise RowError("conversations has a turn without from and value")
        role = _LLAVA_ROLES.get(turn["from"]) if isinstance(turn["from"], str) else None
        if role is None:
            raise RowError(f"conversations has a turn from an unknown role; known are {', '.join(_LLAVA_ROLES)}")
        text, marked = turn["value"], False
        if role == "user" and isinstance(text, str):
            markers += text.count(MARKER)
            if images == 1 and MARKER in text:
                marked = True
                text = text.replace(MARKER, "").strip("\n")
                if any(message["role"] == "user" for message in messages):
                    # Not the first turn, in which it would come without a place.
                    text = [dict(PLACE), {"type": "text", "text": text}]
        messages.append(_message(turn, role, text, marked))
    if images is not None and markers not in (0, images):
        raise RowError(f"the conversation has {markers} {MARKER} markers for {images} images")
    return messages
