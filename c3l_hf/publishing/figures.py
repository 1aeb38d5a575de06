"""Figures of a dataset that its card states, worked out from its rows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import ArrayLike

from c3l_hf.data.pair_columns import UNREAD, read_pair_columns
from c3l_hf.data.row_texts import as_one, turns_of
from c3l_hf.data.schema import LANGUAGE
from c3l_hf.selection.curation import CURATION_COLUMNS, length_correlation

__all__ = ["dataset_figures", "token_sums"]


def dataset_figures(curated: Dataset, pool_scores: ArrayLike) -> dict[str, Any]:
    """What the cards say about a dataset that can be worked out from its rows: fields of `cards.RunFacts`.

    Args:
        curated: The compact dataset, in any accepted layout, with the columns of scored pairs; images are not read.
        pool_scores: `i2c` of all scored pairs that it was chosen from, in any order. Those that are None or not finite
            are passed over.

    Returns:
        `rows`, `languages`, `type_shares`, `score_quantiles`, `length_correlation`, `histogram` and `examples`, the
        same for the same rows.

    Raises:
        ValueError: If columns are missing, or a pair cannot be read; the message names it.
    """
    said = [LANGUAGE] if LANGUAGE in curated.column_names else []
    pairs = read_pair_columns(curated, [*CURATION_COLUMNS, "i2c", *said]).table
    languages = sorted(set(pc.unique(pairs[LANGUAGE]).drop_null().to_pylist())) if said else []
    if UNREAD in pairs.column_names:
        unread = pc.indices_nonzero(pairs[UNREAD].is_valid())[0].as_py()
        raise ValueError(f"row {unread}: {pairs[UNREAD][unread]}")
    curated = Dataset(pairs)
    columns = ["type", "i2c", "pair_id"]
    table: pa.Table = curated.select_columns(columns).with_format("arrow")[:]
    scores = table["i2c"].to_numpy().astype(float)
    types = {entry["values"]: entry["counts"] for entry in pc.value_counts(table["type"]).to_pylist()}
    length = length_correlation(curated)
    pool = np.asarray(pool_scores, dtype=float)
    return {
        "rows": len(curated),
        "languages": languages or None,
        "type_shares": {type: count / len(curated) for type, count in sorted(types.items())},
        "score_quantiles": dict(
            zip(("least", "10 %", "50 %", "90 %", "most"), np.quantile(scores, [0, 0.1, 0.5, 0.9, 1]).tolist())
        ),
        "length_correlation": None if math.isnan(length.spearman) else (length.spearman, length.pairs),
        "histogram": _histogram(pool[np.isfinite(pool)], scores),
        "examples": _middle_examples(curated, table, sorted(types)),
    }


def token_sums(usages: Iterable[pa.Array | pa.ChunkedArray]) -> list[tuple[str | None, int | None, int | None]]:
    """What was written by whom, in tokens.

    Args:
        usages: The column `usage` of all pairs, in pieces.

    Returns:
        (model as its server called it, None of one in the run's own process; tokens of prompts; tokens of replies) of
        each model by name. A number that nobody reported is None.
    """
    sums: dict[str | None, tuple[int | None, int | None]] = {}
    for usage in usages:
        names = ("served_model", "prompt_tokens", "completion_tokens")
        table = pa.table([pc.struct_field(usage, name) for name in names], names=names).group_by("served_model")
        found = table.aggregate([(name, "sum") for name in names[1:]])
        for row in found.to_pylist():
            prompt, completion = sums.get(row["served_model"], (None, None))
            more = row["prompt_tokens_sum"], row["completion_tokens_sum"]
            sums[row["served_model"]] = _added(prompt, more[0]), _added(completion, more[1])
    # Rows without a reply have no model and no tokens.
    written = [(model, *counts) for model, counts in sums.items() if model is not None or counts != (None, None)]
    return sorted(written, key=lambda row: (row[0] is not None, row[0] or ""))


def _added(total: int | None, more: int | None) -> int | None:
    return total if more is None else (total or 0) + more


def _histogram(pool: np.ndarray, kept: np.ndarray, bins: int = 12) -> list[tuple[float, float, int, int]]:
    """(lower bound, upper bound, pairs of the pool, pairs kept) by score. Outliers are in the first and last bin."""
    edges = np.histogram_bin_edges(pool, bins, range=tuple(np.quantile(pool, [0.01, 0.99])))
    counts = [np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0].tolist() for scores in (pool, kept)]
    edges[0], edges[-1] = min(edges[0], pool.min()), max(edges[-1], pool.max())
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), *counts))


def _middle_examples(
    pairs: Dataset, table: pa.Table, types: Sequence[str], most: int = 7
) -> list[tuple[str, str, str, float, str]]:
    """(question, answer, type, score, pair_id) of each type's pair in the middle by score."""
    examples = []
    for type in types[:most]:
        members = pc.indices_nonzero(pc.equal(table["type"], type))
        order = pc.sort_indices(table.take(members), [("i2c", "ascending"), ("pair_id", "ascending")])
        number = members[order[len(members) // 2].as_py()].as_py()
        row: Mapping[str, Any] = pairs.select_columns(["prompt", "completion", "i2c", "pair_id"])[number]
        texts = as_one(turns_of(row["prompt"], row["completion"]))
        examples.append((*texts, type, row["i2c"], row["pair_id"]))
    return examples
