"""A run's folder: each stage's result beside what made it, reused for the same inputs, never overwritten."""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import digest, read_json, write_json
from c3l_hf.common.nodes import wait_for_files
from c3l_hf.common.processes import process_state
from c3l_hf.common.shards import Shards
from c3l_hf.common.usage import UsageMeter, most_of_processes, one_after_the_other
from c3l_hf.common.versions import versions

__all__ = ["INVENTORY", "RunFolder", "is_run"]

INVENTORY = "images.parquet"  # what is known of the images of a run, see `files.inventory`

_RECORD = "stage.json"
_RUN = "run.json"
_LOCK = ".lock"
_BEGUN = "begun.json"  # in the folder of a stage that is not complete: what `stage.json` will say of it
_ASIDE = "set_aside"
# In `begun.json`, and not of what a stage is known by: rows in a shard; what the shards took that are there.
_SHARD_SIZE, _USAGE = "shard_size", "usage"
_DIGEST = re.compile("[0-9a-f]{64}")
_USAGE_KEYS = ("seconds", "peak_memory_bytes", "peak_accelerator_bytes")


def is_run(path: str | Path) -> bool:
    """Whether a path is a run's folder."""
    return (Path(path) / _RUN).is_file()


@dataclass
class RunFolder:
    """The stages of one run in one folder.

    A stage is known by its options and by those of the stages before it. `plan` names them all at the start, so that a
    folder with another run's results is found before any work. A stage's folder appears only when it is complete.

    Args:
        folder: The run's folder; made if it does not exist.
        inputs: What the first stage starts from (digests, revisions): part of every stage's identity.
    """

    folder: Path
    inputs: Mapping[str, Any]
    records: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)

    def plan(
        self, stages: Mapping[str, Mapping[str, Any]], wanted: Collection[str], restart_from: str | None = None
    ) -> None:
        """Declare the stages in order with their options, and check what the folder already holds. Writes nothing.

        Args:
            stages: The options of each stage, in order.
            wanted: The stages that may be made; of the others before them the result must be there.
            restart_from: The stage whose result, and those of the stages after it, will be set aside (`set_aside`).

        Raises:
            RunError: If the folder holds something else, a result of the same stage with other options, or not what a
                wanted stage needs.
        """
        self.check_folder()
        before: dict[str, Any] = dict(self.inputs)
        for name, options in stages.items():
            # As JSON reads it back, so that it compares equal with what a stage has written.
            self.records[name] = json.loads(json.dumps({"stage": name, "options": options, "from": before}))
            before[name] = dict(options)
        names = list(stages)
        kept = names if restart_from is None else names[: names.index(restart_from)]
        for name in kept:
            path, record = self.path(name) / _RECORD, self.records[name]
            if path.is_file():
                there = {key: value for key, value in read_json(path).items() if key in record}
                if there != record:
                    raise RunError(
                        f"{self.path(name)} holds another run's result ({_differences(there, record)}); give another "
                        f"output_dir, or restart_from {name}, which sets it and the stages after it aside"
                    )
        last = max(names.index(name) for name in wanted)
        complete = [name for name in kept if self.is_done(name)]
        missing = [name for name in names[:last] if name not in wanted and name not in complete]
        if missing:
            raise RunError(f"{self.folder} has no result of {', '.join(missing)} yet; add it to stages")

    def check_folder(self) -> None:
        """Raises a RunError if the folder is somebody's who is not this project."""
        if self.folder.is_file():
            raise RunError(f"{self.folder} is a file; give another output_dir")
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        # A run that was killed at its start may have left a part of a file.
        names = {path.name for path in paths if not path.match(".*.partial")} - {_LOCK, INVENTORY}
        if names and _RUN not in names:
            raise RunError(f"{self.folder} is not empty and was not made by c3l_hf; give another output_dir")

    def claim(self) -> None:
        """Begin to work in the folder. Every process calls this, after `plan`.

        Raises:
            RunError: If another run is working in it: what looks left over may be what that one is making.
        """
        if process_state().is_main_process:
            self._lock_folder()
            self._clear()
            stages = {name: record["options"] for name, record in self.records.items()}
            write_json(self.folder / _RUN, {"inputs": self.inputs, "stages": stages, "versions": versions()})
        process_state().wait_for_everyone()

    def _lock_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / _LOCK, timeout=0, thread_local=False, is_singleton=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise RunError(
                f"another run is working in {self.folder}; wait until it has ended, or give another output_dir"
            ) from None

    def set_aside(self, stages: Collection[str], first: str, results: Collection[str]) -> Path | None:
        """Move the results of a stage and of those after it into a folder of their own; nothing is deleted.

        Args:
            stages: All stages, in order.
            first: The first one that is to be made again.
            results: What else in the run's folder was made of them.

        Returns:
            Where they are now; None if there were none.

        Raises:
            RunError: If another run is working in the folder.
        """
        self._lock_folder()
        names = [f"{number}_{name}" for number, name in enumerate(stages, 1)]
        # The last first: whatever stops this, no stage is left behind that was made from one that has gone.
        paths = [self.folder / "stages" / name for name in reversed(names[list(stages).index(first) :])]
        paths = [self.folder / name for name in results] + [
            path for stage in paths for path in (stage.with_name(f"{stage.name}.unfinished"), stage)
        ]
        paths = [path for path in paths if path.exists()]
        if not paths:
            return None
        numbers = [int(path.name.rpartition("-")[2]) for path in self.folder.glob(f"{_ASIDE}-*")]
        aside = self.folder / f"{_ASIDE}-{max(numbers, default=0) + 1}"
        for path in paths:
            target = aside / path.relative_to(self.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, target)
        return aside

    def path(self, name: str) -> Path:
        """The folder of a stage's result."""
        return self.folder / "stages" / f"{list(self.records).index(name) + 1}_{name}"

    def digest(self, name: str) -> str:
        """What identifies a stage's result: a hex digest of its options and those of the stages before it."""
        return digest(json.dumps(self.records[name], sort_keys=True))

    def report(self, name: str) -> dict[str, Any]:
        """What a complete stage has reported."""
        return read_json(self.path(name) / _RECORD)["report"]

    def usage(self, name: str) -> dict[str, Any]:
        """What a complete stage took: `seconds` by the clock, `peak_memory_bytes` of the process that had most, and of
        an accelerator `peak_accelerator_bytes`. Shards that were there before an interruption count, lost work does
        not; {} for a stage that an older version made. See `common.usage`.
        """
        record = read_json(self.path(name) / _RECORD)
        return {key: record[key] for key in _USAGE_KEYS if key in record}

    def is_done(self, name: str) -> bool:
        return (self.path(name) / _RECORD).is_file()

    def begun_parts(self, name: str) -> list[range]:
        """Of a stage that is made in shards and not complete: the rows that it is made from whose shards are there."""
        begun = self._unfinished(name) / _BEGUN
        size = read_json(begun).get(_SHARD_SIZE, 0) if begun.is_file() else 0
        files = begun.parent.glob("?????-of-?????.parquet") if size else ()
        return [range(size * number, size * (number + 1)) for number in (int(file.name[:5]) for file in files)]

    def complete(self, name: str, make: Callable[[Path], Mapping[str, Any] | None]) -> dict[str, Any]:
        """Run a stage unless its result is there. Every process calls this; `make` sees a folder all of them share.

        Args:
            name: A planned stage.
            make: Writes the result into the folder it is given; what it returns on the main process (counts, tables) is
                kept in the record.

        Returns:
            What `make` returned when the stage was made.
        """
        state = process_state()
        if not self.is_done(name):
            unfinished = self._unfinished(name)
            if state.is_main_process:
                self._begin(unfinished, self.records[name])
            state.wait_for_everyone()
            # What the shards took that are there.
            self._earlier = read_json(unfinished / _BEGUN).get(_USAGE, {}) if state.is_main_process else {}
            self._meter = UsageMeter()
            try:
                report = make(unfinished)
            finally:
                usage = self._meter.stop()
            usage = one_after_the_other([self._earlier, most_of_processes(usage)])
            if state.is_main_process:
                write_json(unfinished / _RECORD, {**self.records[name], "report": report or {}, **usage})
                os.rename(unfinished, self.path(name))
                # Not before: shards without it would be cleared away if the run ended here.
                (self.path(name) / _BEGUN).unlink()
            state.wait_for_everyone()
            wait_for_files([self.path(name)])
        return self.report(name)

    def in_shards(
        self,
        name: str,
        rows: int,
        make: Callable[[int, int], Iterable[pa.Table]],
        schema: pa.Schema,
        report: Callable[[Shards], Mapping[str, Any]],
        shard_size: int,
    ) -> Shards:
        """Run a stage that makes rows from rows, a shard for so many at a time. Processes take turns at the shards; one
        that is complete outlasts an interruption.

        Args:
            name: A planned stage.
            rows: How many rows it is made from.
            make: First and last + 1 of some of these rows → tables of the result, which do not depend on other rows.
            schema: Of the result.
            report: The whole result → what the record keeps of it (counts).
            shard_size: Rows of the source in a shard; fewer where there are more processes than such shards. What an
                interrupted run began with stays.
        """

        def write(folder: Path) -> Mapping[str, Any] | None:
            state = process_state()
            begun = read_json(folder / _BEGUN)
            size = begun.get(_SHARD_SIZE)
            if size is None:
                size = begun[_SHARD_SIZE] = max(1, min(shard_size, -(-rows // state.num_processes)))
                state.wait_for_everyone()  # all have read it
                if state.is_main_process:
                    write_json(folder / _BEGUN, begun)
            starts = range(0, rows, size)
            shards = Shards(folder, len(starts))

            def make_shard(number: int) -> Iterable[pa.Table]:
                if state.is_main_process:  # of the shards so far, for whoever goes on after an interruption
                    usage = one_after_the_other([self._earlier, self._meter.so_far()])
                    write_json(folder / _BEGUN, {**begun, _USAGE: usage})
                return make(starts[number], min(starts[number] + size, rows))

            shards.write_missing(make_shard, schema)
            return report(shards) if state.is_main_process else None

        self.complete(name, write)
        return self.shards(name)

    def shards(self, name: str) -> Shards:
        """The result of a stage that was made in shards."""
        return Shards(self.path(name))

    def _begin(self, unfinished: Path, record: Mapping[str, Any]) -> None:
        unfinished.mkdir(parents=True, exist_ok=True)
        if not (unfinished / _BEGUN).is_file():
            write_json(unfinished / _BEGUN, record)

    def _clear(self) -> None:
        """Remove what interrupted stages have left, but for the shards of the one that comes next."""
        ahead = next((name for name in self.records if not self.is_done(name)), None)
        for leftover in self.folder.glob("stages/*.unfinished*"):
            begun = leftover / _BEGUN
            if ahead and leftover == self._unfinished(ahead) and begun.is_file():
                record = {k: value for k, value in read_json(begun).items() if k not in (_SHARD_SIZE, _USAGE)}
                if record == self.records[ahead] and any(leftover.glob("*.parquet")):
                    for partial in leftover.glob(".*.partial"):
                        partial.unlink()
                    continue
            shutil.rmtree(leftover)

    def _unfinished(self, name: str) -> Path:
        return self.path(name).with_name(self.path(name).name + ".unfinished")


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The options in which two records differ, in words; of many the first."""
    flat_there, flat_wanted = _flat(there), _flat(wanted)
    differing = sorted(
        key for key in flat_wanted.keys() | flat_there.keys() if flat_there.get(key) != flat_wanted.get(key)
    )
    parts = [f"{key}: {_compared(flat_there.get(key), flat_wanted.get(key))}" for key in differing[:4]]
    return "; ".join(parts) + (f"; and {len(differing) - 4} more" if len(differing) > 4 else "")


def _compared(there: Any, wanted: Any) -> str:
    """Two values; of digests, which say nothing to anybody, only that they differ."""
    digests = [isinstance(value, str) and _DIGEST.fullmatch(value) is not None for value in (there, wanted)]
    if all(digests):
        return "other content there than asked for"
    there, wanted = (
        "content of its own" if is_digest else repr(value) for value, is_digest in zip((there, wanted), digests)
    )
    return f"{there} there, {wanted} asked for"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()}
