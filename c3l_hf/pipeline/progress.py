"""What a run tells while it works, and what became of it."""

from collections.abc import Mapping
from typing import Any

import datasets
import transformers

from c3l_hf.common.run_folder import RunFolder
from c3l_hf.common.tables import format_table

__all__ = ["describe", "format_training", "quiet_libraries"]


def quiet_libraries() -> None:
    """Switch off the bars of datasets and transformers, which would come between a run's own lines."""
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def describe(folder: RunFolder, stage: str) -> str:
    """What a stage has made, as text."""
    report = folder.report(stage)
    if "log" in report:
        return format_training(report)
    if "table" in report:
        return report["table"]
    repeated = {"the same texts as another of the image": report["repeated"]} if report.get("repeated") else {}
    return _format_counts(report["counts"] | repeated)


def _format_counts(counts: Mapping[str, int]) -> str:
    return "\n".join(f"{name}: {count:,}" for name, count in counts.items())


def format_training(report: Mapping[str, Any]) -> str:
    """The logged metrics of the first and the last steps, side by side."""
    log = [entry for entry in report["log"] if "loss/nll" in entry]
    names = ("loss", "loss/nll", "loss/contrastive", "contrastive_accuracy")
    rows = [(f"{report['steps']} steps", "first logged", "last logged")]
    logged = ((name, [float(entry[name]) for entry in log if name in entry]) for name in names)  # the end has no loss
    rows += [(name, f"{values[0]:.3f}", f"{values[-1]:.3f}") for name, values in logged if values]
    return format_table(rows)
