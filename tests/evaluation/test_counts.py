"""Answers by likelihood: which option is chosen where several are equally likely."""

import pytest
from datasets import Dataset

from c3l_hf.evaluation.counts import count_answers
from c3l_hf.evaluation.predictions import PREDICTION_FEATURES

COLOURS = ["red", "green", "blue", "yellow"]


def asked(id, options, logprobs, answer="A"):
    return {
        **{"question_id": str(id), "question": "Which colour?", "options": options, "answer": answer},
        **{"group": "Scene Understanding", "cluster": str(id), "meta": "{}"},
        **{"prediction": answer, "ended": True, "status": "ok", "option_status": "ok"},
        **{"option_logprobs": logprobs, "option_logprobs_blind": [-9.0] * len(logprobs)},
    }


def right(rows, by="likelihood"):
    """For each question whether it is right, and those that cannot be read."""
    ways = {way.by: way for way in count_answers("seed", Dataset.from_list(rows, features=PREDICTION_FEATURES))}
    return ways[by].counts[:, 1].tolist(), list(ways[by].unread)


@pytest.mark.parametrize("by", ["likelihood", "likelihood minus prior"])
def test_equal_likelihoods_of_other_texts_are_a_fair_draw(by):
    """As often in bfloat16: the spacing of logits about 20 is 0.125, and options of one token share all else."""
    found, unread = right([asked(id, COLOURS, [-2.0, -2.0, -3.0, -2.0]) for id in range(900)], by)
    assert not unread and 250 < sum(found) < 350


def test_the_draw_depends_on_question_and_text_not_on_the_order():
    turns = [COLOURS[turn:] + COLOURS[:turn] for turn in range(4)]
    cases = [(id, options, place) for id in range(30) for options in turns for place in range(4)]
    found, _ = right([asked(id, options, [-1.0] * 4, "ABCD"[place]) for id, options, place in cases])
    chosen = [(id, options[place]) for (id, options, place), won in zip(cases, found) if won]
    assert len(chosen) == 30 * 4 and len(set(chosen)) == 30
    assert {text for _, text in chosen} == set(COLOURS)


def test_a_text_that_several_options_have_is_no_choice():
    same = ["red", "green", "red ", "blue"]
    assert right([asked(0, same, [-1.0, -2.0, -1.0, -3.0])]) == ([0], ["0"])
    # Also where rounding makes one of them likelier.
    assert right([asked(0, same, [-1.0, -2.0, -1.1, -3.0])]) == ([0], ["0"])
    assert right([asked(0, same, [-2.0, -1.0, -2.0, -3.0], "B")]) == ([1], [])
    # A draw that may be lost to them.
    found, unread = right([asked(id, same, [-1.0, -1.0, -1.0, -3.0], "B") for id in range(100)])
    assert 30 < sum(found) < 70 and sum(found) + len(unread) == 100
