"""Rows of any values at all: each keeps its place with a reason, and the good ones beside them their scores."""

import copy
import datetime
import logging
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_models import tiny_llava

from c3l_hf import I2CScorer
from c3l_hf.data.messages import messages_of
from c3l_hf.data.unforeseen import with_row_errors

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
GOOD = {"images": [PICTURE], "question": "What is in this picture?", "answer": "A dog and two cats."}


def deep(value, levels=3000):
    for _ in range(levels):
        value = [value] if isinstance(value, list) else {"content": value}
    return value


# What JSON can hold, what Arrow and numpy give, and what nobody foresees.
ODD = [
    *(None, True, 5, 2.5, float("nan"), float("inf"), 2**70, b"\xff", "", " ", "\ud800", "<image>", "a\0b", "x" * 300),
    *([], {}, (), [None], [{}], [[]], {"a": 1}, {1}, range(3), object(), Ellipsis, 1j, Path("a"), float),
    *(np.zeros(2), np.array("a"), np.zeros((2, 2)), np.float32(1), np.str_("a"), torch.zeros(2)),
    *(deep([]), deep({}), datetime.datetime(2020, 1, 1), PICTURE, {"bytes": b"x", "path": None}),
    *([{"type": "text", "text": "a"}], [{"role": "user", "content": "a"}], {"role": ["user"], "content": ["a"]}),
]


def said(role, content, **more):
    return {"role": role, "content": content, **more}


TEXT = {"type": "text", "text": "a"}
ROWS = [
    {
        "images": [PICTURE],
        "prompt": [said("system", "s"), said("user", [{"type": "image", "index": 0}, TEXT], weight=1, name="n")],
        "completion": [said("assistant", [TEXT], tool_calls=None), said("user", "c"), said("assistant", "d")],
    },
    {"image": PICTURE, "question": "a", "answer": "b"},
    {"image": PICTURE, "question": "a", "answers": ["b"]},
    {"images": [PICTURE], "messages": [said("user", "a"), said("assistant", "b")], "system": "x", "tools": None},
    {"images": [PICTURE], "conversations": {"from": ["human", "gpt"], "value": ["<image>a", "b"]}},
    {"images": [PICTURE], "texts": [{"user": "a", "assistant": "b"}]},
    {"image": PICTURE, "instruction": "a", "input": "i", "output": "b", "history": [["x", "y"]]},
    {"messages": [said("user", [{"type": "image_url", "image_url": {"url": PICTURE}}, TEXT]), said("assistant", "b")]},
]


def places(value, place=()):
    """Where in a row something can stand in the place of what stands there."""
    if place:
        yield place
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys if len(place) < 6 else ():
        yield from places(value[key], (*place, key))


def put(value, place, new):
    value = copy.copy(value)
    value[place[0]] = new if len(place) == 1 else put(value[place[0]], place[1:], new)
    return value


def changed(row, draws):
    for place, new in draws:
        known = list(places(row))
        row = put(row, known[place % len(known)], ODD[new])
    return row


ODD_ROWS = st.builds(
    changed,
    st.sampled_from(ROWS),
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, len(ODD) - 1)), min_size=1, max_size=2),
)


@pytest.fixture(scope="module")
def scorer():
    return I2CScorer(*tiny_llava())


def test_rows_of_any_values(scorer, caplog):
    (alone,) = scorer.score([GOOD])
    odd = []

    @settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(ODD_ROWS, min_size=1, max_size=3))
    def check(rows):
        scored = scorer.score([*rows, GOOD])
        assert len(scored) == len(rows) + 1
        np.testing.assert_allclose(scored[-1]["i2c"], alone["i2c"], rtol=2e-4)
        for row in scored:
            assert isinstance(row["i2c_status"], str) and (row["i2c"] is None) == (row["i2c_status"] != "ok")
        odd.extend(row["i2c_status"] for row in scored[:-1])

    with caplog.at_level(logging.WARNING):
        check()
    assert "fails at" not in caplog.text and not any("fails at" in status for status in odd)
    assert len(set(odd)) > 30 and "ok" in odd


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (
            "b\ud800",
            "the content of the assistant message has half a character (a surrogate), which no tokenizer reads",
        ),
        ("a dog " * 20_000, "40006 tokens, but the model takes at most 512"),
        *(
            (text, "ok")
            for text in ("b\0c", "\u202eb\u200b", "e" + "\u0301" * 100, "\U0001f3fb\u200d", "\ufeffb\x1b[31m")
        ),
    ],
    ids=["surrogate", "long", "null", "right to left", "combining", "modifier", "escape"],
)
def test_odd_texts(scorer, text, status):
    scored = scorer.score([{**GOOD, "answer": text}, {**GOOD, "question": f"a {text}"}, GOOD])
    number = re.sub(r"\d{5}", "N", status)
    assert [re.sub(r"\d{5}", "N", row["i2c_status"]).replace("user", "assistant") for row in scored] == [
        number,
        number,
        "ok",
    ]
    if status == "ok":
        assert "".join(scored[0]["answer_tokens"]).strip() == unicodedata.normalize("NFC", text).strip()


def test_what_nobody_foresees_is_a_reason_that_says_so(caplog):
    class Strange:
        """What `with_row_errors` is for: it raises where it is looked at."""

        def __eq__(self, other):
            raise AttributeError("not this one")

        __hash__ = None

    @with_row_errors
    def read(value):
        return value == 1

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(ValueError, match=r"c3l_hf fails at reading the row \(AttributeError\); please report"):
                read(Strange())
    assert caplog.text.count("c3l_hf fails at reading a row") == 1 and "not this one" in caplog.text
    assert messages_of.__wrapped__
