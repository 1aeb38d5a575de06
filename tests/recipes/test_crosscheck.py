"""The cross-check with lmms-eval, as far as it goes without it: what is compared, and what counts as explained."""

import json
from dataclasses import replace
from pathlib import Path

# The recipes import their neighbours, as scripts do.
import crosscheck  # noqa: E402
import crosscheck_lmms as lmms  # noqa: E402
import pytest
from crosscheck_answers import CAUSES, Answer, compare_answers, compare_figures, mmbench_prompt  # noqa: E402
from crosscheck_texts import REPLIES, WELL, WRITTEN_LETTERS, grade, written  # noqa: E402
from datasets import Dataset, DatasetDict
from openai_server import OpenAIServer

from c3l_hf.evaluation.counts import count_answers
from c3l_hf.evaluation.judge import judge_answers
from c3l_hf.evaluation.judge_endpoint import JudgeEndpoint
from c3l_hf.evaluation.predictions import PREDICTION_FEATURES
from c3l_hf.evaluation.questions import load_questions
from c3l_hf.metrics.choice import letter
from c3l_hf.metrics.reading import yes_no
from c3l_hf.scenes import benchmarks as scenes

OPTIONS = ["a red ball", "a dog", "two cats", "a car"]


def question(options=OPTIONS, **columns) -> dict:
    meta = {"question": "What is it?", "hint": "", "base": 7}
    return {"status": "ok", "options": options, "answer": "B", "group": "g", "meta": meta} | columns


def cause_of(benchmark: str, text: str, theirs: str | None, how: str | None = None, options=OPTIONS) -> str | None:
    """The cause of the one difference in how a text is read."""
    ours = yes_no(text) if benchmark == "pope" else letter(text, options)
    assert ours != theirs, "there is no difference"
    pair = Answer("?", text, theirs, how), Answer("?", text, ours)
    (difference,) = compare_answers(benchmark, {"1": question(options)}, {"1": pair[0]}, {"1": pair[1]})
    assert (difference.what, difference.theirs, difference.ours) == ("answer", str(theirs), str(ours))
    return difference.cause


@pytest.mark.parametrize(
    ("benchmark", "text", "theirs", "how", "cause"),
    [
        ("pope", "Yes.", None, None, "whole answer"),
        ("pope", "No, there is none.", None, None, "whole answer"),
        ("pope", "yes", None, None, None),
        ("pope", "Yes", "no", None, None),
        ("pope", "Yes and no", "yes", None, None),
        ("seed", "(B)", None, None, "first character"),
        ("seed", "Answer: B", "A", None, "first letter of a word"),
        ("seed", "It is so: the answer is B", None, None, "first character"),
        ("seed", "two cats", None, None, "first character"),
        ("seed", "B", None, None, None),
        ("seed", "B", "C", None, None),
        ("seed", "Dogs", "D", None, "first letter of a word"),
        ("seed", "A dog and more", "A", None, "article"),
        ("seed", "A dog", "A", None, "text of an option"),
        ("seed", "B and C", "B", None, "several letters"),
        ("seed", "A is wrong", "A", None, "denied"),
        ("mmbench", "The answer is (b)", None, None, "language model"),
        ("mmbench", "surely a dog", "B", "option", "option in a sentence"),
        ("mmbench", "surely a cat", "B", "option", None),
        ("mmbench", "I think that B would do", "B", "letter", "letter in a sentence"),
        ("mmbench", "B or C", "B", "letter", "several letters"),
        ("mmbench", "E", "E", "letter", "no such option"),
        ("mmbench", "B", "C", "letter", None),
        ("mmbench", "b)", "D", "option", None),
    ],
)
def test_a_difference_in_reading_has_the_cause_that_the_text_shows_or_none(benchmark, text, theirs, how, cause):
    assert cause_of(benchmark, text, theirs, how) == cause
    assert cause is None or cause in CAUSES


def test_a_missing_option_is_the_text_nan_for_lmms_eval():
    assert cause_of("mmbench", "a banana", "C", "option", OPTIONS[:2]) == "option nan"
    assert cause_of("mmbench", "a plum", "C", "option", OPTIONS[:2]) is None


def test_prompts_differ_only_in_the_known_way():
    hinted = question(OPTIONS[:2], meta={"question": "What is it?", "hint": "A hint.", "base": 7})
    request = "Answer with the option's letter from the given choices directly."
    known = f"A hint. What is it? There are several options:\nA. a red ball\nB. a dog\n\n{request}"
    assert mmbench_prompt(hinted) == known
    assert mmbench_prompt(question(OPTIONS[:2])).startswith("What is it? There are several options:\nA. a red")
    ours = {"1": Answer("our prompt", "B", "B")}
    for benchmark, prompt, cause in (("mmbench", known, "prompt of MMBench"), ("mmbench", known + " ", None)):
        (found,) = compare_answers(benchmark, {"1": hinted}, {"1": Answer(prompt, "B", "B")}, ours)
        assert (found.what, found.cause) == ("prompt", cause)
    (found,) = compare_answers("seed", {"1": hinted}, {"1": Answer(known, "B", "B")}, ours)
    assert found.cause is None


