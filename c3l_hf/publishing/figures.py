"""Figures of a dataset that its card states, worked out from its rows."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from c3l_hf.selection.curation import length_correlation
from c3l_hf.selection.scored_pairs import message_text

__all__ = ["dataset_figures"]


def dataset_figures(curated: Dataset, pool: Dataset) -> dict[str, Any]:
    """What the cards say about a dataset that can be worked out from its rows: fields of `cards.RunFacts`.

    Args:
        curated: The compact dataset.
        pool: All scored pairs that it was chosen from.

    Returns:
        `rows`, `type_shares`, `score_quantiles`, `length_correlation`, `histogram` and `examples`, the same for the
        same rows.
    """
    scores = curated["i2c"][:]
    types = Counter(curated["type"])
    length = length_correlation(curated)
    pool_scores = [score for score in pool["i2c"] if score is not None and math.isfinite(score)]
    return {
        "rows": len(curated),
        "type_shares": {type: count / len(curated) for type, count in sorted(types.items())},
        "score_quantiles": dict(
            zip(("least", "10 %", "50 %", "90 %", "most"), np.quantile(scores, [0, 0.1, 0.5, 0.9, 1]).tolist())
        ),
        "length_correlation": None if math.isnan(length.spearman) else (length.spearman, length.pairs),
        "histogram": _histogram(pool_scores, scores),
        "examples": _middle_examples(curated),
    }


def _histogram(pool: Sequence[float], kept: Sequence[float], bins: int = 12) -> list[tuple[float, float, int, int]]:
    """(lower bound, upper bound, pairs of the pool, pairs kept) by score. Outliers are in the first and last bin."""
    edges = np.histogram_bin_edges(pool, bins, range=tuple(np.quantile(pool, [0.01, 0.99])))
    counts = [np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0].tolist() for scores in (pool, kept)]
    edges[0], edges[-1] = min(edges[0], min(pool)), max(edges[-1], max(pool))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), *counts))


def _middle_examples(pairs: Dataset, most: int = 7) -> list[tuple[str, str, str, float, str]]:
    """(question, answer, type, score, pair_id) of each type's pair in the middle by score."""
    rows = pairs.select_columns(["prompt", "completion", "type", "i2c", "pair_id"]).to_list()
    examples = []
    for type in sorted({row["type"] for row in rows})[:most]:
        members = sorted((row for row in rows if row["type"] == type), key=lambda row: (row["i2c"], row["pair_id"]))
        row = members[len(members) // 2]
        texts = message_text(row["prompt"], "user"), message_text(row["completion"], "assistant")
        examples.append((*texts, type, row["i2c"], row["pair_id"]))
    return examples
