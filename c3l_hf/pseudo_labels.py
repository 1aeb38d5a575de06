"""Scored pairs → pseudo-labels: per image the best pair is chosen, the others are rejected."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import numpy as np
from datasets import Dataset, Features, concatenate_datasets
from scipy.stats import rankdata

from .prompts import format_pair, get_template
from .schema import PSEUDO_LABEL_FEATURES, STATUS, STATUS_OK

__all__ = ["SelectionReport", "format_table", "select_pseudo_labels"]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# The rules that leave an image out, in the order in which they are applied.
_TOO_FEW = "fewer than two scored pairs"
_IDENTICAL = "all texts identical to the chosen one"
_MARGIN = "margin too small"


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


@dataclass
class SelectionReport:
    """What `select_pseudo_labels` did; `print(report)` shows it as a table.

    Attributes:
        images: Images seen.
        labels: Images with a pseudo-label, i.e. rows of the result.
        pairs: Pairs seen.
        pairs_left_out: Pairs that took no part because they have no score, by reason.
        rejected_left_out: Rejected pairs removed from images that were kept, by reason.
        images_dropped: Images without a pseudo-label, by rule.
        types: Pseudo-labels by question type.
        quantiles: 5, 25, 50, 75 and 95 % quantiles over the result, by quantity (scores and margin in the score's unit,
            answer lengths in words).
    """

    images: int
    labels: int
    pairs: int
    pairs_left_out: dict[str, int]
    rejected_left_out: dict[str, int]
    images_dropped: dict[str, int]
    types: dict[str, int]
    quantiles: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = [
            ("pseudo-labels", "count"),
            ("images", self.images),
            *((f"  dropped: {rule}", count) for rule, count in self.images_dropped.items()),
            ("  kept", self.labels),
            *((f"    of type {type}", count) for type, count in self.types.items()),
            ("pairs", self.pairs),
            *((f"  left out: {reason}", count) for reason, count in self.pairs_left_out.items()),
            *((f"  rejected removed: {reason}", count) for reason, count in self.rejected_left_out.items()),
        ]
        if not self.quantiles:
            return format_table(counts)
        quantiles = [
            ("quantile", *(f"{quantile:.0%}" for quantile in _QUANTILES)),
            *((name, *(f"{value:.3f}" for value in values)) for name, values in self.quantiles.items()),
        ]
        return f"{format_table(counts)}\n\n{format_table(quantiles)}"


def select_pseudo_labels(
    dataset: Dataset,
    *,
    score: str = "i2c",
    within: Literal["type", "all"] = "type",
    max_rejected: int = 4,
    min_margin: float = 0.0,
) -> tuple[Dataset, SelectionReport]:
    """Make one pseudo-label row per image from its scored pairs: the best pair is chosen, the others are rejected.

    Pairs without a score (`i2c_status` not "ok", or a score that is null, NaN or infinite) never take part. The other
    pairs of an image that read like the chosen one, or like each other, are used once. Ties are broken by `pair_id`.

    Args:
        dataset: Scored pairs with the columns `images`, `image_id`, `pair_id`, `template`, `type`, `prompt`,
            `completion`, `i2c_status` and `score`. Pixels are not decoded.
        score: Column to rank by; higher is better.
        within: "type" ranks pairs of one question type only, because scores differ more between types than within them:
            of an image with several types that type is used whose best pair stands highest among all pairs of its type
            in the dataset. "all" lets all pairs of an image compete by raw score.
        max_rejected: How many of the others are kept at most, lowest score first.
        min_margin: Images whose best minus worst score (after the other rules) is smaller are dropped.

    Returns:
        The rows (`images`, `image_id`, `prompt`: the instruction of the chosen pair's generation template, `chosen`,
        `rejected`, `chosen_score`, `rejected_scores`, `weight`, `type`, `template`), in the order in which the images
        first appear, and the report. `weight` is for those who want pairs of high score to count more in training
        (`C3LConfig.weight_column`): twice the quantile of the chosen score among those of its type, so that it is in
        (0, 2), with mean 1, whatever the scale of the scores.

    Raises:
        ValueError: If columns are missing, an option is out of range, or no image is left.
    """
    if within not in ("type", "all"):
        raise ValueError(f"within must be 'type' or 'all', not {within!r}")
    if max_rejected < 1:
        raise ValueError(f"max_rejected must be at least 1, not {max_rejected}: a pseudo-label needs a rejected pair")
    if not min_margin >= 0:
        raise ValueError(f"min_margin must be at least 0, not {min_margin}")

    scored, left_out = read_scored_pairs(dataset, score, also=("images", "template"))
    groups: dict[str, dict[str, list[ScoredPair]]] = {image_id: {} for image_id in dataset["image_id"]}
    for pair in scored:
        groups[pair.image_id].setdefault(pair.type if within == "type" else "", []).append(pair)
    rank = quantile_ranks(scored)

    candidates, dropped = [], dict.fromkeys((_TOO_FEW, _IDENTICAL, _MARGIN), 0)
    rejected_left_out = dict.fromkeys(("same text as the chosen one", "same text as another", "above max_rejected"), 0)
    for by_type in groups.values():
        outcomes = [_candidates(pairs, max_rejected, min_margin) for pairs in by_type.values()]
        kept = [outcome for outcome in outcomes if not isinstance(outcome, str)]
        if kept:
            chosen, rejected, removed = min(kept, key=lambda kept: (-rank[kept[0].pair_id], kept[0].pair_id))
            candidates.append((chosen, rejected))
            for reason, count in zip(rejected_left_out, removed):
                rejected_left_out[reason] += count
        else:
            # With several types: the rule that stopped the type that came furthest.
            dropped[max(outcomes, key=list(dropped).index, default=_TOO_FEW)] += 1

    report = SelectionReport(
        images=len(groups),
        labels=len(candidates),
        pairs=len(dataset),
        pairs_left_out=left_out,
        rejected_left_out=rejected_left_out,
        images_dropped=dropped,
        types=dict(sorted(Counter(chosen.type for chosen, _ in candidates).items())),
    )
    if not candidates:
        raise ValueError(f"no image has a pseudo-label:\n{report}")
    report.quantiles = _quantiles(candidates)
    # `select` then joining columns copies the encoded images; nothing is decoded.
    rows = dataset.select([chosen.row for chosen, _ in candidates])
    quantiles = quantile_ranks([chosen for chosen, _ in candidates])
    labels = Dataset.from_list(
        [
            _label(chosen, rejected, template, 2 * quantiles[chosen.pair_id])
            for (chosen, rejected), template in zip(candidates, rows["template"])
        ],
        features=Features({name: type for name, type in PSEUDO_LABEL_FEATURES.items() if name != "images"}),
    )
    return concatenate_datasets([rows.select_columns(["images"]), labels], axis=1), report


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


def format_table(rows: Iterable[Sequence[object]]) -> str:
    """Rows of cells as aligned text: the first column to the left, numbers to the right, a rule under the first row."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _candidates(pairs: list[ScoredPair], max_rejected: int, min_margin: float) -> tuple | str:
    """(chosen, rejected, counts of rejected left out by the three reasons), or the rule that drops these pairs."""
    if len(pairs) < 2:
        return _TOO_FEW
    chosen, *others = sorted(pairs, key=lambda pair: (-pair.score, pair.pair_id))
    different = [pair for pair in others if _key(pair) != _key(chosen)]
    # Of equal texts the lowest score stays; a dict keeps the order.
    by_text: dict[str, ScoredPair] = {}
    for pair in sorted(different, key=lambda pair: (pair.score, pair.pair_id)):
        by_text.setdefault(_key(pair), pair)
    rejected = list(by_text.values())[:max_rejected]
    if not rejected:
        return _IDENTICAL
    if chosen.score - rejected[0].score < min_margin:
        return _MARGIN
    return chosen, rejected, (len(others) - len(different), len(different) - len(by_text), len(by_text) - len(rejected))


