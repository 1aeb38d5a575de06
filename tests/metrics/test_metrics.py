"""The metrics of the four benchmarks, as `evaluate` loads them: hand-made cases, plain counting, and wrong input."""

import doctest
import math
import random
from pathlib import Path

import evaluate
import numpy as np
import pytest

from c3l_hf import metrics
from c3l_hf.common.intervals import estimate
from c3l_hf.metrics import metric_path
from c3l_hf.metrics.llava_bench import llava_bench as llava_bench_module
from c3l_hf.metrics.mmbench import mmbench as mmbench_module
from c3l_hf.metrics.pope import pope as pope_module
from c3l_hf.metrics.reading import yes_no
from c3l_hf.metrics.seed_bench import seed_bench as seed_bench_module

NAMES = ("llava_bench", "mmbench", "pope", "seed_bench")
METRICS = {name: evaluate.load(metric_path(name), keep_in_memory=True) for name in NAMES}
NAN = pytest.approx(math.nan, nan_ok=True)


def pope(predictions, references, categories=None):
    categories = categories or ["random"] * len(references)
    return METRICS["pope"].compute(predictions=predictions, references=references, categories=categories)


def seed_bench(predictions, references, options=None, dimensions=None, **keywords):
    return METRICS["seed_bench"].compute(
        predictions=predictions,
        references=references,
        options=options or [["red", "blue", "green"]] * len(references),
        dimensions=dimensions or ["colour"] * len(references),
        **keywords,
    )


def mmbench(rows, **columns):
    """Rows of (prediction, reference, number of options, question)."""
    predictions, references, sizes, questions = zip(*rows)
    given = {
        "predictions": predictions,
        "references": references,
        "options": [["one", "two", "three", "four"][:size] for size in sizes],
        "questions": questions,
        "abilities": ["perception"] * len(rows),
        "categories": ["ocr"] * len(rows),
    }
    return METRICS["mmbench"].compute(**{name: list(values) for name, values in (given | columns).items()})


def llava_bench(pairs, categories=None):
    return METRICS["llava_bench"].compute(
        predictions=[model for model, _ in pairs],
        references=[reference for _, reference in pairs],
        categories=categories or ["conv"] * len(pairs),
    )


def test_pope_by_hand():
    predictions = ["Yes", "no.", "Maybe", "yes", "No", "", "No", "Yes, there is no doubt"]
    references = ["yes", "yes", "yes", "no", "no", "no", "no", "yes"]
    found = pope(predictions, references)  # TP 2, FN 1, unreadable yes 1, FP 1, TN 2, unreadable no 1
    assert found["by_category"]["random"].items() <= found.items()
    assert (found["n"], found["unparsable"]) == (8, 2)
    assert found["accuracy"] == 4 / 8 and found["accuracy_parsed"] == 4 / 6
    assert found["precision"] == 2 / 3 and found["recall"] == 2 / 4
    assert found["f1"] == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert found["yes_ratio"] == 3 / 6  # of the predictions: the references have 4 / 8 too, hence:
    assert pope(["yes"] * 3, ["no"] * 3)["yes_ratio"] == 1


def test_pope_categories():
    found = pope(["yes", "no", "yes", "yes"], ["yes", "no", "no", "yes"], ["random", "random", "popular", "popular"])
    assert list(found["by_category"]) == ["random", "popular"]
    assert found["by_category"]["random"]["f1"] == 1
    assert found["by_category"]["popular"] == {
        "accuracy": 0.5,
        "precision": 0.5,
        "recall": 1.0,
        "f1": pytest.approx(2 / 3),
        "yes_ratio": 1.0,
        "accuracy_parsed": 0.5,
        "unparsable": 0,
        "n": 2,
    }
    assert found["f1"] == 0.8 and found["category_mean"]["f1"] == pytest.approx((1 + 2 / 3) / 2)
    # a category counts the same however many questions it has
    found = pope(["yes", "yes", "no", "no", "no"], ["yes", "no", "no", "no", "no"], ["a", "b", "b", "b", "b"])
    assert found["accuracy"] == 0.8 and found["category_mean"]["accuracy"] == pytest.approx((1 + 3 / 4) / 2)


