"""Scores of whole datasets and of pair tables: in parts that survive an interruption, over several processes."""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict

from c3l_hf import _compat
from c3l_hf.common.arrow import beside, in_tables_of
from c3l_hf.common.files import digest
from c3l_hf.common.locks import alone_in
from c3l_hf.common.nodes import check_same, check_shared
from c3l_hf.common.processes import process_state
from c3l_hf.common.progress import ProgressLine
from c3l_hf.common.shard_sizes import sized_folder
from c3l_hf.common.shards import Shards
from c3l_hf.common.tables import format_table
from c3l_hf.data.image_files import row_files_state
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.schema import GENERATION_STATUS, SCORES, STATUS, STATUS_OK, TURNS
from c3l_hf.data.status import count_reasons
from c3l_hf.data.stored_images import stored_images
from c3l_hf.data.stored_rows import stored_rows
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.scoring.signals import Signal
from c3l_hf.scoring.streams import check_columns, scored_stream

__all__ = [
    "format_scores",
    "in_parts",
    "pair_batches",
    "row_batches",
    "score_dataset",
    "score_stream",
    "score_tables",
]

logger = logging.getLogger(__name__)

Rows = TypeVar("Rows", Dataset, DatasetDict, IterableDataset, IterableDatasetDict)


def score_dataset(
    dataset: Rows,
    scorer: I2CScorer | Signal,
    *,
    batch_size: int = 256,
    part_size: int = 2048,
    cache_dir: str | Path | None = None,
) -> Rows:
    """A dataset with the score columns, or those of another signal, beside its own.

    Images are neither decoded twice nor written again, except that `datasets` writes a dataset in its new order that
    was shuffled or filtered before. The scores are kept in parts, in a folder named by the content of the dataset (of
    images that it names by their paths, the files' sizes and times) and the scorer's fingerprint: after an interruption
    the same call continues with the first part that is missing, and a second call scores nothing. Under `accelerate
    launch` the processes take turns at the parts, and each returns the whole; they need a `cache_dir` that all of them
    see.

    Args:
        dataset: Rows in any layout of `data.layouts`. The other columns stay as they are.
        scorer: The scorer, or another signal about pairs (`truth_signal`, `question_signal`, `agreement_signal`, …).
        batch_size: Rows given to the scorer at once; what the model takes of two such batches is in memory together.
        part_size: Most rows in a part; fewer where there are more processes than such parts. What was begun keeps its
            own.
        cache_dir: Where the parts are kept; by default in the cache of `datasets`.

    Raises:
        ValueError: If the columns are in no accepted layout, or the dataset has score columns already.
        RunError: If processes on several machines do not have the same rows and model, or share no `cache_dir`.
    """
    if isinstance(dataset, DatasetDict | IterableDatasetDict):

        def scored(rows: Any) -> Any:
            return score_dataset(rows, scorer, batch_size=batch_size, part_size=part_size, cache_dir=cache_dir)

        return type(dataset)({split: scored(rows) for split, rows in dataset.items()})
    if isinstance(dataset, IterableDataset):
        return scored_stream(dataset, scorer, batch_size)
    check_columns(dataset.column_names, scorer)
    if dataset.format["type"] == "custom" and process_state().is_main_process:
        logger.warning(
            "the dataset has a transform, which is not applied: its rows are scored as they are stored; map(scorer) "
            "scores what the transform makes of them"
        )
    retake = (scorer.status, scorer.measure.is_passing) if isinstance(scorer, Signal) else None
    scores = in_parts(
        dataset,
        lambda rows: score_stream(rows, scorer, batch_size),
        features=Features(scorer.features),
        columns=scorer.columns(dataset.column_names),
        names=("scores", "Scoring"),
        fingerprint=scorer.fingerprint,
        image_folder=scorer.image_folder,
        part_size=part_size,
        cache_dir=cache_dir,
        retake=retake,
    )
    state = process_state()
    without = sum(status != STATUS_OK for status in scores[scorer.status])
    if without and state.is_main_process:
        logger.warning(
            "%d of %d rows have no score; %s has the reasons, format_scores(...) counts them",
            without,
            len(scores),
            scorer.status,
        )
    return beside(dataset, scores)


