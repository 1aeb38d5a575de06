"""Pseudo-label rows that cannot be trained on, found before the first step instead of hours into it."""

import functools
import logging
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from accelerate.utils import gather_object
from datasets import Dataset, Features, IterableDataset

from c3l_hf.common.errors import RowError, said_by
from c3l_hf.common.processes import process_state
from c3l_hf.data.image_files import check_key
from c3l_hf.data.layouts import IMAGE_COLUMNS
from c3l_hf.data.preferences import preference_columns, read_candidates
from c3l_hf.data.stored_rows import stored_rows, undecoded
from c3l_hf.selection.token_weights import row_weight
from c3l_hf.training.collator import DataCollatorForC3L
from c3l_hf.training.quick_check import QuickCheck

__all__ = ["check_columns", "check_rows", "has_negatives", "row_problem"]

logger = logging.getLogger(__name__)

_SHOWN = 5
_BATCH = 50  # rows whose images are in memory together
_IDS = ("pair_id", "image_id")


def check_columns(
    name: str, dataset: Dataset | IterableDataset, weight_column: str | None, tokens_column: str | None = None
) -> None:
    """Raises a ValueError if a dataset lacks a column; the message names it."""
    columns = _columns(dataset)
    if not columns:
        return  # it is not known; the rows will show it
    try:
        preference_columns(columns)
        if weight_column and weight_column not in columns:
            raise ValueError(f"no column {weight_column!r}; it has {', '.join(columns)}")
        if tokens_column and tokens_column not in columns:
            raise ValueError(
                f"no column {tokens_column!r}, which token_weights needs and c3l select makes of pairs that c3l score "
                f"has scored; it has {', '.join(columns)}"
            )
    except ValueError as error:
        raise ValueError(
            f"{name} has {error}. C3LTrainer takes pseudo-label rows, as "
            "c3l_hf.selection.pseudo_labels.select_pseudo_labels makes them from scored pairs, and preference rows."
        ) from None


def has_negatives(dataset: Dataset | IterableDataset) -> bool:
    """Whether any row has a rejected answer; of a stream it is not known beforehand, and taken for granted."""
    if isinstance(dataset, IterableDataset):
        return True
    stored = dataset.with_format(None)  # a transform would read the pictures
    return any(stored["rejected"] if "rejected" in stored.column_names else (row["rejected"] for row in dataset))


def row_problem(
    row: Mapping[str, Any], collator: DataCollatorForC3L, quick_check: QuickCheck | None = None
) -> str | None:
    """Why a row cannot be trained on; None if it can.

    Args:
        row: A pseudo-label row.
        collator: The row goes through all that it does with it.
        quick_check: Of the same collator: tells of most rows that they need not go through it.
    """
    try:
        candidates = read_candidates(row)
    except RowError as error:
        return str(error)
    chosen = candidates.chosen.split()
    same = [number for number, answer in enumerate(candidates.rejected) if answer.split() == chosen]
    if same:
        return f"rejected[{same[0]}]: it is the chosen answer again"
    try:
        if collator.weight_column is not None:
            row_weight(row, collator.weight_column)
        if quick_check is not None and quick_check.takes(row):
            return None
        collator.token_weights_of(row, collator.encode(row)[0])
    except RowError as error:
        return str(error)
    return None


def check_rows(
    name: str, dataset: Dataset | IterableDataset, collator: DataCollatorForC3L, *, drop: bool, num_proc: int | None
) -> Dataset | IterableDataset:
    """A dataset without the rows that cannot be trained on.

    Args:
        name: What messages call the dataset.
        dataset: Pseudo-label rows, or preference rows (see `data.preferences`). Those of an `IterableDataset` are
            judged as they come: by the collator, or, with `drop`, by a filter that warns of each row it leaves out.
        collator: Encodes the rows in training.
        drop: Leave such rows out, with a warning that says how many and why.
        num_proc: Processes that share the work.

    Raises:
        ValueError: If there are such rows and `drop` is False, or if no row is left, or there was none.
    """
    if not (isinstance(dataset, Dataset) and _is_transformed(dataset)):
        dataset = dataset.with_format(None)  # not as arrays or tensors, which are no messages and pictures
    if isinstance(dataset, IterableDataset):
        # Images come as they are stored: `datasets` would raise an error of its own about one that cannot be decoded.
        for column in IMAGE_COLUMNS:
            if dataset.features and column in dataset.features:
                dataset = dataset.cast_column(column, undecoded(dataset.features[column]))
        passes = functools.partial(_passes, name=name, collator=collator, quick_check=QuickCheck(collator))
        return dataset.filter(passes) if drop else dataset
    if not len(dataset):
        raise ValueError(f"{name} has no rows; where c3l select made it, its counts say why no pseudo-label is left")
    problems = (_problems_of_transformed if _is_transformed(dataset) else _problems_of_stored)(
        dataset, QuickCheck(collator), num_proc, f"Checking {name}"
    )
    if not problems:
        return dataset
    if drop and len(problems) < len(dataset):
        # The first part of a reason is the same for many rows; the rest is about one.
        reasons = Counter(problem.partition(";")[0][:80] for problem in problems.values()).most_common(_SHOWN)
        listed = "; ".join(f"{count} with {reason}" for reason, count in reasons)
        logger.warning("%s: %d of %d rows are left out: %s", name, len(problems), len(dataset), listed)
        return dataset.select([number for number in range(len(dataset)) if number not in problems])
    stored = dataset.with_format(None)
    columns = [column for column in _IDS if column in stored.column_names]
    ids = [{column: stored[column][number] for column in columns} for number in list(problems)[:_SHOWN]]
    lines = [f"  row {n} ({_identity(row)}), {problems[n]}" for n, row in zip(problems, ids)]
    more = f"\n  and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
    raise ValueError(
        f"{name}: {len(problems):,} of {len(dataset):,} rows cannot be trained on:\n"
        + "\n".join(lines)
        + more
        + ("\nNo row is left." if drop else '\nMend them, or leave them out with invalid_rows="drop".')
    )


