"""The folder of one stage of a run: complete with its record, or unfinished; and whether it is what was written."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from c3l_hf.common.aside import set_aside
from c3l_hf.common.checksums import checksums_of, damage_of_file, note, note_of
from c3l_hf.common.files import digest, move, sync_below
from c3l_hf.common.records import COPY, is_whole, read_record, write_record
from c3l_hf.common.shards import SHARD_FILES

__all__ = ["SHARD_SIZE", "USAGE", "USAGE_KEYS", "StageFolder", "identity_of"]

logger = logging.getLogger(__name__)

_RECORD = "stage.json"
_BEGUN = "begun.json"  # in the folder of a stage that is not complete: what `stage.json` will say of it
_OURS = tuple(f"{name}{end}" for name in (_RECORD, _BEGUN) for end in ("", COPY))
# In a record, and not of what a stage is known by: rows in a shard; in `begun.json` only, what the shards took that are
# there; the checksums of its files; the stages before it with their results, in short.
SHARD_SIZE, USAGE, _CHECKSUMS, _MADE_OF = "shard_size", "usage", "checksums", "made_of"
USAGE_KEYS = ("seconds", "peak_memory_bytes", "peak_accelerator_bytes")
# What people read, and may have changed since; no stage and no program is fed with it.
_FOR_PEOPLE = (".md", ".yaml", ".html", ".png", ".svg")


def identity_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage is known by: its name, its options, and what is before it."""
    return {key: record.get(key) for key in ("stage", "options", "from")}