def in_parts(
    dataset: Dataset,
    make: Callable[[Dataset], Iterable[pa.Table]],
    *,
    features: Features,
    columns: Iterable[str],
    names: tuple[str, str],
    fingerprint: str,
    image_folder: Path | None,
    part_size: int,
    cache_dir: str | Path | None,
    retake: tuple[str, Callable[[str], bool]] | None = None,
) -> Dataset:
    """Columns that a model makes of a dataset's rows, in parts that outlast an interruption; see `score_dataset`.

    Args:
        dataset: Rows in any layout of `data.layouts`.
        make: Rows, with `columns` → tables with a row for each.
        features: Of these tables.
        columns: What the values depend on.
        names: What is made, in the folder's name, and what making it is called.
        fingerprint: What the values depend on beside the rows.
        image_folder: Where images are that rows name by a relative path.
        part_size: Most rows in a part; fewer where there are more processes than such parts. What was begun keeps its
            own.
        cache_dir: Where the parts are kept; by default in the cache of `datasets`.
        retake: A column with a status, and which of its values will pass: parts that have such a row are made again.
    """
    needed = dataset.select_columns(list(columns))
    files = row_files_state(needed, layout_of(dataset.column_names), image_folder)
    name = digest(_compat.fingerprint(needed), fingerprint, files)
    check_same(
        {"rows": _compat.fingerprint(needed), "files": files, "made by": fingerprint},
        "all need the same rows, pictures and model: read them from one place that all share",
    )
    cache = Path(cache_dir or datasets.config.HF_DATASETS_CACHE)
    check_shared(cache, "HF_DATASETS_CACHE" if cache_dir is None else "cache_dir")
    folder, part_size = sized_folder(cache / f"c3l_hf-{names[0]}-{name}", len(needed), part_size)
    starts = range(0, len(needed), part_size)
    shards = Shards(folder, count=len(starts))

    def part(number: int) -> Iterator[pa.Table]:
        rows = needed.select(range(starts[number], min(starts[number] + part_size, len(needed))))
        return line.over(make(rows))

    with (
        alone_in(folder),
        ProgressLine(names[1], len(needed), "rows", shards.num_rows_there) as line,
    ):
        if retake and process_state().is_main_process:
            shards.take_away(*retake)
        process_state().wait_for_everyone()
        shards.write_missing(part, features.arrow_schema)
        if not len(shards):
            return Dataset(features.arrow_schema.empty_table())
        with process_state().main_process_first():  # the others find the copy
            if process_state().is_main_process:  # nobody would see that an older copy has been damaged
                shutil.rmtree(folder / "parquet", ignore_errors=True)
            return Dataset.from_parquet([str(file) for file in shards.files], cache_dir=str(folder))


