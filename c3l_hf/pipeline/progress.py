"""What a run tells while it works: one progress line a stage, and what became of it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import datasets
import pyarrow as pa
import transformers
from tqdm.auto import tqdm

from c3l_hf.common.processes import process_state
from c3l_hf.common.tables import format_table

__all__ = ["StageBar", "format_counts", "format_training", "quiet_libraries"]


class StageBar:
    """One progress line for all rows that this process makes of a stage; none where nobody watches (in logs).

    Args:
        stage: Its name.
        unit: What a row is.
    """

    def __init__(self, stage: str, unit: str):
        self.stage, self.unit = stage, unit
        self._bar: tqdm | None = None

    def over(self, tables: Iterable[pa.Table], total: int, column: str | None = None) -> Iterator[pa.Table]:
        """The tables as they come, counted.

        Args:
            tables: Rows of the stage.
            total: Of all that the stage will make.
            column: Count the different values of this column instead of rows.
        """
        if self._bar is None:
            shown = None if process_state().is_main_process else True
            share = -(-total // process_state().num_processes)
            self._bar = tqdm(total=share, desc=self.stage, unit=self.unit, disable=shown, leave=False)
        for table in tables:
            yield table
            self._bar.update(len(table if column is None else table[column].unique()))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def quiet_libraries() -> None:
    """Switch off the bars of datasets and transformers, which would come between a run's own lines."""
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def format_counts(counts: Mapping[str, int]) -> str:
    return "\n".join(f"{name}: {count:,}" for name, count in counts.items())


def format_training(report: Mapping[str, Any]) -> str:
    """The logged metrics of the first and the last steps, side by side."""
    log = [entry for entry in report["log"] if "loss/nll" in entry]
    names = ("loss", "loss/nll", "loss/contrastive", "contrastive_accuracy")
    rows = [(f"{report['steps']} steps", "first logged", "last logged")]
    logged = ((name, [float(entry[name]) for entry in log if name in entry]) for name in names)  # the end has no loss
    rows += [(name, f"{values[0]:.3f}", f"{values[-1]:.3f}") for name, values in logged if values]
    return format_table(rows)
