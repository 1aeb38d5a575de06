"""The texts of a row in any layout as messages, and the places of its images in them."""

from collections.abc import Mapping, Sequence
from typing import Any

from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import Layout, is_columns

__all__ = [
    "MARKER",
    "PICTURE_KEYS",
    "answer_text",
    "image_count",
    "message_problem",
    "messages_of",
    "messages_of_value",
    "placed",
    "places",
]

MARKER = "<image>"
_LLAVA_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_PLACE = {"type": "image"}
# Where items have a picture of their own: Qwen's files, TRL's and transformers' chat templates, OpenAI's requests.
PICTURE_KEYS = ("image", "image_url", "url", "path", "base64", "bytes")


def messages_of(row: Mapping[str, Any], layout: Layout, images: int | None) -> tuple[list[dict[str, Any]], int]:
    """The messages of a row, with `role` and `content`; what the contents hold is looked at by `message_problem`.

    Args:
        row: Its columns.
        layout: Of the dataset.
        images: How many images the row has; None if they are not there to be counted.

    Returns:
        The messages, and how many of them come before those that are asked for: the assistant's earlier messages in a
        prompt or a history are no answers of the row.

    Raises:
        RowError: If there are no messages to be seen.
    """
    column, last = layout.text[0], layout.text[-1]
    answers: list[dict[str, Any]] | None = None
    if column == "conversations":
        messages = _llava_messages(row[column], images)
    elif column == "texts":
        messages = _exchanges(row[column])
    elif column == "messages":
        messages = messages_of_value(row[column], column, "user")
    else:
        messages = messages_of_value(row[column], column, "user")
        if "input" in layout.further:
            messages = _with_input(messages, row["input"])
        answers = _answers(row[last], last)
        messages += answers
    for name, add in (("history", _with_history), ("system", _with_system)):
        if name in layout.further:
            messages = add(messages, row[name])
    return messages, 0 if answers is None else len(messages) - len(answers)


def messages_of_value(value: Any, column: str, role: str) -> list[dict[str, Any]]:
    """A text as one message of a role; a list of messages as they are, by OpenAI's names or LLaVA's.

    Raises:
        RowError: If it is something else; the message names the column.
    """
    value = _as_list(value)
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
            name = message["from"]
            name = _LLAVA_ROLES.get(name, name) if isinstance(name, str) else name
            messages.append({"role": name, "content": message["value"]})
        else:
            raise RowError(f"{column} has a message without role and content: {message!r:.60}")
    return messages


