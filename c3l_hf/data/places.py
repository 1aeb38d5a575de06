"""The places of a row's images in its messages: items, markers in texts, and pictures that items hold."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from c3l_hf.common.errors import RowError

__all__ = ["MARKER", "PICTURE_KEYS", "PLACE", "image_count", "is_nothing", "placed", "places", "plain_item"]

MARKER = "<image>"
# In whose messages a marker is text. In others, as a tool's, it may be the place of what the tool has drawn.
_WITHOUT_PICTURES = ("user", "assistant", "system", "developer")
PLACE = {"type": "image"}
# Where items have a picture of their own: Qwen's files, TRL's and transformers' chat templates, OpenAI's requests.
PICTURE_KEYS = ("image", "image_url", "url", "path", "base64", "bytes")
# Where others put pictures in a text: MMMU, Phi, InternLM-XComposer, DeepSeek, the first Qwen-VL.
_OTHER_MARKERS = re.compile(
    r"<\|?image(?:[ _-]?\d+|here|_placeholder)?\s?/?\|?>|<\|?img[ _-]?\d+\|?>|<img>[^<>]{1,300}</img>", re.IGNORECASE
)


def placed(messages: Sequence[Mapping[str, Any]], images: list[Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Messages with an item {"type": "image"} in each place of an image, and the images in the order of these places.

    Places are image items (of any of the usual kinds) and `<image>` markers in the texts of the user. Items that hold
    pictures of their own take the place of the row's images; the numbers that others have (`index`, as in
    llava-instruct-mix-vsft) say which of them they are.

    Args:
        messages: With `role` and `content`.
        images: The row's.

    Raises:
        RowError: If there are not as many places as images, both the row and the items have pictures, or the places
            are written in a way that is not read.
    """
    result, own = _with_places(messages)
    count = sum(map(places, result))
    if own and images:
        raise RowError(f"the messages have {len(own)} pictures of their own, and the row has {len(images)} beside them")
    if own:
        images = own
    elif (numbers := _numbers(result)) is not None:
        if sorted(set(numbers)) != list(range(len(images))):
            raise RowError(f"the numbers (index) of the places are not those of the row's {len(images)} images")
        images = [images[number] for number in numbers]
    if count not in (0, len(images)):
        raise RowError(f"the messages have places for {count} images, the row has {len(images)}")
    if images:
        _check_markers(messages, any(map(places, result)))
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
                item, picture = plain_item(item)
                text = item.get("text") if isinstance(item, Mapping) and item.get("type") == "text" else None
                if message["role"] == "user" and isinstance(text, str) and MARKER in text:
                    items += _items(text)
                else:
                    items.append(item)
                own += [picture] * (message["role"] != "assistant" and picture is not None)
            content = items
        result.append({"role": message["role"], "content": content})
    return result, own


def _check_markers(messages: Sequence[Mapping[str, Any]], placed: bool) -> None:
    """That no text has what may be meant as an image's place and is not read so.

    Args:
        messages: Of a row with images.
        placed: Whether they have places; what looks like another is then text.

    Raises:
        RowError: If one has.
    """
    placed = placed or any("marked" in message for message in messages)
    for message in messages:
        content, role = message["content"], message["role"]
        items = [{"text": content}] if isinstance(content, str) else content if isinstance(content, list) else []
        texts = [item.get("text") for item in items if isinstance(item, Mapping)]
        text = " ".join(text for text in texts if isinstance(text, str))
        if role not in _WITHOUT_PICTURES and MARKER in text:
            raise RowError(
                f"{MARKER} in a message of a tool or of an unknown role is not read as the place of an image"
            )
        if role == "user" and not placed and (other := _OTHER_MARKERS.search(text)):
            raise RowError(
                f"the text has {other[0]!r:.40}, which is not read as the place of an image; write {MARKER} there"
            )


def places(message: Mapping[str, Any]) -> int:
    """How many images a message has places for."""
    content = message["content"]
    if message["role"] == "assistant" or not isinstance(content, list | tuple):
        return 0
    return sum(isinstance(item, Mapping) and item.get("type") == "image" for item in content)


def plain_item(item: Any) -> tuple[Any, Any]:
    """An item as {"type": "text", ...} or {"type": "image"}, and the picture that it holds; others as they are."""
    if not isinstance(item, Mapping):
        return item, None
    kind = item.get("type")
    if kind is None:  # Qwen-VL's own files: {"image": "a.png"}, {"text": "What is it?"}
        named = [name for name in ("image", "text") if item.get(name) is not None]
        kind = named[0] if len(named) == 1 else None
    # A struct of nulls is what Arrow has where other rows have a picture.
    picture = next((item[name] for name in PICTURE_KEYS if not is_nothing(item.get(name))), None)
    if kind in ("text", "input_text") and picture is not None:
        raise RowError(f"an item of the type {kind} has a picture, too")
    if kind in ("text", "input_text"):
        return (item if item.get("type") == "text" else {"type": "text", "text": item.get("text")}), None
    if kind not in ("image", "image_url", "input_image"):
        return item, None
    if isinstance(item.get("text"), str) and item["text"].strip():
        raise RowError(f"an item of the type {kind} has a text, too")
    place = dict(PLACE) if item.get("index") is None else {**PLACE, "index": item["index"]}
    return place, picture


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
        raise RowError("only some places of images have a whole number (index); give each one, or none")
    return list(map(int, numbers))


def _items(text: str) -> list[dict[str, Any]]:
    """A text with image markers as text and image items."""
    items: list[dict[str, Any]] = []
    for number, part in enumerate(text.split(MARKER)):
        items += [dict(PLACE)] * (number > 0)
        items += [{"type": "text", "text": part.strip("\n")}] * bool(part.strip())
    return items


def is_nothing(value: Any) -> bool:
    """Whether there is nothing in a value: null or empty at any depth, also as JSON text."""
    if isinstance(value, Mapping):
        return all(map(is_nothing, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_nothing, value))
    return value is None or value is False or (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null"))
