"""Every accepted row layout becomes the same pairs; everything else is refused with a reason."""

import pytest
from datasets import Dataset, Features
from PIL import Image

from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import is_batch, layout_of
from c3l_hf.data.schema import PAIR_FEATURES
from c3l_hf.data.turns import Pair, to_turns, turn_reason

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
    "query-response": {"query": "What is this?", "response": "A dog.", "image": IMAGE},
    "instruction-input-output": {"instruction": "What is this?", "input": "", "output": "A dog.", "image": IMAGE},
    "further columns": {"image": IMAGE, "question": "What is this?", "answer": "A dog.", "id": 7, "type": "x"},
}


def reason_of(row):
    """Why a row, or some of its turns, are no pairs."""
    try:
        turns = to_turns(row)
    except RowError as error:
        return str(error)
    reasons = [turn_reason(turn, number, len(turns)) for number, turn in enumerate(turns) if isinstance(turn, RowError)]
    return "; ".join(reasons)


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_become_one(row):
    assert to_turns(row) == [Pair(prompt=[USER], answer="A dog.", images=[IMAGE])]
    assert not is_batch(row)
    assert is_batch({name: [value, value] for name, value in row.items()})


def test_contents_as_items():
    prompt = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is this?"}]}]
    answer = [{"role": "assistant", "content": [{"type": "text", "text": "A "}, {"type": "text", "text": "dog."}]}]
    (pair,) = to_turns({"messages": prompt + answer, "images": [IMAGE]})
    assert pair.answer == "A dog."
    assert pair.prompt == [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]


def test_system_message_stays():
    system = {"role": "system", "content": "Be brief."}
    assert to_turns({"messages": [system, USER, ASSISTANT], "image": IMAGE})[0].prompt == [system, USER]


@pytest.mark.parametrize("value", ["<image>\nWhat is this?", "What is this?\n<image>", "<image>What is this?"])
def test_llava_marker_is_removed(value):
    row = {"conversations": [{"from": "human", "value": value}, GPT], "image": IMAGE}
    assert [pair.prompt for pair in to_turns(row)] == [[USER]]


def test_every_assistant_turn_is_a_pair():
    second = {"role": "user", "content": "And its colour?"}
    row = {"messages": [USER, ASSISTANT, second, {"role": "assistant", "content": "Red."}], "image": IMAGE}
    assert to_turns(row) == [
        Pair(prompt=[USER], answer="A dog.", images=[IMAGE]),
        Pair(prompt=[USER, ASSISTANT, second], answer="Red.", images=[IMAGE]),
    ]


def test_a_turn_has_the_images_that_stand_before_it():
    other = Image.new("RGB", (4, 4), "blue")
    first = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}
    row = {"messages": [first, ASSISTANT, SECOND_IMAGE, ASSISTANT], "images": [IMAGE, other]}
    assert [pair.images for pair in to_turns(row)] == [[IMAGE], [IMAGE, other]]


def test_llava_markers_place_several_images():
    human = {"from": "human", "value": "<image>\nCompare this\n<image>\nwith this."}
    (pair,) = to_turns({"conversations": [human, GPT], "images": [IMAGE, IMAGE]})
    texts = [{"type": "text", "text": "Compare this"}, {"type": "text", "text": "with this."}]
    assert pair.prompt == [{"role": "user", "content": [{"type": "image"}, texts[0], {"type": "image"}, texts[1]]}]
    unmarked = {"from": "human", "value": "Compare these."}
    (pair,) = to_turns({"conversations": [unmarked, GPT], "images": [IMAGE, IMAGE]})
    assert pair.prompt == [{"role": "user", "content": "Compare these."}] and len(pair.images) == 2


