"""Anybody's texts as a page may show them."""

import re

__all__ = ["visible"]

# Halves of characters, which UTF-8 does not have, and what turns the writing direction of all that follows.
_NEVER_SHOWN = re.compile("[\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_SIGNS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n\r"} | {0x7F: "\u2421"}


def visible(text: str) -> str:
    """A text with control characters as their signs, and marks that would change the page around it as U+FFFD.

    The page's script has a function of this name for the gallery, where each text has its own writing direction.
    """
    return _NEVER_SHOWN.sub("\ufffd", text).translate(_SIGNS)
