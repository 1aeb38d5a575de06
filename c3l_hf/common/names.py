"""Names as messages have them: some of many, and the one that was probably meant."""

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["listed", "nearest"]


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def nearest(given: str, names: Iterable[str]) -> str:
    """The name that was probably meant, as the end of a sentence; nothing if none is near."""
    close = difflib.get_close_matches(given, list(names), 1)
    return f"; did you mean {close[0]!r}?" if close else ""
