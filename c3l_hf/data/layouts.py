"""The row layouts of other people's datasets, turned into one: pairs of prompt and answer about images."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from c3l_hf.common.errors import RowError

__all__ = ["Pair", "is_batch", "layout_of", "to_pairs"]

# The columns that hold the text in each accepted layout; the first one decides whether a value is a row or a batch.
_LAYOUTS = (
    ("prompt", "completion"),
    ("messages",),
    ("question", "answer"),
    ("conversations",),
    ("texts",),
    ("prompt", "response"),
    ("instruction", "input", "output"),
    ("instruction", "output"),
)
_ACCEPTED = (
    "prompt + completion + images (or image); messages + images (or image); question + answer + images (or image); "
    "LLaVA conversations + image (or images); texts of user and assistant (FineVision, Cauldron), prompt + response, "
    "or instruction (+ input) + output, each + images (or image)"
)
_LLAVA_MARKER = "<image>"
_LLAVA_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Pair:
    """One instruction and its answer.

    Attributes:
        prompt: Messages up to the answer; contents are strings or lists of {"type": "text"/"image"} items.
        answer: The assistant's answer, a string that is not blank.
        images: The prompt's images as the row has them (PIL images, `datasets` dicts with bytes or path, or paths), at
            least one.
    """

    prompt: list[dict[str, Any]]
    answer: str
    images: list[Any]


def layout_of(columns: Iterable[str]) -> tuple[str, ...]:
    """The columns a scorer has to read: the text columns of the layout, and the image column last.

    Raises:
        ValueError: If the columns are in none of the accepted layouts; the message names both.
    """
    columns = list(columns)
    image = next((name for name in ("images", "image") if name in columns), None)
    text = next((names for names in _LAYOUTS if all(name in columns for name in names)), None)
    if image is None or text is None:
        raise ValueError(
            f"cannot find pairs in the columns {', '.join(columns) or '(none)'}; accepted are: {_ACCEPTED}"
        )
    return (*text, image)


def is_batch(rows: Mapping[str, Any]) -> bool:
    """Whether a mapping holds many rows (lists of values, as `map(batched=True)` gives) or one.

    Decided by the first text column of the layout. A row has a string there, or a list of messages (dicts); a batch has
    a list of such values, or of dicts of lists, as `datasets` gives messages of the type `Sequence`. An empty list
    counts as a batch of no rows when every column is empty.

    Raises:
        ValueError: If the columns are in none of the accepted layouts.
    """
    layout = layout_of(rows.keys())
    value = rows[layout[0]]
    if not isinstance(value, list | tuple):
        return False
    if not value:
        return all(isinstance(rows[name], list | tuple) and not rows[name] for name in layout)
    return not all(isinstance(item, Mapping) and not _is_columns(item) for item in value)


def to_pairs(row: Mapping[str, Any]) -> list[Pair]:
    """One row of any accepted layout as pairs of prompt and answer, one for each assistant turn.

    The prompt of a later turn holds all messages before it. Its images are those placed in it by image items or by
    `<image>` markers in the texts of the user, or all of the row's, if nothing places them. A marker keeps its place
    and turn, but that in LLaVA's `conversations` the one image of a row comes first in its turn, as in LLaVA's own
    training.

    Raises:
        ValueError: If the columns are in none of the accepted layouts.
        RowError: If this row has no text, no image, no answer, or not as many places as images.
    """
    *text_columns, image_column = layout_of(row.keys())
    images = _images(row[image_column], image_column)
    if text_columns == ["messages"]:
        messages = _messages(row, "messages", "user")
    elif text_columns == ["conversations"]:
        messages = _llava_messages(row, len(images))
    elif text_columns == ["texts"]:
        messages = _exchanges(row["texts"])
    else:
        messages = _messages(row, text_columns[0], "user") + _messages(row, text_columns[-1], "assistant")
        if "input" in text_columns:
            messages = _with_input(messages, row["input"])
    messages = [_with_marked_places(message) for message in messages]
    if not messages or messages[-1]["role"] != "assistant":
        roles = ", ".join(str(message["role"]) for message in messages)
        raise RowError(f"the last message is not the assistant's answer (roles: {roles or 'none'})")
    for message in messages:
        _check_content(message)
    places = [_places(message) for message in messages]
    if sum(places) not in (0, len(images)):
        raise RowError(f"the messages have places for {sum(places)} images, the row has {len(images)}")
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    pairs = []
    for turn, number in enumerate(turns, start=1):
        where = f"assistant turn {turn}: " if len(turns) > 1 else ""
        prompt = messages[:number]
        if not any(message["role"] == "user" for message in prompt):
            raise RowError(f"{where}there is no user message before the answer")
        shown = images[: sum(places[:number])] if any(places) else images
        if not shown:
            raise RowError(f"{where}there is no image before the answer")
        pairs.append(Pair(prompt=prompt, answer=_answer(messages[number], where), images=shown))
    return pairs


def _with_marked_places(message: dict[str, Any]) -> dict[str, Any]:
    """A user's message with image items in the places of its markers."""
    content = message["content"]
    if message["role"] != "user":
        return message
    if isinstance(content, str):
        return {**message, "content": _items(content)} if _LLAVA_MARKER in content else message
    if not isinstance(content, list | tuple):
        return message
    items: list[Any] = []
    for item in content:
        text = item.get("text") if isinstance(item, Mapping) and item.get("type") == "text" else None
        items += _items(text) if isinstance(text, str) and _LLAVA_MARKER in text else [item]
    return {**message, "content": items}