def test_a_row_of_a_dataset():
    rows = {"images": [[IMAGE]], "prompt": [[USER]], "completion": [[ASSISTANT]]}
    ds = Dataset.from_dict(rows, features=Features({name: PAIR_FEATURES[name] for name in rows}))
    (pair,) = to_turns(ds[0])
    assert (pair.prompt, pair.answer) == ([USER], "A dog.")
    assert not is_batch(ds[0])
    assert is_batch(ds[:1])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": None, "completion": None, "images": [IMAGE]}, "prompt is null"),
        ({"prompt": [USER], "completion": None, "images": [IMAGE]}, "completion is null"),
        (
            {"prompt": [USER], "completion": [USER], "images": [IMAGE]},
            "no answer of the assistant",
        ),
        ({"prompt": [], "completion": [ASSISTANT], "images": [IMAGE]}, "no user message"),
        ({"prompt": [{"text": "?"}], "completion": [ASSISTANT], "images": [IMAGE]}, "without role and content"),
        ({"messages": [ASSISTANT, USER, ASSISTANT], "image": IMAGE}, "assistant turn 1: there is no user message"),
        (
            {"messages": [USER, ASSISTANT, USER, {"role": "assistant", "content": " "}], "image": IMAGE},
            "assistant turn 2: the answer is empty",
        ),
        ({"messages": [SECOND_IMAGE, ASSISTANT], "images": []}, "places for 1 images, the row has 0"),
        ({"messages": [SECOND_IMAGE, ASSISTANT], "images": [IMAGE] * 2}, "places for 1 images, the row has 2"),
        ({"conversations": "<image> What?", "image": IMAGE}, "conversations is a text, not a list of turns"),
        ({"conversations": [HUMAN, GPT, HUMAN, GPT], "image": IMAGE}, "2 <image> markers for 1 images"),
        ({"conversations": [HUMAN, GPT], "images": [IMAGE] * 3}, "1 <image> markers for 3 images"),
        ({"messages": [], "image": IMAGE}, "no answer of the assistant"),
        ({"messages": 3, "image": IMAGE}, "messages is a number"),
        ({"question": "?", "answer": "", "image": IMAGE}, "the answer is empty"),
        ({"question": "?", "answer": " \n\t", "image": IMAGE}, "the answer is empty"),
        ({"question": "?", "answer": 3.5, "image": IMAGE}, "answer is a number"),
        ({"question": "?", "answer": [{"role": "assistant", "content": None}], "image": IMAGE}, "not a text"),
        ({"question": "?", "answer": "A dog.", "images": [None]}, "images[0] is null; the row has 1 images"),
        ({"question": "?", "answer": "A dog.", "images": [IMAGE, None]}, "images[1] is null; the row has 2 images"),
        ({"question": "?", "answer": "A dog.", "images": [IMAGE], "image": IMAGE}, "pictures in both images and image"),
        (
            {"question": "?", "answer": ["A dog.", "dog"], "image": IMAGE},
            "answer has 2 answers; say which",
        ),
        (
            {"question": "?", "answers": {"answer": ["dog"]}, "image": IMAGE},
            "answers is no list of texts; say which",
        ),
        ({"question": "?", "answers": None, "image": IMAGE}, "answers is null; say which"),
        ({"messages": [USER], "image": IMAGE}, "no answer of the assistant"),
        ({"conversations": None, "image": IMAGE}, "conversations is null"),
        (
            {"messages": [{"role": "user", "content": ["?"]}, ASSISTANT], "image": IMAGE},
            "content of the user message is neither",
        ),
        (
            {"messages": [{"role": "user", "content": [None]}, ASSISTANT], "image": IMAGE},
            "neither a text nor a list of items",
        ),
        (
            {"messages": [{"role": "user", "content": {"a": 1}}, ASSISTANT], "image": IMAGE},
            "neither a text nor a list of",
        ),
        (
            {"messages": [{"role": "user", "content": 5}, ASSISTANT], "image": IMAGE},
            "content of the user message is neither",
        ),
        (
            {"messages": [{"role": ["user"], "content": "?"}, ASSISTANT], "image": IMAGE},
            "a message has a role that is a list",
        ),
        (
            {"conversations": [{"from": "human", "value": 5}, GPT], "image": IMAGE},
            "content of the user message is neither",
        ),
        ({"conversations": [{"from": ["human"], "value": "?"}, GPT], "image": IMAGE}, "a turn from an unknown role"),
        ({"conversations": [{"from": "robot", "value": "x"}, GPT], "image": IMAGE}, "from an unknown role"),
        ({"conversations": [{"value": "x"}, GPT], "image": IMAGE}, "without from and value"),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "image"}]}], "image": IMAGE},
            "items that are not text",
        ),
        (
            {"messages": [USER, ASSISTANT], "image": IMAGE, "tools": '[{"name": "zoom"}]'},
            "something in its column tools",
        ),
        ({"conversations": [HUMAN, GPT], "image": IMAGE, "video": "a.mp4"}, "something in its column video"),
        ({"messages": [USER, ASSISTANT], "images": [], "videos": [{"path": "a.mp4"}]}, "column videos"),
        ({"question": "?", "answer": "A dog.", "image": IMAGE, "audio": {"bytes": b"x"}}, "column audio"),
        (
            {"messages": [USER, {**ASSISTANT, "tool_calls": [{"function": {"name": "zoom"}}]}], "image": IMAGE},
            "a message has tool_calls",
        ),
        ({"messages": [USER, {**ASSISTANT, "weight": 0.5}], "image": IMAGE}, "a weight other than 0 and 1"),
        ({"messages": [USER, {**ASSISTANT, "weight": 0}], "image": IMAGE}, "no answer of the assistant is asked for"),
        (
            {"messages": [USER, {"role": "tool", "content": "<image>"}, ASSISTANT], "image": IMAGE},
            "<image> in a message of a tool",
        ),
        (
            {"prompt": '[{"role": "user", "content": "What?"}]', "completion": "A dog.", "image": IMAGE},
            "prompt is a list of messages written as a text",
        ),
        (
            {"prompt": "What?", "completion": "[{'role': 'assistant', 'content': 'x'}]", "image": IMAGE},
            "completion is a list of messages written as a text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "?", "image": "a.png"}]}, ASSISTANT]},
            "an item of the type text has a picture, too",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png", "text": "?"}]}, ASSISTANT]},
            "an item of the type image has a text, too",
        ),
    ],
)
def test_a_bad_row_has_a_reason(row, reason):
    assert reason in reason_of(row)


