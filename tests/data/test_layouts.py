"""Which columns of a dataset hold its pairs, and whether a mapping is a row or a batch."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import is_batch, layout_of, unread_parts

IMAGE = Image.new("RGB", (4, 4), "red")
ASSISTANT = {"role": "assistant", "content": "A dog."}


@pytest.mark.parametrize(
    ("columns", "nearest"),
    [
        (["caption", "image"], ""),
        (["question", "answer"], "question + answer + image, which lacks image"),
        (["question", "image"], "question + answer + image, which lacks answer"),
        (["prompt", "images"], "prompt + completion + image, which lacks completion"),
        (["image", "question", "multiple_choice_answer"], "question + answer + image, which lacks answer"),
        (["instruction", "input", "image"], "instruction + output + image, which lacks output"),
        (["texts"], "texts + image, which lacks image"),
        ([], ""),
    ],
)
def test_wrong_columns(columns, nearest):
    with pytest.raises(ValueError, match="accepted are: prompt [+] completion") as error:
        layout_of(columns)
    assert (", ".join(columns) or "(none)") in str(error.value)
    assert ("the nearest layout" in str(error.value)) == bool(nearest) and nearest in str(error.value)
    assert not isinstance(error.value, RowError)


def test_the_columns_of_a_layout():
    layout = layout_of(["id", "image", "images", "system", "conversations", "source"])
    assert layout.columns == ("conversations", "system", "images", "image")
    assert layout_of(["messages"]).images == ()
    assert str(layout_of(["question", "answer", "image", "system"])) == "question + answer + image"


def test_batches_that_look_like_rows():
    assert is_batch({"prompt": [None, None], "completion": [None, None], "images": [[IMAGE], [IMAGE]]})
    assert is_batch({"prompt": [], "completion": [], "images": []})
    assert is_batch({"question": [], "answer": [], "image": []})
    assert not is_batch({"prompt": [], "completion": [ASSISTANT], "images": [IMAGE]})
    assert not is_batch({"prompt": None, "completion": None, "images": [IMAGE]})


@pytest.mark.parametrize(
    "row",
    [
        {"image": "a.png", "question": ["What?", "Who?"], "answer": ["A dog.", "Me."]},
        {"image": ["a.png", "b.png"], "question": ["What?"], "answer": ["A dog."]},
    ],
)
def test_a_row_with_several_questions_is_no_batch(row):
    """Read as one, its picture would be the first letter of a path, or one of several."""
    assert not is_batch(row)


@pytest.mark.parametrize("column", [np.array(["What?"]), pd.Series(["What?"])])
def test_arrays_are_refused(column):
    with pytest.raises(ValueError, match=r"column 'question' is \w+; .* dataset.with_format\(None\)"):
        is_batch({"image": column, "question": column, "answer": column})
    with pytest.raises(ValueError, match="column 'image' is "):
        is_batch({"image": column, "question": ["What?"], "answer": ["A dog."]})
    assert not is_batch({"image": np.zeros((2, 2)), "question": "What?", "answer": "A dog."})
    assert not is_batch({"image": "a.png", "question": np.str_("What?"), "answer": "A dog."})


def test_parts_of_a_question_that_are_not_read():
    columns = ["index", "image", "question", "hint", "A", "B", "answer", "category"]
    assert unread_parts(columns) == ["hint", "A", "B"]
    assert unread_parts([name for name in columns if name != "image"]) == ["hint", "A", "B"]
    assert unread_parts(["image", "conversations", "choices"]) == []


def test_columns_that_must_be_empty_are_read():
    layout = layout_of(["tools", "messages", "videos", "images", "system"])
    assert layout.columns == ("messages", "system", "tools", "videos", "images")


def test_names_in_other_writing():
    with pytest.raises(ValueError, match="names are read as they are written, not as in ' question', 'Answer';"):
        layout_of(["image", " question", "Answer"])


def test_preference_rows_are_told_apart():
    with pytest.raises(ValueError, match="they are preference rows, which training takes"):
        layout_of(["images", "prompt", "chosen", "rejected"])
    assert layout_of(["prompt", "completion", "chosen", "rejected"]).text == ("prompt", "completion")
