"""Pseudo-label rows that cannot be trained on, found before the first step instead of hours into it."""

import functools
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from datasets import Dataset, Image, IterableDataset, List

from c3l_hf.common.errors import RowError
from c3l_hf.common.processes import process_state
from c3l_hf.data.image_files import check_key
from c3l_hf.training.collator import DataCollatorForC3L, answer_text

__all__ = ["check_columns", "check_rows", "has_negatives", "row_problem"]

logger = logging.getLogger(__name__)

_SHOWN = 5


def check_columns(name: str, dataset: Dataset | IterableDataset, weight_column: str | None) -> None:
    """Raises a ValueError if a dataset lacks a column; the message names it."""
    needed = ["images", "prompt", "chosen", "rejected", *([weight_column] if weight_column else [])]
    missing = [column for column in needed if column not in (dataset.column_names or needed)]
    if missing:
        found = ", ".join(dataset.column_names)
        raise ValueError(
            f"{name} has no column {', '.join(map(repr, missing))}; it has {found}. C3LTrainer takes pseudo-label "
            "rows, as c3l_hf.selection.pseudo_labels.select_pseudo_labels makes them from scored pairs."
        )


def has_negatives(dataset: Dataset | IterableDataset) -> bool:
    """Whether any row has a rejected answer; of a stream it is not known beforehand, and taken for granted."""
    return isinstance(dataset, IterableDataset) or any(dataset["rejected"])


def row_problem(row: Mapping[str, Any], collator: DataCollatorForC3L) -> str | None:
    """Why a row cannot be trained on; None if it can. The row goes through all that the collator does with it."""
    try:
        chosen, rejected = answer_text(row["chosen"]), row["rejected"] or ()
    except RowError as error:
        return f"chosen: {error}"
    try:
        same = [number for number, answer in enumerate(rejected) if answer_text(answer).split() == chosen.split()]
    except RowError:
        same = []  # the collator says which one
    if same:
        return f"rejected[{same[0]}]: it is the chosen answer again"
    weight = row.get(collator.weight_column, 1.0)
    if not (isinstance(weight, int | float) and 0 <= weight < float("inf")):
        return f"{collator.weight_column}: it is {weight!r}; give a number that is not negative"
    try:
        collator.encode(row)
    except RowError as error:
        return str(error)
    return None


def check_rows(
    name: str, dataset: Dataset | IterableDataset, collator: DataCollatorForC3L, *, drop: bool, num_proc: int | None
) -> Dataset | IterableDataset:
    """A dataset without the rows that cannot be trained on.

    Args:
        name: What messages call the dataset.
        dataset: Pseudo-label rows. Those of an `IterableDataset` are judged as they come: by the collator, or, with
            `drop`, by a filter that warns of each row it leaves out.
        collator: Encodes the rows in training.
        drop: Leave such rows out, with a warning that says how many and why.
        num_proc: Processes that share the work.

    Raises:
        ValueError: If there are such rows and `drop` is False, or if no row is left.
    """
    # Images come as they are stored: `datasets` would raise an error of its own about one that cannot be decoded.
    if isinstance(dataset, IterableDataset):
        if dataset.features and dataset.features["images"] == List(Image()):
            dataset = dataset.cast_column("images", List(Image(decode=False)))
        return dataset.filter(functools.partial(_passes, name=name, collator=collator)) if drop else dataset
    with process_state().main_process_first():  # the others find the result in the cache
        checked = (
            dataset.with_format("arrow")
            .map(
                functools.partial(_with_problem, collator=collator, made_from=check_key(dataset, "images")),
                batched=True,
                batch_size=50,  # their images are in memory together
                remove_columns=dataset.column_names,
                num_proc=num_proc,
                desc=f"Checking {name}",
            )
            .with_format(None)
        )
    problems = {number: problem for number, problem in enumerate(checked["problem"]) if problem}
    if not problems:
        return dataset
    if drop and len(problems) < len(dataset):
        # The first part of a reason is the same for many rows; the rest is about one.
        reasons = Counter(problem.partition(";")[0][:80] for problem in problems.values()).most_common(_SHOWN)
        listed = "; ".join(f"{count} with {reason}" for reason, count in reasons)
        logger.warning("%s: %d of %d rows are left out: %s", name, len(problems), len(dataset), listed)
        return dataset.select([number for number in range(len(dataset)) if number not in problems])
    ids = dataset.remove_columns("images").select(list(problems)[:_SHOWN])
    lines = [f"  row {n} ({_identity(row)}), {problems[n]}" for n, row in zip(problems, ids)]
    more = f"\n  and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
    raise ValueError(
        f"{name}: {len(problems):,} of {len(dataset):,} rows cannot be trained on:\n"
        + "\n".join(lines)
        + more
        + ("\nNo row is left." if drop else '\nMend them, or leave them out with invalid_rows="drop".')
    )


def _with_problem(table: pa.Table, collator: DataCollatorForC3L, made_from: str) -> dict[str, list[str]]:
    # `made_from` is for the cache of `datasets`, which looks at the arguments.
    return {"problem": [row_problem(row, collator) or "" for row in table.to_pylist()]}


def _passes(row: Mapping[str, Any], name: str, collator: DataCollatorForC3L) -> bool:
    problem = row_problem(row, collator)
    if problem:
        logger.warning("%s: the row with %s is left out, %s", name, _identity(row), problem)
    return problem is None


def _identity(row: Mapping[str, Any]) -> str:
    return next((f"{c} {row[c]!r}" for c in ("pair_id", "image_id") if row.get(c) is not None), "no id")