def test_messages_as_a_dict_of_lists():
    """As `datasets` gives those of the type `Sequence`."""
    turns = {"from": ["human", "gpt"], "value": ["<image>\nIs there a dog?", "No."]}
    row = {"conversations": turns, "image": IMAGE}
    assert not is_batch(row) and is_batch({"conversations": [turns], "image": [IMAGE]})
    as_list = [dict(zip(turns, turn)) for turn in zip(*turns.values())]
    assert to_turns(row) == to_turns({**row, "conversations": as_list})
    messages = {"role": ["user", "assistant"], "content": ["Is there a dog?", "No."]}
    assert to_turns({"messages": messages, "images": [IMAGE]}) == to_turns(row)
    with pytest.raises(RowError, match="conversations is an object, not a list of turns"):
        to_turns({**row, "conversations": {**turns, "value": ["only one"]}})


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
    (pair,) = to_turns({**row, "images": [IMAGE, SECOND]})
    assert pair.prompt == [user([text("First: "), PLACE, text(" second: "), PLACE, text(" Same?")])]
    assert pair.images == [IMAGE, SECOND]


def test_markers_keep_their_turns():
    messages = [user("<image>What?"), ASSISTANT, user("<image>\nAnd this?"), {**ASSISTANT, "content": "A cat."}]
    first, second = to_turns({"messages": messages, "images": [IMAGE, SECOND]})
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
        to_turns({"messages": messages, "images": [IMAGE]})


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [user("Hello."), ASSISTANT, user("<image>What?"), ASSISTANT]},
        {"conversations": [{"from": "human", "value": "Hello."}, GPT, HUMAN, GPT]},
    ],
)
def test_a_picture_in_a_later_turn_is_not_shown_before(row):
    """An answer before it would be scored with a picture that it has not seen."""
    first, second = to_turns({**row, "images": [IMAGE]})
    assert first.images == [] and second.images == [IMAGE]
    assert first.prompt == [user("Hello.")]
    assert second.prompt[:2] == [user("Hello."), ASSISTANT] and second.prompt[2]["content"][0] == PLACE


