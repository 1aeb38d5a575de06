"""Figures of pools of pairs, against figures worked out by hand."""

import math

import pyarrow as pa
import pytest
from datasets import Dataset

from c3l_hf.data.worlds import find_world
from c3l_hf.pipeline.summary import Truth, format_summary, pool_of_labels, pool_of_pairs
from c3l_hf.publishing.figures import dataset_figures
from c3l_hf.scenes import Scene
from c3l_hf.scenes.evaluation import Share, judge_pairs, type_balanced
from c3l_hf.scenes.templates import format_pair
from c3l_hf.scenes.world import SceneObject

SCENE = Scene("a", (SceneObject("dog", 16, 16, 26),), "blue", "plain", 0)
TRUTH = Truth(find_world("scenes"), {"a": SCENE})
TRUE = ("Can you see a dog?", "Yes, there is a dog.")
FALSE = ("How many dogs are there?", "There are two dogs.")


def pair_row(type, pair, score, image_id="a"):
    messages = [[{"role": role, "content": text}] for role, text in zip(("user", "assistant"), pair or ("", ""))]
    return {
        "image_id": image_id,
        "type": type,
        "prompt": messages[0] if pair else None,
        "completion": messages[1] if pair else None,
        "i2c": score,
        "i2c_status": "ok" if pair else "no pair",
    }


def test_a_pool_of_pairs():
    rows = [
        pair_row("presence", TRUE, 1.0),
        pair_row("presence", TRUE, 2.0),
        pair_row("presence", None, None),
        pair_row("count", FALSE, 3.0),
        # true, but not of the type asked for
        pair_row("count", TRUE, 4.0),
    ]
    pool = pool_of_pairs("all", pa.Table.from_pylist(rows), TRUTH)
    assert (pool.pairs, pool.usable) == (5, 4)
    assert pool.quantiles == pytest.approx((1.3, 2.5, 3.7))
    # presence 2 of 3, count 0 of 2, each type the same weight
    assert pool.true[0] == pytest.approx((2 / 3 + 0) / 2)
    without_truth = pool_of_pairs("all", pa.Table.from_pylist(rows), None)
    assert without_truth.true is None
    table = format_summary([pool], "pmi")
    assert "pmi 50%" in table and "0.333" in table and "80.0%" in table
    assert "true" not in format_summary([without_truth], "pmi")


def test_a_pool_of_pseudo_labels():
    def answer(pair):
        return [{"role": "assistant", "content": format_pair(*pair)}]

    row = {
        "image_id": "a",
        "type": "presence",
        "chosen": answer(TRUE),
        "rejected": [answer(("Can you see a dog?", "No, there is no dog.")), answer(TRUE)],
        "chosen_score": 2.0,
        "rejected_scores": [0.0, 1.0],
    }
    labels = pa.Table.from_pylist([row])
    chosen, rejected = (pool_of_labels(name, labels, name, TRUTH) for name in ("chosen", "rejected"))
    assert (chosen.pairs, chosen.true[0], chosen.quantiles[1]) == (1, 1.0, 2.0)
    assert (rejected.pairs, rejected.true[0], rejected.quantiles[1]) == (2, 0.5, 0.5)


def test_pseudo_labels_in_another_form_are_counted_like_others():
    answers = [[{"role": "assistant", "content": json}] for json in ('{"q": "Wer?", "a": "Er."}', "[]")]
    row = {"image_id": "a", "type": "text", "chosen": answers[0], "rejected": answers[1:]}
    labels = pa.Table.from_pylist([{**row, "chosen_score": 2.0, "rejected_scores": [0.0]}])
    assert [pool_of_labels(name, labels, name, None).usable for name in ("chosen", "rejected")] == [1, 1]


def test_figures_of_a_dataset():
    def row(number, score, answer="yes"):
        return pair_row("ab"[number % 2], ("q?", answer), score) | {"pair_id": str(number)}

    # scores 0 … 99, answers of as many words as the tens of the score
    pool = [row(n, float(n), "word " * (n // 10)) for n in range(1, 100)]
    curated = pool[79:]
    nothing = [row(100, None), row(101, float("nan"))]
    figures = dataset_figures(Dataset.from_list(curated), [row["i2c"] for row in pool + nothing])
    assert figures["rows"] == 20 and figures["type_shares"] == {"a": 0.5, "b": 0.5}
    assert figures["score_quantiles"] == pytest.approx(
        {"least": 80, "10 %": 81.9, "50 %": 89.5, "90 %": 97.1, "most": 99}
    )
    assert figures["length_correlation"][0] > 0.8 and figures["length_correlation"][1] == 20
    assert figures["examples"] == [
        ("q?", curated[10]["completion"][0]["content"], "a", 90.0, "90"),
        *figures["examples"][1:],
    ]
    assert [example[2] for example in figures["examples"]] == ["a", "b"]
    low, high, scored, kept = zip(*figures["histogram"])
    assert (low[0], high[-1], low[1:]) == (1, 99, high[:-1]) and len(low) == 12
    assert sum(scored) == 99 and sum(kept) == 20 and kept[:8] == (0,) * 8
    edge = low[5]
    assert sum(scored[:5]) == sum(row["i2c"] < edge for row in pool)


def test_figures_that_do_not_exist():
    same = Dataset.from_list([pair_row("a", ("q?", "yes"), 1.0) | {"pair_id": str(n)} for n in range(3)])
    figures = dataset_figures(same, same["i2c"][:])
    assert figures["length_correlation"] is None
    assert sum(scored for *_, scored, _ in figures["histogram"]) == 3


def test_type_balance_and_its_interval():
    # 100 images with 2 pairs each: all presence pairs true, half of the images' count pairs
    types = ["presence", "count"] * 100
    hits = [True, True] * 50 + [True, False] * 50
    images = [str(i // 2) for i in range(200)]
    share, low, high = type_balanced(types, hits, images)
    assert share == pytest.approx(0.75)
    # half the standard error of a share of 1/2 over 100 images, both sides
    half = 1.96 * 0.5 * math.sqrt(0.25 / 100)
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)
    assert type_balanced(types, hits, images) == (share, low, high)
    assert all(math.isnan(value) for value in type_balanced([], [], []))
    assert type_balanced(["count"], [True], ["a"])[0] == 1.0


def test_a_share_and_its_wilson_interval():
    share = Share(8, 10)
    # by the formula
    z, n, p = 1.959964, 10, 0.8
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert share.interval == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert str(share) == "0.800 [0.490, 0.943]"
    assert math.isnan(Share(0, 0).value) and math.isnan(Share(0, 0).interval[0])


def test_judging_respects_the_type_asked_for():
    pairs = [TRUE, FALSE, None, TRUE, TRUE]
    well, true = judge_pairs(["presence", "count", "count", "count", "general"], pairs, [SCENE] * 5)
    assert well == [True, True, False, False, True]
    assert true == [True, False, False, False, True]
