"""Scores a whole dataset: in parts that survive an interruption, over several processes, and from the command line."""

import functools
import hashlib
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Image, List, concatenate_datasets

from c3l_hf.common.processes import process_state
from c3l_hf.common.tables import format_table
from c3l_hf.data.image_files import files_state
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.schema import SCORE_COLUMNS, SCORES, STATUS, STATUS_OK
from c3l_hf.scoring.scorer import I2CScorer

__all__ = ["format_scores", "score_dataset", "score_rows", "with_scores"]

logger = logging.getLogger(__name__)


def score_dataset(
    dataset: Dataset,
    scorer: I2CScorer,
    *,
    batch_size: int = 256,
    part_size: int = 2048,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """A dataset with the score columns beside its own.

    Images are neither decoded twice nor written again, except that `datasets` writes a dataset in its new order that
    was shuffled or filtered before. The scores are kept in parts, in a folder named by the content of the dataset (of
    images that it names by their paths, the files' sizes and times) and the scorer's fingerprint: after an interruption
    the same call continues with the first part that is missing, and a second call scores nothing. Under `accelerate
    launch` the processes take turns at the parts, and each returns the whole; they need a `cache_dir` that all of them
    see.

    Args:
        dataset: Rows in any layout of `schema.to_pairs`. The other columns stay as they are.
        scorer: The scorer.
        batch_size: Rows given to the scorer at once; their images are in memory together.
        part_size: Rows in a part.
        cache_dir: Where the parts are kept; by default in the cache of `datasets`.

    Raises:
        ValueError: If the columns are in no accepted layout, or the dataset has score columns already.
    """
    columns = layout_of(dataset.column_names)
    if present := [name for name in SCORE_COLUMNS if name in dataset.column_names]:
        raise ValueError(f"the dataset has the columns {', '.join(present)} already; remove or rename them first")
    needed = dataset.select_columns(list(columns))
    digest = hashlib.blake2b(f"{needed._fingerprint} {scorer.fingerprint} {part_size}".encode(), digest_size=16)
    digest.update(files_state(needed, columns[-1], scorer.image_folder).encode())
    folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / f"c3l_hf-scores-{digest.hexdigest()}"
    folder.mkdir(parents=True, exist_ok=True)

    starts = range(0, len(needed), part_size)
    files = [folder / f"{number:05d}-of-{len(starts):05d}.arrow" for number in range(len(starts))]
    state = process_state()
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    state.wait_for_everyone()  # all have seen the same
    for number in missing[state.process_index :: state.num_processes]:
        rows = needed.select(range(starts[number], min(starts[number] + part_size, len(needed))))
        score_rows(
            rows,
            scorer,
            batch_size,
            cache_file_name=str(files[number]),  # written under another name and moved when it is whole
            desc=f"Scoring, part {number + 1} of {len(starts)}",
        )
    state.wait_for_everyone()
    parts = [Dataset.from_file(str(file)) for file in files]
    scores = concatenate_datasets(parts) if parts else score_rows(needed, scorer)
    without = sum(status != STATUS_OK for status in scores[STATUS][:])
    if without and state.is_main_process:
        logger.warning("%d of %d rows have no score; format_scores(...) counts the reasons", without, len(scores))
    return with_scores(dataset, scores)


def score_rows(rows: Dataset, scorer: I2CScorer, batch_size: int = 256, **options: Any) -> Dataset:
    """The score columns alone, one row for each. The scorer gets images as they are stored: `datasets` would end at one
    that it cannot decode.

    Args:
        rows: As for `score_dataset`.
        scorer: The scorer.
        batch_size: Rows given to it at once.
        options: Further ones of `Dataset.map`.
    """
    needed = rows.select_columns(list(layout_of(rows.column_names)))
    if not len(needed):  # `map` would leave out the columns
        return Dataset.from_dict({name: [] for name in scorer.features}, features=Features(scorer.features))
    stored = Features({name: _undecoded(feature) for name, feature in needed.features.items()})
    scores = needed.with_format("arrow").map(
        functools.partial(_score_table, scorer=scorer, features=stored),
        batched=True,
        batch_size=batch_size,
        remove_columns=needed.column_names,
        features=Features(scorer.features),
        **options,
    )
    return scores.with_format(None)


def with_scores(rows: Dataset, scores: Dataset) -> Dataset:
    """Rows with their score columns beside them."""
    if len(rows):
        return concatenate_datasets([rows, scores], axis=1)
    # Of datasets without rows it would drop the columns.
    features = Features({**rows.features, **scores.features})
    return Dataset.from_dict({name: [] for name in features}, features=features)


def _score_table(table: pa.Table, scorer: I2CScorer, features: Features) -> dict[str, list]:
    return scorer(features.decode_batch(table.to_pydict()))


def _undecoded(feature):
    if isinstance(feature, Image):
        return Image(decode=False)
    return List(_undecoded(feature.feature), length=feature.length) if isinstance(feature, List) else feature


def format_scores(scored: Dataset) -> str:
    """What became of the rows, as text: how many have scores, the scores' quantiles, and why the others have none."""
    statuses = scored[STATUS][:]
    kinds = Counter(_kind(status) for status in statuses if status != STATUS_OK)
    count = sum(status == STATUS_OK for status in statuses)
    lines = [f"{len(statuses):,} rows, {count:,} with scores, {len(statuses) - count:,} without"]
    if count:
        rows = [("", "5%", "25%", "50%", "75%", "95%")]
        for name in ("i2c", *SCORES):
            values = np.array([value for value in scored[name][:] if value is not None])
            rows.append((name, *(f"{value:.3f}" for value in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]))))
        lines += ["", format_table(rows)]
    if kinds:
        lines += ["", format_table([("without a score, because", "rows"), *kinds.most_common(20)])]
    return "\n".join(lines)


def _kind(reason: str) -> str:
    """A reason without what is particular to its row."""
    reason = re.sub(r"the image .*?(cannot be read|has mode|is not in)", r"the image \1", reason)
    return re.sub(r"\d+", "N", re.sub(r"'/[^']*'", "...", reason))[:90]
