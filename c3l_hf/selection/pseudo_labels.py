"""Scored pairs → pseudo-labels: per image the best pair is chosen, the others are rejected."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import numpy as np
from datasets import Dataset, Features, concatenate_datasets

from c3l_hf.common.tables import format_table
from c3l_hf.data.schema import PSEUDO_LABEL_FEATURES
from c3l_hf.generation.templates import format_pair, get_template
from c3l_hf.selection.scored_pairs import ScoredPair, quantile_ranks, read_scored_pairs

__all__ = ["SelectionReport", "select_pseudo_labels"]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# The rules that leave an image out, in the order in which they are applied.
_TOO_FEW = "fewer than two scored pairs"
_IDENTICAL = "all texts identical to the chosen one"
_MARGIN = "margin too small"


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
