"""What is known of image files from an earlier look: a file is read again only when its size or time changed."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from c3l_hf.common.files import atomic_write, digest, file_sha256

__all__ = ["FileState", "Inventory", "Look", "cached", "list_files", "sha256_of"]

logger = logging.getLogger(__name__)

_STATE = {"name": pa.string(), "size": pa.int64(), "changed_ns": pa.int64()}
_SCHEMA = pa.schema({**_STATE, "digest": pa.binary(32), "problem": pa.string()})


@dataclass(frozen=True)
class FileState:
    """A file's name, size in bytes, and the time of its last change in nanoseconds.

    The later one of the times that the system has of it: that of the content can be set, as archives do that are
    unpacked over each other; that of the entry cannot.
    """

    @classmethod
    def of(cls, name: str, stat: os.stat_result) -> "FileState":
        return cls(name, stat.st_size, max(stat.st_mtime_ns, stat.st_ctime_ns))

    name: str
    size: int
    changed_ns: int


class Look(NamedTuple):
    """What was found out about a file: the SHA-256 of its content, and why it cannot be used, if it cannot."""

    digest: bytes
    problem: str | None = None


def cached(kind: str, *parts: object) -> Path:
    """A file for an inventory in the cache of `datasets`, where a command has no folder of its own.

    Args:
        kind: What is looked at.
        parts: What tells it from others of its kind.
    """
    return Path(datasets.config.HF_DATASETS_CACHE) / f"c3l_hf-{kind}-{digest(*parts)}.parquet"


def list_files(folder: str | Path) -> list[FileState]:
    """The files in a folder and below it, by their path relative to it, in order; hidden ones are passed over."""

    def visit(path: str, prefix: str) -> Iterator[FileState]:
        with os.scandir(path) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from visit(entry.path, f"{name}/")
                elif entry.is_file():
                    yield FileState.of(name, entry.stat())

    return sorted(visit(str(folder), ""), key=lambda state: state.name.split("/"))


class Inventory:
    """SHA-256 digests of things that are named by a state, kept in a parquet file from one look to the next.

    Args:
        file: Where they are kept; None keeps nothing.
    """

    def __init__(self, file: str | Path | None = None):
        self.file = None if file is None else Path(file)
        self._known: dict[FileState, Look] = {}
        if self.file is not None and self.file.is_file():
            columns = pq.read_table(self.file, schema=_SCHEMA).to_pydict()
            states = map(FileState, columns["name"], columns["size"], columns["changed_ns"])
            self._known = dict(zip(states, map(Look, columns["digest"], columns["problem"])))

    @property
    def states(self) -> list[FileState]:
        """What was looked at last, in its order."""
        return list(self._known)

    def digests(self, states: Sequence[FileState], make: Callable[[FileState], bytes]) -> list[bytes]:
        """The digest of each, made where its state is new; what was kept of others is forgotten.

        Args:
            states: In their order.
            make: A new state → its digest, 32 bytes.
        """
        return [look.digest for look in self.looks(states, lambda state: Look(make(state)))]

    def looks(
        self,
        states: Sequence[FileState],
        make: Callable[[FileState], Look],
        check: Callable[[Sequence[Look]], None] = lambda looks: None,
    ) -> list[Look]:
        """What is known of each, likewise.

        Args:
            states: In their order.
            make: A new state → what is found out about it.
            check: Raises an error if nothing comes of it all, before anything is kept.
        """
        new = [state for state in states if state not in self._known]
        read = {state: make(state) for state in tqdm(new, desc="Reading files", leave=False, disable=None)}
        known = {state: read[state] if state in read else self._known[state] for state in states}
        check(list(known.values()))
        if self.file is not None and list(known) != list(self._known):
            columns = [[getattr(state, name) for state in known] for name in _STATE]
            columns += [[getattr(look, name) for look in known.values()] for name in ("digest", "problem")]
            table = pa.table(columns, schema=_SCHEMA)
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(self.file, shared=True) as partial:
                    pq.write_table(table, partial)
            except OSError as error:  # the results are the same without it
                logger.warning("what is known of the files cannot be kept (%s); they are read again next time", error)
        self._known = known
        return [known[state] for state in states]


def sha256_of(path: str | Path) -> bytes:
    """SHA-256 of a file's content; of one that cannot be read, of the reason."""
    try:
        return file_sha256(path)
    except OSError as error:
        # A missing picture is found again, and counted, when its rows are made.
        return hashlib.sha256(str(error).encode()).digest()
