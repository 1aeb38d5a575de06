"""Scored pairs → the compact dataset: filtered, without near-duplicates, the best by score of each type or cluster.

`curate` takes datasets. `choose_pairs` does its work, on tables without images and with the texts of few pairs as
Python objects at a time.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from scipy.stats import spearmanr

from c3l_hf.common.choices import check_choice
from c3l_hf.common.names import listed
from c3l_hf.data.pair_columns import read_pair_columns
from c3l_hf.data.schema import LANGUAGE
from c3l_hf.selection.columns import check_columns, encode, place_in_group
from c3l_hf.selection.decontamination import BenchmarkContents
from c3l_hf.selection.hygiene import NO_HYGIENE, Hygiene, image_hygiene
from c3l_hf.selection.image_duplicates import ImageComparison, images_of_pairs
from c3l_hf.selection.image_sketches import DISTANCE
from c3l_hf.selection.marks import MARKED_REJECT, Marks, find_marks
from c3l_hf.selection.minhash import repeated_pairs
from c3l_hf.selection.near_duplicates import NEAR_DUPLICATE, NEW, SAME_INSTRUCTION, compare_within_images
from c3l_hf.selection.pair_texts import PairTexts
from c3l_hf.selection.quotas import BalanceBy, balanced_quotas, columns_of, group_rows
from c3l_hf.selection.reports import CurationReport, LengthCorrelation
from c3l_hf.selection.scored_pairs import (
    SCORED_PAIR_COLUMNS,
    ScoredPairs,
    numbers_of,
    quantile_ranks,
    read_scored_pairs,
)

__all__ = [
    "CURATION_COLUMNS",
    "RANDOM_SCORE",
    "CurationReport",
    "LengthCorrelation",
    "NearDuplicateScope",
    "choose_pairs",
    "curate",
    "length_correlation",
]

NearDuplicateScope = Literal["image", "dataset", "none"]
# What `choose_pairs` reads besides the columns that its options name.
CURATION_COLUMNS = SCORED_PAIR_COLUMNS
# As a score: none, the order of pairs is random.
RANDOM_SCORE = "random"


def curate(
    dataset: Dataset,
    *,
    target_size: int = 5000,
    score: str = "i2c",
    floors: Mapping[str, float] | None = None,
    min_quantile: float | None = None,
    balance_by: BalanceBy = "type",
    within_type: bool = True,
    near_duplicate_scope: NearDuplicateScope = "image",
    near_duplicate_threshold: float = 0.8,
    max_per_image: int | None = None,
    keep_types: Sequence[str] | None = None,
    keep_languages: Sequence[str] | None = None,
    near_duplicate_images: ImageComparison = "none",
    near_duplicate_distance: int = DISTANCE,
    benchmarks: Sequence[BenchmarkContents] = (),
    image_folder: str | Path | None = None,
    marks: Marks | None = None,
    seed: int = 0,
) -> tuple[Dataset, CurationReport]:
    """Keep the best `target_size` pairs. Rules, in this order, each counted in the report:

    1. rows without a pair, without a score, with a score that is not finite; of other types or languages
       than `keep_types` and `keep_languages`; with null in a column of `balance_by`;
    2. below one of `floors`, below `min_quantile`;
    3. contaminated: about a picture of one of the `benchmarks`, or with a text of it;
    4. the same instruction about the same image (words compared, not case or punctuation): the best one is kept;
    5. near-duplicates: the sets of neighbouring words of instruction and answer have a Jaccard similarity of at least
       the threshold: the better one is kept;
    6. about an image that is a near-duplicate of one with a better pair (`near_duplicate_images`);
    7. beyond the best `max_per_image` about an image;
    8. quota: per type, cluster or other group (`balance_by`), the best by score. Groups share `target_size` equally;
       what a group lacks is shared by the others.

    Pairs that a person marked "reject" leave after rule 1. One marked "keep" comes first whatever its score: rules 2
    and 4 to 8 do not drop it, but it counts for them. Without a score, or against rule 1 or 3, it leaves as others do.

    "Best" is by rank within the type of question (`within_type`) or by raw score; ties are broken by a hash of
    (seed, pair_id), so that no image is favoured by its name.

    The best of all are alike; quotas within clusters keep the variety (`selection.clusters`, with the sources). Pairs
    against which the image speaks go first:

    ```python
    clustered, _ = cluster_pairs(scored_with_vectors, clusters=50)
    best, report = curate(clustered, score="pmi", floors={"pmi": 0.0}, balance_by="cluster")
    typical, _ = curate(clustered, score="cluster_similarity", within_type=False, balance_by="cluster")  # controls:
    anything, _ = curate(clustered, score="random", floors={"pmi": 0.0}, balance_by="cluster")
    ```

    Args:
        dataset: Scored rows in any layout of `data.layouts`, as `score_dataset` gives them: with `i2c_status` and
            `score`. `image_id`, `pair_id` and `type` count where they are there; else rows with the same image, by its
            content or path, are about one image, and all are of one type, which the report says. A conversation of
            several answers is one row: its questions together, its answers together. Pictures are read only for
            rules 3 and 6.
        target_size: Rows to keep. If fewer are left, all are kept and the report says so.
        score: Column to rank by; higher is better. "random", if there is no such column: by the hash alone, as a
            control to which all other rules apply.
        floors: Column of numbers → its least value: pairs with less are dropped, and those without a number there. A
            `pmi` below 0 says that the image makes the answer less likely.
        min_quantile: In [0, 1): this share of the scored pairs, the lowest (of each type if `within_type`), is dropped.
        balance_by: A column: the same number of each of its values, as far as there are enough. Several: of each
            combination of their values. None: all compete for the places.
        within_type: Compare ranks within the type rather than raw scores, wherever pairs of two types compete.
        near_duplicate_scope: "image" compares pairs about the same image only: the same question and answer about
            another image teaches something else. "dataset" compares all, see `minhash`: less than 1 in 1,000
            similar pairs is missed. "none" skips the rule.
        near_duplicate_threshold: In (0, 1].
        max_per_image: Most pairs about one image. The best pairs are often about the same images; with 1 the dataset
            has one image for each of its pairs, as far as there are enough.
        keep_types: Only pairs of these types; by default of all.
        keep_languages: Only pairs whose column `language` has one of these; by default all.
        near_duplicate_images: "same": of images whose files are equal only the one with the best pair keeps its pairs;
            "similar": of near-duplicates too, see `image_sketches.look_alikes`, where its error rates stand. All
            pictures are read. "none" (the default): an image is known by its `image_id`. Off because pairs about a
            second copy are not wrong, and simple drawings are taken for each other now and then.
        near_duplicate_distance: For "similar" and `benchmarks`: most bits of 256 that hashes differ in.
        benchmarks: What the dataset is to have nothing of, from `decontamination.benchmark_contents`.
        image_folder: Where images are that rows name by a relative path; by default the working folder.
        marks: What people marked in a report, from `marks.read_marks`; the report says which could not be applied.
        seed: For ties and MinHash.

    Returns:
        The rows kept, sorted by (image_id, pair_id), all columns as they were, and the report. Ids that are made up
        are numbers in the order of the rows.

    Raises:
        TypeError: If the dataset is streamed, or a `DatasetDict`.
        ValueError: If columns are missing or of another type, the texts are in no accepted layout, which rows are about
            one image cannot be told, a `pair_id` occurs twice, `image_id` or `pair_id` of a pair is null, an
            option is out of range, no pair has a type or language that is to be kept, no mark is about one of the
            pairs, or rule 3 or 6 can read no picture. The message says what and where.
    """
    named = [*(floors or ()), *columns_of(balance_by), *[LANGUAGE] * (keep_languages is not None)]
    if score != RANDOM_SCORE or score in dataset.column_names:
        named.append(score)
    columns = read_pair_columns(dataset, (*CURATION_COLUMNS, *named))
    for option, wanted, name in (("keep_types", keep_types, "type"), ("keep_languages", keep_languages, LANGUAGE)):
        if wanted is not None:
            _check_there(option, wanted, columns.table[name])
    pictures = functools.partial(images_of_pairs, dataset, columns.table["image_id"], image_folder)
    rows, report = choose_pairs(
        columns.table,
        target_size=target_size,
        score=score,
        floors=floors,
        min_quantile=min_quantile,
        balance_by=balance_by,
        within_type=within_type,
        near_duplicate_scope=near_duplicate_scope,
        near_duplicate_threshold=near_duplicate_threshold,
        max_per_image=max_per_image,
        keep_types=keep_types,
        keep_languages=keep_languages,
        hygiene=image_hygiene(pictures, near_duplicate_images, benchmarks, near_duplicate_distance),
        marks=marks,
        seed=seed,
    )
    report.assumed = [*columns.assumed, *report.assumed]
    return dataset.select(rows), report


def choose_pairs(
    table: pa.Table,
    *,
    target_size: int = 5000,
    score: str = "i2c",
    floors: Mapping[str, float] | None = None,
    min_quantile: float | None = None,
    balance_by: BalanceBy = "type",
    within_type: bool = True,
    near_duplicate_scope: NearDuplicateScope = "image",
    near_duplicate_threshold: float = 0.8,
    max_per_image: int | None = None,
    keep_types: Sequence[str] | None = None,
    keep_languages: Sequence[str] | None = None,
    hygiene: Hygiene = NO_HYGIENE,
    marks: Marks | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, CurationReport]:
    """`curate` on a table: which rows it keeps.

    With 5 M pairs about 1 M images (a table of 1.2 GB): 1 GB of memory besides the table and 2 minutes on one core,
    measured by `recipes/benchmarks/selection.py`. `near_duplicate_scope="dataset"` takes 0.04 ms and 0.6 kB
    more for each pair that is left by the other rules: measured 41 s on one core and 0.6 GB, a third of it pages of a
    temporary file, for 1 M pairs; computed 3.5 minutes and 3 GB for 5 M.

    Args:
        table: The columns `CURATION_COLUMNS` of scored pairs, messages being plain texts, and those that the options
            name (`score`, `floors`, `balance_by`; with `keep_languages` also `language`), perhaps `UNREAD`, as
            `data.pair_columns` reads them of other layouts. Others are not looked at.
        target_size: This and the other options are those of `curate`. Of the types and languages to keep there need
            be no pair.
        hygiene: Which images are near-duplicates, and what benchmarks have; from `hygiene.image_hygiene`.

    Returns:
        The rows kept (int64) in the order (image_id, pair_id), and the report.

    Raises:
        ValueError: As `curate`.
    """
    if target_size < 1:
        raise ValueError(f"target_size must be at least 1, not {target_size}")
    if min_quantile is not None and not 0 <= min_quantile < 1:
        raise ValueError(f"min_quantile must be in [0, 1), not {min_quantile}")
    if max_per_image is not None and max_per_image < 1:
        raise ValueError(f"max_per_image must be at least 1, not {max_per_image}")
    if not 0 < near_duplicate_threshold <= 1:
        raise ValueError(f"near_duplicate_threshold must be in (0, 1], not {near_duplicate_threshold}")
    for name, least in (floors or {}).items():
        if not math.isfinite(least):
            raise ValueError(f"floors has {name}: {least}; a least value must be a finite number")
    check_choice("near_duplicate_scope", near_duplicate_scope, get_args(NearDuplicateScope))

    if score == RANDOM_SCORE and score not in table.column_names:
        table = table.append_column(RANDOM_SCORE, pa.array(np.zeros(len(table))))
    groups, group_columns = group_rows(table, balance_by), columns_of(balance_by)
    scored, texts, marked = read_scored_pairs(table, score, seed), PairTexts(table), find_marks(table, marks)
    pairs, dropped = scored.pairs, dict(scored.left_out)
    value = quantile_ranks(scored.score, pairs.type) if within_type else scored.score
    # Positions among the scored pairs, best first from here on: every rule keeps the first of what it compares.
    wanted_anyway = marked.keep[pairs.row]
    best = np.lexsort((scored.tie_break, -value, ~wanted_anyway))

    def drop(rule: str, keep: np.ndarray, whatever_the_mark: bool = False) -> None:
        nonlocal best
        keep = keep if whatever_the_mark else keep | wanted_anyway[best]
        # Rules may have the same words, as those of a column that is both a group and a floor.
        dropped[rule] = dropped.get(rule, 0) + int(len(best) - np.count_nonzero(keep))
        best = best[keep]

    if keep_types is not None:
        drop("type not among those to keep", np.isin(pairs.types, list(keep_types))[pairs.type[best]], True)
    if keep_languages is not None:
        check_columns(table.column_names, [LANGUAGE])
        language, names = encode(table[LANGUAGE])
        # The last place is that of null, whose number is -1.
        wanted = np.append(np.isin(names.to_pylist(), list(keep_languages)), False)
        drop("language not among those to keep", wanted[language[pairs.row[best]]], True)
    if set(group_columns) - {"type"}:
        drop(f"no {' or '.join(group_columns)}", groups.number[pairs.row[best]] >= 0, True)
    if marks is not None:
        drop(MARKED_REJECT, ~marked.reject[pairs.row[best]], True)
    for name, least in (floors or {}).items():
        values = numbers_of(table, name)[pairs.row]
        if name != score:  # of which those without are dropped already
            drop(f"no {name}", ~np.isnan(values[best]))
        drop(f"{name} below {least:g}", values[best] >= least)
    if min_quantile is not None and len(best):
        least_of = _quantile_floors(scored, min_quantile, within_type)
        drop(f"score in the lowest {min_quantile:.0%}", scored.score[best] >= least_of[pairs.type[best]])
    if hygiene.contamination is not None:
        found = hygiene.contamination.of_pairs(texts, pairs.row[best], pairs.image_ids, pairs.image[best])
        for number, rule in enumerate(hygiene.contamination.rules):
            keep = found != number
            drop(rule, keep, True)
            found = found[keep]
    threshold = near_duplicate_threshold if near_duplicate_scope == "image" else None
    verdicts = compare_within_images(texts, pairs.row[best], pairs.image[best], threshold)
    verdicts = np.where(wanted_anyway[best], NEW, verdicts)
    drop("same instruction about the same image", verdicts != SAME_INSTRUCTION)
    if near_duplicate_scope == "image":
        drop("near-duplicate about the same image", verdicts[verdicts != SAME_INSTRUCTION] != NEAR_DUPLICATE)
    elif near_duplicate_scope == "dataset":
        repeated = repeated_pairs(texts, pairs.row[best], near_duplicate_threshold, seed)
        drop("near-duplicate in the dataset", ~repeated)
    if hygiene.similar is not None:
        drop("about a near-duplicate of another image", hygiene.similar.kept(pairs.image_ids, pairs.image[best]))
    if max_per_image is not None:
        within = place_in_group(pairs.image[best]) < max_per_image
        drop(f"beyond {max_per_image} about the same image", within)
    types_available, available = pairs.type_counts(best), groups.counts(pairs.row[best])
    quotas = balanced_quotas(available, target_size)
    rule = f"beyond the quota of the {' and '.join(group_columns)}" if group_columns else "beyond target_size"
    drop(rule, groups.within(quotas, pairs.row[best]))

    kept = pairs.sorted_by_id(best)
    words = texts.answer_words(pairs.row)
    report = CurationReport(
        pairs=len(table),
        dropped=dropped,
        kept=len(kept),
        target_size=target_size,
        types_before=pairs.type_counts(),
        types_available=types_available,
        types_after=pairs.type_counts(kept),
        balance_by=list(group_columns),
        groups_available=available,
        groups_after=groups.counts(pairs.row[kept]),
        length_before=_length_correlation(scored.score, words),
        length_after=_length_correlation(scored.score[kept], words[kept]),
        assumed=list(hygiene.notes),
        marks="" if marks is None else f"{marked}; {_kept_of(marked.keep, pairs.row[kept])}",
    )
    return pairs.row[kept], report


def length_correlation(dataset: Dataset, score: str = "i2c") -> LengthCorrelation:
    """How much a score follows the length of the answer in words (whitespace-separated), over the scored pairs.

    A score that ranks by length says little about content; see `LengthCorrelation`.

    Raises:
        ValueError: If columns are missing, as for `curate`.
    """
    table = read_pair_columns(dataset, (*CURATION_COLUMNS, score)).table
    scored = read_scored_pairs(table, score)
    return _length_correlation(scored.score, PairTexts(table).answer_words(scored.pairs.row))


def _kept_of(marked_keep: np.ndarray, kept: np.ndarray) -> str:
    return f"of those to keep {int(marked_keep[kept].sum()):,} are in the result"


def _check_there(option: str, wanted: Sequence[str], column: pa.ChunkedArray) -> None:
    there = sorted(pc.unique(column).drop_null().to_pylist())
    if missing := [value for value in wanted if value not in there] or (not wanted and ["(nothing)"]):
        raise ValueError(f"{option} has {listed(missing, 5)}; the pairs have {listed(there, 20) or 'none'}")


def _quantile_floors(scored: ScoredPairs, quantile: float, within_type: bool) -> np.ndarray:
    """The lowest score that stays, by number of the type."""
    types = scored.pairs.type
    if not within_type:
        return np.full(len(scored.pairs.types), np.quantile(scored.score, quantile))
    floors = np.full(len(scored.pairs.types), np.nan)  # of types without a score, which no pair has
    for type in np.unique(types):
        floors[type] = np.quantile(scored.score[types == type], quantile)
    return floors


def _length_correlation(scores: np.ndarray, words: np.ndarray) -> LengthCorrelation:
    if not len(scores) or scores.min() == scores.max() or words.min() == words.max():
        return LengthCorrelation(float("nan"), len(scores))
    return LengthCorrelation(float(spearmanr(scores, words).statistic), len(scores))
