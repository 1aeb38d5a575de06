"""Signals about pairs beside the correspondence: functions for `Dataset.map` and `score_dataset`, as the scorer is."""

import contextlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from c3l_hf.common.ahead import ahead
from c3l_hf.common.files import digest
from c3l_hf.scoring.rows import mapped

__all__ = ["Measure", "Signal"]


class Measure(Protocol):
    """What a signal is: how rows are made ready for it, and what it says of them."""

    @property
    def features(self) -> dict[str, Any]:
        """The columns that it adds, and their types: numbers first, the reasons of rows without any last."""

    @property
    def image_folder(self) -> Path | None:
        """Where images are that rows name by a relative path."""

    def identity(self) -> tuple[str, ...]:
        """All that the numbers depend on, beside the rows."""

    def columns(self, names: Iterable[str]) -> tuple[str, ...]:
        """The columns that it reads of a dataset with these; a ValueError if they will not do."""

    def prepared(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Rows made ready, in a thread, while the model is at work."""

    def measured(self, prepared: Any) -> list[dict[str, Any]]:
        """The columns of each of these rows."""

    def to_accelerator(self, rank: int) -> None:
        """Puts the model, if there is one in this process, on the accelerator of this number."""

    def is_passing(self, reason: str) -> bool:
        """Whether a row without a number may have one when it is asked for again."""


@dataclass(frozen=True)
class Signal:
    """A number about each pair, as a function for `map`; `score_dataset` takes it in the scorer's place.

    Made by `truth_signal`, `premise_signal`, `question_signal`, `agreement_signal` and `judge_signal`. Rows are taken
    in any layout of `data.layouts`. A row for which there is no number keeps its place, with nulls and the reason in
    the column `status`.

    Example:

    ```python
    truth = truth_signal(scorer)
    scored = score_dataset(score_dataset(ds, scorer), truth)  # goes on after an interruption
    scored = ds.map(truth, batched=True, batch_size=256, features=Features({**ds.features, **truth.features}))
    ```
    """

    measure: Measure

    @property
    def features(self) -> dict[str, Any]:
        """The types of the columns, for `map(features=Features({**ds.features, **signal.features}))`."""
        return self.measure.features

    @property
    def status(self) -> str:
        """The column with the reason why a row has no number."""
        return list(self.features)[-1]

    @property
    def numbers(self) -> list[str]:
        """The columns with a number for a row."""
        return [name for name, kind in self.features.items() if getattr(kind, "dtype", "").startswith("float")]

    @property
    def image_folder(self) -> Path | None:
        """Where images are that rows name by a relative path."""
        return self.measure.image_folder

    @property
    def fingerprint(self) -> str:
        """What the numbers depend on, as a hex digest: the measure with its texts, the model, and the code."""
        return digest(type(self.measure).__name__, *self.measure.identity())

    def columns(self, names: Iterable[str]) -> tuple[str, ...]:
        """The columns that are read of a dataset with these.

        Raises:
            ValueError: If they are in no accepted layout, or one is missing that a text names.
        """
        return self.measure.columns(names)

    def __call__(self, rows: Mapping[str, Any], rank: int | None = None) -> dict[str, Any]:
        """The columns of one row, or of a batch of rows; see `I2CScorer.__call__`."""
        if rank is not None:
            self.measure.to_accelerator(rank)
        return mapped(rows, self.columns, self.score, list(self.features))

    def score(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The columns of each row, in order."""
        return self.measure.measured(self.measure.prepared(rows))

    def score_batches(
        self, batches: Iterable[Sequence[Mapping[str, Any]]]
    ) -> Generator[list[dict[str, Any]], None, None]:
        """The columns of each row of each batch, in order; the next batch is made ready in a thread meanwhile. Close it
        where it may be left early."""
        with contextlib.closing(ahead(map(self.measure.prepared, batches))) as prepared:
            for rows in prepared:
                yield self.measure.measured(rows)
