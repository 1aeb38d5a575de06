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

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import atomic_write, digest, file_sha256
from c3l_hf.common.names import listed
from c3l_hf.files.decoders import check_is_file

__all__ = ["FileState", "Inventory", "Look", "cached", "list_files", "sha256_of"]

logger = logging.getLogger(__name__)

_LONGEST = 200
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


def list_files(folder: str | Path, notes: list[str] | None = None) -> list[FileState]:
    """The files in a folder and below it, by their path relative to it, in order; hidden ones are passed over.

    Links are followed, those to folders too, wherever they lead: a folder is read once, by its own path if it has one
    here. A link to a folder that has this one in it is not followed.

    Args:
        folder: The folder.
        notes: To it is added what can be said of links, of pipes and devices, and of folders that cannot be read, a
            line each.

    Raises:
        RunError: If the folder cannot be read.
    """
    root = os.path.realpath(folder)
    folders: set[tuple[int, int]] = set()
    links: list[tuple[str, str]] = []  # to folders: name, path
    followed, passed_over, nowhere, denied, odd = [], [], [], [], []

    def visit(path: str, prefix: str) -> Iterator[FileState]:
        below = [(path, prefix)]  # no recursion: folders may be nested deeper than that goes
        while below:
            yield from visit_one(*below.pop(), below)

    def visit_one(path: str, prefix: str, below: list[tuple[str, str]]) -> Iterator[FileState]:
        try:
            here = os.stat(path)
            if (here.st_dev, here.st_ino) in folders:
                passed_over.append(prefix[:-1])
                return
            folders.add((here.st_dev, here.st_ino))
            entries = list(os.scandir(path))
        except OSError as error:
            if not prefix:
                raise RunError(f"{folder} cannot be read: {error.strerror or error}") from None
            denied.append(prefix[:-1])
            return
        for entry in entries:
            name = prefix + entry.name
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    below.append((entry.path, f"{name}/"))
                elif entry.is_dir():
                    links.append((name, entry.path))
                elif entry.is_file():
                    yield FileState.of(name, entry.stat())
                elif entry.is_symlink() and not os.path.exists(entry.path):
                    nowhere.append(name)
                else:  # reading one may never end
                    odd.append(name)
            except OSError:  # links that lead to each other
                nowhere.append(name)

    files = list(visit(str(folder), ""))
    while links:
        name, path = min(links)
        links.remove((name, path))
        if Path(root).is_relative_to(os.path.realpath(path)):
            passed_over.append(name)
            continue
        before = len(passed_over)
        files += visit(path, f"{name}/")
        if len(passed_over) == before or passed_over[-1] != name:
            followed.append(f"{name} → {os.path.realpath(path)}")
    for text, names in (
        ("links to folders, followed", followed),
        ("folders passed over, as they are read by another path or have this one in them", passed_over),
        ("links that lead nowhere", nowhere),
        ("folders that cannot be read", denied),
        ("pipes, devices and sockets, passed over", odd),
    ):
        if names and notes is not None:
            notes.append(f"{text}: {len(names):,} ({listed(sorted(names), 5)})")
    return sorted(files, key=lambda state: state.name.split("/"))


class Inventory:
    """SHA-256 digests of things that are named by a state, kept in a parquet file from one look to the next.

    Args:
        file: Where they are kept; None keeps nothing.
    """

    def __init__(self, file: str | Path | None = None):
        self.file = None if file is None else Path(file)
        self._known: dict[FileState, Look] = {}
        if self.file is not None and self.file.is_file():
            try:
                columns = pq.read_table(self.file, schema=_SCHEMA, page_checksum_verification=True).to_pydict()
            except (OSError, ValueError) as error:
                told = " ".join(str(error).split())[:_LONGEST]
                logger.warning("%s cannot be read (%s); the files are read again", self.file, told)
                return
            states = map(FileState, columns["name"], columns["size"], columns["changed_ns"])
            self._known = dict(zip(states, map(Look, columns["digest"], columns["problem"])))

    @property
    def states(self) -> list[FileState]:
        """What was looked at last, in its order."""
        return list(self._known)

    def digests(self, states: Sequence[FileState], make: Callable[[FileState], bytes]) -> list[bytes]:
        """The digest of each, made where its state is new, and kept; what was kept of others is forgotten.

        Args:
            states: In their order.
            make: A new state → its digest, 32 bytes.
        """
        found = [look.digest for _, look in self.looks(states, lambda state: Look(make(state)))]
        self.keep()
        return found

    def looks(
        self,
        states: Sequence[FileState],
        make: Callable[[FileState], Look],
        wanted: Callable[[FileState], bool] = lambda state: True,
    ) -> Iterator[tuple[FileState, Look]]:
        """What is known of each, one after the other, likewise; `keep` keeps it.

        Args:
            states: In their order.
            make: A new state → what is found out about it.
            wanted: Asked when its turn comes: what is not wanted is not looked at.
        """
        self._found: dict[FileState, Look] = {}
        for state in tqdm(states, desc="Reading files", leave=False, disable=None):
            if wanted(state):
                self._found[state] = self._known[state] if state in self._known else make(state)
                yield state, self._found[state]

    def keep(self) -> None:
        """Keep what was looked at last, and nothing else."""
        known = self._found
        if self.file is not None and list(known) != list(self._known):
            columns = [[getattr(state, name) for state in known] for name in _STATE]
            columns += [[getattr(look, name) for look in known.values()] for name in ("digest", "problem")]
            table = pa.table(columns, schema=_SCHEMA)
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(self.file, shared=True) as partial:
                    pq.write_table(table, partial, write_page_checksum=True)
            except OSError as error:  # the results are the same without it
                logger.warning("what is known of the files cannot be kept (%s); they are read again next time", error)
        self._known = known


def sha256_of(path: str | Path) -> bytes:
    """SHA-256 of a file's content; of one that cannot be read, of the reason."""
    try:
        check_is_file(path)
        return file_sha256(path)
    except OSError as error:
        # A missing picture is found again, and counted, when its rows are made.
        return hashlib.sha256(str(error).encode()).digest()
