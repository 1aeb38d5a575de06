"""Predictions → figures with their intervals and what is missing in them; two runs compared; both as text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset

from c3l_hf.common.intervals import estimate, paired_test
from c3l_hf.common.tables import format_table
from c3l_hf.data.schema import STATUS_OK
from c3l_hf.evaluation.counts import ALL, count_answers

__all__ = ["compare_runs", "evaluate_predictions", "format_results"]

# Start of a way's name → the column that says which questions have such an answer; else `status`.
_STATES = {"likelihood": "option_status", "judge": "judge_status"}
_SHOWN = 5
_LONGEST = 120  # of a text that is shown


def evaluate_predictions(benchmark: str, predictions: Dataset) -> dict[str, Any]:
    """All figures of the predictions on a benchmark, and what is missing in them.

    Args:
        benchmark: A key of `benchmarks.BENCHMARKS`.
        predictions: As for `count_answers`.

    Returns:
        As JSON has it, with null for what is not defined:

        - `questions`, `asked`, `cut_off` (answers that did not end within max_new_tokens)
        - `not_asked`, `not_scored` (options without likelihoods): how many, and the first of them by question_id and
          reason; `unreadable`: the same for each way of reading (by the judge: not judged)
        - `figures`: for each way (`by`), `group` and `figure` the `value`, its `standard_error`, its 95 % interval from
          `low` to `high`, the numbers of `questions` and `clusters` (images), and whether tables show it
        - `metric`: for each way what the `evaluate` module returns

    Raises:
        ValueError: As for `count_answers`.
    """
    ways = count_answers(benchmark, predictions)
    status = dict(zip(predictions["question_id"][:], predictions["status"][:]))
    scored = dict(zip(predictions["question_id"][:], predictions["option_status"][:]))
    not_asked = {id: reason for id, reason in status.items() if reason != STATUS_OK}
    return {
        "questions": len(predictions),
        "asked": len(predictions) - len(not_asked),
        "cut_off": sum(ended is False for ended in predictions["ended"][:]),
        "not_asked": _named(not_asked),
        "not_scored": _named({id: reason for id, reason in scored.items() if reason not in (STATUS_OK, None)}),
        "unreadable": {way.by: _named(way.unread) for way in ways},
        "figures": [
            {"by": way.by, "group": measure.group, "figure": measure.figure, "shown": measure.shown}
            | _plain(asdict(estimate(measure.counts, _at(way.clusters, measure.rows), measure.statistic)))
            for way in ways
            for measure in way.measures()
        ],
        "metric": {way.by: _plain(way.metric) for way in ways},
    }


def compare_runs(benchmark: str, predictions_a: Dataset, predictions_b: Dataset) -> dict[str, Any]:
    """Does a benchmark's figure differ between two models? A paired test of each, see `common.intervals.paired_test`.

    Within groups the first figure only is compared. For each way to read the answers, questions to which one run alone
    has such an answer are left out.

    Args:
        benchmark: A key of `benchmarks.BENCHMARKS`.
        predictions_a: Predictions of one run.
        predictions_b: Those of the other, on the same questions.

    Returns:
        `left_out` (for each way how many questions, and the first of them), `one_only` (ways that one run alone has),
        and `figures`: for each way, group and figure `value_a`,
        `value_b`, `difference` (b - a), its interval from `low` to `high`, `p_value`, `test`, numbers of `questions`
        and `clusters`.

    Raises:
        ValueError: If the questions differ; the first that does is named.
    """
    columns = ["question_id", "question", "options", "answer"]
    runs = predictions_a, predictions_b
    rows = [run.select_columns(columns).to_list() for run in runs]
    for number, (row_a, row_b) in enumerate(zip(*rows)):
        if row_a != row_b:
            column = next(name for name in columns if row_a[name] != row_b[name])
            raise ValueError(
                f"the runs are not about the same questions: row {number} has {column} {row_a[column]!r} in one"
            )
    if len(rows[0]) != len(rows[1]):
        raise ValueError(f"the runs are not about the same questions: one has {len(rows[0])}, one {len(rows[1])}")
    ways = [{way.by: way for way in count_answers(benchmark, run)} for run in runs]
    left_out, figures = {}, []
    for by in (by for by in ways[0] if by in ways[1]):
        left_out[by] = _in_one_only(by, *runs)
        a, b = ways[0][by], ways[1][by]
        if left_out[by]:
            both = [number for number, row in enumerate(rows[0]) if row["question_id"] not in left_out[by]]
            counted = [[way for way in count_answers(benchmark, run.select(both)) if way.by == by] for run in runs]
            if not all(counted):
                continue
            a, b = counted[0][0], counted[1][0]
        main = next(iter(a.figures(a.counts.sum(axis=0))))
        for of_a, of_b in zip(a.measures(), b.measures()):
            if of_a.figure != main and of_a.group != ALL:
                continue
            tested = paired_test(
                _at(a.ids, of_a.rows),
                of_a.counts,
                _at(b.ids, of_b.rows),
                of_b.counts,
                _at(a.clusters, of_a.rows),
                of_a.statistic,
            )
            named = {"by": a.by, "group": of_a.group, "figure": of_a.figure, "shown": of_a.shown}
            figures.append(named | _plain(asdict(tested)))
    return {
        "left_out": {by: _named(reasons) for by, reasons in left_out.items()},
        "one_only": sorted(ways[0].keys() ^ ways[1].keys()),
        "figures": figures,
    }


def _in_one_only(by: str, *runs: Dataset) -> dict[str, str]:
    """Questions that one of two runs has an answer of this kind to → why the other has none."""
    kind = next((name for start, name in _STATES.items() if by.startswith(start)), "status")
    ids, states = runs[0]["question_id"][:], [run[kind][:] for run in runs]
    pairs = [(id, a, b) for id, a, b in zip(ids, *states) if (a == STATUS_OK) != (b == STATUS_OK)]
    return {id: b if a == STATUS_OK else a for id, a, b in pairs}


def format_results(results: Mapping[str, Any]) -> str:
    """What `evaluate_predictions` or `compare_runs` returns, as text."""
    figures = [found for found in results["figures"] if found["shown"]]
    paired = any("difference" in found for found in figures)
    names = ("a", "b", "b - a", "95 % interval", "p") if paired else ("value", "standard error", "95 % interval")
    lines = [("", "by", "figure", *names, "questions", "images")]
    for found in figures:
        interval = f"[{_short(found['low'])}, {_short(found['high'])}]"
        cells = [_short(found[name]) for name in (("value_a", "value_b") if paired else ("value", "standard_error"))]
        cells += [_short(found["difference"], "+"), interval, _short(found["p_value"])] if paired else [interval]
        lines.append((found["group"], found["by"], found["figure"], *cells, found["questions"], found["clusters"]))
    parts = [format_table(lines)] if figures else ["no figures"]
    named = {"not asked": "not_asked", "options without likelihoods": "not_scored"}
    missing = {says: results[name] for says, name in named.items() if name in results}
    for says, name in (("unreadable", "unreadable"), ("left out of both", "left_out")):
        missing |= {f"{says}, {by}": found for by, found in results.get(name, {}).items()}
    for says, found in missing.items():
        if found["count"]:
            more = "; …" if found["count"] > len(found["first"]) else ""
            first = "; ".join(f"{one['question_id']}: {one['reason']!r}" for one in found["first"])
            parts.append(f"{says}: {found['count']:,} ({first}{more})")
    if results.get("one_only"):
        parts.append(f"in one of the runs only: {', '.join(results['one_only'])}")
    if results.get("cut_off"):
        parts.append(f"cut off at max_new_tokens: {results['cut_off']:,}")
    return "\n".join(parts)


def _named(reasons: Mapping[str, str]) -> dict[str, Any]:
    """How many, and the first of them."""
    first = [{"question_id": id, "reason": str(reason)[:_LONGEST]} for id, reason in list(reasons.items())[:_SHOWN]]
    return {"count": len(reasons), "first": first}


def _plain(value: Any) -> Any:
    """As JSON has it: null for what is not a number."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _at(values: Sequence, rows: np.ndarray) -> list:
    return [values[row] for row in rows]


def _short(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"
