"""LLaVA-Bench (in the wild): a judge's score of a model's answers, relative to those of a reference.

Definitions after Liu et al. (2023, arXiv 2304.08485, section 5) and its script. For each question a language model that
reads a description of the image scores two answers from 1 to 10: that of the reference (GPT-4 on the description) and
that of the model.

- `relative_score` = 100 · sum of the model's scores / sum of the reference's scores, over the judged questions
- `model_score`, `reference_score` = the mean scores, of 10
- `judge_errors` = number of questions without a pair of scores; they are part of no score. `judged` = those with one.

They are given over all questions and for each category (conv, detail, complex). NaN where nothing was judged.

In lmms-eval a failed judgement is a pair of -1, which is averaged like a score; the official script knows no failures.
"""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

__all__ = ["LlavaBench", "counts", "figures"]

_CITATION = """\
@inproceedings{liu2023llava,
  title = {Visual Instruction Tuning},
  author = {Liu, Haotian and Li, Chunyuan and Wu, Qingyang and Lee, Yong Jae},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023}
}
"""
_INPUTS = """\
Args:
    predictions (list of float): The judge's score of the model's answer, 0 to 10; None where the judge failed.
    references (list of float): The judge's score of the reference's answer, 0 to 10; None where the judge failed.
    categories (list of str): The category of each question: conv, detail or complex.

Returns:
    dict: relative_score, model_score, reference_score, judged, judge_errors; and the same for each category under
    "by_category".

Raises:
    ValueError: If a score is not between 0 and 10 (the row is named), if the inputs differ in length, or if there are
    none.

Example:
    >>> llava_bench = evaluate.load(c3l_hf.metric_path("llava_bench"))
    >>> llava_bench.compute(predictions=[6, None], references=[8, None], categories=["conv", "conv"])["relative_score"]
    75.0
"""


def counts(predictions: Sequence[float | None], references: Sequence[float | None]) -> np.ndarray:
    """(n, 4), for each question: the model's score, the reference's, 1, 0 if it was judged, else 0, 0, 0, 1."""
    if not len(references):
        raise ValueError("there are no questions")
    table = np.zeros((len(references), 4))
    for row, scores in enumerate(zip(predictions, references, strict=True)):
        for score in scores:
            if score is not None and not np.isnan(score) and not 0 <= score <= 10:
                raise ValueError(f"row {row}: a score must be from 0 to 10, or None if the judge failed, found {score}")
        judged = all(score is not None and not np.isnan(score) for score in scores)
        table[row] = (*scores, 1, 0) if judged else (0, 0, 0, 1)
    return table


def figures(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Sums of `counts` over questions, (…, 4) → name of a figure → its value, (…)."""
    model, reference, judged, _ = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    with np.errstate(invalid="ignore"):
        return {
            "relative_score": 100 * model / np.where(reference > 0, reference, np.nan),
            "model_score": model / judged,
            "reference_score": reference / judged,
        }


def _summary(table: np.ndarray) -> dict[str, float | int]:
    sums = table.sum(axis=0)
    found = {name: float(value) for name, value in figures(sums).items()}
    return found | {"judged": int(sums[2]), "judge_errors": int(sums[3])}


class LlavaBench(evaluate.Metric):
    """The metric behind `evaluate.load`."""

    def _info(self) -> evaluate.MetricInfo:
        score = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=__doc__,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": score, "references": score, "categories": datasets.Value("string")}
            ),
            reference_urls=["https://arxiv.org/abs/2304.08485", "https://github.com/haotian-liu/LLaVA"],
        )

    def _compute(self, predictions: list[float | None], references: list[float | None], categories: list[str]) -> dict:
        table, names = counts(predictions, references), np.asarray(categories)
        by_category = {str(name): _summary(table[names == name]) for name in dict.fromkeys(categories)}
        return _summary(table) | {"by_category": by_category}
