"""TRL's preference rows and pseudo-labels mean what they say, in every documented form."""

import pytest
from PIL import Image

from c3l_hf.common.errors import RowError
from c3l_hf.data.preferences import Candidates, preference_columns, read_candidates

IMAGE, SECOND = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
PLACE = {"type": "image"}


def text(value):
    return {"type": "text", "text": value}


def user(content):
    return [{"role": "user", "content": content}]


def assistant(content):
    return [{"role": "assistant", "content": content}]


FORMS = {
    "texts": {"prompt": "Colour?", "chosen": "red", "rejected": "blue"},
    "messages": {"prompt": user("Colour?"), "chosen": assistant("red"), "rejected": assistant("blue")},
    "a list of texts": {"prompt": "Colour?", "chosen": "red", "rejected": ["blue"]},
    "a list of messages": {"prompt": user("Colour?"), "chosen": assistant("red"), "rejected": [assistant("blue")]},
    "a dict of lists": {
        "prompt": {"role": ["user"], "content": ["Colour?"]},
        "chosen": {"role": ["assistant"], "content": ["red"]},
        "rejected": [{"role": ["assistant"], "content": ["blue"]}],
    },
    "items": {
        "prompt": user("Colour?"),
        "chosen": assistant([text("r"), text("ed")]),
        "rejected": assistant([text("blue")]),
    },
}


@pytest.mark.parametrize("row", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("images", [{"images": [IMAGE]}, {"image": IMAGE}, {"image": None, "images": [IMAGE]}])
def test_every_form_means_the_same(row, images):
    assert read_candidates({**row, **images}) == Candidates(user("Colour?"), [IMAGE], "red", ["blue"])


SYSTEM = [{"role": "system", "content": "Be brief."}]
CONVERSATIONS = {
    "a prompt in both": {"chosen": user("Colour?") + assistant("red"), "rejected": user("Colour?") + assistant("blue")},
    "beside the prompt": {
        "prompt": "Colour?",
        "chosen": user("Colour?") + assistant("red"),
        "rejected": user("Colour?") + assistant("blue"),
    },
    "several": {
        "prompt": None,
        "chosen": user("Colour?") + assistant("red"),
        "rejected": [user("Colour?") + assistant("blue")],
    },
    "some alone": {"chosen": user("Colour?") + assistant("red"), "rejected": [assistant("blue")]},
    "as LLaVA has them": {
        "chosen": [{"from": "human", "value": "Colour?"}, {"from": "gpt", "value": "red"}],
        "rejected": [{"from": "human", "value": "Colour?"}, {"from": "gpt", "value": "blue"}],
    },
}


@pytest.mark.parametrize("row", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_whole_conversations_hold_the_prompt(row):
    """As in TRL's datasets with an implicit prompt, and in those that have both."""
    assert read_candidates({**row, "images": [IMAGE]}) == Candidates(user("Colour?"), [IMAGE], "red", ["blue"])


def test_conversations_of_several_turns_with_their_pictures():
    start = user([{"type": "image", "image": "a.png"}, text("Dog?")]) + assistant("No.") + user("Colour?")
    row = {"chosen": start + assistant("red"), "rejected": start + assistant("blue")}
    candidates = read_candidates(row)
    assert candidates == Candidates(user([PLACE, text("Dog?")]) + start[1:], ["a.png"], "red", ["blue"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "red"}, "prompt: it is empty, and chosen has no messages before its answer"),
        (
            {"chosen": SYSTEM + user("Colour?") + assistant("red"), "prompt": "Colour?"},
            "chosen: its messages before the answer are not those of the prompt",
        ),
        (
            {"chosen": user("Colour?") + assistant("red"), "rejected": user("Colours?") + assistant("blue")},
            "rejected[0]: its messages before the answer are not those of the prompt",
        ),
        (
            {"chosen": user("Colour?") + assistant("red") + user("Sure?")},
            "chosen: its messages are not one of the assistant",
        ),
        # Two answers, or an answer in two parts? Not said.
        (
            {"prompt": "Colour?", "chosen": "red", "rejected": assistant("blue") + assistant("green")},
            "rejected[0]: its messages are not one of the assistant",
        ),
        ({}, "chosen: there is no such column, only image, rejected"),
        ({"chosen": None}, "chosen: it is null"),
        ({"prompt": "Colour?", "chosen": "red", "image": None}, "images: there is none"),
    ],
)
def test_conversations_that_do_not_go_together(row, reason):
    with pytest.raises(RowError) as error:
        read_candidates({"image": IMAGE, "rejected": None, **row})
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize("rejected", [None, []])
def test_no_rejected_answer(rejected):
    assert read_candidates({**FORMS["texts"], "rejected": rejected, "image": IMAGE}).rejected == []


@pytest.mark.parametrize(
    "prompt", ["<image>\nThe same as <image>?", user([PLACE, text("The same as "), PLACE, text("?")])]
)
def test_places_are_kept(prompt):
    candidates = read_candidates({**FORMS["texts"], "prompt": prompt, "images": [IMAGE, SECOND]})
    assert [item["type"] for item in candidates.prompt[0]["content"]] == ["image", "text", "image", "text"]
    assert candidates.images == [IMAGE, SECOND]
    with pytest.raises(RowError, match="^prompt: the messages have places for 2 images, the row has 1$"):
        read_candidates({**FORMS["texts"], "prompt": prompt, "images": [IMAGE]})


def test_pictures_in_the_prompt():
    prompt = user([{"type": "image", "image": "a.png"}, text("Colour?")])
    assert read_candidates({**FORMS["texts"], "prompt": prompt}).images == ["a.png"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": []}, "images: there is none"),
        ({"images": [IMAGE, None]}, "images: images[1] is null; the row has 2 images"),
        ({"prompt": None}, "prompt: it is empty"),
        ({"prompt": 5}, "prompt: prompt is a number"),
        ({"tools": '[{"name": "zoom"}]'}, "prompt: the row has something in its column tools"),
        ({"prompt": "What is in <image 1>?"}, "prompt: the text has '<image 1>', which is not read"),
        ({"chosen": "[{'role': 'assistant', 'content': 'x'}]"}, "chosen: the answer is a list of messages written as"),
        ({"chosen": user("red")}, "chosen: its messages are not one of the assistant"),
        ({"chosen": 3}, "chosen: the answer is a number"),
        ({"rejected": ["blue", " "]}, "rejected[1]: the answer is empty"),
        ({"rejected": ["blue", None]}, "rejected[1]: it is null"),
        ({"rejected": 7}, "rejected: it is a number, not an answer or a list of answers"),
        ({"rejected": assistant([PLACE])}, "rejected[0]: the answer has items that are not text"),
    ],
)
def test_a_bad_row_names_its_column(change, reason):
    with pytest.raises(RowError) as error:
        read_candidates({**FORMS["texts"], "images": [IMAGE], **change})
    assert str(error.value).startswith(reason)


def test_columns():
    assert preference_columns(["image", "prompt", "chosen", "rejected", "id"]).images == ("image",)
    assert preference_columns(["image", "prompt", "chosen", "rejected", "tools"]).further == ("tools",)
    assert preference_columns(["chosen", "rejected"]).columns == ("chosen", "rejected")
    with pytest.raises(ValueError, match="^no column 'rejected'; it has prompt, chosen$"):
        preference_columns(["prompt", "chosen"])