def _key(pair: ScoredPair) -> str:
    return " ".join(format_pair(pair.question, pair.answer).split())


def _assistant(pair: ScoredPair) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": format_pair(pair.question, pair.answer)}]


def _label(chosen: ScoredPair, rejected: list[ScoredPair], template: str, weight: float) -> dict:
    return {
        "image_id": chosen.image_id,
        "prompt": [{"role": "user", "content": get_template(template).text}],
        "chosen": _assistant(chosen),
        "rejected": [_assistant(pair) for pair in rejected],
        "chosen_score": chosen.score,
        "rejected_scores": [pair.score for pair in rejected],
        "weight": weight,
        "type": chosen.type,
        "template": template,
    }


def _quantiles(candidates: list[tuple[ScoredPair, list[ScoredPair]]]) -> dict[str, tuple[float, ...]]:
    chosen = [best for best, _ in candidates]
    rejected = list(chain.from_iterable(others for _, others in candidates))
    # Length must not be what ranks: a chosen answer that is always the longer one shows here.
    values = {
        "chosen score": [pair.score for pair in chosen],
        "rejected score": [pair.score for pair in rejected],
        "margin (best - worst)": [best.score - others[0].score for best, others in candidates],
        "chosen answer, words": [len(pair.answer.split()) for pair in chosen],
        "rejected answer, words": [len(pair.answer.split()) for pair in rejected],
    }
    return {name: tuple(np.quantile(series, _QUANTILES).tolist()) for name, series in values.items()}
