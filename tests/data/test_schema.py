"""Every accepted row layout becomes the same pair; everything else is refused with a reason."""

import pytest
from datasets import Dataset, Features
from PIL import Image

from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import Pair, is_batch, layout_of, to_pairs
from c3l_hf.data.schema import PAIR_FEATURES, PSEUDO_LABEL_FEATURES, SCORE_COLUMNS, SCORE_FEATURES

IMAGE = Image.new("RGB", (4, 4), "red")
USER = {"role": "user", "content": "What is this?"}
ASSISTANT = {"role": "assistant", "content": "A dog."}
SECOND_IMAGE = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this?"}]}
HUMAN, GPT = {"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A dog."}

LAYOUTS = {
    "prompt-completion": {"prompt": [USER], "completion": [ASSISTANT], "images": [IMAGE]},
    "prompt-completion, one image": {"prompt": [USER], "completion": [ASSISTANT], "image": IMAGE},
    "prompt-completion, strings": {"prompt": "What is this?", "completion": "A dog.", "images": [IMAGE]},
    "messages": {"messages": [USER, ASSISTANT], "images": [IMAGE]},
    "messages, one image": {"messages": [USER, ASSISTANT], "image": IMAGE},
    "question-answer": {"image": IMAGE, "question": "What is this?", "answer": "A dog."},
    "conversations": {"conversations": [HUMAN, GPT], "image": IMAGE},
    "conversations with roles": {"conversations": [USER, ASSISTANT], "image": IMAGE},
    "messages of LLaVA": {"messages": [{**HUMAN, "value": "What is this?"}, GPT], "images": [IMAGE]},
    "texts": {"texts": [{"user": "What is this?", "assistant": "A dog.", "source": "x"}], "images": [IMAGE]},
    "prompt-response": {"prompt": "What is this?", "response": "A dog.", "image": IMAGE},
    "instruction-output": {"instruction": "What is this?", "output": "A dog.", "image": IMAGE},
    "instruction-input-output": {"instruction": "What is this?", "input": "", "output": "A dog.", "image": IMAGE},
    "further columns": {"image": IMAGE, "question": "What is this?", "answer": "A dog.", "id": 7, "type": "x"},
}


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_become_one(row):
    assert to_pairs(row) == [Pair(prompt=[USER], answer="A dog.", images=[IMAGE])]
    assert not is_batch(row)
    assert is_batch({name: [value, value] for name, value in row.items()})


def test_contents_as_items():
    prompt = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is this?"}]}]
    answer = [{"role": "assistant", "content": [{"type": "text", "text": "A "}, {"type": "text", "text": "dog."}]}]
    (pair,) = to_pairs({"messages": prompt + answer, "images": [IMAGE]})
    assert pair.answer == "A dog."
    assert pair.prompt == prompt


def test_system_message_stays():
    system = {"role": "system", "content": "Be brief."}
    assert to_pairs({"messages": [system, USER, ASSISTANT], "image": IMAGE})[0].prompt == [system, USER]


@pytest.mark.parametrize("value", ["<image>\nWhat is this?", "What is this?\n<image>", "<image>What is this?"])
def test_llava_marker_is_removed(value):
    row = {"conversations": [{"from": "human", "value": value}, GPT], "image": IMAGE}
    assert [pair.prompt for pair in to_pairs(row)] == [[USER]]


def test_every_assistant_turn_is_a_pair():
    second = {"role": "user", "content": "And its colour?"}
    row = {"messages": [USER, ASSISTANT, second, {"role": "assistant", "content": "Red."}], "image": IMAGE}
    assert to_pairs(row) == [
        Pair(prompt=[USER], answer="A dog.", images=[IMAGE]),
        Pair(prompt=[USER, ASSISTANT, second], answer="Red.", images=[IMAGE]),
    ]


def test_a_turn_has_the_images_that_stand_before_it():
    other = Image.new("RGB", (4, 4), "blue")
    first = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}
    row = {"messages": [first, ASSISTANT, SECOND_IMAGE, ASSISTANT], "images": [IMAGE, other]}
    assert [pair.images for pair in to_pairs(row)] == [[IMAGE], [IMAGE, other]]


def test_llava_markers_place_several_images():
    human = {"from": "human", "value": "<image>\nCompare this\n<image>\nwith this."}
    (pair,) = to_pairs({"conversations": [human, GPT], "images": [IMAGE, IMAGE]})
    texts = [{"type": "text", "text": "Compare this"}, {"type": "text", "text": "with this."}]
    assert pair.prompt == [{"role": "user", "content": [{"type": "image"}, texts[0], {"type": "image"}, texts[1]]}]
    unmarked = {"from": "human", "value": "Compare these."}
    (pair,) = to_pairs({"conversations": [unmarked, GPT], "images": [IMAGE, IMAGE]})
    assert pair.prompt == [{"role": "user", "content": "Compare these."}] and len(pair.images) == 2