def test_other_texts_to_the_same_prompt_are_explained_by_the_length_only():
    ours = Answer("?", "a b", None, ended=False)
    for theirs, mine, cause in (
        ("a b c", ours, "length"),
        ("a b c", replace(ours, ended=True), None),
        ("a c", ours, None),
        (" a b\n", ours, "same"),
    ):
        found = compare_answers("llava_w", {"1": question()}, {"1": Answer("?", theirs)}, {"1": mine})
        assert [item.cause for item in found] == ([] if cause == "same" else [cause])


def test_texts_that_were_given_to_both_are_not_excused_by_the_prompt():
    theirs, ours = {"1": Answer("a", "B", "B")}, {"1": Answer("b", "C", "C")}
    found = compare_answers("seed", {"1": question()}, theirs, ours)
    assert [(item.what, item.cause) for item in found] == [("prompt", None), ("text", "other prompt")]
    found = compare_answers("seed", {"1": question()}, theirs, ours, prompts=False)
    assert [(item.what, item.cause) for item in found] == [("text", None)]


def test_what_only_one_has_asked_is_a_difference():
    answer = {"1": Answer("?", "yes", "yes")}
    for status, cause in (("video", "video"), ("no image", "not askable"), ("ok", None)):
        (found,) = compare_answers("seed", {"1": question(status=status)}, answer, {})
        assert (found.question_id, found.what, found.cause) == ("1", "asked", cause)
    (found,) = compare_answers("seed", {"1": question(status="video")}, {}, answer)
    assert found.cause is None


