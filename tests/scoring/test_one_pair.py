"""One pair by itself: `scorer.score(image=…, question=…, answer=…)`."""

import numpy as np
import pytest
from scored_rows import assert_same, picture, png

from c3l_hf.data.schema import SCORE_COLUMNS, SCORES
from c3l_hf.scoring.one_pair import PairScores
from c3l_hf.scoring.scorer import I2CScorer

QUESTION, ANSWER = "How many?", "Two horses and a cat."


@pytest.fixture(scope="module")
def scorer(llava):
    return I2CScorer(*llava)


@pytest.fixture(scope="module")
def expected(scorer):
    return scorer({"image": picture(0), "question": QUESTION, "answer": ANSWER})


@pytest.mark.parametrize("kind", ["PIL", "bytes", "path", "text", "array", "list"])
def test_a_pair_has_the_scores_of_its_row(scorer, expected, kind, tmp_path):
    file = tmp_path / "picture.png"
    file.write_bytes(png(0))
    image = {
        "PIL": picture(0),
        "bytes": png(0),
        "path": file,
        "text": str(file),
        "array": np.asarray(picture(0)),
        "list": [picture(0)],
    }[kind]
    scores = scorer.score(image=image, question=QUESTION, answer=ANSWER)
    assert isinstance(scores, PairScores) and list(scores) == list(SCORE_COLUMNS)
    assert_same([dict(scores)], [expected])


def test_several_images_are_one_prompt(scorer, expected):
    scores = scorer.score(image=[picture(0), picture(1)], question=QUESTION, answer=ANSWER)
    row = scorer({"images": [picture(0), picture(1)], "question": QUESTION, "answer": ANSWER})
    assert_same([dict(scores)], [row])
    assert scores["pmi"] != expected["pmi"]


def test_it_shows_scores_and_what_the_image_adds_to_each_token(scorer):
    scores = scorer.score(image=picture(0), question=QUESTION, answer="Two\x1b[31m horses and a cat " * 20)
    gains = [gain for _, gain in scores.gains]
    assert sum(gains) / len(gains) == pytest.approx(scores["pmi"], abs=1e-5)
    shown = repr(scores)
    assert shown.startswith(f"i2c {scores['i2c']:.3f}\n") and "\x1b" not in shown
    for name in SCORES:
        assert f"{name} {scores[name]:.3f}" in shown
    assert f"{scores['answer_tokens'][-1]!r} {gains[-1]:+.2f}" in shown
    assert max(map(len, shown.splitlines()[3:])) <= 100


def test_a_pair_that_cannot_be_scored_is_an_error_with_the_reason(scorer, tmp_path):
    for image, answer, reason in (
        (
            tmp_path / "gone.png",
            ANSWER,
            "the pair cannot be scored: the image .*gone.png cannot be read: there is no such file",
        ),
        (b"no picture", ANSWER, "the pair cannot be scored: the image cannot be read: it is no picture"),
        (picture(0), "  ", "the pair cannot be scored: the answer is empty"),
        (picture(0), ["Two."], "answer is list, not a text; conversations are scored as rows"),
        ([], ANSWER, "image is an empty list"),
    ):
        with pytest.raises(ValueError, match=reason):
            scorer.score(image=image, question=QUESTION, answer=answer)


def test_rows_still_have_null_scores_and_the_reason(scorer):
    (row,) = scorer.score([{"image": picture(0), "question": QUESTION, "answer": ""}])
    assert row["i2c"] is None and row["i2c_status"] == "the answer is empty"


def test_calls_that_are_neither_say_what_is_taken(scorer):
    row = {"image": picture(0), "question": QUESTION, "answer": ANSWER}
    for arguments, options, reason in (
        ([], {}, r"lacks image and question and answer; of many pairs score\(\[row, …\]\) takes a list"),
        ([], {"image": picture(0), "question": QUESTION}, "lacks answer"),
        ([[row]], {"image": picture(0)}, "either a list of rows, or image=…"),
        ([row], {}, r"this is one mapping: scorer\(row\) scores a row"),
        (["cat.png"], {}, "this is str"),
        ([picture(0)], {}, "this is Image"),
    ):
        with pytest.raises(TypeError, match=reason):
            scorer.score(*arguments, **options)