def row_batches(rows: Dataset, columns: Iterable[str], batch_size: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of a dataset with some columns, images as they are stored, so many at a time."""
    needed = rows.select_columns(list(columns))
    tables = needed.with_format("arrow").iter(batch_size) if len(needed) else ()
    return (stored_rows(table, needed.features) for table in tables)


def pair_batches(
    pairs: Iterable[pa.Table | pa.RecordBatch], images: Dataset, batch_size: int
) -> Iterator[list[dict[str, Any]]]:
    """The rows of pair tables with their images as they are stored, so many at a time; see `score_tables`."""
    columns = ("prompt", "completion", GENERATION_STATUS)
    needed = (table.select([name for name in ("image_row", *columns) if name in table.schema.names]) for table in pairs)
    for table in in_tables_of(batch_size, needed):
        batch = table.to_pydict()
        batch["images"] = stored_images(images, batch["image_row"])
        yield _rows_of(batch, ["images", *(name for name in columns if name in batch)])


def score_stream(rows: Dataset, scorer: I2CScorer | Signal, batch_size: int = 256) -> Iterator[pa.Table]:
    """The score columns of a dataset, in tables of `batch_size` rows.

    The scorer gets images as they are stored: `datasets` would end at one that it cannot decode. The next batch is read
    and encoded while the model works on the present one.

    Args:
        rows: As for `score_dataset`.
        scorer: The scorer.
        batch_size: Rows given to it at once.

    Raises:
        ValueError: If the columns are in no accepted layout.
    """
    return _score_tables(row_batches(rows, scorer.columns(rows.column_names), batch_size), scorer)


def score_tables(
    pairs: Iterable[pa.Table | pa.RecordBatch], images: Dataset, scorer: I2CScorer, batch_size: int = 256
) -> Iterator[pa.Table]:
    """The score columns of pair tables, whose images are stored apart: a row for each pair, in tables of `batch_size`.

    Images come from their dataset as they are stored, each once for a batch, so the pairs of an image should follow
    each other. The next batch is read and encoded while the model works on the present one; what the model takes of two
    batches is in memory together.

    Args:
        pairs: Tables of `PAIR_TABLE_FEATURES`, or of its columns `image_row`, `prompt` and `completion`. They are read
            in another thread.
        images: Images in a column `images` or `image`; `image_row` counts its rows.
        scorer: The scorer.
        batch_size: Rows given to it at once.

    Returns:
        Tables of `SCORE_FEATURES`. A row without a pair, or whose image cannot be read, has no scores, and the reason
        in `i2c_status`.
    """
    return _score_tables(pair_batches(pairs, images, batch_size), scorer)


def _score_tables(batches: Iterable[list[dict[str, Any]]], scorer: I2CScorer | Signal) -> Iterator[pa.Table]:
    schema = Features(scorer.features).arrow_schema
    with contextlib.closing(scorer.score_batches(batches)) as scored:
        for scores in scored:
            yield pa.Table.from_pylist(scores, schema=schema)


def _rows_of(batch: Mapping[str, list], columns: Sequence[str]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values)) for values in zip(*(batch[name] for name in columns))]


def format_scores(scored: Dataset | DatasetDict, signal: Signal | None = None) -> str:
    """What became of the rows, as text: how many have scores, the scores' quantiles, and why the others have none; also
    of single turns in rows that have scores. Of a stream nothing is known.

    Args:
        scored: The rows.
        signal: Whose columns to tell of; by default the scorer's.
    """
    if isinstance(scored, DatasetDict):
        return "\n\n".join(f"{split}: {format_scores(rows, signal)}" for split, rows in scored.items())
    names, status = (("i2c", *SCORES), STATUS) if signal is None else (signal.numbers, signal.status)
    statuses = scored[status][:]
    reasons = count_reasons(reason for reason in statuses if reason != STATUS_OK)
    count = sum(reason == STATUS_OK for reason in statuses)
    lines = [f"{len(statuses):,} rows, {count:,} with scores, {len(statuses) - count:,} without"]
    if count:
        rows: list[tuple[str, ...]] = [("", "5%", "25%", "50%", "75%", "95%")]
        for name in names:
            values = np.array([value for value in scored[name][:] if value is not None])
            rows.append((name, *(f"{value:.3f}" for value in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]))))
        lines += ["", format_table(rows)]
    if reasons:
        lines += ["", format_table([("without a score, because", "rows"), *reasons[:20]])]
    if signal is None and (turns := _turns_without_score(scored)):
        lines += [
            "",
            format_table([("turns without a score in rows with some, because", "turns"), *turns[:20]]),
        ]
    return "\n".join(lines)


def _turns_without_score(scored: Dataset) -> list[tuple[str, int]]:
    if TURNS not in scored.column_names:
        return []
    turns = (turn for turns in scored.with_format(None)[TURNS] for turn in turns or ())
    statuses = (turn.get("status") for turn in turns)
    return count_reasons(status for status in statuses if status not in (None, STATUS_OK))
