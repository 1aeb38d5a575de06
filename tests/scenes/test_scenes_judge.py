"""The judge of LLaVA-Bench on scenes: grades by hand, and what becomes of rows that cannot be judged."""

import re

import evaluate
import numpy as np
import pytest
from datasets import Dataset

from c3l_hf.evaluation.judge import JUDGE_FEATURES
from c3l_hf.evaluation.questions import load_questions
from c3l_hf.scenes import Scene
from c3l_hf.scenes.benchmarks import llava_bench, scene_of
from c3l_hf.scenes.judge import judge_answer, judge_scene_answers
from c3l_hf.scenes.world import SceneObject

SCENE = Scene(
    "x",
    (SceneObject("dog", 16, 16, 26), SceneObject("ball", 48, 16, 26), SceneObject("cup", 48, 48, 26)),
    "red",
    "plain",
    0,
)


@pytest.mark.parametrize(
    ("question", "answer", "score", "wrong"),
    [
        ("Where is the dog?", "The dog is in the top left.", 10, ""),
        ("Where is the dog?", "The dog is in the top right.", 1, "elsewhere"),
        ("Where is the dog?", "Top left.", 1, "not understood"),
        ("Where is the dog?", "", 1, "not understood"),
        ("Is the dog left or right of the ball?", "The ball is right of the dog.", 10, ""),
        (
            "Describe the picture.",
            " There is a dog in the top left, a ball in the top right and a cup in the bottom right. "
            "The background is red.\n",
            10,
            "",
        ),
        # 2 of 2 statements true, 2 of 4 made
        (
            "Describe the picture.",
            "There is a dog in the top left. The background is red.",
            1 + 9 * 2 / 3,
            "leaves out",
        ),
        # 1 of 2 true, 1 of 4 made
        (
            "Describe the picture.",
            "There is a dog in the top left. The background is blue.",
            1 + 9 / 3,
            "background is red",
        ),
        # 2 of 3 true, 2 of 4 made: in the wrong corner it is no true statement
        (
            "Describe the picture.",
            "There is a dog in the top left and a ball in the bottom left. The background is red.",
            1 + 9 * 4 / 7,
            "not there",
        ),
        # said twice, there once
        (
            "Describe the picture.",
            "There is a dog in the top left and a dog in the top left. The background is red.",
            1 + 9 * 4 / 7,
            "not there",
        ),
        ("Describe the picture.", "A dog and a ball.", 1, "not understood"),
    ],
)
def test_grades_on_one_scene(question, answer, score, wrong):
    found, reason = judge_answer(question, answer, SCENE)
    assert found == pytest.approx(score)
    assert wrong in reason if wrong else reason == ""


def test_a_question_about_no_scene_is_not_graded():
    with pytest.raises(ValueError, match="'Why is it funny\\?' is not a question about a scene"):
        judge_answer("Why is it funny?", "Because.", SCENE)


@pytest.mark.parametrize("shifted", [False, True], ids=["usual", "shifted"])
def test_the_judge_gives_what_the_metric_takes(tmp_path, shifted):
    llava_bench(10, 4, shifted).save_to_disk(tmp_path / "benchmark")
    questions = load_questions("llava_w", tmp_path / "benchmark").remove_columns("images")
    metric = evaluate.load("c3l_hf/metrics/llava_bench")

    def judged(predictions):
        found = judge_scene_answers(questions.add_column("prediction", predictions))
        assert found.column_names == [*questions.column_names, "prediction", *JUDGE_FEATURES]
        assert set(found["judge_status"]) == {"ok"}
        scores = {"predictions": found["model_score"][:], "references": found["reference_score"][:]}
        return found, metric.compute(**scores, categories=questions["group"][:])

    found, figures = judged(questions["answer"][:])
    assert figures["relative_score"] == 100 and set(found["judge_text"]) == {""}
    found, figures = judged(["?"] * len(questions))
    assert figures["relative_score"] == 10 and set(found["judge_text"]) == {"answer not understood"}

    # Of every description one object and the background: 2 of n + 1 statements, both true.
    objects = [len(scene_of(id).objects) for id in questions["cluster"]]
    shortened = [re.sub(r"(?:,| and) .*?\.", ".", text, count=1) for text in questions["answer"]]
    asked = questions["group"][:]
    _, figures = judged([short if group == "detail" else "" for short, group in zip(shortened, asked)])
    expected = [1 + 9 * 4 / (2 + n + 1) for n, group in zip(objects, asked) if group == "detail"]
    assert figures["by_category"]["detail"]["model_score"] == pytest.approx(np.mean(expected))
    assert min(expected) < max(expected) and figures["by_category"]["conv"]["model_score"] == 1


def predictions(**changes):
    row = {
        "question_id": "7",
        "question": "Where is it?",
        "answer": "x",
        "prediction": "x",
        "cluster": "c",
        "status": "ok",
    }
    return Dataset.from_list([row | changes])


def test_rows_without_a_prediction_are_not_judged():
    for changes, reason in [
        ({"status": "image missing"}, "not judged: image missing"),
        ({"prediction": None}, "not judged: there is no prediction"),
    ]:
        (row,) = judge_scene_answers(predictions(**changes))
        assert row["judge_status"] == reason
        assert row["model_score"] is row["reference_score"] is row["judge_text"] is None
    empty = judge_scene_answers(predictions().select([]))
    assert len(empty) == 0 and set(JUDGE_FEATURES) <= set(empty.column_names)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (predictions().remove_columns("cluster"), "need the columns cluster; found"),
        (predictions().add_column("model_score", [1.0]), "have the columns model_score already"),
        (predictions(), "question 7: 'c' is not the id of a scene.*is this the benchmark on scenes"),
        (predictions(cluster="scene-test-0-000000"), "question 7: 'Where is it\\?' is not a question about a scene"),
    ],
)
def test_rows_that_cannot_be_judged(rows, message):
    with pytest.raises(ValueError, match=message):
        judge_scene_answers(rows)