def test_a_row_of_a_dataset():
    rows = {"images": [[IMAGE]], "prompt": [[USER]], "completion": [[ASSISTANT]]}
    ds = Dataset.from_dict(rows, features=Features({name: PAIR_FEATURES[name] for name in rows}))
    (pair,) = to_pairs(ds[0])
    assert (pair.prompt, pair.answer) == ([USER], "A dog.")
    assert not is_batch(ds[0])
    assert is_batch(ds[:1])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": None, "completion": None, "images": [IMAGE]}, "prompt is null"),
        ({"prompt": [USER], "completion": None, "images": [IMAGE]}, "completion is null"),
        ({"prompt": [USER], "completion": [USER], "images": [IMAGE]}, "not the assistant's answer"),
        ({"prompt": [], "completion": [ASSISTANT], "images": [IMAGE]}, "no user message"),
        ({"prompt": [{"text": "?"}], "completion": [ASSISTANT], "images": [IMAGE]}, "without role and content"),
        ({"messages": [ASSISTANT, USER, ASSISTANT], "image": IMAGE}, "assistant turn 1: there is no user message"),
        (
            {"messages": [USER, ASSISTANT, USER, {"role": "assistant", "content": " "}], "image": IMAGE},
            "assistant turn 2: the answer is empty",
        ),
        ({"messages": [USER, ASSISTANT, SECOND_IMAGE, ASSISTANT], "image": IMAGE}, "assistant turn 1: there is no im"),
        ({"messages": [SECOND_IMAGE, ASSISTANT], "images": [IMAGE] * 2}, "places for 1 images, the row has 2"),
        ({"conversations": "<image> What?", "image": IMAGE}, "conversations is str, not a list of turns"),
        ({"conversations": [HUMAN, GPT, HUMAN, GPT], "image": IMAGE}, "2 <image> markers for 1 images"),
        ({"conversations": [HUMAN, GPT], "images": [IMAGE] * 3}, "1 <image> markers for 3 images"),
        ({"messages": [], "image": IMAGE}, "roles: none"),
        ({"messages": 3, "image": IMAGE}, "messages is int 3"),
        ({"question": "?", "answer": "", "image": IMAGE}, "the answer is empty"),
        ({"question": "?", "answer": " \n\t", "image": IMAGE}, "the answer is empty"),
        ({"question": "?", "answer": 3.5, "image": IMAGE}, "answer is float 3.5"),
        ({"question": "?", "answer": [{"role": "assistant", "content": None}], "image": IMAGE}, "not a text"),
        ({"question": "?", "answer": "A dog.", "image": None}, "no image (column image)"),
        ({"question": "?", "answer": "A dog.", "images": []}, "no image (column images)"),
        ({"question": "?", "answer": "A dog.", "images": [None]}, "no image"),
        ({"conversations": None, "image": IMAGE}, "conversations is null"),
        (
            {"messages": [{"role": "user", "content": ["?"]}, ASSISTANT], "image": IMAGE},
            "content of a user message is [",
        ),
        (
            {"messages": [{"role": "user", "content": [None]}, ASSISTANT], "image": IMAGE},
            "not a text or a list of items",
        ),
        ({"messages": [{"role": "user", "content": {"a": 1}}, ASSISTANT], "image": IMAGE}, "not a text or a list of"),
        ({"messages": [{"role": "user", "content": 5}, ASSISTANT], "image": IMAGE}, "content of a user message is 5"),
        (
            {"messages": [{"role": ["user"], "content": "?"}, ASSISTANT], "image": IMAGE},
            "a message has the role ['user']",
        ),
        ({"conversations": [{"from": "human", "value": 5}, GPT], "image": IMAGE}, "content of a user message is 5"),
        ({"conversations": [{"from": ["human"], "value": "?"}, GPT], "image": IMAGE}, "a turn from ['human']"),
        ({"conversations": [{"from": "robot", "value": "x"}, GPT], "image": IMAGE}, "from 'robot'"),
        ({"conversations": [{"value": "x"}, GPT], "image": IMAGE}, "without from and value"),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "image"}]}], "image": IMAGE},
            "items that are not text",
        ),
    ],
)
def test_a_bad_row_has_a_reason(row, reason):
    with pytest.raises(RowError) as error:
        to_pairs(row)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    "columns", [["caption", "image"], ["question", "answer"], ["question", "image"], ["prompt", "images"], []]
)
def test_wrong_columns(columns):
    with pytest.raises(ValueError, match="accepted are: prompt [+] completion") as error:
        layout_of(columns)
    assert (", ".join(columns) or "(none)") in str(error.value)
    assert not isinstance(error.value, RowError)


def test_batches_that_look_like_rows():
    assert is_batch({"prompt": [None, None], "completion": [None, None], "images": [[IMAGE], [IMAGE]]})
    assert is_batch({"prompt": [], "completion": [], "images": []})
    assert is_batch({"question": [], "answer": [], "image": []})
    assert not is_batch({"prompt": [], "completion": [ASSISTANT], "images": [IMAGE]})
    assert not is_batch({"prompt": None, "completion": None, "images": [IMAGE]})


