"""POPE (Polling-based Object Probing Evaluation): does a model say that objects are there which are not?

Each question is "Is there a … in the image?"; "yes" is the positive class. Definitions after Li et al. (2023, arXiv
2305.10355, section 5) and its script; what a text answers is read by `c3l_hf.metrics.reading.yes_no`. With TP, FP, TN,
FN over the readable answers, and U_yes, U_no the unreadable ones to questions whose answer is yes or no:

- `accuracy` = (TP + TN) / n: of all questions, as an answer that cannot be read is not right
- `accuracy_parsed` = (TP + TN) / (TP + FP + TN + FN): of the readable answers
- `precision` = TP / (TP + FP); `recall` = TP / (TP + FN + U_yes); `f1` = 2 TP / (2 TP + FP + FN + U_yes)
- `yes_ratio` = (TP + FP) / (TP + FP + TN + FN): how often the model says yes; half of POPE's questions deserve it
- `unparsable` = U_yes + U_no, `n` = number of questions

They are given over all questions, for each category (how the absent objects were drawn: random, popular, adversarial),
and as the plain mean over the categories, which is what papers call the average. NaN is what is not defined (0 / 0).

The official script reads every answer as yes that is not no, so it has no unreadable ones: `official=True` reads as it
does, see `official_yes_no`, to compare with published figures. In lmms-eval the recall
leaves U_yes out, precision and F1 are 0 where they are undefined, and `pope_yes_ratio` is that of the references.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from c3l_hf.metrics.reading import yes_no

__all__ = ["Pope", "counts", "figures", "official_yes_no"]

_CITATION = """\
@inproceedings{li2023pope,
  title = {Evaluating Object Hallucination in Large Vision-Language Models},
  author = {Li, Yifan and Du, Yifan and Zhou, Kun and Wang, Jinpeng and Zhao, Wayne Xin and Wen, Ji-Rong},
  booktitle = {Proceedings of the 2023 Conference on Empirical Methods in Natural Language Processing},
  year = {2023}
}
"""
_INPUTS = """\
Args:
    predictions (list of str): What the model wrote; "" where it wrote nothing.
    references (list of str): "yes" or "no".
    categories (list of str): How the object asked for was drawn, e.g. random, popular, adversarial. May be left out, as
    POPE's own files have a file for each category: then there are no figures by category.
    questions (list of str): What was asked. May be left out; with them "There is no dog in the image" is an answer.
    official (bool): Read as the official script does, where what is not no is yes. Default False.

Returns:
    dict: accuracy, precision, recall, f1, yes_ratio, accuracy_parsed, unparsable, n; where there are categories the
    same for each under "by_category", and under "category_mean" the means of the shares over the categories.

Raises:
    ValueError: If a reference is neither "yes" nor "no" or a prediction is not a text (the row is named), if the inputs
    differ in length, or if there are none.

Example:
    >>> pope = evaluate.load(c3l_hf.metric_path("pope"))
    >>> pope.compute(predictions=["Yes.", "no"], references=["yes", "yes"], categories=["random", "random"])["recall"]
    0.5
"""
_NO_CATEGORY = ""
_CELLS = ("true_yes", "false_yes", "true_no", "false_no", "unparsable_yes", "unparsable_no")


def counts(
    predictions: Sequence[str],
    references: Sequence[str],
    questions: Sequence[str] | None = None,
    official: bool = False,
) -> np.ndarray:
    """(n, 6), for each question a 1 at TP, FP, TN, FN, unreadable and reference yes, or unreadable and reference no."""
    if not len(references):
        raise ValueError("there are no questions")
    if questions is not None and len(questions) != len(references):
        raise ValueError(f"there are {len(questions)} questions, but {len(references)} references")
    table = np.zeros((len(references), len(_CELLS)), dtype=np.int64)
    for row, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        expected = str(reference).strip().lower()
        if expected not in ("yes", "no"):
            raise ValueError(f'row {row}: the reference must be "yes" or "no", found {reference!r}')
        if not isinstance(prediction, str):
            raise ValueError(f'row {row}: the prediction must be a text ("" where there is none), found {prediction!r}')
        question = None if questions is None else questions[row]
        answer = official_yes_no(prediction) if official else yes_no(prediction, question)
        kind = "unparsable" if answer is None else str(answer == expected).lower()
        table[row, _CELLS.index(f"{kind}_{answer or expected}")] = 1
    return table


def official_yes_no(text: str) -> str:
    """What POPE's own script reads: no, if No, no or not is a word of the first sentence; everything else is yes.

    So "" and "I cannot tell" are yes, and "Not at all" and "NO" too.
    """
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if any(word in words for word in ("No", "not", "no")) else "yes"


def figures(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Sums of `counts` over questions, (…, 6) → name of a share → its value, (…)."""
    tp, fp, tn, fn, unparsable_yes, _ = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    readable = tp + fp + tn + fn
    with np.errstate(invalid="ignore"):
        return {
            "accuracy": (tp + tn) / np.sum(sums, axis=-1),
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn + unparsable_yes),
            "f1": 2 * tp / (2 * tp + fp + fn + unparsable_yes),
            "yes_ratio": (tp + fp) / readable,
            "accuracy_parsed": (tp + tn) / readable,
        }


def _summary(table: np.ndarray) -> dict[str, float | int]:
    sums = table.sum(axis=0)
    shares = {name: float(value) for name, value in figures(sums).items()}
    return shares | {"unparsable": int(sums[4:].sum()), "n": len(table)}


class Pope(evaluate.Metric):
    """The metric behind `evaluate.load`."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text, "categories": text}),
            reference_urls=["https://arxiv.org/abs/2305.10355", "https://github.com/AoiDragon/POPE"],
        )

    def compute(self, *, predictions: list | None = None, references: list | None = None, **inputs: Any) -> dict | None:
        """As every metric's; `categories` may be left out."""
        given = _without_categories(predictions, references, inputs)
        return super().compute(predictions=predictions, references=references, **given)

    def add_batch(self, *, predictions: list | None = None, references: list | None = None, **inputs: Any) -> None:
        """As every metric's; `categories` may be left out."""
        given = _without_categories(predictions, references, inputs)
        super().add_batch(predictions=predictions, references=references, **given)

    def add(self, *, prediction: str | None = None, reference: str | None = None, **inputs: Any) -> None:
        """As every metric's; `categories` may be left out."""
        super().add(prediction=prediction, reference=reference, **{"categories": _NO_CATEGORY, **inputs})

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        categories: list[str],
        questions: list[str] | None = None,
        official: bool = False,
    ) -> dict:
        table, names = counts(predictions, references, questions, official), np.asarray(categories)
        if all(name == _NO_CATEGORY for name in categories):
            return _summary(table)
        by_category = {str(name): _summary(table[names == name]) for name in dict.fromkeys(categories)}
        mean = {name: float(np.mean([shares[name] for shares in by_category.values()])) for name in figures(table[0])}
        return _summary(table) | {"by_category": by_category, "category_mean": mean}


def _without_categories(predictions: list | None, references: list | None, inputs: dict[str, Any]) -> dict[str, Any]:
    """`evaluate` needs every input that a metric has: an empty name for each question, where none were given."""
    if predictions is None and references is None:
        return inputs
    if predictions is None or references is None:
        raise ValueError(f"{'predictions' if predictions is None else 'references'} are missing; give both")
    return {**inputs, "categories": inputs.get("categories") or [_NO_CATEGORY] * len(references)}
