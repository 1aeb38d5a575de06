"""Files of rows: what tells them from others; texts opened, also of gzip, and refused if empty or not UTF-8."""

import codecs
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import digest
from c3l_hf.common.versions import versions

__all__ = ["check_text", "is_compressed", "not_utf8", "open_bytes", "source_digest"]

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
    """A file's content, also where gzip has compressed it."""
    return cast(BinaryIO, gzip.open(file)) if is_compressed(file) else file.open("rb")


def check_text(file: Path) -> bytes:
    """The beginning of a text file without the mark that some programs put before UTF-8.

    Raises:
        RunError: If nothing but space is in the file, or its mark is that of another encoding, or it cannot be read.
    """
    try:
        with open_bytes(file) as content:
            start = content.read(4096)
            if (encoding := _other_encoding(start)) is not None:
                raise not_utf8(file, f"it begins as {encoding}")
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


def _other_encoding(start: bytes) -> str | None:
    return next((name for mark, name in _OTHER_MARKS if start.startswith(mark)), None)