def _problems_of_stored(dataset: Dataset, quick_check: QuickCheck, num_proc: int | None, desc: str) -> dict[int, str]:
    """The problems by the rows' numbers; kept in the cache of `datasets`."""
    layout = preference_columns(dataset.column_names)
    with process_state().main_process_first():  # the others find the result in the cache
        checked = (
            dataset.with_format("arrow")  # images as they are stored
            .map(
                functools.partial(
                    _with_problem,
                    features=dataset.features,
                    quick_check=quick_check,
                    made_from=check_key(dataset, layout),
                ),
                batched=True,
                batch_size=_BATCH,
                remove_columns=dataset.column_names,
                num_proc=num_proc,
                desc=desc,
            )
            .with_format(None)
        )
    return {number: problem for number, problem in enumerate(checked["problem"]) if problem}


def _with_problem(table: pa.Table, features: Features, quick_check: QuickCheck, made_from: str) -> dict[str, list[str]]:
    # `made_from` is for the cache of `datasets`, which looks at the arguments.
    rows = stored_rows(table, features)
    return {"problem": [row_problem(row, quick_check.collator, quick_check) or "" for row in rows]}


def _problems_of_transformed(
    dataset: Dataset, quick_check: QuickCheck, num_proc: int | None, desc: str
) -> dict[int, str]:
    """The same for rows that are made when they are read (`Dataset.with_transform`).

    Nobody knows which files a transform reads, so nothing is cached; each process checks its share of the rows.
    """
    state = process_state()
    numbers = Dataset.from_dict({"number": range(state.process_index, len(dataset), state.num_processes)})
    problems: dict[int, str] = {}
    if len(numbers):
        checked = numbers.map(
            functools.partial(_transformed_problems, dataset=dataset, quick_check=quick_check),
            input_columns="number",
            batched=True,
            batch_size=_BATCH,
            num_proc=num_proc,
            keep_in_memory=True,
            load_from_cache_file=False,
            new_fingerprint=uuid.uuid4().hex,  # else all of the rows would be hashed
            desc=desc,
        )
        problems = {number: problem for number, problem in zip(checked["number"], checked["problem"]) if problem}
    every = gather_object(list(problems.items())) if state.num_processes > 1 else problems.items()
    return dict(sorted(every))


def _transformed_problems(numbers: list[int], dataset: Dataset, quick_check: QuickCheck) -> dict[str, list[str]]:
    def problem(number: int) -> str | None:
        try:
            row = dataset[number]
        except Exception as error:  # of a transform that we do not know, or of a picture that `datasets` cannot decode
            return f"it cannot be read: {type(error).__name__}: {said_by(error, 160)}"
        return row_problem(row, quick_check.collator, quick_check)

    try:
        columns = dataset[numbers]  # at once, which may be cheaper for the transform
    except Exception:  # one by one, each with its own
        return {"problem": [problem(number) or "" for number in numbers]}
    rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
    return {"problem": [row_problem(row, quick_check.collator, quick_check) or "" for row in rows]}


def _is_transformed(dataset: Dataset) -> bool:
    return dataset.format["type"] == "custom"


def _columns(dataset: Dataset | IterableDataset) -> list[str]:
    """The columns that rows have; [] if that is not known."""
    if isinstance(dataset, IterableDataset) or not _is_transformed(dataset):
        return dataset.column_names or []
    for number in range(min(len(dataset), _SHOWN)):
        try:
            return list(dataset[number])
        except Exception:  # a row that cannot be read is a matter of `check_rows`
            continue
    return []


def _passes(row: Mapping[str, Any], name: str, collator: DataCollatorForC3L, quick_check: QuickCheck) -> bool:
    problem = row_problem(row, collator, quick_check)
    if problem:
        logger.warning("%s: the row with %s is left out, %s", name, _identity(row), problem)
    return problem is None


def _identity(row: Mapping[str, Any]) -> str:
    return next((f"{c} {row[c]!r}" for c in _IDS if row.get(c) is not None), "no id")
