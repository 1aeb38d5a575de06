"""A run's folder: each stage's result beside what made it, reused for the same inputs, never overwritten."""

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from c3l_hf.common.aside import ASIDE, set_aside
from c3l_hf.common.errors import RunError
from c3l_hf.common.files import digest, move, write_json
from c3l_hf.common.locks import LOCK_FILES, holder_of, lock_folder
from c3l_hf.common.names import listed
from c3l_hf.common.nodes import wait_for_files
from c3l_hf.common.processes import process_state
from c3l_hf.common.records import differences
from c3l_hf.common.shards import Shards
from c3l_hf.common.stage_folder import SHARD_SIZE, USAGE, USAGE_KEYS, StageFolder, identity_of
from c3l_hf.common.usage import UsageMeter, most_of_processes, one_after_the_other
from c3l_hf.common.versions import versions

__all__ = ["INVENTORY", "RunFolder", "is_run"]

logger = logging.getLogger(__name__)

INVENTORY = "images.parquet"  # what is known of the images of a run, see `files.inventory`

_RUN = "run.json"
# What a run makes before or without `run.json`: at its start, or after its folder has gone while it worked.
_OURS = re.compile(rf"stages|replies|embeddings|training-[0-9a-f]{{12}}-\d+|{ASIDE}-\d+|\..*\.partial")
_RECORDS = "stages/*/*.json.bak"  # the copies of what stages were made by


def is_run(path: str | Path) -> bool:
    """Whether a path is a run's folder."""
    return (Path(path) / _RUN).is_file()


