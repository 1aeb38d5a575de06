"""A source → what the report shows: the overview of all pairs, and a gallery of all or of a sample."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from c3l_hf.common.errors import RunError
from c3l_hf.report.alike import alike_pictures
from c3l_hf.report.content import Content, Pairs, ShownPair, Table
from c3l_hf.report.overview import (
    agreement_table,
    length_charts,
    score_charts,
    share_charts,
    status_table,
    type_charts,
)
from c3l_hf.report.pools import Pictures, Pool
from c3l_hf.report.shown_rows import shown_pairs
from c3l_hf.report.sources import Source

__all__ = ["content_of"]

_SEED = 0
_RANKING = ("i2c", "pmi", "pmi_k", "token_kl")


def content_of(source: Source, num_pairs: int | None = None, evaluation: str | Path | None = None) -> Content:
    """What a report of a source shows.

    Args:
        source: From `run_source`, `published_source` or `rows_source`.
        num_pairs: Most pairs in the gallery: of more, those of images drawn at random, the same each time. By default
            all.
        evaluation: The folder that `c3l evaluate` has written.

    Raises:
        RunError: If `num_pairs` is impossible, or the evaluation cannot be read.
    """
    if num_pairs is not None and num_pairs < 1:
        raise RunError(f"num_pairs is {num_pairs}; it must be at least 1")
    tables = [] if evaluation is None else _benchmark_tables(Path(evaluation))
    pools, names = source.pools, list(dict.fromkeys(name for pool in source.pools for name in pool.scores))
    ranking = next((name for name in _RANKING if name in names), next(iter(names), None))
    called = next((f"{ranking} ({value})" for name, value in source.facts if name.startswith("ranking")), ranking)
    numbers, image_ids, reasons = _numbered(pools)
    chosen, sampled = _chosen(numbers, len(image_ids), num_pairs)
    shown_ids = image_ids.take(pa.array(chosen))
    places = pc.index_in(shown_ids, value_set=source.album.ids, skip_nulls=True)
    pictures = Pictures(source.album, shown_ids, places, _renumbered(reasons, chosen))
    place = np.full(len(image_ids), -1)
    place[chosen] = np.arange(len(chosen))
    shown = [place[of_pool] for of_pool in numbers]
    count = sum(int((of_pool >= 0).sum()) for of_pool in shown)

    def rows() -> Iterator[ShownPair]:
        for pool, of_pool in zip(pools, shown):
            yield from shown_pairs(pool, of_pool)

    notes = list(source.notes)
    if sampled:
        total = sum(pool.num_rows for pool in pools)
        notes.append(
            f"The gallery shows {count:,} of {total:,} pairs: those of {len(chosen):,} images drawn at random. Figures "
            "and charts are of all; c3l report shows all pairs, unless num_pairs is given."
        )
    threshold_score = next((score for score in (source.chosen_by, ranking) if score in names), None)
    charts = [
        *score_charts(pools, ranking, str(called)),
        *type_charts(pools, ranking, str(called)),
        *length_charts(pools, ranking, str(called)),
        *share_charts(pools),
        *source.charts,
    ]
    return Content(
        title=source.title,
        facts=source.facts,
        funnel=source.funnel,
        charts=charts,
        tables=[*source.tables, *tables, *status_table(pools), *agreement_table(pools)],
        pairs=Pairs(count, rows),
        pictures=pictures,
        alike=alike_pictures(pools, shown, len(chosen)),
        ranking=ranking,
        threshold=_threshold(pools, threshold_score),
        threshold_score=threshold_score if any(pool.kept is not None for pool in pools) else None,
        notes=notes,
    )


def _numbered(pools: Sequence[Pool]) -> tuple[list[np.ndarray], pa.Array, dict[int, str]]:
    """Of each row of each pool the number of its picture, the ids of these, and why some are none.

    A row without an image has a picture of its own, which says why.
    """
    ids = pa.chunked_array([c for pool in pools for c in pool.ids["image_id"].chunks], pa.string())
    encoded = ids.combine_chunks().dictionary_encode()
    numbers = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    without = np.flatnonzero(numbers < 0)
    numbers[without] = len(encoded.dictionary) + np.arange(len(without))
    unread = pa.chunked_array([c for pool in pools for c in pool.ids["unread"].chunks], pa.string())
    reasons = unread.take(pa.array(without)).to_pylist()
    names = pa.concat_arrays([encoded.dictionary, pa.nulls(len(without), pa.string())])
    bounds = np.cumsum([0, *(pool.num_rows for pool in pools)])
    parts = [numbers[first:last] for first, last in zip(bounds, bounds[1:])]
    told = {len(encoded.dictionary) + place: reason or "the row has no image" for place, reason in enumerate(reasons)}
    return parts, names, told


def _chosen(numbers: Sequence[np.ndarray], pictures: int, most: int | None) -> tuple[np.ndarray, bool]:
    """The pictures whose pairs are shown, rising, and whether these are a sample."""
    counts = np.bincount(np.concatenate([np.empty(0, np.int64), *numbers]), minlength=pictures)
    if most is None or counts.sum() <= most:
        return np.arange(pictures), False
    order = np.random.default_rng(_SEED).permutation(pictures)
    enough = int(np.searchsorted(np.cumsum(counts[order]), most, side="right"))
    return np.sort(order[: max(enough, 1)]), True


def _renumbered(reasons: dict[int, str], chosen: np.ndarray) -> dict[int, str]:
    places = {number: place for place, number in enumerate(chosen.tolist()) if number in reasons}
    return {place: reasons[number] for number, place in places.items()}


def _threshold(pools: Sequence[Pool], score: str | None) -> float | None:
    """The lowest score among the pairs that were kept; None if no lower one was left out, so that it parts nothing."""
    lowest = []
    for pool in pools:
        kept = pool.is_kept()
        if kept is not None and score in pool.features:
            values = pool.numbers(str(score))
            finite = np.isfinite(values)
            least = values[finite & kept].min(initial=np.inf)
            if (values[finite & ~kept] < least).any() and np.isfinite(least):
                lowest.append(float(least))
    return min(lowest, default=None)


def _benchmark_tables(folder: Path) -> list[Table]:
    """What `c3l evaluate` found, a table for each benchmark."""
    found = []
    for file in sorted(folder.glob("*/results.json")):
        try:
            results: Any = json.loads(file.read_text("utf-8"))
            figures = [one for one in results["figures"] if one["shown"]]
            rows = [
                [
                    " ".join(filter(None, (str(one["group"]), str(one["figure"])))),
                    str(one["by"]),
                    _short(one["value"]),
                    f"{_short(one['low'])} to {_short(one['high'])}",
                    f"{one['questions']:,}",
                ]
                for one in figures
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"evaluation {file} is not what c3l evaluate writes ({type(error).__name__})") from None
        asked = f"Asked {results['asked']:,} of {results['questions']:,} questions."
        header = ["figure", "by", "value", "95 % interval", "questions"]
        found.append(Table(f"Benchmark: {file.parent.name}", header, rows, asked))
    if not found:
        raise RunError(f"evaluation {folder} has no */results.json; give the output_dir of c3l evaluate")
    return found


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
