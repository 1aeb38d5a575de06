"""What a run made, in figures: a line for each pool of pairs, with the share of true ones where the truth is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from c3l_hf.common.tables import format_table
from c3l_hf.data.row_texts import as_one, turns_of
from c3l_hf.data.schema import STATUS, STATUS_OK
from c3l_hf.data.worlds import World
from c3l_hf.prompts.parsing import parse_pair

__all__ = ["POOL_COLUMNS", "Pool", "Truth", "format_summary", "pool_of_labels", "pool_of_pairs"]

POOL_COLUMNS = ("image_id", "type", "prompt", "completion", "i2c", STATUS)
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
    true: tuple[float, float, float] | None


@dataclass(frozen=True)
class Truth:
    """The truth about images of an embedded world.

    Attributes:
        world: The world.
        images: Image id → what it knows of the image.
    """

    world: World
    images: Mapping[str, Any]

    def share(
        self, types: Sequence[str], texts: Sequence[tuple[str, str] | None], image_ids: Sequence[str]
    ) -> tuple[float, float, float]:
        return self.world.share_true(types, texts, image_ids, self.images)


def pool_of_pairs(name: str, pairs: pa.Table, truth: Truth | None) -> Pool:
    """Figures of generated and scored pairs, of a table with the columns `POOL_COLUMNS`."""
    scores = pairs["i2c"].filter(pc.equal(pairs[STATUS], STATUS_OK)).to_numpy()
    true = None
    if truth is not None and len(pairs):
        columns = pairs.select(["prompt", "completion"]).to_pydict()
        texts = [
            as_one(turns_of(prompt, completion)) if prompt else None
            for prompt, completion in zip(columns["prompt"], columns["completion"])
        ]
        true = truth.share(pairs["type"].to_pylist(), texts, pairs["image_id"].to_pylist())
    return Pool(name, len(pairs), len(pairs) - pairs["prompt"].null_count, _quantiles(scores), true)


def pool_of_labels(name: str, labels: pa.Table, column: str, truth: Truth | None) -> Pool:
    """Figures of the pairs in one column of pseudo-labels, "chosen" or "rejected"."""
    rows = labels.select(["image_id", "type", "chosen", "rejected", "chosen_score", "rejected_scores"]).to_pydict()
    chosen = column == "chosen"
    answers = [[messages] for messages in rows["chosen"]] if chosen else rows["rejected"]
    scores = [[score] for score in rows["chosen_score"]] if chosen else rows["rejected_scores"]
    flat = [(row, messages[-1]["content"]) for row, several in enumerate(answers) for messages in several]
    true = None
    if truth is not None and flat:
        types, image_ids = ([rows[name][row] for row, _ in flat] for name in ("type", "image_id"))
        # A world's templates ask for labelled pairs.
        true = truth.share(types, [parse_pair(reply) for _, reply in flat], image_ids)
    values = np.array([score for several in scores for score in several])
    return Pool(name, len(flat), len(flat), _quantiles(values), true)


def _quantiles(scores: np.ndarray) -> tuple[float, ...] | None:
    return tuple(np.quantile(scores, QUANTILES).tolist()) if len(scores) else None


def format_summary(pools: Sequence[Pool], ranking: str) -> str:
    """The pools as a table."""
    with_truth = any(pool.true for pool in pools)
    header: list[object] = ["", "pairs", "usable", *(f"{ranking} {quantile:.0%}" for quantile in QUANTILES)]
    rows: list[list[object]] = [header + (["true (type-balanced, 95 % interval)"] if with_truth else [])]
    for pool in pools:
        quantiles = [f"{value:.3f}" for value in pool.quantiles] if pool.quantiles else ["-"] * len(QUANTILES)
        row: list[object] = [pool.name, pool.pairs, f"{pool.usable / max(pool.pairs, 1):.1%}", *quantiles]
        if with_truth:
            row.append("{:.3f} [{:.3f}, {:.3f}]".format(*pool.true) if pool.true else "-")
        rows.append(row)
    return format_table(rows)