def placed(messages: Sequence[Mapping[str, Any]], images: list[Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Messages with an item {"type": "image"} in each place of an image, and the images in the order of these places.

    Places are image items (of any of the usual kinds) and `<image>` markers in the texts of the user. Items that hold
    pictures of their own take the place of the row's images; the numbers that others have (`index`, as in
    llava-instruct-mix-vsft) say which of them they are.

    Args:
        messages: With `role` and `content`.
        images: The row's.

    Raises:
        RowError: If there are not as many places as images, or both the row and the items have pictures.
    """
    result, own = _with_places(messages)
    count = sum(map(places, result))
    if own and images:
        raise RowError(f"the messages have {len(own)} pictures of their own, and the row has {len(images)} beside them")
    if own:
        images = own
    elif (numbers := _numbers(result)) is not None:
        if sorted(set(numbers)) != list(range(len(images))):
            raise RowError(f"the messages place the images number {numbers}, the row has {len(images)}")
        images = [images[number] for number in numbers]
    if count not in (0, len(images)):
        raise RowError(f"the messages have places for {count} images, the row has {len(images)}")
    return result, images


def image_count(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many images a row must have for the places in its messages: none if these hold the pictures themselves.

    Raises:
        RowError: If it cannot be told which images they are.
    """
    messages, own = _with_places(messages)
    numbers = _numbers(messages)
    return 0 if own else sum(map(places, messages)) if numbers is None else len(set(numbers))


def _with_places(messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[Any]]:
    """The messages with an item in each place of an image, and the pictures that items hold."""
    result: list[dict[str, Any]] = []
    own: list[Any] = []
    for message in messages:
        content = message["content"]
        if message["role"] == "user" and isinstance(content, str) and MARKER in content:
            content = _items(content)
        if isinstance(content, list | tuple):
            items = []
            for item in content:
                item, picture = _plain_item(item)
                text = item.get("text") if isinstance(item, Mapping) and item.get("type") == "text" else None
                if message["role"] == "user" and isinstance(text, str) and MARKER in text:
                    items += _items(text)
                else:
                    items.append(item)
                own += [picture] * (message["role"] != "assistant" and picture is not None)
            content = items
        result.append({**message, "content": content})
    return result, own


def places(message: Mapping[str, Any]) -> int:
    """How many images a message has places for."""
    content = message["content"]
    if message["role"] == "assistant" or not isinstance(content, list | tuple):
        return 0
    return sum(isinstance(item, Mapping) and item.get("type") == "image" for item in content)


def message_problem(message: Mapping[str, Any]) -> str | None:
    """What is wrong with a message, whatever stands before and after it; None if nothing is."""
    role, content = message["role"], message["content"]
    if not isinstance(role, str):
        return f"a message has the role {role!r:.40}, not a text"
    items = isinstance(content, list | tuple) and all(isinstance(item, Mapping) for item in content)
    if not (content is None or isinstance(content, str) or items):
        return f"the content of the {role} message is {content!r:.60}, not a text or a list of items"
    return None


def answer_text(content: Any) -> str:
    """The text of an answer: of an assistant message's content, a text or a list of items of text.

    Raises:
        RowError: If it is something else, or blank.
    """
    if isinstance(content, list | tuple):
        items = [_plain_item(item)[0] for item in content]
        if any(not isinstance(item, Mapping) or item.get("type") != "text" for item in items):
            raise RowError("the answer has items that are not text")
        texts = [item.get("text") for item in items]
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(content, str):
        raise RowError(f"the answer is not a text but {type(content).__name__}")
    if not content.strip():
        raise RowError("the answer is empty")
    return content


def _plain_item(item: Any) -> tuple[Any, Any]:
    """An item as {"type": "text", ...} or {"type": "image"}, and the picture that it holds; others as they are."""
    if not isinstance(item, Mapping):
        return item, None
    kind = item.get("type")
    if kind is None:  # Qwen-VL's own files: {"image": "a.png"}, {"text": "What is it?"}
        named = [name for name in ("image", "text") if item.get(name) is not None]
        kind = named[0] if len(named) == 1 else None
    if kind in ("text", "input_text"):
        return (item if item.get("type") == "text" else {"type": "text", "text": item.get("text")}), None
    if kind not in ("image", "image_url", "input_image"):
        return item, None
    picture = next((item[name] for name in PICTURE_KEYS if _holds_something(item.get(name))), None)
    place = dict(_PLACE) if item.get("index") is None else {**_PLACE, "index": item["index"]}
    return place, picture


def _holds_something(value: Any) -> bool:
    # A struct of nulls is what Arrow has where other rows have a picture.
    return any(map(_holds_something, value.values())) if isinstance(value, Mapping) else value is not None


def _numbers(messages: Sequence[Mapping[str, Any]]) -> list[int] | None:
    """Which image stands in each place, from 0; None if no place has a number. They are taken out of the items.

    Raises:
        RowError: If only some places have one, or one is no whole number.
    """
    contents = [message["content"] for message in messages if places(message)]
    items = [item for content in contents for item in content if isinstance(item, dict) and item.get("type") == "image"]
    numbers = [item.pop("index", None) for item in items]
    if all(number is None for number in numbers):
        return None
    # 1.0 is what becomes of 1 in a column that has gaps.
    if not all(isinstance(number, int | float) and number == number // 1 for number in numbers):
        raise RowError(f"the places of images have the numbers (index) {numbers}; give each a whole one, or none")
    return list(map(int, numbers))


def _items(text: str) -> list[dict[str, Any]]:
    """A text with image markers as text and image items."""
    items: list[dict[str, Any]] = []
    for number, part in enumerate(text.split(MARKER)):
        items += [dict(_PLACE)] * (number > 0)
        items += [{"type": "text", "text": part.strip("\n")}] * bool(part.strip())
    return items


def _answers(value: Any, column: str) -> list[dict[str, Any]]:
    """The assistant's messages of a row's answer; of a list of texts only if it has one."""
    if isinstance(value, list | tuple) and value and not any(isinstance(item, Mapping) for item in value):
        if len(value) > 1:
            raise RowError(f"{column} has {len(value)} answers; say which (answers: first, or each)")
        value = value[0]
    elif column == "answers":
        what = "null" if value is None else f"{value!r:.60}"
        raise RowError(f"answers is {what}; say which (answers: first, or each)")
    return messages_of_value(value, column, "assistant")


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


def _with_history(messages: list[dict[str, Any]], value: Any) -> list[dict[str, Any]]:
    """Earlier turns before the others: pairs of what the user and what the assistant said."""
    earlier = []
    for exchange in value or ():
        if not isinstance(exchange, list | tuple) or len(exchange) != 2:
            raise RowError(f"history has {exchange!r:.60}; it must be pairs of what user and assistant said")
        earlier += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), exchange)]
    return earlier + messages


def _with_system(messages: list[dict[str, Any]], value: Any) -> list[dict[str, Any]]:
    """A system message before the others, if there is one and they have none."""
    if value is None or value == "":
        return messages
    if not isinstance(value, str):
        raise RowError(f"system is {type(value).__name__} {value!r:.40}, not a text")
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
        text = turn["value"]
        if role == "user" and isinstance(text, str):
            markers += text.count(MARKER)
            if images == 1 and MARKER in text:
                text = text.replace(MARKER, "").strip("\n")
                if any(message["role"] == "user" for message in messages):
                    # Not the first turn, in which it would come without a place.
                    text = [dict(_PLACE), {"type": "text", "text": text}]
        messages.append({"role": role, "content": text})
    if images is not None and markers not in (0, images):
        raise RowError(f"the conversation has {markers} {MARKER} markers for {images} images")
    return messages