def rows(benchmark, answers, groups, texts, **columns):
    """Prediction rows with ids 0, 1, …"""
    options = OPTIONS if benchmark in ("seed", "mmbench") else []
    return [
        {
            **dict.fromkeys(PREDICTION_FEATURES),
            **{"question_id": str(i), "answer": answers[i], "group": groups[i], "prediction": texts[i]},
            **{"options": options, "meta": json.dumps({"base": i // 4, "category": "c", "rotation": i % 4})},
            **{"status": "ok", "ended": True, "cluster": str(i)},
            **{name: values[i] for name, values in columns.items()},
        }
        for i in range(len(answers))
    ]


def test_figures_of_pope_follow_from_the_readings_and_the_definitions():
    predictions = rows("pope", ["yes", "yes", "no", "no"], ["random"] * 4, ["Yes", "Yes.", "yes", "No, none"])
    theirs = {str(i): Answer("?", "", read) for i, read in enumerate(["yes", None, "yes", None])}
    ours = {row["question_id"]: Answer("?", "", yes_no(row["prediction"])) for row in predictions}
    metric = count_answers("pope", predictions)[0].metric
    reported = {"accuracy": 0.25, "precision": 0.5, "recall": 1.0, "f1": 2 / 3, "yes_ratio": 0.5}
    found = {item.name: item for item in compare_figures("pope", predictions, theirs, ours, reported, metric)}
    assert (found["accuracy"].of_their_answers, found["accuracy"].ours, found["accuracy"].cause) == (0.25, 0.75, "")
    # Of two objects that are there one is found, and of one answer cannot be said what it is.
    assert (found["recall"].of_their_answers, found["recall"].ours) == (0.5, 1.0)
    assert "neither yes nor no" in found["recall"].cause
    assert (found["yes_ratio"].of_their_answers, found["yes_ratio"].ours) == (1.0, 0.75)
    assert "references" in found["yes_ratio"].cause
    for name, value in reported.items():
        wrong = reported | {name: value - 0.01}
        causes = {item.name: item.cause for item in compare_figures("pope", predictions, theirs, ours, wrong, metric)}
        assert [other for other, cause in causes.items() if cause is None] == [name]
    # What we report must follow from what we have read, too.
    (item,) = compare_figures("pope", predictions, theirs, ours, {"accuracy": 0.25}, metric | {"accuracy": 0.5})
    assert item.cause is None


def test_figures_of_mmbench_are_of_whole_questions():
    answers = ["A", "D", "C", "B"] * 2
    predictions = rows("mmbench", answers, ["g"] * 8, answers)
    theirs = {str(i): Answer("?", "", read) for i, read in enumerate([*answers[:5], None, *answers[6:]])}
    ours = {str(i): Answer("?", "", read) for i, read in enumerate(answers)}
    metric = count_answers("mmbench", predictions)[0].metric
    (found,) = compare_figures("mmbench", predictions, theirs, ours, {"circular_accuracy": 0.5}, metric)
    assert (found.of_their_answers, found.ours, found.cause) == (0.5, 1.0, "")


def test_figures_of_llava_bench_average_what_is_no_score_in_lmms_eval_only():
    states = {"reference_score": [8.0, None], "model_score": [4.0, None], "judge_status": ["ok", "no scores"]}
    predictions = rows("llava_w", ["a", "b"], ["conv", "conv"], ["x", "y"], **states)
    theirs = {"0": Answer("?", "x", scores=(8.0, 4.0)), "1": Answer("?", "y", None, "I cannot.", (-1, -1))}
    ours = {"0": Answer("?", "x", scores=(8.0, 4.0)), "1": Answer("?", "y")}
    metric = count_answers("llava_w", predictions)[0].metric
    reported = {"relative_score all": 42.9, "relative_score conv": 42.9}
    for found in compare_figures("llava_w", predictions, theirs, ours, reported, metric):
        assert (found.of_their_answers, found.ours) == (50.0, 50.0)
        assert "(-1, -1)" in found.cause
    differences = compare_answers("llava_w", {"0": question(), "1": question()}, theirs, ours)
    assert [(item.question_id, item.cause) for item in differences] == [("1", "no scores")]
    other = theirs | {"0": Answer("?", "x", scores=(8.0, 5.0))}
    assert compare_answers("llava_w", {"0": question()}, {"0": other["0"]}, {"0": ours["0"]})[0].cause is None
    lost = replace(theirs["1"], how="8 7", scores=(8.0, 7.0))  # only our judge's reply has been lost
    assert compare_answers("llava_w", {"1": question()}, {"1": lost}, {"1": ours["1"]})[0].cause is None
    for reply, cause in (("8/10 4/10", "form of the scores"), ("8 4", None), ("8/10 5/10", None), ("?", None)):
        pair = replace(theirs["1"], how=reply), ours["0"]
        (difference,) = compare_answers("llava_w", {"0": question()}, {"0": replace(pair[0], text="x")}, {"0": pair[1]})
        assert difference.cause == cause, reply
    thought = [{"0": replace(found["0"], text="<think>Red?</think>x")} for found in (other, ours)]
    assert compare_answers("llava_w", {"0": question()}, *thought)[0].cause == "reasoning"


def test_rotated_copies_are_those_that_the_loader_makes(tmp_path):
    published = scenes.mmbench(2)
    DatasetDict({"dev": published}).save_to_disk(tmp_path / "plain")
    DatasetDict({"dev": crosscheck.with_rotations(published)}).save_to_disk(tmp_path / "rotated")
    made, read = (load_questions("mmbench", tmp_path / name).remove_columns("images") for name in ("plain", "rotated"))
    assert len(made) > len(published)
    for column in ("question", "options", "answer", "cluster"):
        of = [dict(zip(found["question_id"][:], found[column][:])) for found in (made, read)]
        assert of[0] == of[1], column


def test_videos_are_published_but_not_asked(tmp_path):
    published = crosscheck.with_videos(scenes.seed_bench(1))
    DatasetDict({"test": published}).save_to_disk(tmp_path)
    ids = {crosscheck.row_id("seed", row) for row in published.remove_columns("image")}
    assert ids - set(load_questions("seed", tmp_path)["question_id"][:]) == {"10-video-0", "10-video-1"}


def test_written_texts_are_about_the_question():
    texts = {written(question(), number) for number in range(len(WRITTEN_LETTERS))}
    assert len(texts) == len(WRITTEN_LETTERS)
    assert {"B", "C", "(B)", "a dog", "B and C", "A dog and nothing else", ""} <= texts
    assert written(question([], answer="no"), 3) == "No."


def test_the_stand_in_grades_the_same_answer_alike_for_both(tmp_path):
    answers = ["It is red.", "", "It is\n\nblue. [End of Assistant 1]", " It is green.\n"]
    replies = []

    def judge(body):
        replies.append(grade(body, (WELL,)))
        return replies[-1]

    predictions = rows("llava_w", ["a reference"] * 4, ["conv"] * 4, answers)
    for row in predictions:
        row |= {"question": "Which colour?", "meta": json.dumps({"caption": "A square."})}
    with OpenAIServer(judge) as server:
        endpoint = JudgeEndpoint(server.url, "stand-in")
        data = Dataset.from_list(predictions, features=PREDICTION_FEATURES)
        judged = judge_answers(data, endpoint, tmp_path / "judged.jsonl", threads=1, progress=False)
    assert set(judged["judge_status"][:]) == {"ok"} and len(set(replies)) > 1
    for answer, reply in zip(answers, replies):
        # lmms-eval's judge gets it without the blanks around.
        shown = f"[Assistant 2]\n{answer.strip()}\n\n[End of Assistant 2]\n\n[System]\n"
        asked = f"[Assistant 1]\na reference\n\n[End of Assistant 1]\n\n{shown}"
        assert grade({"messages": [{"content": asked}]}, (WELL,)) == reply
    assert grade({"messages": [{"content": "Answer: a plum\nYour output: "}]}, REPLIES) == "E"
    with pytest.raises(ValueError, match="no longer fits"):
        grade({"messages": [{"content": "Which is better?"}]}, REPLIES)


def lmms_files(folder: Path, samples: list[dict], results: dict) -> Path:
    """What lmms-eval 0.7.3 leaves of POPE and SEED-Bench, shortened."""
    (folder / "model").mkdir()
    (folder / "mmbench_en_dev_results.json").write_text("{}")  # not its results, but a task's
    (folder / "log.txt").write_text("Postprocessed 2 docs\n")
    (folder / "model" / "20260101_000000_results.json").write_text(json.dumps({"results": results}))
    for name in ("pope", "seedbench"):
        lines = [json.dumps(sample) for sample in samples if f"{name.removesuffix('bench')}_" in str(list(sample))]
        (folder / "model" / f"20260101_000000_samples_crosscheck_{name}.jsonl").write_text("\n".join(lines))
    return folder


def test_lmms_evals_files_are_read(tmp_path):
    samples = [
        {"doc_id": 1, "input": "b?", "filtered_resps": "Yes.", "pope_accuracy": {"prediction": "yes."}},
        {"doc_id": 0, "input": "a?", "resps": " No", "filtered_resps": "No", "pope_accuracy": {"prediction": "no"}},
        {"doc_id": 0, "input": "c?", "filtered_resps": "b", "seed_all": {"pred": "b"}},
        {"doc_id": 1, "input": "d?", "filtered_resps": "", "seed_all": {"pred": ""}},
    ]
    names = ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
    results = {"crosscheck_pope": {f"pope_{name},none": place / 10 for place, name in enumerate(names)}}
    folder = lmms_files(tmp_path, samples, results)
    lmms.check_finished(folder)
    figures = {"accuracy": 0.0, "precision": 0.1, "recall": 0.2, "f1": 0.3, "yes_ratio": 0.4}
    assert lmms.their_figures(folder, "pope") == figures
    assert lmms.their_answers(folder, "pope", ["x", "y"]) == {"x": Answer("a?", " No", "no"), "y": Answer("b?", "Yes.")}
    assert [answer.answer for answer in lmms.their_answers(folder, "seed", ["x", "y"]).values()] == ["B", None]
    with pytest.raises(RuntimeError, match="2 answers to the 3 questions of pope"):
        lmms.their_answers(folder, "pope", ["x", "y", "z"])


def test_a_run_of_lmms_eval_that_failed_is_no_run(tmp_path):
    folder = lmms_files(tmp_path, [], {})
    (folder / "log.txt").write_text("ERROR Error out of memory in generating\n")
    with pytest.raises(RuntimeError, match="counts them as empty: see .*log.txt"):
        lmms.check_finished(folder)
    (folder / "log.txt").write_text("")
    next(folder.rglob("2026*_results.json")).unlink()
    with pytest.raises(RuntimeError, match="no results"):
        lmms.check_finished(folder)


def test_the_report_names_every_question():
    theirs = {"1": Answer("?", "Yes.", None), "2": Answer("?", "no", "no")}
    ours = {"1": Answer("?", "Yes.", "yes"), "2": Answer("?", "yes", "yes")}
    differences = compare_answers("pope", {"1": question([]), "2": question([])}, theirs, ours)
    text = crosscheck.report({"pope": (differences, [], 2)})
    assert CAUSES["whole answer"] + "\n  pope, 1: 1" in text
    assert "UNEXPLAINED: look at these\n  pope, 1: 2" in text


def test_nothing_runs_without_lmms_eval_or_over_what_is_there(tmp_path, monkeypatch):
    arguments = crosscheck.CrosscheckArguments(output_dir=str(tmp_path))
    monkeypatch.setattr(crosscheck.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="make crosscheck"):
        crosscheck.main(arguments)
    monkeypatch.setattr(crosscheck.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(SystemExit, match="is there already"):
        crosscheck.main(arguments)