def test_a_marker_that_is_not_the_users_stays_text():
    answer = {**ASSISTANT, "content": "The tag is <image>."}
    system = {"role": "system", "content": "Say <image> for a picture."}
    (pair,) = to_turns({"messages": [system, USER, answer], "images": [IMAGE]})
    assert pair.prompt == [system, USER] and pair.answer == "The tag is <image>."


@pytest.mark.parametrize(
    "marker", ["<image 1>", "<image_1>", "<|image_1|>", "<IMAGE>", "<image/>", "<ImageHere>", "<img>a.png</img>"]
)
@pytest.mark.parametrize("layout", ["question", "conversations", "items"])
def test_other_peoples_markers_are_no_letters(marker, layout):
    """MMMU's, Phi's, ...: read as letters, the model would see them beside a picture at the front."""
    text = f"What is in {marker}?"
    row = {
        "question": {"question": text, "answer": "A dog."},
        "conversations": {"conversations": [{**HUMAN, "value": text}, GPT]},
        "items": {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}, ASSISTANT]},
    }[layout]
    assert f"the text has '{marker}', which is not read" in reason_of({**row, "image": IMAGE})
    assert reason_of({**row, "image": None}) == ""  # in a text alone they are letters


@pytest.mark.parametrize("text", ["<image>\nIs <image 1> a dog?", "Is <image 1> a dog?\n<image>"])
@pytest.mark.parametrize("layout", ["question", "conversations"])
def test_beside_a_place_they_are_letters(text, layout):
    row = (
        {"question": text, "answer": "x"}
        if layout == "question"
        else {"conversations": [{**HUMAN, "value": text}, GPT]}
    )
    (pair,) = to_turns({**row, "image": IMAGE})
    assert "Is <image 1> a dog?" in str(pair.prompt)


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"loss": False}])
def test_answers_that_are_given_are_no_turns(mark):
    """OpenAI's `weight`, ms-swift's `loss`: what is not to be learned stands before what is."""
    wrong, again = {"role": "assistant", "content": "A cat."}, {"role": "user", "content": "Look again."}
    other = {name: 1 for name in mark if name == "weight"}
    messages = [USER, {**wrong, **mark}, {**again, **dict.fromkeys(mark)}, {**ASSISTANT, **other}]
    expected = [Pair([USER, wrong, again], "A dog.", [IMAGE])]
    assert to_turns({"messages": messages, "images": [IMAGE]}) == expected
    turns = [{"from": message["role"], "value": message["content"], **message} for message in messages]
    assert to_turns({"conversations": turns, "image": IMAGE}) == expected


def test_names_of_roles():
    human, gpt = {**USER, "role": "human"}, {**ASSISTANT, "role": "gpt"}
    assert to_turns({"messages": [human, gpt], "image": IMAGE}) == [Pair([USER], "A dog.", [IMAGE])]


@pytest.mark.parametrize("nothing", [None, "", "[]", [], {}, [None], {"bytes": None, "path": None}, False])
def test_columns_that_are_not_read_may_be_empty(nothing):
    row = {"messages": [USER, ASSISTANT], "image": IMAGE, "tools": nothing, "videos": nothing}
    assert to_turns(row) == [Pair([USER], "A dog.", [IMAGE])]


def test_a_struct_of_nulls_is_no_picture():
    blank = {"bytes": None, "path": None}
    assert to_turns({"image": blank, "question": "?", "answer": "A dog."}) == [
        Pair([{"role": "user", "content": "?"}], "A dog.", [])
    ]
    assert to_turns({"image": blank, "images": [IMAGE], "question": "?", "answer": "A dog."})[0].images == [IMAGE]