def test_pope_undefined_shares():
    silent = pope(["", "?"], ["yes", "no"])
    assert silent["accuracy"] == silent["recall"] == silent["f1"] == 0 and silent["unparsable"] == 2
    assert [silent[name] for name in ("precision", "yes_ratio", "accuracy_parsed")] == [NAN] * 3
    assert pope(["no"], ["no"])["recall"] == NAN
    assert pope(["no", "yes"], ["no", "yes"], ["a", "b"])["category_mean"]["recall"] == NAN


def test_pope_against_plain_counting():
    generator = random.Random(0)
    texts = ["Yes", "No", "yes.", "No, there is not.", "Yes and no", "", "I cannot see", "Yes, there is no other"]
    predictions = generator.choices(texts, k=500)
    references = generator.choices(["yes", "no"], k=500)
    read = [(yes_no(text), reference) for text, reference in zip(predictions, references)]
    found = pope(predictions, references)
    assert found["accuracy"] == sum(a == b for a, b in read) / 500
    assert found["precision"] == read.count(("yes", "yes")) / sum(a == "yes" for a, _ in read)
    assert found["recall"] == read.count(("yes", "yes")) / references.count("yes")
    assert found["f1"] == pytest.approx(2 / (1 / found["precision"] + 1 / found["recall"]))
    assert found["unparsable"] == sum(a is None for a, _ in read) > 0
    assert found["yes_ratio"] == sum(a == "yes" for a, _ in read) / (500 - found["unparsable"])


def test_seed_bench_by_generated_text():
    found = seed_bench(
        ["(B) blue", "A", "B and C", "Green.", "A dog"], ["B", "C", "B", "C", "A"], dimensions=["x", "x", "x", "y", "y"]
    )
    assert {name: found[name] for name in ("accuracy", "accuracy_parsed", "unparsable", "n")} == {
        "accuracy": 2 / 5,
        "accuracy_parsed": 2 / 3,
        "unparsable": 2,
        "n": 5,
    }
    assert found["by_dimension"] == {
        "x": {"accuracy": 1 / 3, "accuracy_parsed": 0.5, "unparsable": 1, "n": 3},
        "y": {"accuracy": 0.5, "accuracy_parsed": 1.0, "unparsable": 1, "n": 2},
    }


def test_seed_bench_by_likelihood():
    options = [["C", "A", "B"]] * 3  # as texts these letters would be ambiguous
    found = seed_bench(["A", "", "C"], ["A", "B", "B"], options, letters=True)
    assert (found["accuracy"], found["accuracy_parsed"], found["unparsable"]) == (1 / 3, 0.5, 1)
    assert seed_bench(["A", "", "C"], ["A", "B", "B"], options)["unparsable"] == 3


def test_letters_are_those_of_the_question():
    assert seed_bench(["C", "C"], ["A", "C"], [["u", "v"], ["u", "v", "w"]])["unparsable"] == 1


def test_mmbench_circular():
    rows = [
        ("A", "A", 3, "1"),  # right in all three places
        ("B.", "B", 3, "1"),
        ("three", "C", 3, "1"),
        ("A", "A", 3, "2"),  # always A: right in one place
        ("A", "B", 3, "2"),
        ("A", "C", 3, "2"),
        ("A", "A", 2, "3"),  # one answer cannot be read
        ("A or B", "B", 2, "3"),
    ]
    for order in (rows, rows[::-1]):
        found = mmbench(order)
        assert found["circular_accuracy"] == 1 / 3 and found["accuracy"] == 5 / 8
        assert found["accuracy_parsed"] == 5 / 7 and (found["unparsable"], found["n"]) == (1, 8)
        assert (found["questions"], found["incomplete"], found["incomplete_questions"]) == (3, 0, [])


