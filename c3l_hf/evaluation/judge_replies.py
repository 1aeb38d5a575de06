"""The file of a judge's replies: each is added at once, so that after an interruption none is paid for twice."""

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["appending", "read_replies"]

logger = logging.getLogger(__name__)

_ENTRY = '{"request": "'  # how every line of the file begins, also one that was interrupted later on


def read_replies(file: Path) -> dict[str, dict[str, Any]]:
    """The replies in a file of JSON lines, by their request's digest; none if it is not there.

    A line that was not written to its end is left out with a warning.

    Raises:
        ValueError: If the file holds something else, or can be none.
    """
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"{file} is a folder, or in a folder that does not exist; name a .jsonl file to keep replies")
    replies = {}
    for number, line in enumerate(file.read_text("utf-8", "replace").split("\n") if file.exists() else (), start=1):
        try:
            reply = json.loads(line)
        except ValueError:
            if line.strip() and not line.startswith(_ENTRY) and not _ENTRY.startswith(line):
                raise _foreign(file, number) from None
            if line.strip():
                logger.warning("%s: line %d was not written to its end; its request is asked again", file, number)
            continue
        if not (isinstance(reply, dict) and {"request", "text", "refusal", "finish_reason"} <= reply.keys()):
            raise _foreign(file, number)
        replies[reply["request"]] = reply
    return replies


@contextlib.contextmanager
def appending(file: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that adds an entry (its first key is "request") to a file of JSON lines, whole, from any thread."""
    lock = threading.Lock()
    with file.open("ab") as out:
        if out.tell():
            with file.open("rb") as written:
                written.seek(-1, os.SEEK_END)
                if written.read() != b"\n":  # an interrupted line; what follows must not be glued to it
                    out.write(b"\n")

        def append(entry: Mapping[str, Any]) -> None:
            with lock:
                out.write(json.dumps(entry).encode() + b"\n")
                out.flush()

        yield append


def _foreign(file: Path, number: int) -> ValueError:
    return ValueError(f"{file}: line {number} is not a judge's reply; give another file")
