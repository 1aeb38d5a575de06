"""Scored pairs → the compact dataset: filtered, without near-duplicates, balanced by type, the best by score."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from datasets import Dataset
from datasketch import MinHash, MinHashLSH
from scipy.stats import spearmanr

from c3l_hf.common.tables import format_table
from c3l_hf.selection.scored_pairs import ScoredPair, quantile_ranks, read_scored_pairs

__all__ = ["CurationReport", "LengthCorrelation", "curate", "length_correlation", "random_selection"]

_PERMUTATIONS = 128


@dataclass(frozen=True)
class LengthCorrelation:
    """Spearman's rank correlation of a score with the length of the answer in words, over `pairs` pairs.

    `spearman` is NaN where it does not exist: fewer than two pairs, or all scores or all lengths equal.
    """

    spearman: float
    pairs: int


@dataclass
class CurationReport:
    """What `curate` did; `print(report)` shows it as a table.

    Attributes:
        pairs: Rows of the input.
        dropped: Rows dropped, by rule, in the order in which the rules apply.
        kept: Rows of the result.
        target_size: Rows asked for.
        types_before: Pairs of the input that have a score, by type.
        types_available: Pairs left for the choice by score after all other rules, by type.
        types_after: Rows of the result, by type.
        length_before: Correlation of the score with answer length over the scored pairs of the input.
        length_after: The same over the result.
    """

    pairs: int
    dropped: dict[str, int]
    kept: int
    target_size: int
    types_before: dict[str, int]
    types_available: dict[str, int]
    types_after: dict[str, int]
    length_before: LengthCorrelation
    length_after: LengthCorrelation

    def __str__(self) -> str:
        counts = [
            ("curation", "count"),
            ("pairs", self.pairs),
            *((f"  dropped: {rule}", count) for rule, count in self.dropped.items()),
            ("  kept", self.kept),
        ]
        types = [
            ("type", "scored", "available", "kept"),
            *(
                (type, before, self.types_available.get(type, 0), self.types_after.get(type, 0))
                for type, before in self.types_before.items()
            ),
        ]
        lengths = [
            ("Spearman of score with answer length", "rho", "pairs"),
            ("scored", f"{self.length_before.spearman:+.2f}", self.length_before.pairs),
            ("kept", f"{self.length_after.spearman:+.2f}", self.length_after.pairs),
        ]
        tables = [format_table(counts), format_table(types), format_table(lengths)]
        if self.kept < self.target_size:
            tables.append(
                f"Fewer pairs than asked for: {self.kept:,} of {self.target_size:,}; all that were left are kept."
            )
        return "\n\n".join(tables)


def curate(
    dataset: Dataset,
    *,
    target_size: int = 5000,
    score: str = "i2c",
    min_score: float | None = None,
    min_quantile: float | None = None,
    balance_types: bool = True,
    within_type: bool = True,
    near_duplicate_scope: Literal["image", "dataset", "none"] = "image",
    near_duplicate_threshold: float = 0.8,
    max_per_image: int | None = None,
    seed: int = 0,
) -> tuple[Dataset, CurationReport]:
    """Keep the best `target_size` pairs. Rules, in this order, each counted in the report:

    1. rows without a pair, without a score, with a score that is not finite;
    2. below `min_score`, below `min_quantile`;
    3. the same instruction about the same image (words compared, not case or punctuation): the best one is kept;
    4. near-duplicates: the sets of neighbouring words of instruction and answer have a Jaccard similarity of at least
       the threshold: the better one is kept;
    5. beyond the best `max_per_image` about an image;
    6. quota: per type, the best by score. Types share `target_size` equally; what a type lacks is shared by the others.

    "Best" is by rank within the type of question (`within_type`) or by raw score; ties are broken by a hash of
    (seed, pair_id), so that no image is favoured by its name.

    Args:
        dataset: Scored pairs with the columns `image_id`, `pair_id`, `type`, `prompt`, `completion`, `i2c_status` and
            `score`; further columns are kept. Pixels are not decoded.
        target_size: Rows to keep. If fewer are left, all are kept and the report says so.
        score: Column to rank by; higher is better.
        min_score: Scores below are dropped.
        min_quantile: In [0, 1): this share of the scored pairs, the lowest (of each type if `within_type`), is dropped.
        balance_types: Same number of each type as far as there are enough; otherwise types compete for the places.
        within_type: Compare ranks within the type rather than raw scores, wherever pairs of two types compete.
        near_duplicate_scope: "image" compares pairs about the same image only: the same question and answer about
            another image teaches something else. "dataset" compares all (MinHash LSH finds candidates, which are then
            compared exactly; a similar pair is missed with a small probability). "none" skips the rule.
        near_duplicate_threshold: In (0, 1].
        max_per_image: Most pairs about one image. The best pairs are often about the same images; with 1 the dataset
            has one image for each of its pairs, as far as there are enough.
        seed: For ties and MinHash.

    Returns:
        The rows kept, sorted by (image_id, pair_id), all columns as they were, and the report.

    Raises:
        ValueError: If columns are missing, a `pair_id` occurs twice, or an option is out of range.
    """
    if target_size < 1:
        raise ValueError(f"target_size must be at least 1, not {target_size}")
    if min_quantile is not None and not 0 <= min_quantile < 1:
        raise ValueError(f"min_quantile must be in [0, 1), not {min_quantile}")
    if max_per_image is not None and max_per_image < 1:
        raise ValueError(f"max_per_image must be at least 1, not {max_per_image}")
    if not 0 < near_duplicate_threshold <= 1:
        raise ValueError(f"near_duplicate_threshold must be in (0, 1], not {near_duplicate_threshold}")
    if near_duplicate_scope not in ("image", "dataset", "none"):
        raise ValueError(f"near_duplicate_scope must be 'image', 'dataset' or 'none', not {near_duplicate_scope!r}")

    scored, dropped = read_scored_pairs(dataset, score)
    ranks = quantile_ranks(scored)
    value = {pair.pair_id: ranks[pair.pair_id] if within_type else pair.score for pair in scored}
    # Best first from here on: every rule keeps the first of what it compares.
    pairs = sorted(scored, key=lambda pair: (-value[pair.pair_id], _hash(seed, pair.pair_id)))

    def drop(rule: str, keep: Callable[[ScoredPair], bool]) -> None:
        nonlocal pairs
        kept = [pair for pair in pairs if keep(pair)]
        dropped[rule] = len(pairs) - len(kept)
        pairs = kept

    if min_score is not None:
        drop(f"score below {min_score:g}", lambda pair: pair.score >= min_score)
    if min_quantile is not None and pairs:
        floors = _quantile_floors(scored, min_quantile, within_type)
        drop(f"score in the lowest {min_quantile:.0%}", lambda pair: pair.score >= floors[pair.type])
    drop("same instruction about the same image", _first(1, lambda pair: (pair.image_id, _normal(pair.question))))
    if near_duplicate_scope == "image":
        drop("near-duplicate about the same image", _NearDuplicatesPerImage(near_duplicate_threshold))
    elif near_duplicate_scope == "dataset":
        drop("near-duplicate in the dataset", _NearDuplicates(near_duplicate_threshold, seed))
    if max_per_image is not None:
        drop(f"beyond {max_per_image} about the same image", _first(max_per_image, lambda pair: pair.image_id))
    available = _type_counts(pairs)
    if balance_types:
        quota = Counter(balanced_quotas(available, target_size))
        drop("beyond the quota of the type", _within_quota(quota))
    else:
        drop("beyond target_size", _within_quota(Counter({None: target_size}), key=lambda pair: None))

    pairs.sort(key=lambda pair: (pair.image_id, pair.pair_id))
    report = CurationReport(
        pairs=len(dataset),
        dropped=dropped,
        kept=len(pairs),
        target_size=target_size,
        types_before=_type_counts(scored),
        types_available=available,
        types_after=_type_counts(pairs),
        length_before=_length_correlation(scored),
        length_after=_length_correlation(pairs),
    )
    return dataset.select([pair.row for pair in pairs]), report


def random_selection(
    dataset: Dataset, size: int | Mapping[str, int], *, balance_types: bool = True, seed: int = 0
) -> Dataset:
    """The control for `curate`: pairs chosen at random, whatever their score.

    Args:
        dataset: Pairs with the columns `image_id`, `pair_id`, `type`, `prompt` and `completion`; rows without a pair
            are never chosen.
        size: Rows to choose, or how many of each type: `CurationReport.types_after` gives exactly the type shares of a
            curated dataset.
        balance_types: With a number as `size`, the same quotas by type as `curate` uses.
        seed: The choice depends on (seed, pair_id) only.

    Returns:
        The rows chosen, sorted by (image_id, pair_id).

    Raises:
        ValueError: If columns are missing or there are not enough pairs (of a type).
    """
    columns = ["image_id", "pair_id", "type", "prompt", "completion"]
    missing = [name for name in columns if name not in dataset.column_names]
    if missing:
        raise ValueError(f"columns missing: {', '.join(missing)}; found {', '.join(dataset.column_names)}")
    rows = [
        (_hash(seed, values["pair_id"]), values["type"], values["image_id"], values["pair_id"], row)
        for row, values in enumerate(dataset.with_format(None).select_columns(columns))
        if values["prompt"] is not None and values["completion"] is not None
    ]
    available = Counter(type for _, type, *_ in rows)
    if isinstance(size, Mapping):
        quotas = dict(size)
        short = [f"{type} ({count} of {available[type]})" for type, count in quotas.items() if count > available[type]]
        if short:
            raise ValueError(f"more pairs asked for than there are: {', '.join(short)}")
    elif size > len(rows):
        raise ValueError(f"more pairs asked for than there are: {size} of {len(rows)}")
    elif balance_types:
        quotas = balanced_quotas(available, size)
    else:
        quotas = Counter(type for _, type, *_ in sorted(rows)[:size])
    chosen = []
    for type, quota in quotas.items():
        chosen += sorted(row for row in rows if row[1] == type)[:quota]
    return dataset.select([row[-1] for row in sorted(chosen, key=lambda row: row[2:])])


def length_correlation(dataset: Dataset, score: str = "i2c") -> LengthCorrelation:
    """How much a score follows the length of the answer in words (whitespace-separated), over the scored pairs.

    A score that ranks by length says little about content; see `LengthCorrelation`.

    Raises:
        ValueError: If columns are missing, as for `curate`.
    """
    return _length_correlation(read_scored_pairs(dataset, score)[0])


def balanced_quotas(available: Mapping[str, int], target: int) -> dict[str, int]:
    """Share `target` places equally among types; what a type cannot fill is shared by the others (water-filling).

    Places that cannot be shared equally go to the types of which there is most.
    """
    quotas, left = {}, target
    scarce_first = sorted(available, key=lambda type: (available[type], type))
    for position, type in enumerate(scarce_first):
        quotas[type] = min(available[type], left // (len(scarce_first) - position))
        left -= quotas[type]
    return dict(sorted(quotas.items()))


def _length_correlation(pairs: Sequence[ScoredPair]) -> LengthCorrelation:
    scores = [pair.score for pair in pairs]
    words = [len(pair.answer.split()) for pair in pairs]
    if len(set(scores)) < 2 or len(set(words)) < 2:
        return LengthCorrelation(float("nan"), len(pairs))
    return LengthCorrelation(float(spearmanr(scores, words).statistic), len(pairs))


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest(), "big")


def _type_counts(pairs: Sequence[ScoredPair]) -> dict[str, int]:
    return dict(sorted(Counter(pair.type for pair in pairs).items()))


def _quantile_floors(pairs: Sequence[ScoredPair], quantile: float, within_type: bool) -> dict[str, float]:
    scores = defaultdict(list)
    for pair in pairs:
        scores[pair.type].append(pair.score)
    if not within_type:
        floor = float(np.quantile([pair.score for pair in pairs], quantile))
        return dict.fromkeys(scores, floor)
    return {type: float(np.quantile(values, quantile)) for type, values in scores.items()}


def _first(count: int, key: Callable[[ScoredPair], object]) -> Callable[[ScoredPair], bool]:
    """Keeps the first `count` of each key."""
    kept: Counter = Counter()

    def keep(pair: ScoredPair) -> bool:
        kept[key(pair)] += 1
        return kept[key(pair)] <= count

    return keep


def _within_quota(
    quota: Counter, key: Callable[[ScoredPair], object] = lambda pair: pair.type
) -> Callable[[ScoredPair], bool]:
    def keep(pair: ScoredPair) -> bool:
        quota[key(pair)] -= 1
        return quota[key(pair)] >= 0

    return keep


def _normal(text: str) -> str:
    return " ".join(_words(text)) or text.strip()


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _shingles(pair: ScoredPair) -> frozenset[tuple[str, str, str]]:
    """Pairs of neighbouring words, of instruction and answer apart, with their ends marked.

    The marks give a one-word answer two shingles: "yes" and "no" to a short question are not near-duplicates.
    """
    shingles = set()
    for part, text in (("q", pair.question), ("a", pair.answer)):
        words = ["", *_normal(text).split(), ""]
        shingles.update((part, *two) for two in zip(words[:-1], words[1:]))
    return frozenset(shingles)


def _jaccard(first: Collection, second: Collection) -> float:
    common = len(first & second)
    return common / (len(first) + len(second) - common)


class _NearDuplicatesPerImage:
    """Keeps a pair unless one about the same image that it kept is similar: few pairs, so compared exactly."""

    def __init__(self, threshold: float):
        self.threshold = threshold
        self.kept: dict[str, list[frozenset]] = defaultdict(list)

    def __call__(self, pair: ScoredPair) -> bool:
        shingles = _shingles(pair)
        if any(_jaccard(shingles, other) >= self.threshold for other in self.kept[pair.image_id]):
            return False
        self.kept[pair.image_id].append(shingles)
        return True


class _NearDuplicates:
    """Keeps a pair unless one that it kept is similar: candidates from MinHash LSH, then compared exactly."""

    def __init__(self, threshold: float, seed: int):
        # Misses weigh more than false candidates, which the exact comparison removes. LSH takes no threshold of 1.
        self.lsh = MinHashLSH(threshold=min(threshold, 0.95), num_perm=_PERMUTATIONS, weights=(0.05, 0.95))
        self.threshold = threshold
        self.empty = MinHash(num_perm=_PERMUTATIONS, seed=_hash("minhash", seed) % 2**32)
        self.kept: dict[str, frozenset] = {}

    def __call__(self, pair: ScoredPair) -> bool:
        shingles = _shingles(pair)
        sketch = self.empty.copy()
        sketch.update_batch(["\x1f".join(shingle).encode() for shingle in shingles])
        if any(_jaccard(shingles, self.kept[other]) >= self.threshold for other in self.lsh.query(sketch)):
            return False
        self.lsh.insert(pair.pair_id, sketch)
        self.kept[pair.pair_id] = shingles
        return True