def test_mmbench_incomplete_questions():
    rows = [
        ("A", "A", 2, "whole"),
        ("B", "B", 2, "whole"),
        ("A", "A", 2, "one is missing"),
        ("A", "A", 2, "one twice"),
        ("A", "A", 2, "one twice"),
        ("A", "A", 2, "one too many"),
        ("B", "B", 2, "one too many"),
        ("B", "B", 2, "one too many"),
        ("A", "A", 2, "other options"),
        ("B", "B", 3, "other options"),
    ]
    found = mmbench(rows)
    assert (found["circular_accuracy"], found["questions"], found["incomplete"]) == (1, 1, 4)
    assert found["incomplete_questions"] == ["one is missing", "one twice", "one too many", "other options"]
    assert found["accuracy"] == 1 and found["n"] == 10
    plain = mmbench([("A", "A", 4, str(row)) for row in range(30)])
    assert plain["circular_accuracy"] == NAN and plain["incomplete"] == 30 and len(plain["incomplete_questions"]) == 20


def test_mmbench_by_ability_and_category():
    rows = [("A", "A", 2, "1"), ("B", "B", 2, "1"), ("A", "A", 2, "2"), ("A", "B", 2, "2"), ("A", "A", 2, "3")]
    found = mmbench(rows, abilities=["p"] * 4 + ["r"], categories=["ocr"] * 2 + ["scene"] * 2 + ["logic"])
    shown = {
        name: (group["circular_accuracy"], group["accuracy"], group["questions"], group["incomplete_questions"])
        for name, group in (found["by_ability"] | found["by_category"]).items()
    }
    assert shown == {
        "p": (0.5, 0.75, 2, []),
        "r": (NAN, 1.0, 0, ["3"]),
        "ocr": (1.0, 1.0, 1, []),
        "scene": (0.0, 0.5, 1, []),
        "logic": (NAN, 1.0, 0, ["3"]),
    }


def test_mmbench_of_always_the_same_letter():
    """What CircularEval is for: a model that answers A is right in a quarter of the rows, and on no question."""
    rows = [("A", place, 4, str(question)) for question in range(50) for place in "ABCD"]
    found = mmbench(rows)
    assert found["accuracy"] == 0.25 and found["circular_accuracy"] == 0


def test_llava_bench_by_hand():
    found = llava_bench([(6, 8), (9, 10), (None, None), (4, 8)], ["conv", "conv", "detail", "complex"])
    assert found["relative_score"] == pytest.approx(100 * 19 / 26)  # the ratio of sums, not the mean of ratios
    assert (found["judged"], found["judge_errors"]) == (3, 1)
    assert found["model_score"] == pytest.approx(19 / 3) and found["reference_score"] == pytest.approx(26 / 3)
    scores = {name: group["relative_score"] for name, group in found["by_category"].items()}
    assert scores == {"conv": pytest.approx(100 * 15 / 18), "detail": NAN, "complex": 50.0}
    assert found["by_category"]["detail"]["judge_errors"] == 1


def test_a_judge_error_is_no_score():
    judged = llava_bench([(6, 8), (3, 9)])
    for failed in ((None, None), (math.nan, math.nan), (6, None), (None, 6)):
        found = llava_bench([(6, 8), failed, (3, 9)])
        assert found["relative_score"] == judged["relative_score"] and found["model_score"] == judged["model_score"]
        assert found["judge_errors"] == 1


