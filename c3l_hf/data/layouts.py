"""The row layouts of other people's datasets: which columns hold the texts and the images of their pairs."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = [
    "IMAGE_COLUMNS",
    "UNREAD_COLUMNS",
    "WITH_ITEMS",
    "Layout",
    "is_batch",
    "is_columns",
    "layout_of",
    "text_layout",
    "unread_parts",
]

IMAGE_COLUMNS = ("images", "image")
# What belongs to a conversation and is not read: a row that has something there would be another without it.
UNREAD_COLUMNS = ("tools", "videos", "video", "audios", "audio")
# What often belongs to a question and is not read; whether it does, only its author knows.
_PARTS = re.compile(r"choices|options|hint|context|[A-H]|option_?[a-h1-8]", re.IGNORECASE)

# The text columns of each layout, and those that belong to them where they are there. Where the columns of several
# are, the first counts.
_LAYOUTS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("prompt", "completion"), ()),
    (("messages",), ("system",)),
    (("question", "answer"), ()),
    (("conversations",), ("system",)),
    (("texts",), ()),
    (("prompt", "response"), ("system", "history")),
    (("query", "response"), ("system", "history")),
    (("instruction", "output"), ("input", "system", "history")),
    (("question", "answers"), ()),
)
# Whose messages may hold the pictures themselves, so that they need no column of their own.
WITH_ITEMS = ("prompt", "messages", "conversations", "chosen")


@dataclass(frozen=True)
class Layout:
    """Which columns hold the pairs of a dataset.

    Attributes:
        text: The columns that the layout is known by; the first one decides whether a value is a row or a batch.
        further: Columns that belong to the texts: of a system message, earlier turns, an instruction's input; and those
            of `UNREAD_COLUMNS`, of which there must be nothing in a row.
        images: `images`, `image`, or both, where single pictures and several have a column each. None where the
            messages hold the pictures themselves.
    """

    text: tuple[str, ...]
    further: tuple[str, ...]
    images: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All of them: what has to be read of a row."""
        return (*self.text, *self.further, *self.images)

    def __str__(self) -> str:
        return " + ".join(self.columns)


def layout_of(columns: Iterable[str]) -> Layout:
    """The layout of a dataset with these columns.

    Raises:
        ValueError: If it is none that is accepted; the message names the columns, the layout that is nearest, what that
            one lacks, and all that are accepted.
    """
    columns = list(columns)
    images = tuple(name for name in IMAGE_COLUMNS if name in columns)
    for text, further in _LAYOUTS:
        if all(name in columns for name in text) and (images or text[0] in WITH_ITEMS):
            return Layout(text, tuple(name for name in (*further, *UNREAD_COLUMNS) if name in columns), images)
    raise ValueError(
        f"cannot find pairs in the columns {', '.join(columns) or '(none)'}{_nearest(columns)}; accepted are: "
        f"{'; '.join(' + '.join(text) for text, _ in _LAYOUTS)}; each beside images (or image), if it is not in the "
        "messages themselves. Columns of other names can be renamed to these, or mapped (columns: question=frage)"
    )


def text_layout(columns: Iterable[str]) -> Layout:
    """The layout of rows whose images may be stored apart: without images, if there is no such column.

    Raises:
        ValueError: As `layout_of`.
    """
    columns = list(columns)
    if any(name in columns for name in IMAGE_COLUMNS):
        return layout_of(columns)
    return replace(layout_of([*columns, IMAGE_COLUMNS[0]]), images=())


def unread_parts(columns: Iterable[str]) -> list[str]:
    """Columns beside a question that may be a part of it, as its options, and are not read; empty for other layouts.

    Raises:
        ValueError: As `layout_of`.
    """
    columns = list(columns)
    return [name for name in columns if _PARTS.fullmatch(name)] if "question" in text_layout(columns).text else []


def _nearest(columns: list[str]) -> str:
    """The layout that most of the columns belong to, and what it lacks."""
    if {"chosen", "rejected"} <= {*columns}:
        return "; with chosen and rejected they are preference rows, which training takes (c3l train)"
    has_image = any(name in columns for name in IMAGE_COLUMNS)
    texts = max((text for text, _ in _LAYOUTS), key=lambda text: sum(name in columns for name in text) / len(text))
    if not any(name in columns for name in texts):
        known = {*IMAGE_COLUMNS, *(name for text, _ in _LAYOUTS for name in text)}
        similar = [name for name in columns if name not in known and name.strip().lower() in known]
        return f"; names are read as they are written, not as in {', '.join(map(repr, similar))}" if similar else ""
    lacking = [name for name in texts if name not in columns] + ["image"] * (not has_image)
    return f"; the nearest layout is {' + '.join(texts)} + image, which lacks {', '.join(lacking)}"


def is_batch(rows: Mapping[str, Any]) -> bool:
    """Whether a mapping holds many rows (lists of values, as `map(batched=True)` gives) or one.

    Decided by the first text column of the layout. A row has a string there, or a list of messages (dicts); a batch has
    a list of such values, or of dicts of lists, as `datasets` gives messages of the type `Sequence`. An empty list
    counts as a batch of no rows when every column is empty. Where not all columns are lists of one length it is a row.

    Raises:
        ValueError: If the columns are in none of the accepted layouts, or hold arrays.
    """
    layout = layout_of(rows.keys())
    value = rows[layout.text[0]]
    # One array may be a row's picture; of a batch's pictures it is what a format made of them.
    looked_at = layout.columns if isinstance(value, list | tuple) else layout.text
    if arrays := [name for name in looked_at if hasattr(rows[name], "__array__") and not isinstance(rows[name], str)]:
        raise ValueError(
            f"column {arrays[0]!r} is {type(rows[arrays[0]]).__name__}; rows are read as Python values: "
            "dataset.with_format(None)"
        )
    if not isinstance(value, list | tuple):
        return False
    if any(not isinstance(rows[name], list | tuple) or len(rows[name]) != len(value) for name in layout.columns):
        return False  # a row with several questions, say
    return not value or not all(isinstance(item, Mapping) and not is_columns(item) for item in value)


def is_columns(value: Any) -> bool:
    """Whether messages are given as a dict of lists instead of a list of dicts."""
    names = ("role", "from", "user")
    return isinstance(value, Mapping) and any(isinstance(value.get(name), list | tuple) for name in names)
