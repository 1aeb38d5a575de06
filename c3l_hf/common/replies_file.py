"""A file of replies that were paid for: each is added at once, so that none is asked for twice."""

import io
import json
import logging
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash

__all__ = ["RepliesFile"]

logger = logging.getLogger(__name__)

_ENTRY = b'{"request": "'  # how every line of the file begins, also one that was interrupted later on
_CHECKSUM = b', "checksum": "'  # the last that a line has: of what is before it; lines of older versions have none


class RepliesFile:
    """Replies by what identifies their request, in a file of JSON lines that is only ever appended to.

    What was there is found when the object is made; the file is made, and opened for writing, by the first reply that
    is added. In memory are the places of the replies, not their texts. A line that was not written to its end, or is
    not what was written, is left out with a warning. One process writes a file; what others have written is read from
    `others`.

    Args:
        file: The file; its folder must exist.
        columns: What every reply has.
        others: Further such files, which are only read, as those of a run's other processes.

    Raises:
        ValueError: If a file holds something else, or can be none.
    """

    def __init__(self, file: str | Path, columns: Iterable[str], others: Iterable[str | Path] = ()) -> None:
        self.file, self._columns = Path(file), {"request", *columns}
        self._places: dict[bytes, tuple[Path, int]] = {}
        self._lock = threading.Lock()
        self._out: io.BufferedWriter | None = None
        self._open: dict[Path, io.BufferedReader] = {}
        for path in (*(Path(other) for other in others if Path(other) != self.file), self.file):
            self._find(path)

    def __enter__(self) -> "RepliesFile":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._out, *self._open.values()):
            if file is not None:
                file.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, request: str) -> bool:
        return request.encode() in self._places

    def get(self, request: str) -> dict[str, Any] | None:
        """The reply to a request, the last one if there are several; None if there is none."""
        with self._lock:
            place = self._places.get(request.encode())
            if place is None:
                return None
            path, start = place
            if path not in self._open:
                self._open[path] = path.open("rb")
            self._open[path].seek(start)
            reply = json.loads(self._open[path].readline())
            reply.pop("checksum", None)
            return reply

    def add(self, replies: Mapping[str, Mapping[str, Any]]) -> None:
        """Write replies, each under what identifies its request; from any thread."""
        lines = [_sealed(json.dumps({"request": request, **reply}).encode()) for request, reply in replies.items()]
        with self._lock:
            if self._out is None:
                self._out = self.file.open("ab")
                # An interrupted line; what follows must not be glued to it.
                if self._out.tell() and not _ends_a_line(self.file):
                    self._out.write(b"\n")
            start = self._out.tell()
            self._out.write(b"".join(lines))
            self._out.flush()
            for request, line in zip(replies, lines):
                self._places[request.encode()] = (self.file, start)
                start += len(line)

    def _find(self, file: Path) -> None:
        if file.is_dir() or not file.parent.is_dir():
            raise ValueError(
                f"{file} is a folder, or in a folder that does not exist; name a .jsonl file to keep replies"
            )
        if not file.exists():
            return
        start, is_ours, foreign = 0, False, None
        with file.open("rb") as lines:
            for number, raw in enumerate(lines, start=1):
                line, place = raw.strip(b"\0\r\n\t "), start  # a disk that lost power leaves characters 0
                start += len(raw)
                reply = _reply_in(line)
                if isinstance(reply, dict) and self._columns <= reply.keys() and isinstance(reply["request"], str):
                    if line == raw.strip():
                        is_ours = True
                        self._places[str(reply["request"]).encode()] = (file, place)
                        continue
                elif reply is not None:
                    raise _foreign(file, number)
                elif not line.startswith(_ENTRY) and not _ENTRY.startswith(line):
                    foreign = foreign or number
                if line or raw.strip():
                    cut = not raw.endswith(b"\n")
                    told = "was not written to its end" if cut else "is not what was written"
                    logger.warning("%s: line %d %s; its request is asked again", file, number, told)
        if foreign and not is_ours:
            raise _foreign(file, foreign)


def _sealed(line: bytes) -> bytes:
    """A line of the file, with its checksum and its end."""
    return line[:-1] + _CHECKSUM + xxhash.xxh3_64_hexdigest(line).encode() + b'"}\n'


def _reply_in(line: bytes) -> Any:
    """What a line has; None if it is no JSON, or not what was written."""
    text, mark, rest = line.rpartition(_CHECKSUM)
    if mark and rest != xxhash.xxh3_64_hexdigest(text + b"}").encode() + b'"}':
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def _ends_a_line(file: Path) -> bool:
    with file.open("rb") as written:
        written.seek(-1, os.SEEK_END)
        return written.read() == b"\n"


def _foreign(file: Path, number: int) -> ValueError:
    return ValueError(f"{file}: line {number} is not a reply of a model; give another file")
