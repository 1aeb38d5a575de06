"""The words of texts, by which two texts are compared."""

import re

__all__ = ["normal_text"]

_WORD = re.compile(r"\w+")


def normal_text(text: str) -> str:
    """The words of a text without case and punctuation; a text without words as it is."""
    return " ".join(_WORD.findall(text.casefold())) or text.strip()