@pytest.mark.parametrize(
    "compute, message",
    [
        (lambda: pope(["yes", "no"], ["yes", "maybe"]), "row 1: the reference must be .* found 'maybe'"),
        (lambda: pope(["yes", "no"], ["yes", ""]), "row 1: the reference must be .* found ''"),
        (lambda: pope(["yes", None], ["yes", "no"]), "row 1: the prediction must be a text .* found None"),
        (lambda: pope(["yes"], ["yes", "no"]), r"predictions \(1\) and references \(2\)"),
        (lambda: pope(["yes", "no"], ["yes", "no"], ["random"]), r"predictions \(2\) and categories \(1\)"),
        (lambda: pope([], []), "there are no questions"),
        (
            lambda: seed_bench(["A", "A"], ["A", "D"]),
            "row 1: the reference must be one of the letters 'ABC', found 'D'",
        ),
        (lambda: seed_bench(["A"], ["AB"]), "row 0: the reference must be one of the letters 'ABC', found 'AB'"),
        (lambda: seed_bench(["A"], [""]), "row 0: the reference must be one of the letters 'ABC', found ''"),
        (lambda: seed_bench(["A"], ["a"]), "row 0: the reference must be one of the letters 'ABC', found 'a'"),
        (lambda: seed_bench(["A", None], ["A", "B"]), "row 1: the prediction must be a text .* found None"),
        (lambda: seed_bench(["A"], ["A"], [[]]), r"row 0: the options must be 1 to 26 texts, found \[\]"),
        (lambda: seed_bench(["A"], ["A"], [["x", None]]), r"row 0: the options must be .* found \['x', None\]"),
        (lambda: seed_bench(["A"], ["A", "B"]), r"predictions \(1\) and references \(2\)"),
        (lambda: seed_bench(["A"], ["A"], [["x"], ["x"]]), r"predictions \(1\) and options \(2\)"),
        (
            lambda: seed_bench(["A", "(B)"], ["A", "B"], letters=True),
            "row 1: the prediction must be .* found '\\(B\\)'",
        ),
        (lambda: seed_bench([], []), "there are no questions"),
        (lambda: mmbench([("A", "A", 2, "1"), ("A", "C", 2, "1")]), "row 1: the reference must be .* 'AB', found 'C'"),
        (lambda: mmbench([("A", "A", 0, "1")]), "row 0: the options must be 1 to 26 texts"),
        (lambda: mmbench([("A", "A", 2, "1")], questions=["1", "1"]), r"predictions \(1\) and questions \(2\)"),
        (
            lambda: mmbench([("A", "A", 2, "7"), ("B", "B", 2, "7")], abilities=["p", "r"]),
            "row 1: question '7' has the ability 'r', in an earlier row 'p'",
        ),
        (
            lambda: mmbench([("A", "A", 2, "7"), ("B", "B", 2, "7")], categories=["p", "r"]),
            "row 1: question '7' has the category 'r'",
        ),
        (lambda: llava_bench([(5, 5), (-1, -1)]), "row 1: a score must be from 0 to 10, .* found -1"),
        (lambda: llava_bench([(5, 11)]), "row 0: a score must be from 0 to 10, .* found 11"),
        (lambda: llava_bench([]), "there are no questions"),
    ],
)
def test_wrong_input(compute, message):
    with pytest.raises(ValueError, match=message):
        compute()
    assert pope(["yes"], ["yes"])["n"] == 1  # what was refused is forgotten


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_documents_itself(name):
    metric = METRICS[name]
    for figure in metric.compute(**_two_rows(name)):
        assert f"`{figure}`" in metric.description or figure in metric.inputs_description
    assert "arXiv" in metric.description and metric.citation.lstrip().startswith("@")
    assert all(f"    {column} (" in metric.inputs_description for column in metric.features)
    scope = {"evaluate": _Loaded, "c3l_hf": metrics}  # which exports `metric_path`
    example = doctest.DocTestParser().get_doctest(metric.inputs_description, scope, name, None, None)
    assert example.examples and doctest.DocTestRunner(verbose=False).run(example).failed == 0
    readme = (Path(metric_path(name)) / "README.md").read_text()
    assert readme.startswith("---\n") and f'evaluate.load(c3l_hf.metric_path("{name}"))' in readme


def test_there_is_no_other_metric():
    assert metrics.METRICS == NAMES
    with pytest.raises(ValueError, match="no metric 'popes'; there are llava_bench, mmbench, pope, seed_bench"):
        metric_path("popes")


class _Loaded:
    load = staticmethod(lambda path: METRICS[Path(path).name])


def _two_rows(name):
    columns = {"predictions": ["A", "A"], "references": ["A", "B"], "options": [["x", "y"]] * 2}
    if name == "pope":
        columns |= {"references": ["yes", "no"]}
    if name == "llava_bench":
        columns |= {"predictions": [5.0, 6.0], "references": [7.0, None]}
    return {column: columns.get(column, ["1", "1"]) for column in METRICS[name].features}


