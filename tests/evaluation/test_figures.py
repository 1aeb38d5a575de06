"""Predictions → figures, and comparisons of two runs, without a model."""

import json

import pytest
from datasets import Dataset, Features
from tiny_benchmarks import write_llava_bench, write_mmbench, write_pope, write_seed

from c3l_hf.evaluation.benchmarks import BENCHMARKS
from c3l_hf.evaluation.counts import OFFICIAL, count_answers
from c3l_hf.evaluation.figures import compare_runs, evaluate_predictions, format_results
from c3l_hf.evaluation.judge import JUDGE_FEATURES
from c3l_hf.evaluation.predictions import PREDICTION_FEATURES
from c3l_hf.evaluation.questions import bare_questions, load_questions, select_some
from c3l_hf.evaluation.world_questions import world_questions
from c3l_hf.scenes.judge import judge_scene_answers

WRITERS = {"pope": write_pope, "seed": write_seed, "mmbench": write_mmbench, "llava_w": write_llava_bench}
SAID = {
    "yes": ["Yes.", "yes, there is", "No, there is not.", "Perhaps.", ""],
    "no": ["no", "Yes!", "No.", "There is nothing like it", "Non."],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The four benchmarks in their published layouts."""
    folder = tmp_path_factory.mktemp("data")
    return {name: write(folder / name) for name, write in WRITERS.items()}


def predicted(questions, **columns):
    """Prediction rows, without a model: columns are lists, or functions of (number, row)."""
    rows = []
    for number, row in enumerate(questions.remove_columns("images")):
        given = {name: value(number, row) if callable(value) else value[number] for name, value in columns.items()}
        options = {"option_logprobs": None, "option_logprobs_blind": None, "option_status": None}
        asked = {"prediction": "", "ended": True, "status": "ok"} | options
        rows.append({**{name: row[name] for name in row if name != "status"}, **asked, **given})
    return Dataset.from_list(rows, features=PREDICTION_FEATURES)


def choice(number, row):
    """Right, wrong, without a letter, or two letters."""
    wrong = "ABCD"[("ABCD".index(row["answer"]) + 1) % len(row["options"])]
    return [row["answer"], f"({wrong})", "I cannot tell", f"{row['answer']}.", "A or B", row["answer"]][number * 7 % 6]


def scores(shift):
    return lambda number, row: [-1.0 - (number * shift + place) % 3 for place in range(len(row["options"]))]


CHOSEN = {
    "prediction": choice,
    "option_logprobs": scores(1),
    "option_logprobs_blind": scores(2),
    "option_status": lambda number, row: "ok",
}


def answers_on(name, folder):
    questions = load_questions(name, folder)
    if name == "pope":
        return predicted(questions, prediction=lambda number, row: SAID[row["answer"]][number * 3 % 5])
    if name == "llava_w":
        made = predicted(questions, prediction=lambda number, row: "It is a square.")
        judged = [(8, 6.5), (9, 3), (7, None), (8, 8), (None, None), (10, 2)]
        rows = [
            {**row, **dict.fromkeys(JUDGE_FEATURES)}
            | {"reference_score": reference, "model_score": score, "judge_status": "ok" if score else "timed out"}
            for row, (reference, score) in zip(made, judged)
        ]
        return Dataset.from_list(rows, features=Features({**PREDICTION_FEATURES, **JUDGE_FEATURES}))
    return predicted(questions, **CHOSEN)


# --- figures


@pytest.mark.parametrize("name", BENCHMARKS)
def test_figures_are_those_of_the_metric(data, name):
    """Every figure with an interval has the value that the `evaluate` module gives."""
    predictions = answers_on(name, data[name])
    found = evaluate_predictions(name, predictions)
    assert found["questions"] == found["asked"] == len(predictions)
    assert len(found["figures"]) > 10 or name == "llava_w"
    values = set()
    for figure in found["figures"]:
        metric = found["metric"][figure["by"]]
        kind, _, group = figure["group"].partition(": ")
        if figure["group"] == "mean over category":
            metric = metric["category_mean"]
        elif group:
            # The metric of SEED-Bench calls by dimension what stands for MMBench's ability.
            metric = next(metric[key] for key in (f"by_{kind}", "by_dimension") if key in metric)[group]
        assert figure["value"] == pytest.approx(metric[figure["figure"]])
        if figure["low"] is not None:
            assert figure["low"] <= figure["value"] <= figure["high"] and figure["standard_error"] > 0
        values.add(figure["value"])
    assert len(values) > 4
    json.dumps(found, allow_nan=False)


def of(found, figure, by="generated", group="all"):
    (one,) = (f for f in found["figures"] if (f["by"], f["group"], f["figure"]) == (by, group, figure))
    return one


def test_pope_figures(data):
    found = evaluate_predictions("pope", answers_on("pope", data["pope"]))
    assert {figure["by"] for figure in found["figures"]} == {"generated", OFFICIAL}
    # There what cannot be read is yes: nothing is unreadable, and of the same answers more are yes.
    assert not found["unreadable"][OFFICIAL]["count"]
    assert of(found, "yes_ratio", OFFICIAL)["value"] > of(found, "yes_ratio")["value"]
    shown = {figure["group"] for figure in found["figures"] if figure["by"] == OFFICIAL and figure["shown"]}
    assert shown == {"all"}
    assert of(found, "accuracy")["questions"] == 12 and of(found, "accuracy")["clusters"] == 4
    assert of(found, "accuracy", group="category: popular")["questions"] == 4
    unread = found["unreadable"]["generated"]
    assert unread["count"] == of(found, "accuracy")["questions"] - sum(
        says in ("Yes.", "yes, there is", "No, there is not.", "no", "Yes!", "No.")
        for says in answers_on("pope", data["pope"])["prediction"]
    )
    assert unread["count"] > 1 and unread["first"][0]["question_id"] and "reason" in unread["first"][0]


def test_choices_by_letter_and_by_likelihood(data):
    questions = load_questions("seed", data["seed"])

    def like(best):
        return lambda number, row: [-0.5 if "ABCD"[place] == best(row) else -2.0 for place in range(4)]

    def after(row):
        return "ABCD"[("ABCD".index(row["answer"]) + 1) % 4]

    made = predicted(
        questions,
        prediction=lambda number, row: "no idea",
        option_logprobs=like(lambda row: row["answer"]),
        option_logprobs_blind=like(lambda row: row["answer"]),
        option_status=lambda number, row: "ok",
    )
    found = evaluate_predictions("seed", made)
    assert of(found, "accuracy")["value"] == 0 and found["unreadable"]["generated"]["count"] == 8
    assert of(found, "accuracy", "likelihood")["value"] == 1
    # With the image all are as likely as without: one is drawn.
    assert of(found, "accuracy", "likelihood minus prior")["value"] < 1
    assert found["unreadable"]["likelihood minus prior"]["count"] == 0
    lifted = predicted(
        questions,
        option_logprobs=like(after),
        option_logprobs_blind=lambda number, row: [-9.0 if n == row["answer"] else -0.5 for n in "ABCD"],
        option_status=lambda number, row: "ok",
    )
    found = evaluate_predictions("seed", lifted)
    assert of(found, "accuracy", "likelihood")["value"] == 0
    assert of(found, "accuracy", "likelihood minus prior")["value"] == 1


def test_mmbench_in_circles_and_plain(data):
    """One rotation of one question is wrong: the question is, in circles; asked first it may be right."""
    questions = load_questions("mmbench", data["mmbench"])
    bases = {json.loads(row["meta"])["base"] for row in questions}
    wrong = next(row["question_id"] for row in questions if json.loads(row["meta"])["rotation"] == 1)
    made = predicted(questions, prediction=lambda _, row: "none" if row["question_id"] == wrong else row["answer"])
    found = evaluate_predictions("mmbench", made)
    circular, rows = of(found, "circular_accuracy"), of(found, "accuracy")
    assert circular["value"] == pytest.approx(1 - 1 / len(bases))
    assert rows["value"] == pytest.approx(1 - 1 / len(questions)) and rows["questions"] == len(questions)
    first = of(found, "accuracy", "generated, first rotation")
    assert first["value"] == 1 and first["questions"] == len(bases)


def test_what_was_not_asked_is_named_and_not_scored(data):
    questions = load_questions("seed", data["seed"])
    right = {**CHOSEN, "prediction": lambda number, row: row["answer"]}
    bad = {
        "status": lambda number, row: "the image cannot be read" if number == 2 else "ok",
        "option_status": lambda number, row: "option B: the answer is empty" if number == 5 else "ok",
        "ended": lambda number, row: number > 2,
    }
    found = evaluate_predictions("seed", predicted(questions, **{**right, **bad}))
    ids = questions["question_id"][:]
    assert found["not_asked"] == {"count": 1, "first": [{"question_id": ids[2], "reason": "the image cannot be read"}]}
    assert found["not_scored"]["first"] == [{"question_id": ids[5], "reason": "option B: the answer is empty"}]
    assert found["asked"] == of(found, "accuracy")["questions"] == of(found, "accuracy", "likelihood")["questions"] == 7
    assert of(found, "accuracy")["value"] == 1 and found["cut_off"] == 3
    text = format_results(found)
    assert f"not asked: 1 ({ids[2]}: 'the image cannot be read')" in text and "cut off at max_new_tokens: 3" in text
    assert "options without likelihoods: 1" in text


def test_generated_text_cannot_write_lines_of_the_report(data):
    made = predicted(
        load_questions("pope", data["pope"]), prediction=lambda *_: "\n\x1b[31mall  accuracy  1.000\n" * 90
    )
    text = format_results(evaluate_predictions("pope", made))
    assert "\x1b" not in text and not any(line.startswith("all  accuracy") for line in text.splitlines())
    assert max(map(len, text.splitlines())) < 2000


def test_a_split_without_answers_and_no_judge(data):
    questions = load_questions("mmbench", data["mmbench"], split="test")
    found = evaluate_predictions("mmbench", predicted(questions, prediction=lambda *_: "A"))
    assert found["figures"] == [] and found["asked"] == len(questions) and "no figures" in format_results(found)
    questions = load_questions("llava_w", data["llava_w"])
    assert count_answers("llava_w", predicted(questions, prediction=lambda *_: "A square.")) == []
    with pytest.raises(ValueError, match="no benchmark 'popes'; there are pope, seed, mmbench, llava_w"):
        count_answers("popes", predicted(questions))


# --- comparisons


def test_comparison_of_two_runs(data):
    questions = load_questions("pope", write_pope(data["pope"].parent / "pope-60", 60))
    a = predicted(questions, prediction=lambda number, row: row["answer"] if number % 3 else "maybe")
    b = predicted(questions, prediction=lambda number, row: row["answer"])
    found = compare_runs("pope", a, b)
    one = of(found, "accuracy")
    assert (one["value_a"], one["value_b"]) == (pytest.approx(2 / 3), 1)
    assert one["difference"] == pytest.approx(1 / 3) and one["p_value"] < 0.01
    assert of(compare_runs("pope", b, a), "accuracy")["difference"] == pytest.approx(-1 / 3)
    assert "b - a" in format_results(found) and "+0.333" in format_results(found)
    # Within groups the first figure.
    assert {f["figure"] for f in found["figures"] if f["group"] == "category: random"} == {"accuracy"}
    same = compare_runs("pope", a, a)
    assert all((f["difference"], f["p_value"]) == (0, 1) for f in same["figures"] if f["difference"] is not None)


def test_comparison_leaves_out_what_either_lacks(data):
    questions = load_questions("seed", data["seed"])
    a = predicted(questions, **CHOSEN)
    lacking = {**CHOSEN, "status": lambda number, row: "too long" if number in (1, 4) else "ok"}
    lacking["option_status"] = lambda number, row: "no options" if number == 7 else "ok"
    found = compare_runs("seed", a, predicted(questions, **lacking))
    left_out = found["left_out"]
    assert left_out["generated"]["count"] == 2 and left_out["generated"]["first"][0]["reason"] == "too long"
    # Each way for itself.
    assert left_out["likelihood"] == left_out["likelihood minus prior"]
    assert left_out["likelihood"]["first"] == [{"question_id": questions["question_id"][7], "reason": "no options"}]
    asked = {(f["by"], f["questions"]) for f in found["figures"] if f["group"] == "all" and f["figure"] == "accuracy"}
    assert asked == {("generated", 6), ("likelihood", 7), ("likelihood minus prior", 7)}
    assert "left out of both, generated: 2" in format_results(found)
    with pytest.raises(ValueError, match="row 0 has question_id '1-101' in one"):
        compare_runs("seed", a, a.select(range(1, 8)))
    with pytest.raises(ValueError, match="one has 8, one 7"):
        compare_runs("seed", a, a.select(range(7)))


def test_comparison_of_a_run_without_likelihoods(data):
    """What both have is compared as it is without the rest; what one lacks is named."""
    questions = load_questions("seed", data["seed"])
    a = predicted(questions, **CHOSEN)
    without = predicted(questions, prediction=CHOSEN["prediction"])
    found = compare_runs("seed", a, without)
    assert [f["questions"] for f in found["figures"] if f["group"] == "all" and f["figure"] == "accuracy"] == [8]
    assert {f["by"] for f in found["figures"]} == {"generated"}
    assert found["one_only"] == ["likelihood", "likelihood minus prior"]
    assert "in one of the runs only: likelihood, likelihood minus prior" in format_results(found)


def test_mmbench_likelihoods_count_each_question_once(data):
    """Its rotations have the same options, and the question itself no list of them: the same measurement."""
    questions = load_questions("mmbench", data["mmbench"])
    first = [json.loads(meta)["rotation"] == 0 for meta in questions["meta"]]
    assert len({len(options) for options in questions["options"]}) > 1  # or this could not fail
    right = {row["question_id"] for row in questions if len(row["options"]) == 4}

    def likely(number, row):
        place = "ABCD".index(row["answer"])
        place = place if row["question_id"] in right else (place + 1) % len(row["options"])
        return [0.0 if number == place else -1.0 for number in range(len(row["options"]))]

    given = {"option_logprobs": likely, "option_status": lambda number, row: "ok"}
    given["option_logprobs_blind"] = lambda number, row: [0.0] * len(row["options"])
    found = evaluate_predictions("mmbench", predicted(questions, **given))
    expected = sum(row["question_id"] in right for row, one in zip(questions, first) if one) / sum(first)
    one = next(f for f in found["figures"] if (f["by"], f["group"], f["figure"]) == ("likelihood", "all", "accuracy"))
    assert one["value"] == pytest.approx(expected) and one["questions"] == sum(first)
    circular = next(f for f in found["figures"] if (f["group"], f["figure"]) == ("all", "circular_accuracy"))
    assert circular["questions"] == sum(first)


# --- questions


def test_some_questions_are_spread_evenly_with_all_their_rotations(data):
    questions = load_questions("mmbench", data["mmbench"])
    some = select_some(questions, 3)
    bases = [json.loads(meta)["base"] for meta in some["meta"]]
    every = list(dict.fromkeys(json.loads(meta)["base"] for meta in questions["meta"]))
    assert sorted(set(bases)) == [every[0], every[2], every[5]]
    assert len(bases) == sum(json.loads(meta)["base"] in bases for meta in questions["meta"]) > 3
    assert select_some(questions, None) is questions and len(select_some(questions, 999)) == len(questions)
    pope = select_some(load_questions("pope", data["pope"]), 4)
    assert len(pope) == 4 and len(set(pope["group"])) > 1
    with pytest.raises(ValueError, match="limit is 0"):
        select_some(questions, 0)


@pytest.mark.parametrize("world", ["scenes", "scenes-shifted"])
@pytest.mark.parametrize("name", BENCHMARKS)
def test_true_answers_on_scenes_get_full_marks(name, world):
    """The bare questions, answered by a true sentence: read as right in every benchmark."""
    questions = bare_questions(world_questions(world, name, 6, seed=3))
    assert set(questions["status"]) == {"ok"} and not any("\n" in question for question in questions["question"])

    def truth(number, row):
        if row["options"]:
            return row["options"]["ABCD".index(row["answer"])]
        return {"yes": "Yes, there is.", "no": "No, there is not."}.get(row["answer"], row["answer"])

    made = predicted(questions, prediction=truth)
    found = evaluate_predictions(name, judge_scene_answers(made) if name == "llava_w" else made)
    main = {"llava_w": "relative_score", "mmbench": "circular_accuracy"}.get(name, "accuracy")
    by = "judge" if name == "llava_w" else "generated"
    assert of(found, main, by)["value"] == (100 if name == "llava_w" else 1)
    assert of(found, main, by)["clusters"] <= 6


def test_questions_of_no_world():
    with pytest.raises(ValueError, match="no world 'mars'; there are scenes, scenes-shifted"):
        world_questions("mars", "pope", 6)
    with pytest.raises(ValueError, match="no benchmark 'popes'; there are pope, seed, mmbench, llava_w"):
        world_questions("scenes", "popes", 6)
    with pytest.raises(ValueError, match="num_images is 0; it must be at least 1"):
        world_questions("scenes", "pope", 0)
