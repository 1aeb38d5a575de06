"""The texts of rows whose images are stored apart."""

import pytest

from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import text_layout
from c3l_hf.data.row_texts import as_one, conversation_of, messages_of_turns, question_and_answer, turns_of


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
    with pytest.raises(RowError, match="only some places of images have"):
        _texts(row)


TURNS = [("Which is red?", "The first."), ("Sure?", "Yes.")]


def _conversation(row):
    return conversation_of(row, text_layout([*row, "image_id"]))


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief."}]])
def test_the_turns_of_a_conversation(system):
    prompt, completion = messages_of_turns(TURNS)
    assert prompt == [{"role": "user", "content": "Which is red?"}] and len(completion) == 3
    for row in ({"prompt": system + prompt, "completion": completion}, {"messages": system + prompt + completion}):
        assert _conversation(row) == TURNS
        assert question_and_answer(row, text_layout([*row, "image_id"])) == as_one(TURNS)
    assert turns_of(system + prompt, completion) == TURNS
    marked = {
        "conversations": [{"from": "human", "value": "<image>\nWhich is red?"}, {"from": "gpt", "value": "The first."}]
    }
    assert _conversation(marked) == TURNS[:1]


def test_messages_of_the_user_that_follow_each_other_are_one_question():
    messages = [("user", "Look."), ("user", "Which?"), ("assistant", "A."), ("user", "Why?"), ("assistant", "It is.")]
    row = {"messages": [{"role": role, "content": content} for role, content in messages]}
    assert _conversation(row) == [("Look.\nWhich?", "A."), ("Why?", "It is.")]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([("user", "Q"), ("assistant", "A"), ("user", "R"), ("assistant", "")], "assistant turn 2: the answer"),
        ([("user", "Q"), ("assistant", "A"), ("user", "<image> R"), ("assistant", "B")], "an image of its own"),
        ([("user", "Q <image> and <image>"), ("assistant", "A")], "an image between its texts"),
        ([("user", "<image>"), ("assistant", "A")], "the question has no text"),
    ],
)
def test_conversations_that_a_label_cannot_hold(messages, reason):
    row = {"messages": [{"role": role, "content": content} for role, content in messages]}
    with pytest.raises(RowError, match=reason):
        _conversation(row)


def test_questions_that_need_what_was_said_before():
    earlier = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    row = {
        "prompt": [*earlier, {"role": "user", "content": "R"}],
        "completion": [{"role": "assistant", "content": "B"}],
    }
    with pytest.raises(RowError, match="the question follows earlier turns"):
        _conversation(row)
    given = {**earlier[1], "weight": 0}
    row = {"messages": [earlier[0], given, row["prompt"][-1], *row["completion"]]}
    with pytest.raises(RowError, match="the question follows earlier turns"):
        _conversation(row)


def test_null_texts_are_no_pair():
    assert _conversation({"prompt": None, "completion": None}) is None
