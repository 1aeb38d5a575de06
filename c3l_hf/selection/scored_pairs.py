"""Scored pairs as selection reads them: without their images, in the order of the dataset."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset
from scipy.stats import rankdata

from c3l_hf.data.schema import STATUS, STATUS_OK

__all__ = ["ScoredPair", "message_text", "quantile_ranks", "read_scored_pairs"]


@dataclass(frozen=True)
class ScoredPair:
    """One scored pair without its image: `row` is its row in the dataset, `score` a finite number."""

    row: int
    image_id: str
    pair_id: str
    type: str
    question: str
    answer: str
    score: float


def read_scored_pairs(
    dataset: Dataset, score: str, also: Sequence[str] = ()
) -> tuple[list[ScoredPair], dict[str, int]]:
    """Read the pairs that have a finite score, without their images.

    Args:
        dataset: Pairs with the columns `image_id`, `pair_id`, `type`, `prompt`, `completion`, `i2c_status` and `score`.
        score: Name of the score column.
        also: Further columns that the caller needs; they are checked, not read.

    Returns:
        The pairs in row order, and how many were left out by reason: "no pair", "not scored", "score not finite".

    Raises:
        ValueError: If columns are missing (the message names them), or a `pair_id` occurs twice.
    """
    columns = ["image_id", "pair_id", "type", "prompt", "completion", STATUS, score]
    missing = [name for name in (*also, *columns) if name not in dataset.column_names]
    if missing:
        raise ValueError(
            f"columns missing: {', '.join(missing)}; found {', '.join(dataset.column_names)}. "
            "Scored pairs come from generate_pairs followed by I2CScorer"
        )
    pairs, left_out = [], dict.fromkeys(("no pair", "not scored", "score not finite"), 0)
    for row, values in enumerate(dataset.with_format(None).select_columns(columns)):
        if values["prompt"] is None or values["completion"] is None:
            left_out["no pair"] += 1
        elif values[STATUS] != STATUS_OK or values[score] is None:
            left_out["not scored"] += 1
        elif not math.isfinite(values[score]):
            left_out["score not finite"] += 1
        else:
            pairs.append(
                ScoredPair(
                    row=row,
                    image_id=values["image_id"],
                    pair_id=values["pair_id"],
                    type=values["type"],
                    question=message_text(values["prompt"], "user"),
                    answer=message_text(values["completion"], "assistant"),
                    score=values[score],
                )
            )
    repeated = [pair_id for pair_id, count in Counter(pair.pair_id for pair in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"column 'pair_id' must be unique; more than once: {', '.join(sorted(repeated)[:5])}")
    return pairs, left_out


def message_text(messages: Sequence[dict], role: str) -> str:
    """The content of the last message of this role, "" if there is none."""
    return next((message["content"] for message in reversed(messages) if message["role"] == role), "")


def quantile_ranks(pairs: Sequence[ScoredPair]) -> dict[str, float]:
    """Where each pair stands among the pairs of its type, in (0, 1), by `pair_id`: ties share the mean rank."""
    by_type = defaultdict(list)
    for pair in pairs:
        by_type[pair.type].append(pair)
    ranks = {}
    for members in by_type.values():
        quantiles = (rankdata([pair.score for pair in members]) - 0.5) / len(members)
        ranks.update(zip((pair.pair_id for pair in members), quantiles.tolist()))
    return ranks