def test_an_input_belongs_to_its_instruction():
    """It is not dropped in silence, whatever reads the columns of the layout alone."""
    row = {"image": IMAGE, "instruction": "Which is it?", "input": "a dog or a cat", "output": "A dog."}
    assert layout_of(row).columns == ("instruction", "output", "input", "image")
    assert to_turns(row)[0].prompt == [user("Which is it?\na dog or a cat")]
    with pytest.raises(RowError, match="^input is a number, beside an instruction; both must be texts$"):
        to_turns({**row, "input": 7})


def test_turns_of_user_and_assistant():
    texts = [{"user": "What is this?", "assistant": "A dog."}, {"user": "And its colour?", "assistant": "Black."}]
    first, second = to_turns({"texts": texts, "images": [IMAGE]})
    assert (first.prompt, first.answer) == ([USER], "A dog.")
    assert second.prompt == [USER, ASSISTANT, user("And its colour?")] and second.answer == "Black."
    columns = {name: [turn[name] for turn in texts] for name in ("user", "assistant")}
    assert to_turns({"texts": columns, "images": [IMAGE]}) == [first, second]
    with pytest.raises(RowError, match="texts has a turn without user and assistant"):
        to_turns({"texts": [{"user": "What?"}], "images": [IMAGE]})


def test_a_row_without_an_image_has_pairs():
    """Students are trained on them; the scorer says that there is none."""
    for images in ({"image": None}, {"images": []}, {"images": None, "image": None}, {}):
        assert to_turns({"messages": [USER, ASSISTANT], **images}) == [Pair([USER], "A dog.", [])]


def test_single_pictures_and_several_in_columns_of_their_own():
    """As in data that was merged: Arrow fills the other column with null."""
    assert to_turns({"question": "?", "answer": "No.", "image": IMAGE, "images": None})[0].images == [IMAGE]
    assert to_turns({"question": "?", "answer": "No.", "image": None, "images": [IMAGE, SECOND]})[0].images == [
        IMAGE,
        SECOND,
    ]


def test_a_bad_turn_leaves_the_others():
    empty, second = {**ASSISTANT, "content": " "}, user("And its colour?")
    turns = to_turns({"messages": [USER, empty, second, ASSISTANT, user("Thanks.")], "image": IMAGE})
    assert str(turns[0]) == "the answer is empty"
    assert turns[1] == Pair([USER, empty, second], "A dog.", [IMAGE])
    first, pair = to_turns({"messages": [ASSISTANT, USER, ASSISTANT], "image": IMAGE})
    assert str(first) == "there is no user message before the answer" and pair.prompt == [ASSISTANT, USER]
    # A message that cannot be read is part of what comes before all later answers.
    broken = to_turns({"messages": [USER, ASSISTANT, user(5), ASSISTANT], "image": IMAGE})
    assert isinstance(broken[0], Pair) and "content of the user message is neither" in str(broken[1])


def test_the_answers_of_a_prompt_are_none_of_the_rows():
    """What stands in the prompt is given; only the completion is asked for, as in TRL."""
    prompt = [USER, ASSISTANT, user("And its colour?")]
    completion = [{"role": "assistant", "content": "Red."}]
    assert to_turns({"prompt": prompt, "completion": completion, "image": IMAGE}) == [Pair(prompt, "Red.", [IMAGE])]
    row = {"query": "And its colour?", "response": "Red.", "history": [["What is this?", "A dog."]], "image": IMAGE}
    assert to_turns(row) == [Pair(prompt, "Red.", [IMAGE])]
    assert "history has something else than pairs" in reason_of({**row, "history": ["What?"]})


def test_a_system_message_in_a_column_of_its_own():
    """As LLaMA-Factory has it: dropped in silence, it would change what the answer is scored after."""
    system = {"role": "system", "content": "Be brief."}
    row = {"conversations": [HUMAN, GPT], "image": IMAGE, "system": "Be brief."}
    assert to_turns(row)[0].prompt == [system, USER]
    assert to_turns({**row, "system": None})[0].prompt == [USER]
    own = [{"from": "system", "value": "Be brief."}, HUMAN, GPT]
    assert to_turns({**row, "conversations": own})[0].prompt == [system, USER]
    assert "says something else" in reason_of({**row, "conversations": own, "system": "Be long."})
    assert "system is a number" in reason_of({**row, "system": 3})


