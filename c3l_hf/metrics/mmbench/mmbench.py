"""MMBench: multiple-choice questions about images, each asked once for every rotation of its options (CircularEval).

Definitions after Liu et al. (2023, arXiv 2307.06281); what a text answers is read by `c3l_hf.metrics.choice.letter`:

- `circular_accuracy` = questions all of whose rotations are answered right / `questions`. This is MMBench's own figure.
- `accuracy` = right / n over all rows, rotations being rows of their own: `accuracy` of the rows that are no rotations
  is what is called VanillaEval. An answer that cannot be read is not right.
- `accuracy_parsed` = right / readable, NaN if no answer is readable
- `unparsable` = number of rows whose answer cannot be read, `n` = number of rows

They are given over all questions, for each ability (the published "l2-category") and each leaf category.

A question with k options is complete if it has k rows, in which the right answer stands at each of the k places once.
Questions that are not are left out of `circular_accuracy` (whether all their rotations are right is not known), counted
as `incomplete`, and the first 20 of them named in `incomplete_questions`. NaN if none is complete.

MMBench's own script and lmms-eval take whatever rotations there are. They ask a language model about an answer that
their rules cannot read, and draw a random letter if that fails.
"""

import string
from collections import defaultdict
from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from c3l_hf.metrics.choice import letter

__all__ = ["MMBench", "counts", "figures"]

_CITATION = """\
@inproceedings{liu2024mmbench,
  title = {MMBench: Is Your Multi-modal Model an All-around Player?},
  author = {Liu, Yuan and Duan, Haodong and Zhang, Yuanhan and Li, Bo and Zhang, Songyang and Zhao, Wangbo and
            Yuan, Yike and Wang, Jiaqi and He, Conghui and Liu, Ziwei and Chen, Kai and Lin, Dahua},
  booktitle = {European Conference on Computer Vision},
  year = {2024}
}
"""
_INPUTS = """\
Args:
    predictions (list of str): What the model wrote; "" where it wrote nothing.
    references (list of str): The letter of the right option.
    options (list of lists of str): The texts of the options of each row; their letters are A, B, … by position.
    questions (list of str): The question each row is a rotation of: the published "index" modulo 1,000,000.
    abilities (list of str): The published "l2-category".
    categories (list of str): The published "category", the leaf.

Returns:
    dict: accuracy, circular_accuracy, accuracy_parsed, unparsable, n, questions, incomplete, incomplete_questions; and
    the same for each ability under "by_ability" and for each leaf category under "by_category".

Raises:
    ValueError: If a row has no options, a reference is not the letter of one, a prediction is not a text, or a row's
    ability or category is not that of its question (the row is named); if the inputs differ in length, or if there
    are none.

Example:
    >>> mmbench = evaluate.load(c3l_hf.metric_path("mmbench"))
    >>> found = mmbench.compute(
    ...     predictions=["A", "A"],
    ...     references=["A", "B"],
    ...     options=[["a cat", "a dog"], ["a dog", "a cat"]],
    ...     questions=["241", "241"],
    ...     abilities=["coarse_perception"] * 2,
    ...     categories=["image_topic"] * 2,
    ... )
    >>> found["accuracy"], found["circular_accuracy"]
    (0.5, 0.0)
"""


def counts(
    predictions: Sequence[str],
    references: Sequence[str],
    options: Sequence[Sequence[str]],
    questions: Sequence[str],
) -> np.ndarray:
    """(n, 6), for each row: 1, 1 if the answer is right, 1 if it is readable; and at the first row of each question
    (elsewhere 0): 1 if it is complete, 1 if it is complete and right in all its rows, 1 if it is incomplete."""
    if not len(references):
        raise ValueError("there are no questions")
    table, rows = np.zeros((len(references), 6), dtype=np.int64), defaultdict(list)
    for row, (prediction, reference, texts) in enumerate(zip(predictions, references, options, strict=True)):
        if not texts or len(texts) > 26 or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"row {row}: the options must be 1 to 26 texts, found {texts!r}")
        allowed = string.ascii_uppercase[: len(texts)]
        if reference not in tuple(allowed):
            raise ValueError(f"row {row}: the reference must be one of the letters {allowed!r}, found {reference!r}")
        if not isinstance(prediction, str):
            raise ValueError(f'row {row}: the prediction must be a text ("" where there is none), found {prediction!r}')
        answer = letter(prediction, texts)
        table[row, :3] = 1, answer == reference, answer is not None
        rows[questions[row]].append(row)
    for of_question in rows.values():
        places = [(references[row], len(options[row])) for row in of_question]
        size = len(of_question)
        complete = sorted(places) == [(name, size) for name in string.ascii_uppercase[:size]]
        table[of_question[0], 3:] = complete, complete and table[of_question, 1].all(), not complete
    return table


def figures(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Sums of `counts` over rows, (…, 6) → name of a share → its value, (…)."""
    n, right, readable, complete, all_right, _ = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    with np.errstate(invalid="ignore"):
        return {
            "accuracy": right / n,
            "circular_accuracy": all_right / complete,
            "accuracy_parsed": right / readable,
        }


def _summary(table: np.ndarray, questions: np.ndarray) -> dict:
    n, _, readable, complete, _, incomplete = sums = table.sum(axis=0)
    return {name: float(value) for name, value in figures(sums).items()} | {
        "unparsable": int(n - readable),
        "n": int(n),
        "questions": int(complete),
        "incomplete": int(incomplete),
        "incomplete_questions": questions[table[:, 5] == 1][:20].tolist(),
    }


def _by_group(table: np.ndarray, questions: np.ndarray, groups: Sequence[str], name: str) -> dict[str, dict]:
    of_question: dict[str, str] = {}
    for row, (question, group) in enumerate(zip(questions, groups)):
        if of_question.setdefault(question, group) != group:
            raise ValueError(
                f"row {row}: question {str(question)!r} has the {name} {group!r}, in an earlier row "
                f"{of_question[question]!r}"
            )
    names = np.asarray(groups)
    return {str(group): _summary(table[names == group], questions[names == group]) for group in dict.fromkeys(groups)}


class MMBench(evaluate.Metric):
    """The metric behind `evaluate.load`."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": text,
                    "references": text,
                    "options": datasets.List(text),
                    "questions": text,
                    "abilities": text,
                    "categories": text,
                }
            ),
            reference_urls=["https://arxiv.org/abs/2307.06281", "https://github.com/open-compass/MMBench"],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        options: list[list[str]],
        questions: list[str],
        abilities: list[str],
        categories: list[str],
    ) -> dict:
        table, ids = counts(predictions, references, options, questions), np.asarray(questions)
        return _summary(table, ids) | {
            "by_ability": _by_group(table, ids, abilities, "ability"),
            "by_category": _by_group(table, ids, categories, "category"),
        }