def test_messages_as_a_dict_of_lists():
    """As `datasets` gives those of the type `Sequence`."""
    turns = {"from": ["human", "gpt"], "value": ["<image>\nIs there a dog?", "No."]}
    row = {"conversations": turns, "image": IMAGE}
    assert not is_batch(row) and is_batch({"conversations": [turns], "image": [IMAGE]})
    as_list = [dict(zip(turns, turn)) for turn in zip(*turns.values())]
    assert to_pairs(row) == to_pairs({**row, "conversations": as_list})
    messages = {"role": ["user", "assistant"], "content": ["Is there a dog?", "No."]}
    assert to_pairs({"messages": messages, "images": [IMAGE]}) == to_pairs(row)
    with pytest.raises(RowError, match="conversations is dict, not a list of turns"):
        to_pairs({**row, "conversations": {**turns, "value": ["only one"]}})


def test_feature_names():
    assert list(SCORE_FEATURES) == list(SCORE_COLUMNS)
    assert {"images", "prompt", "chosen", "rejected"} <= set(PSEUDO_LABEL_FEATURES)
    assert not set(PAIR_FEATURES) & set(SCORE_COLUMNS)


def user(content):
    return {"role": "user", "content": content}


def text(value):
    return {"type": "text", "text": value}


PLACE = {"type": "image"}
SECOND = Image.new("RGB", (4, 4), "blue")


@pytest.mark.parametrize("columns", ["messages", "prompt, completion", "prompt", "question", "items"])
def test_a_marker_is_a_place_in_every_layout(columns):
    marked = "First: <image> second: <image> Same?"
    row = {
        "messages": {"messages": [user(marked), ASSISTANT]},
        "prompt, completion": {"prompt": [user(marked)], "completion": [ASSISTANT]},
        "prompt": {"prompt": marked, "completion": "A dog."},
        "question": {"question": marked, "answer": "A dog."},
        "items": {"messages": [user([text(marked)]), ASSISTANT]},
    }[columns]
    (pair,) = to_pairs({**row, "images": [IMAGE, SECOND]})
    assert pair.prompt == [user([text("First: "), PLACE, text(" second: "), PLACE, text(" Same?")])]
    assert pair.images == [IMAGE, SECOND]


def test_markers_keep_their_turns():
    messages = [user("<image>What?"), ASSISTANT, user("<image>\nAnd this?"), {**ASSISTANT, "content": "A cat."}]
    first, second = to_pairs({"messages": messages, "images": [IMAGE, SECOND]})
    assert (first.images, first.prompt) == ([IMAGE], [user([PLACE, text("What?")])])
    assert second.images == [IMAGE, SECOND] and second.prompt[2] == user([PLACE, text("And this?")])


@pytest.mark.parametrize(
    "messages",
    [
        [user("<image><image>Same?"), ASSISTANT],
        [user([PLACE, text("<image>Same?")]), ASSISTANT],
        [user("<image>What?"), ASSISTANT, user("<image>And this?"), ASSISTANT],
    ],
)
def test_more_markers_than_pictures(messages):
    with pytest.raises(RowError, match="^the messages have places for 2 images, the row has 1$"):
        to_pairs({"messages": messages, "images": [IMAGE]})


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [user("Hello."), ASSISTANT, user("<image>What?"), ASSISTANT]},
        {"conversations": [{"from": "human", "value": "Hello."}, GPT, HUMAN, GPT]},
    ],
)
def test_a_picture_in_a_later_turn_is_not_shown_before(row):
    """An answer before it would be scored with a picture that it has not seen."""
    with pytest.raises(RowError, match="assistant turn 1: there is no image before the answer"):
        to_pairs({**row, "images": [IMAGE]})


def test_a_marker_that_is_not_the_users_stays_text():
    answer = {**ASSISTANT, "content": "The tag is <image>."}
    system = {"role": "system", "content": "Say <image> for a picture."}
    (pair,) = to_pairs({"messages": [system, USER, answer], "images": [IMAGE]})
    assert pair.prompt == [system, USER] and pair.answer == "The tag is <image>."


def test_an_input_belongs_to_its_instruction():
    """It is not dropped in silence, whatever reads the columns of the layout alone."""
    row = {"image": IMAGE, "instruction": "Which is it?", "input": "a dog or a cat", "output": "A dog."}
    assert layout_of(row) == ("instruction", "input", "output", "image")
    assert to_pairs(row)[0].prompt == [user("Which is it?\na dog or a cat")]
    with pytest.raises(RowError, match="^input is int 7, beside an instruction; both must be texts$"):
        to_pairs({**row, "input": 7})


def test_turns_of_user_and_assistant():
    texts = [{"user": "What is this?", "assistant": "A dog."}, {"user": "And its colour?", "assistant": "Black."}]
    first, second = to_pairs({"texts": texts, "images": [IMAGE]})
    assert (first.prompt, first.answer) == ([USER], "A dog.")
    assert second.prompt == [USER, ASSISTANT, user("And its colour?")] and second.answer == "Black."
    columns = {name: [turn[name] for turn in texts] for name in ("user", "assistant")}
    assert to_pairs({"texts": columns, "images": [IMAGE]}) == [first, second]
    with pytest.raises(RowError, match="texts has a turn without user and assistant"):
        to_pairs({"texts": [{"user": "What?"}], "images": [IMAGE]})
