"""The overview of pools of pairs: how their scores are spread, what they follow, and which pairs were kept."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from c3l_hf.data.schema import LANGUAGE, STATUS_OK
from c3l_hf.data.status import count_reasons
from c3l_hf.report import charts
from c3l_hf.report.charts import Drawing
from c3l_hf.report.content import Chart, Filter, Table
from c3l_hf.report.pools import Pool
from c3l_hf.scoring.formulas import rank_agreement

__all__ = [
    "agreement_table",
    "length_charts",
    "score_charts",
    "score_drawing",
    "share_charts",
    "share_drawing",
    "status_table",
    "type_charts",
]

_BINS, _MOST_NAMES, _MOST_FOR_AGREEMENT = 24, 15, 20_000
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_NOT_STATED = "not stated"


def _bins_of(values: np.ndarray) -> np.ndarray:
    """Edges of bars: even ones between the first and the last percent of values, whose outliers the end bars have."""
    low, high = np.quantile(values, [0.01, 0.99])
    return np.linspace(low, high, _BINS + 1) if high > low else np.array([low - 0.5, low + 0.5])


def _counts_in(values: np.ndarray, edges: np.ndarray) -> list[int]:
    """How many values each bar has, the first and the last with all below and above."""
    return np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].tolist()


def score_drawing(pool: Pool, score: str, called: str, id: str) -> tuple[Drawing, str, list[float]] | None:
    """How a score of a pool is spread: the drawing, what it shows in words, and the edges of its bars; None if no pair
    has it."""
    if score not in pool.features:
        return None
    values = pool.numbers(score)
    finite = np.isfinite(values)
    if not finite.any():
        return None
    edges = _bins_of(values[finite])
    series, labels = [_counts_in(values[finite], edges)], ["all pairs"]
    text = f"{pool.stage}: {finite.sum():,} pairs by {called}; the median is {np.median(values[finite]):.3f}."
    if (kept := pool.is_kept()) is not None and (of_kept := finite & kept).any():
        series.append(_counts_in(values[of_kept], edges))
        labels.append("of these kept")
        text += f" Of the {of_kept.sum():,} that were kept it is {np.median(values[of_kept]):.3f}."
    return charts.histogram(id, edges.tolist(), series, labels, called), text, edges.tolist()


def score_charts(pools: Sequence[Pool], score: str | None, called: str) -> list[Chart]:
    """How the score is spread, of each pool that has it; its bars are filters.

    Args:
        pools: The pools.
        score: The column.
        called: What its axis says.
    """
    found = []
    for number, pool in enumerate(pools):
        id = f"scores-{number}"
        if score is not None and (drawn := score_drawing(pool, score, called, id)) is not None:
            drawing, text, edges = drawn
            filter = Filter(score, pool.stage, edges)
            found.append(Chart(id, f"Scores: {pool.stage}", text, charts.as_svg(drawing, id, text), filter))
    return found


def type_charts(pools: Sequence[Pool], score: str | None, called: str) -> list[Chart]:
    """How the score is spread within each type of question."""
    found = []
    for number, pool in enumerate(pools):
        if score not in pool.features or "type" not in pool.features:
            continue
        values, types = pool.numbers(str(score)), _texts(pool, "type")
        rows = []
        for type, _ in Counter(types.tolist()).most_common(_MOST_NAMES):
            of_type = values[(types == type) & np.isfinite(values)]
            if len(of_type):
                rows.append((type, np.quantile(of_type, _QUANTILES).tolist()))
        if len(rows) < 2:
            continue
        rows.sort()
        told = "; ".join(f"{type} {quantiles[2]:.3f}" for type, quantiles in rows)
        text = f"{pool.stage}: {called} by type of question, 5, 25, 50, 75 and 95 % quantiles. Medians: {told}."
        id = f"types-{number}"
        svg = charts.as_svg(charts.quantile_bars(rows, called), id, text, len(rows))
        found.append(Chart(id, f"Scores by type: {pool.stage}", text, svg))
    return found


def length_charts(pools: Sequence[Pool], score: str | None, called: str) -> list[Chart]:
    """The score against the length of the answer in words: does it rank by length?"""
    found = []
    for number, pool in enumerate(pools):
        if score not in pool.features or (words := _words(pool)) is None:
            continue
        values = pool.numbers(str(score))
        used = np.isfinite(values) & (words > 0)
        values, lengths = values[used], words[used]
        if len(values) < 2 or np.ptp(values) == 0 or np.ptp(lengths) == 0:
            continue
        edges = _edges_of_groups(lengths)
        group = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, len(edges) - 2)
        groups = [group == place for place in range(len(edges) - 1)]
        places = [float(np.median(lengths[of_group])) for of_group in groups]
        bands = [np.quantile(values[of_group], [0.1, 0.5, 0.9]).tolist() for of_group in groups]
        rho = float(spearmanr(values, lengths).statistic)
        text = f"{pool.stage}: {called} against the words of the answer. Spearman's correlation is {rho:+.2f}."
        id = f"length-{number}"
        svg = charts.as_svg(charts.bands(places, bands, "words of the answer", called), id, text)
        found.append(Chart(id, f"Score against length: {pool.stage}", text, svg))
    return found


def _edges_of_groups(lengths: np.ndarray) -> np.ndarray:
    """Edges of up to twelve groups of lengths, none so small that a few odd answers would be the chart."""
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, 13)))
    least, waiting, kept = max(1, len(lengths) // 40), 0, [edges[0]]
    for edge, count in zip(edges[1:], np.histogram(lengths, edges)[0]):
        waiting += count
        if waiting >= least:
            kept.append(edge)
            waiting = 0
    kept[-1] = edges[-1]  # what is left belongs to the last group
    return np.array(kept)


def share_drawing(pool: Pool, column: str, called: str) -> tuple[Drawing, str, int] | None:
    """Shares of a column's values among all pairs, and among those that were kept: the drawing, what it shows in words,
    and the number of names; None if there are fewer than two."""
    if column not in pool.features:
        return None
    names, series = _share_series(_texts(pool, column), pool.is_kept())
    if len(names) < 2:
        return None
    told = (
        f"{name} " + ", ".join(f"{shares[place]:.1%} {label}" for label, shares in series.items())
        for place, name in enumerate(names)
    )
    return charts.shares(names, series), f"{pool.stage}: {called.lower()}. {'; '.join(told)}.", len(names)


def share_charts(pools: Sequence[Pool]) -> list[Chart]:
    """Shares of types and languages: among all pairs, and among those that were kept."""
    found = []
    for number, pool in enumerate(pools):
        for column, called in (("type", "Types of question"), (LANGUAGE, "Languages")):
            if (drawn := share_drawing(pool, column, called)) is not None:
                drawing, text, rows = drawn
                id = f"{column}-shares-{number}"
                found.append(Chart(id, f"{called}: {pool.stage}", text, charts.as_svg(drawing, id, text, rows)))
    return found


def _share_series(values: np.ndarray, kept: np.ndarray | None) -> tuple[list[str], dict[str, list[float]]]:
    """The most frequent names, sorted, and their shares among all and among those kept; of others together."""
    frequent = [str(name) for name, _ in Counter(values.tolist()).most_common()]
    names = sorted(frequent[:_MOST_NAMES])
    parts = {"of all pairs": values} | ({} if kept is None else {"of those kept": values[kept]})
    series = {}
    for label, part in parts.items():
        series[label] = [float(np.mean(part == name)) if len(part) else 0.0 for name in names]
        if len(frequent) > _MOST_NAMES:
            series[label].append(max(0.0, 1 - sum(series[label])) if len(part) else 0.0)
    return names + ["others"] * (len(frequent) > _MOST_NAMES), series


def agreement_table(pools: Sequence[Pool]) -> list[Table]:
    """How far the scores agree on the order of the pairs."""
    found = []
    for pool in pools:
        names = [name for name in pool.scores if name != "i2c"]
        if len(names) < 2 or pool.num_rows < 3:
            continue
        # So many tell it as well as all: Kendall's tau of millions takes minutes.
        step = -(-pool.num_rows // _MOST_FOR_AGREEMENT)
        columns = {name: [None if np.isnan(v) else v for v in pool.numbers(name)[::step].tolist()] for name in names}
        rows = [
            [f"{one['a']}, {one['b']}", f"{one['n']:,}", f"{one['spearman']:+.2f}", f"{one['kendall']:+.2f}"]
            for one in rank_agreement(columns)
            if one["n"] > 1 and not np.isnan(one["spearman"])
        ]
        note = f"Over every {step:,}th pair." if step > 1 else ""
        if rows:
            header = ["scores", "pairs", "Spearman", "Kendall"]
            found.append(Table(f"Agreement between scores: {pool.stage}", header, rows, note))
    return found


def status_table(pools: Sequence[Pool], most: int = 30) -> list[Table]:
    """Why rows have no pair or no score, counted; of reasons that differ in a name or a number one has an example."""
    rows = []
    for pool in pools:
        statuses = pool.statuses().to_pylist()
        reasons = count_reasons(status for status in statuses if status != STATUS_OK)
        rows.append([pool.stage, STATUS_OK, f"{statuses.count(STATUS_OK):,}"])
        rows += [[pool.stage, reason, f"{count:,}"] for reason, count in reasons[:most]]
        if others := sum(count for _, count in reasons[most:]):
            rows.append([pool.stage, "other reasons", f"{others:,}"])
    return [Table("What became of the rows", ["pairs", "status", "rows"], rows)] if rows else []


def _texts(pool: Pool, column: str) -> np.ndarray:
    texts = pool.texts(column).fill_null(_NOT_STATED)
    return texts.to_numpy().astype(object)


def _words(pool: Pool) -> np.ndarray | None:
    """Words of each row's answers; None where the rows have neither plain messages nor columns of answers."""
    column = next((n for n in ("completion", "answer", "response", "output") if n in pool.features), None)
    if column is None:
        return None
    words = []
    for table in pool.tables([column]):
        words += [len(text.split()) for text in map(_answer, table[column].to_pylist())]
    return np.array(words)


def _answer(value: Any) -> str:
    if isinstance(value, str):
        return value
    messages = value if isinstance(value, list) else []
    contents = [m.get("content") for m in messages if isinstance(m, dict) and m.get("role") == "assistant"]
    return " ".join(content for content in contents if isinstance(content, str))
