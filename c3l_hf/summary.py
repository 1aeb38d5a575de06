"""What a run made, in figures: a line for each pool of pairs, with the share of true ones where the truth is known."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from .curation import length_correlation
from .prompts import split_pair
from .pseudo_labels import format_table, message_text
from .scenes import Scene
from .scenes.evaluation import judge_pairs, type_balanced
from .schema import STATUS, STATUS_OK

__all__ = ["Pool", "dataset_figures", "format_summary", "pool_of_labels", "pool_of_pairs", "scenes_of"]

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Pool:
    """Figures of one pool of pairs.

    Attributes:
        name: Which pairs.
        pairs: How many there are, malformed ones included.
        usable: How many have an instruction and an answer.
        quantiles: Of the ranking score, at 10, 50 and 90 %; None if no pair has a score.
        true: Share of true pairs among all pairs of the pool, each question type counting the same, and its 95 %
            interval (bootstrap over images); a malformed pair, or one of another type than was asked for, is not true.
            None where the truth is not known.
    """

    name: str
    pairs: int
    usable: int
    quantiles: Sequence[float] | None
    true: Sequence[float] | None


def scenes_of(images: Dataset) -> dict[str, Scene] | None:
    """The scene of each image id, or None if the images do not come with their truth."""
    if "texture_seed" not in images.column_names:
        return None
    return {row["image_id"]: Scene.from_row(row) for row in images.remove_columns("images")}


def pool_of_pairs(name: str, pairs: Dataset, scenes: Mapping[str, Scene] | None) -> Pool:
    """Figures of generated and scored pairs."""
    rows = pairs.select_columns(["image_id", "type", "prompt", "completion", "i2c", STATUS])[:]
    texts = [
        (message_text(prompt, "user"), message_text(completion, "assistant")) if prompt else None
        for prompt, completion in zip(rows["prompt"], rows["completion"])
    ]
    scores = [score for score, status in zip(rows["i2c"], rows[STATUS]) if status == STATUS_OK]
    return _pool(name, rows["image_id"], rows["type"], texts, scores, scenes)


def pool_of_labels(name: str, labels: Dataset, column: str, scenes: Mapping[str, Scene] | None) -> Pool:
    """Figures of the pairs in one column of pseudo-labels, "chosen" or "rejected"."""
    rows = labels.select_columns(["image_id", "type", "chosen", "rejected", "chosen_score", "rejected_scores"])[:]
    chosen = column == "chosen"
    answers = [[messages] for messages in rows["chosen"]] if chosen else rows["rejected"]
    scores = [[score] for score in rows["chosen_score"]] if chosen else rows["rejected_scores"]
    flat = [(row, messages) for row, several in enumerate(answers) for messages in several]
    return _pool(
        name,
        [rows["image_id"][row] for row, _ in flat],
        [rows["type"][row] for row, _ in flat],
        [split_pair(message_text(messages, "assistant")) for _, messages in flat],
        [score for several in scores for score in several],
        scenes,
    )


def _pool(
    name: str,
    image_ids: Sequence[str],
    types: Sequence[str],
    texts: Sequence[tuple[str, str] | None],
    scores: Sequence[float],
    scenes: Mapping[str, Scene] | None,
) -> Pool:
    true = None
    if scenes is not None and texts:
        _, hits = judge_pairs(types, texts, [scenes[image_id] for image_id in image_ids])
        true = type_balanced(types, hits, image_ids)
    quantiles = tuple(float(value) for value in np.quantile(scores, QUANTILES)) if scores else None
    return Pool(name, len(texts), sum(text is not None for text in texts), quantiles, true)


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


def format_summary(pools: Sequence[Pool], ranking: str) -> str:
    """The pools as a table."""
    with_truth = any(pool.true for pool in pools)
    header = ["", "pairs", "usable", *(f"{ranking} {quantile:.0%}" for quantile in QUANTILES)]
    rows = [header + (["true (type-balanced, 95 % interval)"] if with_truth else [])]
    for pool in pools:
        quantiles = [f"{value:.3f}" for value in pool.quantiles] if pool.quantiles else ["-"] * len(QUANTILES)
        row = [pool.name, pool.pairs, f"{pool.usable / max(pool.pairs, 1):.1%}", *quantiles]
        if with_truth:
            row.append("{:.3f} [{:.3f}, {:.3f}]".format(*pool.true) if pool.true else "-")
        rows.append(row)
    return format_table(rows)