@dataclass
class RunFolder:
    """The stages of one run in one folder.

    A stage is known by its options and by those of the stages before it. `plan` names them all at the start, so that a
    folder with another run's results is found before any work. A stage's folder appears only when it is complete, with
    the checksums of its files in its record; `claim` has made again what is not what was written.

    Args:
        folder: The run's folder; made if it does not exist.
        inputs: What the first stage starts from (digests, revisions): part of every stage's identity.
        results: Files and folders of the last stage's result that `move_results` brings into the run's folder.
        beside: Stage → patterns of what else in the run's folder goes where its result goes.
        called: Name of a setting in the options of a stage → what a user calls it, where that differs.
    """

    folder: Path
    inputs: Mapping[str, Any]
    results: Collection[str] = ()
    beside: Mapping[str, Collection[str]] = field(default_factory=dict)
    called: Mapping[str, str] = field(default_factory=dict)
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
            self._check_same(name, names[names.index(name) :])
        last = max(names.index(name) for name in wanted)
        complete = [name for name in kept if self.is_done(name)]
        missing = [name for name in names[:last] if name not in wanted and name not in complete]
        if missing:
            raise RunError(f"{self.folder} has no result of {', '.join(missing)} yet; add it to stages")
        # Whose record cannot be read is there all the same, and its results are set aside with it.
        if restart_from is None and not self._stage(names[-1]).path.exists():
            for name in self.results:
                if (self.folder / name).exists():
                    raise RunError(f"{self.folder / name} is in the way; move it, or give another output_dir")

    def _check_same(self, name: str, following: Collection[str]) -> None:
        """Raises a RunError if what is there of a stage was made by other options."""
        there = self._stage(name).standing()
        if there is None or identity_of(there) == self.records[name]:
            return
        settings = differences(identity_of(there), self.records[name], self.called)
        concerned = [other for other in following if self._stage(other).standing()]
        raise RunError(
            f"{self.path(name)} holds another run's result ({settings}); stages concerned: {listed(concerned)}; give "
            f"another output_dir, or restart_from {name}, which sets them aside"
        )

    def check_folder(self) -> None:
        """Raises a RunError if the folder is somebody's who is not this project."""
        if self.folder.is_file():
            raise RunError(f"{self.folder} is a file; give another output_dir")
        names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        is_ours = _RUN in names or any(self.folder.glob(_RECORDS))  # also if somebody has removed `run.json`
        if not is_ours and not all(map(_OURS.fullmatch, names - {INVENTORY, *LOCK_FILES})):
            raise RunError(f"{self.folder} is not empty and was not made by c3l_hf; give another output_dir")

    def claim(self) -> None:
        """Begin to work in the folder. Every process calls this, after `plan`.

        What complete stages have made is compared with its checksums. What is damaged is named in a warning, set aside
        and made again, see `StageFolder.check`; so is what was made of something else than comes of it.

        Raises:
            RunError: If another run is working in it: what looks left over may be what that one is making.
        """
        process_state().wait_for_everyone()  # all have planned by what was there
        if process_state().is_main_process:
            self._lock_folder()
            for name in self.records:
                self._stage(name).check([self.folder / result for result in self._results_of(name)])
            self._set_stale_aside(at_start=True)
            for name, record in self.records.items():
                self._stage(name).clear(record)
            stages = {name: record["options"] for name, record in self.records.items()}
            write_json(self.folder / _RUN, {"inputs": self.inputs, "stages": stages, "versions": versions()})
        process_state().wait_for_everyone()

    def _lock_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.folder)
        if self._lock is None:
            raise RunError(
                f"another run is working in {self.folder} ({holder_of(self.folder)}); wait until it has ended, or give "
                "another output_dir"
            )

    def set_aside(self, first: str) -> Path | None:
        """Move the results of a planned stage and of those after it, with what belongs to them, into a folder of their
        own; nothing is deleted.

        Returns:
            Where they are now; None if there were none.

        Raises:
            RunError: If another run is working in the folder.
        """
        self._lock_folder()
        names = list(self.records)
        paths = []
        # The last first: whatever stops this, no stage is left behind that was made from one that has gone.
        for name in reversed(names[names.index(first) :]):
            paths += [self.folder / result for result in self._results_of(name)]
            paths += [path for pattern in self.beside.get(name, ()) for path in sorted(self.folder.glob(pattern))]
            paths += [self._stage(name).unfinished, self._stage(name).path]
        return set_aside(self.folder, paths)

    def _set_stale_aside(self, at_start: bool = False) -> None:
        """Set aside the stages that were made of another result than an earlier one has now: it was made again, and
        came out otherwise. At the start also those of which nobody knows it, as older versions did not note it, if
        something before them is made again."""
        made: dict[str, str] = {}
        missing: list[str] = []
        for name in self.records:
            stage = self._stage(name)
            made_of = stage.made_of()
            stale = [one for one, result in made_of.items() if made.get(one, result) != result]
            if not self.is_done(name):
                missing.append(name)
            elif at_start:
                stale += [one for one in missing if one not in made_of]
            if stale:
                told = f"{name} was made of another result of {stale[0]} than is there now; it is made again"
                logger.warning("%s, and what follows. What was there is in %s", told, self.set_aside(name))
                return
            if (result := stage.result()) is not None:
                made[name] = result

    def move_results(self) -> None:
        """Bring the results of the last stage, which is complete, to their places. The main process calls this."""
        for name in self.results:
            result = self.path(list(self.records)[-1]) / name
            if result.exists():
                set_aside(self.folder, [self.folder / name])
                move(result, self.folder / name)

    def _results_of(self, name: str) -> Collection[str]:
        return self.results if name == list(self.records)[-1] else ()

    def path(self, name: str) -> Path:
        """The folder of a stage's result."""
        return self._stage(name).path

    def _stage(self, name: str) -> StageFolder:
        return StageFolder(self.folder, list(self.records).index(name) + 1, name)

    def digest(self, name: str) -> str:
        """What identifies a stage's result: a hex digest of its options and those of the stages before it."""
        return digest(json.dumps(self.records[name], sort_keys=True))

    def report(self, name: str) -> dict[str, Any]:
        """What a complete stage has reported."""
        return self._record(name)["report"]

    def usage(self, name: str) -> dict[str, Any]:
        """What a complete stage took: `seconds` by the clock, `peak_memory_bytes` of the process that had most, and of
        an accelerator `peak_accelerator_bytes`. Shards that were there before an interruption count, lost work does
        not; {} for a stage that an older version made. See `common.usage`.
        """
        record = self._record(name)
        return {key: record[key] for key in USAGE_KEYS if key in record}

    def _record(self, name: str) -> dict[str, Any]:
        record = self._stage(name).record()
        if record is None:
            raise _gone(self.path(name))
        return record

    def is_done(self, name: str) -> bool:
        """Whether a stage is complete."""
        return self._stage(name).record() is not None

    def begun_parts(self, name: str) -> list[range]:
        """Of a stage that is made in shards and not complete: the rows that it is made from whose shards are there."""
        stage = self._stage(name)
        size = (stage.begun() or {}).get(SHARD_SIZE)
        return [range(size * number, size * (number + 1)) for number in stage.shards_there()] if size else []

    def complete(self, name: str, make: Callable[[Path], Mapping[str, Any] | None]) -> dict[str, Any]:
        """Run a stage unless its result is there. Every process calls this; `make` sees a folder all of them share.

        Args:
            name: A planned stage.
            make: Writes the result into the folder it is given; what it returns on the main process (counts, tables) is
                kept in the record.

        Returns:
            What `make` returned when the stage was made.

        Raises:
            RunError: If the run's folder has gone.
        """
        state, stage = process_state(), self._stage(name)
        if not self.is_done(name):
            if state.is_main_process:
                self._check_there()
                names = list(self.records)
                before = {one: self._stage(one).result() for one in names[: names.index(name)]}
                stage.begin(self.records[name], {one: result for one, result in before.items() if result is not None})
            state.wait_for_everyone()
            # What the shards took that are there.
            self._earlier = (stage.begun() or {}).get(USAGE, {}) if state.is_main_process else {}
            self._meter = UsageMeter()
            try:
                report = make(stage.unfinished)
            finally:
                usage = self._meter.stop()
            usage = one_after_the_other([self._earlier, most_of_processes(usage)])
            if state.is_main_process:
                self._check_there()
                stage.complete({"report": report or {}, **usage})
                self._set_stale_aside()
            state.wait_for_everyone()
            wait_for_files([self.path(name)])
        return self.report(name)

    def _check_there(self) -> None:
        if not is_run(self.folder):
            raise _gone(self.folder)

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
            state, stage = process_state(), self._stage(name)
            size = (stage.begun() or {}).get(SHARD_SIZE)
            if size is None:
                size = max(1, min(shard_size, -(-rows // state.num_processes)))
            state.wait_for_everyone()  # all have read it
            if state.is_main_process:
                stage.note(**{SHARD_SIZE: size})
            starts = range(0, rows, size)
            shards = Shards(folder, len(starts), root=self.folder)

            def make_shard(number: int) -> Iterable[pa.Table]:
                if state.is_main_process:  # of the shards so far, for whoever goes on after an interruption
                    self._check_there()
                    stage.note(**{USAGE: one_after_the_other([self._earlier, self._meter.so_far()])})
                return make(starts[number], min(starts[number] + size, rows))

            shards.write_missing(make_shard, schema)
            return report(shards) if state.is_main_process else None

        self.complete(name, write)
        return self.shards(name)

    def shards(self, name: str) -> Shards:
        """The result of a stage that was made in shards."""
        return Shards(self.path(name))


def _gone(path: Path) -> RunError:
    return RunError(f"{path} has gone while a run worked; put it back (is its disk there?): the same command goes on")
