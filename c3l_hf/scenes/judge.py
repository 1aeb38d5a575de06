"""The judge of LLaVA-Bench on scenes: the truth, where `c3l_hf.evaluation.judge` asks a language model."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from datasets import Dataset, Features, concatenate_datasets

from c3l_hf.data.schema import STATUS_OK
from c3l_hf.evaluation.judge import JUDGE_FEATURES
from c3l_hf.scenes.benchmarks import scene_of
from c3l_hf.scenes.checker import check_pair, described_objects
from c3l_hf.scenes.world import Scene

__all__ = ["judge_answer", "judge_scene_answers"]

_LOWEST, _HIGHEST = 1.0, 10.0
_NEEDED = ("question_id", "question", "answer", "prediction", "cluster", "status")


def judge_answer(question: str, answer: str, scene: Scene) -> tuple[float, str]:
    """Grades an answer to a question of `benchmarks.llava_bench`, on the judge's scale of 1 to 10.

    A description makes statements: each object in its corner, and the background. It gets 1 + 9 · F1 of its statements,
    F1 being the harmonic mean of precision (of those made, the true ones) and recall (of the true ones, those made).
    Any other answer gets 10 if it is true and 1 if it is not. What is not an answer to the question in the language of
    the scenes gets 1.

    Args:
        question: The question.
        answer: What is to be graded.
        scene: The truth.

    Returns:
        The grade, and what is wrong with the answer in a few words ("" if nothing is).

    Raises:
        ValueError: If the question is not one about a scene.
    """
    verdict = check_pair(question, answer, scene)
    if verdict.type is None:
        raise ValueError(f"{question!r} is not a question about a scene")
    if verdict.type != "description" or not verdict.well_formed:
        return (_HIGHEST if verdict.true else _LOWEST), verdict.reason
    said = Counter(described_objects(answer.strip()))
    said["background", answer.strip().removesuffix(".").split()[-1]] += 1
    true = Counter((item.name, item.corner) for item in scene.objects)
    true["background", scene.background] += 1
    f1 = 2 * (said & true).total() / (said.total() + true.total())
    return _LOWEST + (_HIGHEST - _LOWEST) * f1, verdict.reason


def judge_scene_answers(rows: Dataset) -> Dataset:
    """The predictions with the scores of the truth beside them, as `evaluation.judge.judge_answers` adds a model's.

    Args:
        rows: Predictions on `benchmarks.llava_bench`, with the columns question_id, question, answer (the reference),
            prediction, cluster (the scene's id) and status. Rows whose status is not "ok" are not judged.

    Returns:
        The rows with the columns `evaluation.judge.JUDGE_FEATURES`: the scores of the reference and of the prediction,
        what is wrong with the prediction as judge_text, and judge_status, "ok" or why there are no scores.

    Raises:
        ValueError: If columns are missing or already there, or a row is not one of a scenes benchmark.
    """
    if missing := [name for name in _NEEDED if name not in rows.column_names]:
        raise ValueError(f"to be judged, rows need the columns {', '.join(missing)}; found {rows.column_names}")
    if present := [name for name in JUDGE_FEATURES if name in rows.column_names]:
        raise ValueError(f"the rows have the columns {', '.join(present)} already; remove or rename them first")
    features = Features({**rows.features, **JUDGE_FEATURES})
    if not len(rows):  # `concatenate_datasets` drops the columns of datasets without rows
        return Dataset.from_dict({name: [] for name in features}, features=features)
    judged = Dataset.from_list([_judged(row) for row in rows.select_columns(list(_NEEDED))], features=JUDGE_FEATURES)
    return concatenate_datasets([rows, judged], axis=1)


def _judged(row: Mapping[str, Any]) -> dict[str, Any]:
    columns: dict[str, Any] = dict.fromkeys(JUDGE_FEATURES)
    if row["status"] != STATUS_OK or row["prediction"] is None:
        reason = row["status"] if row["status"] != STATUS_OK else "there is no prediction"
        return {**columns, "judge_status": f"not judged: {reason}"}
    try:
        scene = scene_of(row["cluster"])
        reference, _ = judge_answer(row["question"], row["answer"], scene)
        score, wrong = judge_answer(row["question"], row["prediction"], scene)
    except ValueError as error:
        raise ValueError(f"question {row['question_id']}: {error}; is this the benchmark on scenes?") from None
    return {
        **columns,
        "reference_score": reference,
        "model_score": score,
        "judge_text": wrong,
        "judge_status": STATUS_OK,
    }
