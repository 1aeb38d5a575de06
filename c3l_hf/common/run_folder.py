"""A run's folder: each stage's result beside what made it, reused for the same inputs, never overwritten."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets, load_from_disk
from filelock import FileLock, Timeout

from c3l_hf.common.errors import RunError
from c3l_hf.common.processes import process_state
from c3l_hf.common.versions import versions

__all__ = ["Run"]

_RECORD = "stage.json"
_RUN = "run.json"
_LOCK = ".lock"
_BEGUN = "begun.json"  # in the folder of a stage that is not complete: what `stage.json` will say of it
_PIECES = "pieces-"


@dataclass
class Run:
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

    def plan(self, stages: Mapping[str, Mapping[str, Any]], wanted: Collection[str]) -> None:
        """Declares the stages in order with their options, and checks what the folder already holds.

        Args:
            stages: The options of each stage, in order.
            wanted: The stages that may be made; of the others before them the result must be there.

        Raises:
            RunError: If the folder holds something else, a result of the same stage with other options, or not what a
                wanted stage needs; or if another run is working in it.
        """
        if self.folder.is_file():
            raise RunError(f"{self.folder} is a file; give another --output_dir")
        names = {path.name for path in self.folder.iterdir()} - {_LOCK} if self.folder.is_dir() else ()
        if names and _RUN not in names:
            raise RunError(f"{self.folder} is not empty and was not made by this recipe; give another --output_dir")
        made_before: dict[str, Any] = dict(self.inputs)
        for name, options in stages.items():
            # As JSON reads it back, so that it compares equal with what a stage has written.
            record = json.loads(json.dumps({"stage": name, "options": dict(options), "from": dict(made_before)}))
            self.records[name] = record
            made_before[name] = dict(options)
            path = self.path(name) / _RECORD
            if path.is_file():
                found = {key: value for key, value in json.loads(path.read_text()).items() if key in record}
                if found != record:
                    raise RunError(
                        f"{self.path(name)} holds another run's result ({_difference(found, record)}); "
                        "give another --output_dir, or remove that folder and those of the stages after it"
                    )
        last = max(list(stages).index(name) for name in wanted)
        missing = [name for name in list(stages)[:last] if name not in wanted and not self.is_done(name)]
        if missing:
            raise RunError(f"{self.folder} has no result of {', '.join(missing)} yet; add it to --stages")
        if process_state().is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._claim()
            self._clear()
            _write_json(self.folder / _RUN, {"inputs": self.inputs, "stages": stages, "versions": versions()})
        process_state().wait_for_everyone()

    def _claim(self) -> None:
        """Keeps other runs out of the folder while this one lives: what looks left over may be what they are making."""
        self._lock = FileLock(self.folder / _LOCK, timeout=0, thread_local=False, is_singleton=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise RunError(
                f"another run is working in {self.folder}; wait until it has ended, or give another --output_dir"
            ) from None

    def path(self, name: str) -> Path:
        """The folder of a stage's result."""
        return self.folder / "stages" / f"{list(self.records).index(name) + 1}_{name}"

    def digest(self, name: str) -> str:
        """What identifies a stage's result: a hex digest of its options and those of the stages before it."""
        return hashlib.sha256(json.dumps(self.records[name], sort_keys=True).encode()).hexdigest()

    def report(self, name: str) -> dict[str, Any]:
        """What a complete stage has reported."""
        return json.loads((self.path(name) / _RECORD).read_text())["report"]

    def is_done(self, name: str) -> bool:
        return (self.path(name) / _RECORD).is_file()

    def complete(self, name: str, make: Callable[[Path], Mapping[str, Any] | None]) -> dict[str, Any]:
        """Runs a stage unless its result is there. Every process calls this; `make` sees a folder all of them share.

        Args:
            name: A planned stage.
            make: Writes the result into the folder it is given; what it returns (counts, tables) is kept in the record.

        Returns:
            What `make` returned when the stage was made.
        """
        state = process_state()
        path = self.path(name)
        if not self.is_done(name):
            unfinished = self._unfinished(name)
            if state.is_main_process:
                unfinished.mkdir(parents=True, exist_ok=True)
                _write_json(unfinished / _BEGUN, self.records[name])
            state.wait_for_everyone()
            report = make(unfinished)
            state.wait_for_everyone()
            if state.is_main_process:
                _write_json(unfinished / _RECORD, {**self.records[name], "report": report or {}})
                (unfinished / _BEGUN).unlink()
                os.rename(unfinished, path)
            state.wait_for_everyone()
        return self.report(name)

    def dataset(self, name: str, make: Callable[[], tuple[Dataset, Mapping[str, Any]]]) -> tuple[Dataset, dict]:
        """A stage that makes a dataset on the main process: (the dataset, its report)."""

        def write(folder: Path) -> Mapping[str, Any] | None:
            if not process_state().is_main_process:
                return None
            dataset, report = make()
            dataset.save_to_disk(folder / "data")
            return report

        report = self.complete(name, write)
        return load_from_disk(self.path(name) / "data"), report

    def in_pieces(
        self, name: str, source: Dataset, make: Callable[[Dataset], Dataset], piece_size: int = 500
    ) -> Dataset:
        """A stage that makes rows from rows, so many at a time, in their order. Processes take turns at the pieces; one
        that is complete outlasts an interruption.

        Args:
            name: A planned stage.
            source: What it is made from.
            make: Some rows of the source → rows of the result, which do not depend on the other rows.
            piece_size: Rows of the source in a piece; fewer where there are more processes than such pieces.
        """

        def write(folder: Path) -> None:
            state = process_state()
            size = max(1, min(piece_size, -(-len(source) // state.num_processes)))
            starts = range(0, len(source), size)
            pieces = [folder / f"{_PIECES}{size}" / f"{start:09d}" for start in starts]
            for start, piece in list(zip(starts, pieces))[state.process_index :: state.num_processes]:
                if not piece.is_dir():
                    partial = piece.with_suffix(".partial")
                    shutil.rmtree(partial, ignore_errors=True)
                    make(source.select(range(start, min(start + size, len(source))))).save_to_disk(partial)
                    os.rename(partial, piece)
            state.wait_for_everyone()
            if state.is_main_process:
                shutil.rmtree(folder / "data", ignore_errors=True)
                concatenate_datasets([load_from_disk(piece) for piece in pieces]).save_to_disk(folder / "data")

        self.complete(name, write)
        if process_state().is_main_process:
            for made in self.path(name).glob(f"{_PIECES}*"):
                shutil.rmtree(made)
        return load_from_disk(self.path(name) / "data")

    def _clear(self) -> None:
        """Removes what interrupted stages have left, but for the pieces of the one that comes next."""
        ahead = next((name for name in self.records if not self.is_done(name)), None)
        for leftover in self.folder.glob("stages/*.unfinished*"):
            begun = leftover / _BEGUN
            if ahead and leftover == self._unfinished(ahead) and begun.is_file():
                if json.loads(begun.read_text()) == self.records[ahead] and any(leftover.glob(f"{_PIECES}*")):
                    continue
            shutil.rmtree(leftover)

    def _unfinished(self, name: str) -> Path:
        return self.path(name).with_name(self.path(name).name + ".unfinished")


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first option in which two records differ, in words."""
    flat_found, flat_wanted = _flat(found), _flat(wanted)
    for key in flat_wanted.keys() | flat_found.keys():
        if flat_found.get(key) != flat_wanted.get(key):
            return f"{key}: {flat_found.get(key)!r} there, {flat_wanted.get(key)!r} asked for"
    return "no difference"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()}


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=False) + "\n")
