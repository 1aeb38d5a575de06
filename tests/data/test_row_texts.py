"""The texts of rows whose images are stored apart."""

import pytest

from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import text_layout
from c3l_hf.data.row_texts import question_and_answer


def _texts(row):
    return question_and_answer(row, text_layout([*row, "image_id"]))


@pytest.mark.parametrize(
    "row",
    [
        {"question": "<image>\nWhich tag?", "answer": "It is <image>."},
        {"prompt": "<image>\nWhich tag?", "completion": "It is <image>."},
        {"messages": [("user", "<image>\nWhich tag?"), ("assistant", "It is <image>.")]},
        {"conversations": [("user", "<image>\nWhich tag?"), ("assistant", "It is <image>.")]},
        {"messages": [("user", [{"type": "image"}, "Which tag?"]), ("assistant", "It is <image>.")]},
        {"messages": [("user", [{"type": "image", "index": 0}] * 2 + ["Which tag?"]), ("assistant", "It is <image>.")]},
        {"messages": [("user", [{"type": "image", "image": "a.png"}, "Which tag?"]), ("assistant", "It is <image>.")]},
    ],
)
def test_as_many_images_as_there_are_places(row):
    for name in {"messages", "conversations"} & set(row):
        row = {name: [{"role": role, "content": _content(content)} for role, content in row[name]]}
    assert _texts(row) == ("Which tag?", "It is <image>.")


def _content(content):
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": item} if isinstance(item, str) else dict(item) for item in content]


def test_several_markers_in_a_conversation():
    turns = [("human", "<image><image>\nWhich is red?"), ("gpt", "The first."), ("human", "Sure?"), ("gpt", "Yes.")]
    row = {"conversations": [{"from": name, "value": text} for name, text in turns]}
    question, answer = _texts(row)
    assert (question.split(), answer) == (["Which", "is", "red?", "Sure?"], "The first.\nYes.")


def test_places_that_say_only_in_part_which_image_they_are():
    items = [{"type": "image", "index": 0}, {"type": "image"}, {"type": "text", "text": "Which?"}]
    row = {"messages": [{"role": "user", "content": items}, {"role": "assistant", "content": "None."}]}
    with pytest.raises(RowError, match="the places of images have the numbers"):
        _texts(row)