def own_picture(item):
    return {"messages": [user([item, text("What is this?")]), ASSISTANT]}


@pytest.mark.parametrize(
    "item",
    [
        {"type": "image", "image": "a.png"},
        {"type": "image", "url": "a.png"},
        {"type": "image", "path": "a.png", "image": None},
        {"type": "image_url", "image_url": "a.png"},
        {"type": "input_image", "image_url": "a.png"},
        {"image": "a.png"},
    ],
)
def test_pictures_in_messages(item):
    (pair,) = to_turns(own_picture(item))
    assert pair.images == ["a.png"] and pair.prompt == [user([PLACE, text("What is this?")])]
    assert "1 pictures of their own, and the row has 1 beside" in reason_of({**own_picture(item), "image": IMAGE})


def test_pictures_in_messages_as_openai_has_them():
    item = {"type": "image_url", "image_url": {"url": "a.png"}, "text": None}
    messages = [user([item, {"type": "text", "text": "What?", "image_url": None}]), ASSISTANT, user([item]), ASSISTANT]
    first, second = to_turns({"messages": messages})
    assert first.images == [{"url": "a.png"}] and second.images == [{"url": "a.png"}] * 2
    assert [item["type"] for item in first.prompt[0]["content"]] == ["image", "text"]
    # Where Arrow has filled a struct with nulls the item is a place.
    place = {"type": "image_url", "image_url": {"url": None}}
    assert to_turns({"messages": [user([place, text("?")]), ASSISTANT], "image": IMAGE})[0].images == [IMAGE]


def test_an_item_without_its_picture_beside_others():
    items = [{"type": "image", "image": "a.png"}, PLACE, text("The same?")]
    assert "places for 2 images, the row has 1" in reason_of({"messages": [user(items), ASSISTANT]})


def test_numbers_say_which_image_stands_where():
    """llava-instruct-mix-vsft's items have an `index`."""

    def row(*numbers):
        items = [{"index": number, "type": "image", "text": None} for number in numbers]
        items.append({"index": None, "type": "text", "text": "What is this?"})
        return {"messages": [user(items), ASSISTANT], "images": [IMAGE, SECOND]}

    assert to_turns(row(0, 1))[0].images == [IMAGE, SECOND]
    assert to_turns(row(1, 0))[0].images == [SECOND, IMAGE]
    assert to_turns(row(1, 0, 1))[0].images == [SECOND, IMAGE, SECOND]
    assert to_turns(row(1, 0))[0].prompt[0]["content"][:2] == [PLACE, PLACE]
    assert "are not those of the row's 2 images" in reason_of(row(0, 0))
    assert "are not those of the row's 2 images" in reason_of(row(0, 7))


def test_one_answer_in_a_list_is_the_answer():
    assert to_turns({"question": "What is this?", "answer": ["A dog."], "image": IMAGE}) == [
        Pair([USER], "A dog.", [IMAGE])
    ]
    assert to_turns({"question": "What is this?", "answers": ["A dog."], "image": IMAGE})[0].answer == "A dog."


def _with_items(*items, images=("p", "q")):
    content = [*items, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "Red."}]
    return {"messages": messages, "images": list(images)}


def test_numbers_of_places_as_decimals():
    row = _with_items({"type": "image", "index": 1.0}, {"type": "image", "index": 0.0})
    assert to_turns(row)[0].images == ["q", "p"]


@pytest.mark.parametrize("numbers", [(1, None), (None, 0), ("1", "0"), (0.5, 1), (float("nan"), 1)])
def test_places_of_which_only_some_have_a_whole_number(numbers):
    row = _with_items(*({"type": "image", "index": number} for number in numbers))
    with pytest.raises(RowError, match="only some places of images have"):
        to_turns(row)


def test_the_picture_of_an_item_beside_a_struct_of_nulls():
    nothing = {"bytes": None, "path": None}
    item = {"type": "image_url", "image": nothing, "image_url": {"url": "a.png"}}
    assert to_turns(_with_items(item, images=()))[0].images == [{"url": "a.png"}]
