"""JSON as other people write it: nothing is changed to fit."""

import gzip
import json

import pytest
from datasets import Json, Value

from c3l_hf.common.errors import RunError
from c3l_hf.files.opening import open_dataset

ROWS = [{"question": "a?", "answer": "1"}, {"question": "b?", "answer": "2"}]
LINES = "\n".join(map(json.dumps, ROWS))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def read(tmp_path):
    def read(content, name="rows.json"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return open_dataset(tmp_path / name)

    return read


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.NDJSON", "rows.json.gz", "rows.jsonl.gz"])
@pytest.mark.parametrize(
    "content",
    [
        LINES,
        json.dumps(ROWS),
        json.dumps(ROWS, indent=1),
        f"\ufeff{LINES}",
        f"\ufeff\n  {json.dumps(ROWS)}\n",
        LINES.replace("\n", "\r\n\r\n"),
        json.dumps({"version": 1, "tags": ["x"], "data": ROWS}, indent=1),
    ],
)
def test_rows_in_all_their_forms(read, name, content):
    assert read(gzip.compress(content.encode(), mtime=0) if name.endswith("gz") else content, name).to_list() == ROWS


def test_which_list_holds_the_rows_is_said(read, caplog):
    read(json.dumps({"version": 1, "data": ROWS}))
    assert caplog.text.count("rows.json is an object; its rows are the list 'data'") == 1


def test_one_row(read):
    row = {"image": "a.png", "conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]}
    assert read(json.dumps(row)).to_list() == read(json.dumps(row, indent=1)).to_list() == [row]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "rows.jsonl.gz"])
def test_one_line_is_one_row(read, name):
    """`head -1` of a file: its lists are no rows."""
    row = {"image": "a.png", "turns": [{"q": "a?"}, {"q": "b?"}], "marks": [{"x": 1}]}
    content = json.dumps(row).encode()
    assert read(gzip.compress(content, mtime=0) if name.endswith("gz") else content, name).to_list() == [row]


@pytest.mark.parametrize("answers", [["1", 2, "null", "true", '{"a": 1}', "[1", ["x"], None], ["1", 2]])
def test_texts_beside_other_kinds_stay_texts(read, answers):
    """`datasets` alone reads those that look like JSON as what they say: "1" as a number, "null" as nothing."""
    rows = read(json.dumps([{"answer": answer} for answer in answers]))
    assert rows.features["answer"] == Json() and rows["answer"][:] == answers


def test_contents_of_several_kinds_in_messages(read):
    """OpenAI's habit: items from the user, a text from the assistant, which may look like JSON."""
    items = [{"type": "image"}, {"type": "text", "text": "How many?"}]
    messages = [{"role": "user", "content": items}, {"role": "assistant", "content": "2"}]
    assert read(json.dumps([{"messages": messages}] * 2))[1]["messages"] == messages


def test_values_stay_as_they_are(read):
    dates = ["2012-01-01", "2012-01-02 10:00:00"]
    assert read(json.dumps([{"answer": date} for date in dates])).features["answer"] == Value("string")
    assert read(json.dumps([{"answer": date} for date in dates]))["answer"][:] == dates
    numbers = [0.12345678901234568, 2**53 + 1, None]
    assert read(json.dumps([{"n": numbers[0], "m": numbers[1]}, {"m": 1}])).to_list() == [
        {"n": numbers[0], "m": numbers[1]},
        {"n": None, "m": 1},
    ]
    assert read('[{"n": 1}, {"n": 2.5}, {"n": NaN}]')["n"][:] == [1.0, 2.5, None]
    assert read('[{"n": "\\ud83d\\ude00"}, {"n": "\\ud83d!"}]')["n"][:] == ["😀", "\ufffd!"]
    assert read('[{"n": "a\u2028b\x85c"}]')["n"][:] == ["a\u2028b\x85c"]
    assert read('{"n": "a\u2028b\x85c"}\n{"n": "b"}')["n"][:] == ["a\u2028b\x85c", "b"]


def test_what_comes_late_or_not_at_all(read):
    lines = [json.dumps({"question": "x" * 1000, "answer": "1"})] * 11_000
    rows = read("\n".join([*lines, json.dumps({"answer": ["1"], "more": {"a": 1}}), json.dumps({"more": {"b": []}})]))
    assert rows[0] == {"question": "x" * 1000, "answer": "1", "more": None}
    assert rows[11_000] == {"question": None, "answer": ["1"], "more": {"a": 1, "b": None}}
    assert rows[11_001]["more"] == {"a": None, "b": []}


def test_many_keys_are_content(read):
    boxes = {f"object {number}": [number] for number in range(100)}
    assert read(json.dumps([{"boxes": boxes}, {"boxes": {"another": []}}, {"boxes": {}}])).to_list() == [
        {"boxes": boxes}, {"boxes": {"another": []}}, {"boxes": {}}
    ]  # fmt: skip


def test_a_changed_file_is_read_again(read):
    assert read('[{"answer": "first"}]')["answer"][:] == ["first"]
    assert read('[{"answer": 2, "more": 3}]').to_list() == [{"answer": 2, "more": 3}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: it has no rows"),
        ("\ufeff \n", "is empty: it has no rows"),
        ("[]", "has no rows"),
        ("{}", "has no rows"),
        (LINES.encode("utf-16"), r"is not text in UTF-8 \(it begins as UTF-16\); save it as UTF-8"),
        ('[{"answer": "ä"}]'.encode("latin-1"), "is not text in UTF-8"),
        ("[1, 2]", "cannot be read: item 0 of its list is int, not a row"),
        (f"{LINES}\nnull", "cannot be read: line 3 is null, not a row"),
        (f'{LINES}\n{{"question": ', "cannot be read: line 3 is not JSON: "),
        ('{"a": 1, "a": 2}\n{"a": 1}', "cannot be read: line 1: an object has the key 'a' twice"),
        ("[" * 100_000, "cannot be read: it has lists and objects in each other"),
        ('"text"', "cannot be read: it is str, not rows"),
        (json.dumps({"images": [{"id": 1}], "annotations": [{"id": 1}]}), r"several lists of objects \(images, annot"),
        (json.dumps({"question": ["a?", "b?"], "answer": ["1", "2"]}), r"an object of columns \(question, answer\)"),
        (json.dumps({"question": {"0": "a?"}, "answer": {"0": "1"}}), r"an object of columns \(question, answer\)"),
    ],
)
def test_what_is_refused(read, content, message):
    with pytest.raises(RunError, match=rf"rows.json .*{message}|rows.json {message}") as caught:
        read(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "row", [{"question": "Why?", "boxes": [{"x": 1}]}, {"images": ["a.png"], "answers": ["red"]}, {"0": {"0": 1}}]
)
@pytest.mark.parametrize("name", ["one.jsonl", "one.ndjson", "ONE.JSONL", "one.jsonl.gz"])
def test_a_line_is_a_row_where_the_name_says_so(tmp_path, name, row):
    content = f"{json.dumps(row)}\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    assert open_dataset(tmp_path / name).to_list() == [row]
