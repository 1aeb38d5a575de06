"""Other people's column names, and rows with several answers."""

import json

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Image, Json, List, Value, concatenate_datasets

from c3l_hf.common.errors import RunError
from c3l_hf.data.arranging import arranged, restored
from c3l_hf.data.stored_rows import stored_rows

COLUMNS = {"question": "frage", "answer": "antwort", "image": "bild"}


def german(count=3, **more):
    # Not pictures at all: whoever decodes one fails.
    images = [{"bytes": f"picture {number}".encode(), "path": None} for number in range(count)]
    rows = {
        "bild": images,
        "frage": [f"{n}?" for n in range(count)],
        "antwort": [f"{n}!" for n in range(count)],
        **more,
    }
    return Dataset.from_dict(rows).cast_column("bild", Image())


def rows_of(dataset):
    return stored_rows(dataset.with_format("arrow")[:], dataset.features)


def test_names_there_and_back():
    dataset = german(note=["a", "b", "c"])
    there = arranged(dataset, COLUMNS)
    assert there.column_names == ["image", "question", "answer", "note"] and there.features["image"] == Image()
    back = restored(there.add_column("i2c", [0.1, 0.2, 0.3]), COLUMNS)
    assert back.column_names == [*dataset.column_names, "i2c"] and back.features["bild"] == Image()
    assert rows_of(back.remove_columns("i2c")) == rows_of(dataset)
    assert arranged(dataset, {}) is dataset


def test_names_exchanged_and_columns_left_out():
    dataset = german().rename_columns({"frage": "answer", "antwort": "question"})
    dataset = dataset.add_column("messages", ["x"] * 3)
    columns = {"question": "answer", "answer": "question", "image": "bild", "messages": None}
    there = arranged(dataset, columns)
    assert there["question"][:] == ["0?", "1?", "2?"] and "messages" not in there.column_names
    assert rows_of(restored(there, columns)) == rows_of(dataset)
    with pytest.raises(
        RunError, match=r"question would not be read, since .* as messages \+ image; leave out messages"
    ):
        arranged(dataset, {name: own for name, own in columns.items() if own})


def test_a_column_makes_room_for_another():
    dataset = german(image=["nonsense"] * 3)
    with pytest.raises(RunError, match="there is a column 'image' beside 'bild'; give that one .* old_image=image"):
        arranged(dataset, COLUMNS)
    columns = {**COLUMNS, "old_image": "image"}
    there = arranged(dataset, columns)
    assert there.features["image"] == Image() and there["old_image"][:] == ["nonsense"] * 3
    assert rows_of(restored(there, columns)) == rows_of(dataset)
    with pytest.raises(RunError, match="other would not be read"):
        arranged(german(note=["a"] * 3), {**COLUMNS, "other": "note"})


def test_fields_of_a_struct():
    samples = [{"meta": {"q": "0?"}, "answer": "0!"}, None, {"meta": None, "answer": "2!"}]
    dataset = german(json=samples).remove_columns(["frage", "antwort"])
    columns = {"question": "json.meta.q", "answer": "json.answer", "image": "bild"}
    there = arranged(dataset.select([2, 1, 0]), columns)
    assert there["question"][:] == [None, None, "0?"] and there["answer"][:] == ["2!", None, "0!"]
    assert there["json"][2] == samples[0]
    assert rows_of(restored(there, columns)) == rows_of(dataset.select([2, 1, 0]))
    for own, message in {
        "json.meat.q": "'json' has no field 'meat'; there are meta, answer; did you mean 'meta'",
        "json.answer.x": "'json.answer' has no fields such as 'x'",
        "jsno.meta": "there is no column 'jsno.meta' or 'jsno'; there are bild, json; did you mean 'json'",
    }.items():
        with pytest.raises(RunError, match=message):
            arranged(dataset, columns | {"question": own})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"question": "farge"},
            "there is no column 'farge'; there are bild, frage, antwort, note; did you mean 'frage'",
        ),
        ({"question": "frage", "answer": "frage", "image": "bild"}, "'frage' is named for question and answer"),
        ({"question": "frage", "image": "bild"}, "cannot find pairs in the columns image, question, antwort"),
        ({**COLUMNS, "questions": "note"}, "questions would not be read, since the columns are read as question"),
        ({**COLUMNS, "note": None, "answer": "note"}, "'note' is left out, and named for answer"),
    ],
)
def test_names_that_cannot_be(columns, message):
    with pytest.raises(RunError, match=message):
        arranged(german(note=["x"] * 3), columns)


