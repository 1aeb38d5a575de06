"""Files of rows: what tells them from others; texts opened, also of gzip, and refused if they are no texts in UTF-8."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import digest
from c3l_hf.common.versions import versions
from c3l_hf.files.other_kinds import other_than_rows

__all__ = ["LONGEST_LINE", "check_text", "is_compressed", "lines_of", "not_utf8", "open_bytes", "source_digest"]

# Bytes of one line, which may hold several pictures. A longer one is no row, and would fill the memory.
LONGEST_LINE = 2**28
# Texts shrink to a tenth or less, and never to a thousandth: zeros do.
_MOST_TIMES = 300
_ALWAYS = 2**28  # bytes that a compressed file may have in any case

_OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def source_digest(files: Sequence[Path], *options: object) -> str:
    """What tells rows of files from others without reading them: where the files are, their sizes and times, how they
    are read, and by which version of this package."""
    states = [(file.resolve(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return digest(states, *options, versions()["c3l-hf"])


def is_compressed(file: Path) -> bool:
    """Whether its name says that gzip has compressed it."""
    return file.suffix.lower() == ".gz"


def open_bytes(file: Path) -> BinaryIO:
    """A file's content, also where gzip has compressed it: then reading ends in an OSError where it is very much more
    than the file, as in one that is made to fill a memory."""
    if not is_compressed(file):
        return file.open("rb")
    return cast(BinaryIO, io.BufferedReader(_Unpacked(file), 1 << 20))


class _Unpacked(io.RawIOBase):
    """The content of a gzip file, as far as a text can have been compressed."""

    def __init__(self, file: Path):
        self._file = gzip.open(file)
        self._left = max(_ALWAYS, _MOST_TIMES * file.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        block = self._file.read1(len(buffer))
        self._left -= len(block)
        if self._left < 0:
            raise OSError(f"it unpacks to more than {_MOST_TIMES} times its size, which no text does")
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._file.close()
        super().close()


def lines_of(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a text file, counted from 1, with their ends: as \\n, \\r\\n, or \\r of old programs.

    Raises:
        RunError: If a line is longer than `LONGEST_LINE`, or has a byte 0, as what a crash has left of a file.
    """
    number = 0
    with open_bytes(file) as content:
        while line := content.readline(LONGEST_LINE):
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                raise RunError(
                    f"{file} cannot be read: line {number + 1:,} is longer than {LONGEST_LINE:,} bytes; "
                    "give each row a line of its own"
                )
            for part in line.splitlines(keepends=True) if b"\r" in line else (line,):
                number += 1
                if b"\0" in part:
                    raise _not_text(file, number)
                yield number, part


def check_text(file: Path) -> bytes:
    """The beginning of a text file without the mark that some programs put before UTF-8.

    Raises:
        RunError: If nothing but space is in the file, or it is another kind of file, or in another encoding, or it
            cannot be read.
    """
    try:
        with open_bytes(file) as content:
            start = content.read(4096)
            if (kind := other_than_rows(start, "text")) is not None:
                raise RunError(f"{file} is {kind}")
            if (encoding := _other_encoding(start)) is not None:
                raise not_utf8(file, f"it begins as {encoding}")
            if b"\0" in start:
                raise _not_text(file, 1 + start.partition(b"\0")[0].count(b"\n"))
            start = start.removeprefix(codecs.BOM_UTF8)
            while not start.strip():
                if not (start := content.read(1 << 20)):
                    raise RunError(f"{file} is empty: it has no rows")
            return start.lstrip()
    except (OSError, EOFError, zlib.error) as error:
        raise RunError(f"{file} cannot be read: {error}") from None


def not_utf8(file: Path, why: str) -> RunError:
    """What to say of a file in another encoding."""
    return RunError(f"{file} is not text in UTF-8 ({why}); save it as UTF-8")


def _not_text(file: Path, line: int) -> RunError:
    return RunError(f"{file} is not text: line {line:,} has a byte 0; it is damaged, or another kind of file")


def _other_encoding(start: bytes) -> str | None:
    """The encoding whose mark a text begins with, or that the zeros between its letters tell."""
    if marked := next((name for mark, name in _OTHER_MARKS if start.startswith(mark)), None):
        return marked
    letters = start[:64]
    with_letters = sum(any(letters[place::4]) for place in range(4))
    return {1: "UTF-32", 2: "UTF-16"}.get(with_letters) if letters.count(0) > len(letters) // 3 else None
