"""Predictions on a benchmark → how each is read, and what it adds to the sums that its metric's figures are made of."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from datasets import Dataset

from c3l_hf.common.intervals import Statistic
from c3l_hf.data.schema import STATUS_OK
from c3l_hf.evaluation.answerer import stem
from c3l_hf.evaluation.likelihood_choice import likeliest_letters
from c3l_hf.metrics.llava_bench import llava_bench
from c3l_hf.metrics.mmbench import mmbench
from c3l_hf.metrics.pope import pope
from c3l_hf.metrics.seed_bench import seed_bench

__all__ = ["ALL", "OFFICIAL", "Counted", "Measure", "count_answers"]

ALL = "all"  # the group of all questions
OFFICIAL = "generated, official reading"


@dataclass(frozen=True)
class Measure:
    """A figure of some questions: which of them, what each adds to the sums, and what is made of these.

    Attributes:
        group: "all", "<kind>: <group>", or "mean over <kind>".
        figure: Its name.
        rows: (n,): places of the questions.
        counts: (n, …): what each adds.
        statistic: Sums (…) → figure.
        shown: Whether tables show it; files have all of them.
    """

    group: str
    figure: str
    rows: np.ndarray
    counts: np.ndarray
    statistic: Statistic
    shown: bool


@dataclass(frozen=True)
class Counted:
    """The answers to n questions, read in one way.

    Attributes:
        by: How they were read, e.g. "generated".
        ids: (n,): the questions.
        clusters: (n,): their images.
        groups: Kind → (n,) groups. Tables show those of the first kind.
        counts: (n, k): what each question adds to the metric's sums.
        figures: The metric's: sums (…, k) → name → (…). Runs are compared by the first within groups.
        unread: Id → what the answer was, where it cannot be read.
        metric: What the `evaluate` module makes of the same answers.
        mean: Whether the means over the groups of the first kind are figures too.
        only: Figure → (n,): which of the questions it is about, where not about all.
        brief: Whether tables show the figures of all questions alone.
    """

    by: str
    ids: list[str]
    clusters: list[str]
    groups: Mapping[str, list[str]]
    counts: np.ndarray
    figures: Callable[[np.ndarray], dict[str, np.ndarray]]
    unread: Mapping[str, str]
    metric: Mapping[str, Any]
    mean: bool = False
    only: Mapping[str, np.ndarray] = field(default_factory=dict)
    brief: bool = False

    def measures(self) -> Iterator[Measure]:
        """All figures, of all questions and of each group."""
        everything = np.arange(len(self.ids))
        parts = [(ALL, everything, True)]
        for place, (kind, groups) in enumerate(self.groups.items()):
            for name in sorted(set(groups)):
                parts.append((f"{kind}: {name}", everything[np.asarray(groups) == name], place == 0))
        names = list(self.figures(self.counts.sum(axis=0)))
        for group, rows, first in parts:
            for name in names:
                # Of the readable answers: of interest where there are others, and not for every group.
                shown = (
                    first
                    and not (self.brief and group != ALL)
                    and (name != "accuracy_parsed" or group == ALL and bool(self.unread))
                )
                of = rows[self.only[name][rows]] if name in self.only else rows
                of = of if len(of) else rows
                yield Measure(group, name, of, self.counts[of], functools.partial(self._figure, name), shown)
        if self.mean:
            kind, groups = next(iter(self.groups.items()))
            member = np.asarray(groups)[:, None] == np.asarray(sorted(set(groups)))
            counts = member[:, :, None] * self.counts[:, None]
            for name in names:
                statistic, shown = functools.partial(self._mean_figure, name), name != "accuracy_parsed"
                shown = shown and not self.brief
                yield Measure(f"mean over {kind}", name, everything, counts, statistic, shown)

    def _figure(self, name: str, sums: np.ndarray) -> np.ndarray:
        return self.figures(sums)[name]

    def _mean_figure(self, name: str, sums: np.ndarray) -> np.ndarray:
        return self.figures(sums)[name].mean(axis=-1)


def count_answers(benchmark: str, predictions: Dataset) -> list[Counted]:
    """What the predictions on a benchmark add to its metric, for each way to read them.

    - "generated": the text that the model wrote; for MMBench in all rotations, and "generated, first rotation" in the
      published order of the options alone (VanillaEval)
    - "generated, official reading", of POPE: the same texts, but what is not no is yes (`pope.official_yes_no`), as in
      published figures
    - "likelihood" and "likelihood minus prior": the option that `likelihood_choice.likeliest_letters` chooses; that
      there is none counts as unreadable
    - "judge": the judge's scores

    Questions that were not asked are left out.

    Args:
        benchmark: A key of `benchmarks.BENCHMARKS`.
        predictions: What `predictions.predict` returns; for llava_w with the columns of `judge.JUDGE_FEATURES`.

    Returns:
        None for a split without answers, and for llava_w without a judge.

    Raises:
        ValueError: If there is no such benchmark, or a row is not one of it.
    """
    if benchmark not in _READERS:
        raise ValueError(f"no benchmark {benchmark!r}; there are {', '.join(_READERS)}")
    rows = [row for row in predictions if row["answer"]]
    return _READERS[benchmark](rows)


def _pope(rows: Sequence[Mapping[str, Any]]) -> list[Counted]:
    rows = _with(rows, "status")
    if not rows:
        return []
    answers, truth, categories = (_column(rows, name) for name in ("prediction", "answer", "group"))
    given: dict[str, Any] = {"predictions": answers, "references": truth}
    result = []
    for by, reading in (("generated", {"questions": [stem(row) for row in rows]}), (OFFICIAL, {"official": True})):
        counts = pope.counts(**given, **reading)
        metric = pope.Pope().compute(**given, categories=categories, **reading) or {}
        readable = counts[:, 4:].sum(axis=1) == 0
        groups = {"category": categories}
        counted = _counted(by, rows, answers, readable, counts, pope.figures, metric, groups, mean=True)
        result.append(replace(counted, brief=by == OFFICIAL))
    return result


def _seed(rows: Sequence[Mapping[str, Any]]) -> list[Counted]:
    return [*_letters("generated", "dimension", _with(rows, "status")), *_by_likelihood("dimension", rows)]


def _mmbench(rows: Sequence[Mapping[str, Any]]) -> list[Counted]:
    asked, result = _with(rows, "status"), []
    if asked:
        answers, truth, options, abilities = (
            _column(asked, name) for name in ("prediction", "answer", "options", "group")
        )
        meta = [json.loads(row["meta"]) for row in asked]
        questions, categories = [str(values["base"]) for values in meta], [values["category"] for values in meta]
        counts = mmbench.counts(answers, truth, options, questions)
        metric = mmbench.MMBench().compute(
            predictions=answers,
            references=truth,
            options=options,
            questions=questions,
            abilities=abilities,
            categories=categories,
        )
        groups = {"ability": abilities, "category": categories}
        # All that a question's rotations say together stands in the first of its rows.
        result = [_counted("generated", asked, answers, counts[:, 2] == 1, counts, mmbench.figures, metric, groups)]
        result = [replace(result[0], only={"circular_accuracy": counts[:, 3] == 1})]
        first = [row for row, values in zip(asked, meta) if not values["rotation"]]
        result += _letters("generated, first rotation", "ability", first)
    # Likelihoods are asked for without a list of options: the rotations of a question all have the same.
    return [*result, *_by_likelihood("ability", [row for row in rows if not json.loads(row["meta"])["rotation"]])]


def _llava_w(rows: Sequence[Mapping[str, Any]]) -> list[Counted]:
    rows = [row for row in _with(rows, "status") if "judge_status" in row]
    if not rows:
        return []
    scores = [_column(rows, name) for name in ("model_score", "reference_score")]
    categories, states = _column(rows, "group"), _column(rows, "judge_status")
    counts = llava_bench.counts(*scores)
    metric = llava_bench.LlavaBench().compute(predictions=scores[0], references=scores[1], categories=categories)
    judged = counts[:, 2] == 1
    return [_counted("judge", rows, states, judged, counts, llava_bench.figures, metric, {"category": categories})]


def _by_likelihood(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[Counted]:
    rows = _with(rows, "option_status")
    return [counted for by, letters in likeliest_letters(rows).items() for counted in _letters(by, kind, rows, letters)]


def _letters(
    by: str, kind: str, rows: Sequence[Mapping[str, Any]], letters: Sequence[str] | None = None
) -> list[Counted]:
    """Choices of options: the letters, or, where there are none, what the model wrote."""
    if not rows:
        return []
    answers = list(letters) if letters is not None else _column(rows, "prediction")
    truth, options, groups = (_column(rows, name) for name in ("answer", "options", "group"))
    counts = seed_bench.counts(answers, truth, options, letters=letters is not None)
    metric = seed_bench.SeedBench().compute(
        predictions=answers, references=truth, options=options, dimensions=groups, letters=letters is not None
    )
    return [_counted(by, rows, answers, counts[:, 2] == 1, counts, seed_bench.figures, metric, {kind: groups})]


def _counted(
    by: str,
    rows: Sequence[Mapping[str, Any]],
    answers: Sequence[str],
    readable: np.ndarray,
    counts: np.ndarray,
    figures: Callable,
    metric: Mapping[str, Any],
    groups: Mapping[str, list[str]],
    mean: bool = False,
) -> Counted:
    ids, clusters = _column(rows, "question_id"), _column(rows, "cluster")
    unread = {id: text for id, text, ok in zip(ids, answers, readable) if not ok}
    return Counted(by, ids, clusters, groups, counts, figures, unread, metric, mean)


def _with(rows: Sequence[Mapping[str, Any]], status: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row[status] == STATUS_OK]


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list:
    return [row[name] for row in rows]


_READERS = {"pope": _pope, "seed": _seed, "mmbench": _mmbench, "llava_w": _llava_w}