class StageFolder:
    """A stage's folder, which has its name when the stage is complete, and another one until then.

    Args:
        run: The run's folder.
        number: Of the stage, from 1.
        name: Of the stage.
    """

    def __init__(self, run: Path, number: int, name: str):
        self.run, self.name = run, name
        self.path = run / "stages" / f"{number}_{name}"
        self.unfinished = self.path.with_name(f"{self.path.name}.unfinished")

    def record(self) -> dict[str, Any] | None:
        """What a complete stage was made by and has reported; None if it is not complete."""
        return read_record(self.path / _RECORD)

    def begun(self) -> dict[str, Any] | None:
        """What an unfinished stage is being made by; None if it has not begun."""
        return read_record(self.unfinished / _BEGUN)

    def result(self) -> str | None:
        """What a complete stage has made, in short; None if there is none, or one of an older version."""
        checksums = (self.record() or {}).get(_CHECKSUMS)
        return digest(*(part for item in sorted(checksums.items()) for part in item)) if checksums else None

    def made_of(self) -> dict[str, str]:
        """The stages before this one and what they had made (`result`) when this one began, as far as is known."""
        return (self.record() or self.begun() or {}).get(_MADE_OF, {})

    def shards_there(self) -> list[int]:
        """The numbers of the shards of an unfinished stage that are there."""
        return sorted(int(file.name[:5]) for file in self.unfinished.glob(SHARD_FILES))

    def standing(self) -> dict[str, Any] | None:
        """The record of what will be gone on with: of the complete stage, or of one that has shards."""
        begun = self.begun() or {}
        return self.record() or (begun if SHARD_SIZE in begun and self.shards_there() else None)

    def begin(self, identity: Mapping[str, Any], made_of: Mapping[str, str]) -> None:
        """Make the unfinished folder, unless it is there."""
        self.unfinished.mkdir(parents=True, exist_ok=True)
        if self.begun() is None:
            write_record(self.unfinished / _BEGUN, {**identity, _MADE_OF: dict(made_of)})

    def note(self, **values: Any) -> None:
        """Note something of an unfinished stage."""
        write_record(self.unfinished / _BEGUN, {**(self.begun() or {}), **values})

    def complete(self, values: Mapping[str, Any]) -> None:
        """Give the folder its name, with a record of what it was begun with, these values and all checksums."""
        sync_below(self.unfinished)
        checksums = {name: value for name, value in checksums_of(self.unfinished).items() if name not in _OURS}
        begun = {key: value for key, value in (self.begun() or {}).items() if key != USAGE}
        write_record(self.unfinished / _RECORD, {**begun, **values, _CHECKSUMS: checksums})
        move(self.unfinished, self.path)
        self._tidy()  # not before: shards without these would be set aside if the run ended here

    def _tidy(self) -> None:
        """Remove from a complete stage what only an unfinished one needs."""
        for path in [*(self.path / f"{_BEGUN}{end}" for end in ("", COPY)), *map(note_of, self.path.glob(SHARD_FILES))]:
            path.unlink(missing_ok=True)

    def clear(self, identity: Mapping[str, Any]) -> None:
        """Remove what an interruption has left of an unfinished stage, but for what it goes on with: its shards, and by
        what it was begun."""
        begun = self.begun()
        if begun is not None and identity_of(begun) == identity:
            goes_on = SHARD_SIZE in begun
            for path in self.unfinished.iterdir():
                if path.name not in _OURS and not (goes_on and path.is_file() and not path.match(".*.partial")):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif self.shards_there():
            told = f"nobody knows what the shards in {self._told(self.unfinished)} were made by: its {_BEGUN} cannot be"
            logger.warning("%s read, and neither can its copy; they are set aside in %s", told, self.set_aside())
        elif self.unfinished.exists():
            shutil.rmtree(self.unfinished)

    def set_aside(self, others: Sequence[Path] = ()) -> Path | None:
        """Move the stage, and first of all other paths of the run's folder, out of the way; where they are now."""
        return set_aside(self.run, [*others, self.unfinished, self.path])

    def check(self, results: Sequence[Path] = ()) -> None:
        """Compare a complete stage with its checksums. What is damaged is named in a warning and set aside, and will be
        made again: of a stage in shards these shards, else the stage.

        Args:
            results: What of the stage's result is moved into the run's folder.
        """
        if not self.path.exists():
            return
        record = self.record()
        if record is None:
            aside = self.set_aside(results)
            told = f"{self._told(self.path / _RECORD)} cannot be read, and neither can its copy"
            logger.warning("%s; %s is made again%s", told, self.name, _where(aside))
            return
        self._tidy()  # if the run ended before it could
        if _CHECKSUMS not in record:
            told = f"{self._told(self.path)} is of an older version, without checksums"
            if found := self._evident_damage(results):
                aside = self.set_aside(results)
                logger.warning("%s, and %s; %s is made again%s", told, found, self.name, _where(aside))
            else:
                logger.warning("%s; it is not checked", told)
            return
        self._mend(record)
        damaged, foreign = self._damaged(record[_CHECKSUMS], results)
        in_shards = SHARD_SIZE in record
        as_a_whole = damaged and not in_shards
        paths = [*foreign, *([*self._moved(record, results), self.path] if as_a_whole else damaged)]
        aside = set_aside(self.run, paths)
        for path, told in {**damaged, **foreign}.items():
            again = "" if path in foreign else f"; {'it' if in_shards else self.name} is made again"
            logger.warning("%s %s%s%s", self._told(path), told, again, _where(aside))
        if damaged and in_shards:
            self._reopen(record)

    def _evident_damage(self, results: Sequence[Path]) -> str | None:
        """What is seen without checksums: a result that is missing, shards that are missing or no parquet files."""
        if gone := [path.name for path in results if not path.exists() and not (self.path / path.name).exists()]:
            return f"{gone[0]} is missing"
        if not results and not any(path.name not in _OURS for path in self.path.iterdir()):
            return "its files are missing"
        shards = sorted(self.path.glob(SHARD_FILES))
        if shards and len(shards) != int(shards[0].stem[-5:]):
            return f"it has {len(shards)} of {int(shards[0].stem[-5:])} shards"
        for shard in shards:
            try:
                pq.read_metadata(shard)
            except (OSError, ValueError):
                return f"its shard {shard.name} cannot be read"
        return None

    def _mend(self, record: Mapping[str, Any]) -> None:
        """Write the record again where it, or its copy, is not whole."""
        if not is_whole(self.path / _RECORD):
            logger.warning("%s is not what was written; it is mended from its copy", self._told(self.path / _RECORD))
        elif is_whole(self.path / f"{_RECORD}{COPY}"):
            return
        write_record(self.path / _RECORD, record)

    def _damaged(
        self, checksums: Mapping[str, str], results: Sequence[Path]
    ) -> tuple[dict[Path, str], dict[Path, str]]:
        """The files that are not what was written, and what was found; and shards that nobody has written."""
        found: dict[Path, str] = {}
        for name, expected in checksums.items():
            if Path(name).suffix in _FOR_PEOPLE:
                continue
            place = self._place(name, results)
            top = place / name.split("/")[0]
            if not top.exists():
                found[top] = "is missing"
                continue
            file = place / name
            if told := damage_of_file(file, expected):
                found[file] = told
        foreign = [path for path in sorted(self.path.glob(SHARD_FILES)) if path.name not in checksums]
        return found, dict.fromkeys(foreign, "was not written by this run")

    def _place(self, name: str, results: Sequence[Path]) -> Path:
        """The folder in which a file of the stage's result is to be looked for: the run's if it is one of the results
        that are moved there. Another stage's may have the same name, as `generator/` of the training."""
        is_result = self.run / name.split("/")[0] in results
        return self.run if is_result and not (self.path / name).is_file() else self.path

    def _moved(self, record: Mapping[str, Any], results: Sequence[Path]) -> list[Path]:
        """What was moved into the run's folder of the stage's result."""
        tops = sorted({name.split("/")[0] for name in record[_CHECKSUMS] if self._place(name, results) == self.run})
        return [self.run / top for top in tops]

    def _reopen(self, record: Mapping[str, Any]) -> None:
        """Make a complete stage in shards one that was interrupted, from which some are missing."""
        for name, checksum in record[_CHECKSUMS].items():
            if (self.path / name).is_file():
                note(self.path / name, checksum)
        usage = {key: record[key] for key in USAGE_KEYS if key in record}
        kept = {key: record[key] for key in (SHARD_SIZE, _MADE_OF) if key in record}
        write_record(self.path / _BEGUN, {**identity_of(record), **kept, USAGE: usage})
        move(self.path, self.unfinished)
        for end in ("", COPY):
            (self.unfinished / f"{_RECORD}{end}").unlink(missing_ok=True)

    def _told(self, path: Path) -> str:
        """A path as messages have it: from the run's folder on."""
        return path.relative_to(self.run).as_posix()


def _where(aside: Path | None) -> str:
    return f". What was there is in {aside}" if aside else ""
