"""One progress line for a whole stage: where it is, how fast, and how long it still takes."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from types import TracebackType
from typing import Self, TypeVar

from tqdm.auto import tqdm

from c3l_hf.common.processes import process_state

__all__ = ["ProgressLine"]

# Between two lines in a log. A stage that is done sooner has none.
_SECONDS_IN_LOGS = 300.0
# Between two looks at what is complete on the disk, which may be far away and have thousands of files.
_SECONDS_BETWEEN_LOOKS = 5.0

Table = TypeVar("Table", bound=Sized)


class ProgressLine:
    """One line for all rows of a stage, by whichever process they are made; only the main process has one.

    In a terminal or a notebook it is a bar. In a log it is a line every five minutes. What was there at the start
    counts as done, but neither for the rate nor for the remaining time.

    Example:

    ```python
    with ProgressLine("score", 5000, "pairs", there=shards.num_rows_there) as line:
        shards.write_missing(lambda number: line.over(scores_of(number)), schema)
    ```

    Args:
        name: Of the stage.
        total: Rows that it has when it is complete.
        unit: What rows are: "pairs".
        there: Rows that are complete on the disk, of all processes; None where they are not kept in parts, and rows
            that this process has made are all there are.
        shown: Whether there is a line at all.
    """

    def __init__(
        self, name: str, total: int, unit: str, there: Callable[[], int] | None = None, shown: bool = True
    ) -> None:
        self.name, self.total, self.unit = name, total, unit
        self._there = there
        self._shown = shown and process_state().is_main_process
        self._complete, self._own, self._looked = 0, 0, 0.0
        self._begun: float | None = None
        self._bar: tqdm | None = None

    def _begin(self) -> None:
        self._begun = self._told = self._looked = time.monotonic()
        self._complete = self._start = self._there() if self._there else 0
        if sys.stderr.isatty() or "ipykernel" in sys.modules:
            self._bar = tqdm(total=self.total, initial=self._complete, desc=self.name, unit=self.unit, leave=False)

    def over(self, tables: Iterable[Table]) -> Iterator[Table]:
        """The tables of a part as they come, counted."""
        self.begin_part()
        for table in tables:
            yield table
            self.advance(len(table))

    def begin_part(self) -> None:
        """What this process made before is complete, and a part begins; the first one is where the clock starts."""
        if self._shown and self._begun is None:
            self._begin()
        elif self._shown and self._there:
            self._complete, self._own, self._looked = self._there(), 0, time.monotonic()

    def advance(self, rows: int = 1) -> None:
        """So many rows have been made."""
        if not self._shown:
            return
        if self._begun is None:
            self._begin()
        self._own += rows
        now = time.monotonic()
        if self._there and now - self._looked > _SECONDS_BETWEEN_LOOKS:
            self._complete, self._looked = self._there(), now
        done = min(self._complete + self._own, self.total)
        if self._bar is not None:
            self._bar.update(max(0, done - self._bar.n))
        elif now - self._told >= _SECONDS_IN_LOGS:
            self._told = now
            print(self._line(done, now - (self._begun or now)), file=sys.stderr, flush=True)

    def _line(self, done: int, seconds: float) -> str:
        """Without colours or returns, for logs."""
        rate = (done - self._start) / max(seconds, 1e-9)
        left = f"{tqdm.format_interval((self.total - done) / rate)} left" if rate else "nothing made yet"
        return f"{self.name}: {done:,} of {self.total:,} {self.unit}, {rate:.3g}/s, {left}"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
