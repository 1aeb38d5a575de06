"""Names as messages have them: some of many, and the one that was probably meant."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["closest", "is_not_on_hub", "is_repository_name", "listed", "nearest", "nearest_path"]

# What the Hub can have: "name" or "user/name".
_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first of some names, and how many more there are, in one line: files and columns of strangers may have any
    character in their names."""
    shown = ("".join(letter if letter.isprintable() else "?" for letter in name) for name in names[:most])
    return ", ".join(shown) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def closest(given: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name that was probably meant; None if none is near. `cutoff` as for `nearest`."""
    return next(iter(difflib.get_close_matches(given, list(names), 1, cutoff)), None)


def nearest(given: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """The name that was probably meant, as the end of a sentence; nothing if none is near.

    Args:
        given: What was given.
        names: What there is.
        cutoff: How like it has to be, in [0, 1]; see `difflib`.
    """
    close = closest(given, names, cutoff)
    return "" if close is None else f"; did you mean {close!r}?"


def nearest_path(path: str | Path) -> str:
    """Of a path that does not exist the file or folder beside it that was probably meant, or that there is no folder
    for it, as the end of a sentence; nothing if none is near."""
    path = Path(path)
    if not path.parent.is_dir():
        return f" (nor is there a folder {path.parent})"
    close = closest(path.name, (file.name for file in path.parent.iterdir() if not file.name.startswith(".")))
    return "" if close is None else f" (there is {path.parent / close})"


def is_repository_name(name: str) -> bool:
    """Whether something on the Hub could be called so."""
    return _REPOSITORY.fullmatch(name) is not None


def is_not_on_hub(name: str) -> bool:
    """Whether the Hub need not be asked for what is not here: nothing there can be called so, or the name has no user
    in it and is nearly that of a file or folder here."""
    return not is_repository_name(name) or ("/" not in name and bool(nearest_path(name)))