def _exchanges(value: Any) -> list[dict[str, Any]]:
    """FineVision's turns, each with what the user and what the assistant says, as messages."""
    turns = _as_list(value)
    if not isinstance(turns, list | tuple):
        raise RowError(f"texts is {'null' if turns is None else type(turns).__name__}, not a list of turns")
    messages = []
    for turn in turns:
        if not isinstance(turn, Mapping) or not {"user", "assistant"} <= set(turn):
            raise RowError(f"texts has a turn without user and assistant: {turn!r:.60}")
        messages += [{"role": role, "content": turn[role]} for role in ("user", "assistant")]
    return messages


def _with_input(messages: list[dict[str, Any]], value: Any) -> list[dict[str, Any]]:
    """An instruction with the input that it is about, in a line of its own, as the Alpaca format has it."""
    if value is None or value == "":
        return messages
    if not isinstance(value, str) or not isinstance(messages[0]["content"], str):
        raise RowError(f"input is {type(value).__name__} {value!r:.40}, beside an instruction; both must be texts")
    return [{**messages[0], "content": f"{messages[0]['content']}\n{value}"}, *messages[1:]]


def _is_columns(value: Any) -> bool:
    """Whether messages are given as a dict of lists instead of a list of dicts."""
    names = ("role", "from", "user")
    return isinstance(value, Mapping) and any(isinstance(value.get(name), list | tuple) for name in names)


def _as_list(value: Any) -> Any:
    """Messages as a list of dicts, if they were a dict of lists of one length."""
    if not _is_columns(value):
        return value
    lengths = {len(column) if isinstance(column, list | tuple) else None for column in value.values()}
    if len(lengths) > 1:
        return value
    return [dict(zip(value, message)) for message in zip(*value.values())]


def _check_content(message: Mapping[str, Any]) -> None:
    role, content = message["role"], message["content"]
    if not isinstance(role, str):
        raise RowError(f"a message has the role {role!r:.40}, not a text")
    items = isinstance(content, list | tuple) and all(isinstance(item, Mapping) for item in content)
    if not (content is None or isinstance(content, str) or items):
        raise RowError(f"the content of a {role} message is {content!r:.60}, not a text or a list of items")


def _places(message: Mapping[str, Any]) -> int:
    """How many images a message has places for."""
    content = message["content"]
    if message["role"] == "assistant" or not isinstance(content, list | tuple):
        return 0
    return sum(isinstance(item, Mapping) and item.get("type") == "image" for item in content)


def _messages(row: Mapping[str, Any], column: str, role: str) -> list[dict[str, Any]]:
    value = _as_list(row[column])
    if value is None:
        raise RowError(f"{column} is null")
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list | tuple):
        raise RowError(f"{column} is {type(value).__name__} {value!r:.40}, not a text or a list of messages")
    messages = []
    for message in value:
        if isinstance(message, Mapping) and {"role", "content"} <= set(message):
            messages.append({"role": message["role"], "content": message["content"]})
        elif isinstance(message, Mapping) and {"from", "value"} <= set(message):
            role = message["from"]
            role = _LLAVA_ROLES.get(role, role) if isinstance(role, str) else role
            messages.append({"role": role, "content": message["value"]})
        else:
            raise RowError(f"{column} has a message without role and content: {message!r:.60}")
    return messages


def _llava_messages(row: Mapping[str, Any], images: int) -> list[dict[str, Any]]:
    turns = _as_list(row["conversations"])
    if not isinstance(turns, list | tuple):
        raise RowError(f"conversations is {'null' if turns is None else type(turns).__name__}, not a list of turns")
    messages, markers = [], 0
    for turn in turns:
        if isinstance(turn, Mapping) and {"role", "content"} <= set(turn):
            turn = {"from": turn["role"], "value": turn["content"]}
        if not isinstance(turn, Mapping) or not {"from", "value"} <= set(turn):
            raise RowError(f"conversations has a turn without from and value: {turn!r:.60}")
        role = _LLAVA_ROLES.get(turn["from"]) if isinstance(turn["from"], str) else None
        if role is None:
            raise RowError(f"conversations has a turn from {turn['from']!r}; known are {', '.join(_LLAVA_ROLES)}")
        value = turn["value"]
        if role == "user" and isinstance(value, str):
            markers += value.count(_LLAVA_MARKER)
            if images == 1 and _LLAVA_MARKER in value:
                value = value.replace(_LLAVA_MARKER, "").strip("\n")
                if any(message["role"] == "user" for message in messages):
                    # Not the first turn, in which it would come without a place.
                    value = [{"type": "image"}, {"type": "text", "text": value}]
        messages.append({"role": role, "content": value})
    if markers not in (0, images):
        raise RowError(f"the conversation has {markers} {_LLAVA_MARKER} markers for {images} images")
    return messages


def _items(text: str) -> list[dict[str, Any]]:
    """A text with image markers as text and image items."""
    items: list[dict[str, Any]] = []
    for number, part in enumerate(text.split(_LLAVA_MARKER)):
        items += [{"type": "image"}] * (number > 0)
        items += [{"type": "text", "text": part.strip("\n")}] * bool(part.strip())
    return items


def _answer(message: Mapping[str, Any], where: str) -> str:
    """The text of an assistant message."""
    content = message["content"]
    if isinstance(content, list | tuple):
        if any(not isinstance(item, Mapping) or item.get("type") != "text" for item in content):
            raise RowError(f"{where}the answer has items that are not text")
        texts = [item.get("text") for item in content]
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(content, str):
        raise RowError(f"{where}the answer is not a text but {type(content).__name__}")
    if not content.strip():
        raise RowError(f"{where}the answer is empty")
    return content


def _images(value: Any, column: str) -> list[Any]:
    images = list(value) if isinstance(value, list | tuple) else [value]
    images = [image for image in images if image is not None]
    if not images:
        raise RowError(f"the row has no image (column {column})")
    return images
