"""SEED-Bench: multiple-choice questions about images (dimensions 1 to 9; 10 to 12 are about videos).

Definitions after Li et al. (2023, arXiv 2307.16125) and its script. There a model answers with the option of the
highest likelihood; many report the letter that the model writes instead. The two differ, so say which one it was:

- by likelihood: the predictions are letters, `letters=True`
- by generated text: the predictions are texts, read by `c3l_hf.metrics.choice.letter`

The figures, over all questions and for each dimension:

- `accuracy` = right / n: of all questions, as an answer that cannot be read is not right. (The leaderboard's average is
  this share of all questions, not the mean over the dimensions.)
- `accuracy_parsed` = right / readable, NaN if no answer is readable
- `unparsable` = number of answers that cannot be read, `n` = number of questions

lmms-eval takes the first character of the text as the letter, whatever it is.
"""

import string
from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from c3l_hf.metrics.choice import letter

__all__ = ["SeedBench", "counts", "figures"]

_CITATION = """\
@article{li2023seed,
  title = {SEED-Bench: Benchmarking Multimodal LLMs with Generative Comprehension},
  author = {Li, Bohao and Wang, Rui and Wang, Guangzhi and Ge, Yuying and Ge, Yixiao and Shan, Ying},
  journal = {arXiv preprint arXiv:2307.16125},
  year = {2023}
}
"""
_INPUTS = """\
Args:
    predictions (list of str): What the model wrote; or, with `letters`, the letter of the option it finds most likely.
    "" where there is none.
    references (list of str): The letter of the right option.
    options (list of lists of str): The texts of the options of each question; their letters are A, B, … by position.
    dimensions (list of str): The dimension each question is about, e.g. "Scene Understanding".
    letters (bool): Whether the predictions are letters, not texts. Default False.

Returns:
    dict: accuracy, accuracy_parsed, unparsable, n; and the same for each dimension under "by_dimension".

Raises:
    ValueError: If a question has no options, a reference is not the letter of one, a prediction is not a text, or, with
    `letters`, neither the letter of an option nor "" (the row is named); if the inputs differ in length, or if there
    are none.

Example:
    >>> seed_bench = evaluate.load(c3l_hf.metric_path("seed_bench"))
    >>> seed_bench.compute(
    ...     predictions=["(B) a dog"], references=["B"], options=[["a cat", "a dog"]], dimensions=["Instance Identity"]
    ... )["accuracy"]
    1.0
"""


def counts(
    predictions: Sequence[str], references: Sequence[str], options: Sequence[Sequence[str]], letters: bool = False
) -> np.ndarray:
    """(n, 3), for each question: 1, 1 if the answer is right, 1 if it is readable."""
    if not len(references):
        raise ValueError("there are no questions")
    table = np.zeros((len(references), 3), dtype=np.int64)
    for row, (prediction, reference, texts) in enumerate(zip(predictions, references, options, strict=True)):
        if not texts or len(texts) > 26 or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"row {row}: the options must be 1 to 26 texts, found {texts!r}")
        allowed = string.ascii_uppercase[: len(texts)]
        if reference not in tuple(allowed):
            raise ValueError(f"row {row}: the reference must be one of the letters {allowed!r}, found {reference!r}")
        if not isinstance(prediction, str):
            raise ValueError(f'row {row}: the prediction must be a text ("" where there is none), found {prediction!r}')
        if letters and prediction not in ("", *allowed):
            raise ValueError(f'row {row}: the prediction must be "" or one of {allowed!r}, found {prediction!r}')
        answer = (prediction or None) if letters else letter(prediction, texts)
        table[row] = 1, answer == reference, answer is not None
    return table


def figures(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Sums of `counts` over questions, (…, 3) → name of a share → its value, (…)."""
    n, right, readable = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    with np.errstate(invalid="ignore"):
        return {"accuracy": right / n, "accuracy_parsed": right / readable}


def _summary(table: np.ndarray) -> dict[str, float | int]:
    n, _, readable = sums = table.sum(axis=0)
    shares = {name: float(value) for name, value in figures(sums).items()}
    return shares | {"unparsable": int(n - readable), "n": int(n)}


class SeedBench(evaluate.Metric):
    """The metric behind `evaluate.load`."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": text, "references": text, "options": datasets.List(text), "dimensions": text}
            ),
            reference_urls=["https://arxiv.org/abs/2307.16125", "https://github.com/AILab-CVC/SEED-Bench"],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        options: list[list[str]],
        dimensions: list[str],
        letters: bool = False,
    ) -> dict:
        table, names = counts(predictions, references, options, letters), np.asarray(dimensions)
        by_dimension = {str(name): _summary(table[names == name]) for name in dict.fromkeys(dimensions)}
        return _summary(table) | {"by_dimension": by_dimension}