def test_batches_are_the_same_as_one_call():
    for rows in ([0, 1], [2]):
        METRICS["pope"].add_batch(
            predictions=[["yes", "no", "?"][row] for row in rows],
            references=[["yes", "yes", "no"][row] for row in rows],
            categories=["random" for _ in rows],
        )
    assert METRICS["pope"].compute() == pope(["yes", "no", "?"], ["yes", "yes", "no"])


def test_counts_and_figures_serve_the_intervals():
    """What a metric reports, and the value that its interval is drawn around, are the same."""
    references = ["yes", "no", "no", "yes", "no"]
    table = pope_module.counts(["yes", "yes", "no", "no", "?"], references)
    reported = pope(["yes", "yes", "no", "no", "?"], references)
    for name in pope_module.figures(table[0]):
        found = estimate(table, list("abcde"), lambda sums, name=name: pope_module.figures(sums)[name])
        assert found.value == pytest.approx(reported[name]), name
    rows = [("A", "A", 2, "1"), ("B", "B", 2, "1"), ("A", "A", 2, "2"), ("A", "B", 2, "2")]
    predictions, letters, _, questions = zip(*rows)
    table = mmbench_module.counts(predictions, letters, [["one", "two"]] * 4, questions)
    for name in mmbench_module.figures(table[0]):
        found = estimate(table, questions, lambda sums, name=name: mmbench_module.figures(sums)[name])
        assert found.value == mmbench(rows)[name]
    assert seed_bench_module.figures(np.array([[4, 2, 3], [2, 2, 2]]))["accuracy"].tolist() == [0.5, 1]
    sums = llava_bench_module.counts([6, None, 3], [8, None, 9]).sum(axis=0)
    assert llava_bench_module.figures(sums)["relative_score"] == pytest.approx(100 * 9 / 17)


def test_pope_needs_no_categories():
    with_categories = pope(["Yes", "no", ""], ["yes", "no", "yes"], ["random"] * 3)
    plain = METRICS["pope"].compute(predictions=["Yes", "no", ""], references=["yes", "no", "yes"])
    assert plain.items() < with_categories.items() and set(with_categories) - set(plain) == {
        "by_category",
        "category_mean",
    }
    metric = METRICS["pope"]
    metric.add_batch(predictions=["Yes", "no"], references=["yes", "no"])
    metric.add(prediction="", reference="yes")
    assert metric.compute() == plain
    with pytest.raises(ValueError, match="references are missing; give both"):
        METRICS["pope"].compute(predictions=["Yes"])


def test_pope_reads_sentences_with_their_questions():
    texts = ["There is no dog in the image.", "There is a dog.", "A dog"]
    asked = ["Is there a dog in the image?"] * 3
    assert METRICS["pope"].compute(predictions=texts, references=["no"] * 3)["unparsable"] == 3
    found = METRICS["pope"].compute(predictions=texts, references=["no"] * 3, questions=asked)
    assert (found["unparsable"], found["accuracy"], found["yes_ratio"]) == (1, 1 / 3, 1 / 2)
    with pytest.raises(ValueError, match="there are 2 questions, but 3 references"):
        METRICS["pope"].compute(predictions=texts, references=["no"] * 3, questions=asked[:2])


@pytest.mark.parametrize(
    ("text", "official", "ours"),
    [
        ("No, there is not.", "no", "no"),
        ("Yes.", "yes", "yes"),
        ("", "yes", None),
        ("I cannot tell", "yes", None),
        ("It is not there. Yes", "no", "yes"),
        ("NO", "yes", "no"),
        ("Yes, there is no cat", "no", "yes"),
        ("no\nreally", "yes", "no"),  # "no\nreally" is one word there
        ("Yes. No.", "yes", None),
    ],
)
def test_pope_as_its_own_script_reads(text, official, ours):
    assert pope_module.official_yes_no(text) == official and yes_no(text) == ours
    found = METRICS["pope"].compute(predictions=[text], references=[official], official=True)
    assert found["accuracy"] == 1 and found["unparsable"] == 0
