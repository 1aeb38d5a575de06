"""Texts of others: their words, by which two are compared; and how they, and values, stand in a line."""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["in_one_line", "normal_text", "printable", "what_is"]

_WORD = re.compile(r"\w+")


def normal_text(text: str) -> str:
    """The words of a text without case and punctuation; a text without words as it is."""
    return " ".join(_WORD.findall(text.casefold())) or text.strip()


def printable(text: str) -> str:
    """A text that may go to a terminal: "?" stands for what cannot be printed, as codes that colour, turn or clear."""
    return "".join(character if character.isprintable() else "?" for character in text)


def in_one_line(text: str, most: int) -> str:
    """The same in one line, cut where it has more characters than `most`."""
    line = printable(" ".join(text[: 10 * most].split()))
    return line if len(line) <= most and len(text) <= 10 * most else f"{line[: most - 1].rstrip()}…"


def what_is(value: Any) -> str:
    """A value in a reason: what it is, never what it holds, so that the rows with such values are counted together."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    kinds = (
        (str, "a text"),
        (int | float, "a number"),
        (bytes, "bytes"),
        (Mapping, "an object"),
        (list | tuple, "a list"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "of another type")