def test_a_name_that_is_there_already():
    with pytest.raises(RunError, match="question=frage, but there is a column 'question' beside 'frage'"):
        arranged(german(question=["x"] * 3), COLUMNS)
    hidden = arranged(german(question=["x"] * 3), {**COLUMNS, "question": "frage", "type": "question"})
    assert hidden["question"][:] == ["0?", "1?", "2?"] and hidden["type"][:] == ["x"] * 3


ANSWERS = {
    "texts": ([["a", "b"], [], ["c"]], List(Value("string"))),
    "structs": ([[{"answer": "a", "id": 1}, {"answer": "b", "id": 2}], None, [{"answer": "c", "id": 3}]], None),
    "lists": ([{"answer": ["a", "b"]}, {"answer": []}, {"answer": ["c"]}], None),
    "SQuAD": ([{"text": ["a", "b"], "answer_start": [1, 2]}, None, {"text": ["c"], "answer_start": [1]}], None),
    "mixed": ([["a", "b"], None, "c"], Json()),
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("name", ["answers", "answer", "antworten"])
def test_several_answers(kind, name):
    values, feature = ANSWERS[kind]
    if feature == Json():
        values = [None if value is None else json.dumps(value) for value in values]
    column = Dataset.from_dict({name: values}, features=Features({name: feature}) if feature else None)
    dataset = german().remove_columns("antwort").add_column("id", [7, 8, 9])
    dataset = concatenate_datasets([dataset, column], axis=1)
    columns = {"question": "frage", "image": "bild"} | ({"answers": name} if name == "antworten" else {})
    first = arranged(dataset, columns, "first")
    assert first["answer"][:] == ["a", None, "c"] and "answers" in first.column_names
    each = arranged(dataset, columns, "each")
    assert each["answer"][:] == ["a", "b", None, "c"] and each["answer_number"][:] == [1, 2, None, 1]
    assert each["id"][:] == [7, 7, 8, 9] and each["question"][:] == ["0?", "0?", "1?", "2?"]
    assert [row["image"]["bytes"] for row in rows_of(each)] == [b"picture 0", b"picture 0", b"picture 1", b"picture 2"]
    if name == "antworten":
        assert restored(first, columns).column_names == ["bild", "frage", "id", "antworten", "answer"]


def test_numbers_among_answers_are_their_texts():
    dataset = german().remove_columns("antwort").add_column("answers", [[1], [2, 3], []])
    assert arranged(dataset, {"question": "frage", "image": "bild"}, "each")["answer"][:] == ["1", "2", "3", None]


def test_the_table_is_not_copied_for_each_answer():
    big = german(2).remove_columns(["bild", "antwort"]).add_column("answers", [["x"] * 20, ["y"] * 20])
    pictures = Dataset.from_dict({"bild": [{"bytes": bytes(10_000_000), "path": None}] * 2})
    dataset = concatenate_datasets([big, pictures.cast_column("bild", Image())], axis=1)
    before = pa.total_allocated_bytes()
    each = arranged(dataset, {"question": "frage", "image": "bild"}, "each")
    assert len(each) == 40 and pa.total_allocated_bytes() - before < 1_000_000


@pytest.mark.parametrize(
    ("columns", "answers", "message"),
    [
        (COLUMNS, "each", "answers is 'each', but the column answer has one text a row"),
        (
            {"answer": "antwort", "answers": "note"},
            "first",
            "there are both columns, answer and answers; leave one out",
        ),
        ({}, "first", "there is no column answers or answer; found bild, frage, antwort, note"),
    ],
)
def test_answers_that_are_none(columns, answers, message):
    with pytest.raises(RunError, match=message):
        arranged(german(note=["x"] * 3), columns, answers)


def test_no_rows():
    assert arranged(german(1).select([]), COLUMNS).column_names == ["image", "question", "answer"]
    many = german(1, answers=[["a"]]).select([]).remove_columns("antwort")
    each = arranged(many, {"question": "frage", "image": "bild"}, "each")
    assert len(each) == 0 and {"answer", "answer_number"} <= set(each.column_names)


def test_rows_of_the_trainer():
    dataset = german().rename_columns({"antwort": "gut"}).add_column("schlecht", ["x"] * 3)
    columns = {"prompt": "frage", "chosen": "gut", "rejected": "schlecht", "image": "bild"}
    assert arranged(dataset, columns)["chosen"][:] == ["0!", "1!", "2!"]
