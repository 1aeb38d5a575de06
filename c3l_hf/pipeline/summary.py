"""What a run made, in figures: a line for each pool of pairs, with the share of true ones where the truth is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from c3l_hf.common.tables import format_table
from c3l_hf.data.schema import STATUS, STATUS_OK
from c3l_hf.generation.templates import split_pair
from c3l_hf.scenes import Scene
from c3l_hf.scenes.evaluation import judge_pairs, type_balanced
from c3l_hf.selection.scored_pairs import message_text

__all__ = ["Pool", "format_summary", "pool_of_labels", "pool_of_pairs", "scenes_of"]

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
