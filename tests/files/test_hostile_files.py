"""Files as they come: each is read whole, or refused in one line that says what was found; none ends the process."""

import gzip
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hostile_files import ARROW, FILES, LINES, PARQUET, READ, ROWS, odd_paths, write

from c3l_hf.common.errors import RunError
from c3l_hf.files import text_files
from c3l_hf.files.opening import open_dataset


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def refusal(path):
    with pytest.raises(RunError) as caught:
        open_dataset(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500 and str(path) in message
    return message


@pytest.mark.parametrize("name", FILES)
def test_what_is_refused(tmp_path, name):
    assert FILES[name][1] in refusal(write(tmp_path, name))


@pytest.mark.parametrize("name", READ)
def test_what_is_read(tmp_path, name):
    rows = open_dataset(write(tmp_path, name))
    assert rows[len(rows) - 1] == READ[name][1]
    assert len(rows) == READ[name][0].count(b"\n") + 1 or rows[:20] == Dataset.from_list(ROWS)[:]


def test_what_is_no_ordinary_file(tmp_path):
    for path, message in odd_paths(tmp_path).items():
        assert message in refusal(path)


def test_names_that_are_not_utf8(tmp_path):
    for ending, content in (("jsonl", LINES), ("parquet", PARQUET)):
        path = tmp_path / os.fsdecode(b"rows\xff." + ending.encode())
        path.write_bytes(content)
        assert open_dataset(path)[:] == Dataset.from_list(ROWS)[:]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.json"])
def test_a_line_without_an_end(tmp_path, monkeypatch, name):
    """It is not read into memory: neither as it is, nor out of a compressed file."""
    monkeypatch.setattr(text_files, "LONGEST_LINE", 2**20)
    monkeypatch.setattr("c3l_hf.files.json_files._MOST_WHOLE", 2**21)
    monkeypatch.setattr(text_files, "_ALWAYS", 2**22)
    start = b'{"answer": "' if name.endswith("jsonl") else b'["' if name.endswith("json") else b"answer\n"
    content = start + b"x" * 2**26
    (tmp_path / name).write_bytes(content)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content, 9))
    tracemalloc.start()
    try:
        for path in (tmp_path / name, tmp_path / f"{name}.gz"):
            assert "more than" in (message := refusal(path)) or "longer than 1,048,576 bytes" in message
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_blanks_without_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "_ALWAYS", 2**22)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b" " * 2**26, 9))
    assert "unpacks to more than" in refusal(tmp_path / "rows.jsonl.gz")


def test_damaged_arrow_is_not_read(tmp_path):
    """Flipped places of texts, at which Arrow would read beyond the file: alone, in a folder, and saved by datasets."""
    alone = write(tmp_path, "beyond_its_end.arrow")
    (tmp_path / "folder").mkdir()
    shutil.copy(alone, tmp_path / "folder" / "train.arrow")
    with pytest.raises(RunError, match="train.arrow cannot be read, as it is damaged"):
        open_dataset(tmp_path / "folder")
    Dataset.from_dict({"answer": ["alpha", "beta", "c"]}).save_to_disk(tmp_path / "saved")
    shutil.copy(alone, next((tmp_path / "saved").glob("*.arrow")))
    with pytest.raises(RunError, match="saved: column 'answer' cannot be read, as it is damaged"):
        open_dataset(tmp_path / "saved")


def test_texts_that_are_not_utf8(tmp_path):
    """Other programs write them into parquet."""
    texts = pa.array([b"a", b"\xe4"]).view(pa.string())
    pq.write_table(pa.table({"question": ["a", "b"], "answer": texts}), tmp_path / "rows.parquet")
    assert "rows.parquet: column 'answer' cannot be read" in refusal(tmp_path / "rows.parquet")


def test_many_lists_in_each_other(tmp_path):
    """More than can be columns' types in a reasonable time; they are content."""
    content = [{"answer": "a", "more": [[[[[[[[[[[["x"]]]]]]]]]]]]}] * 50
    (tmp_path / "rows.json").write_text(json.dumps(content))
    assert open_dataset(tmp_path / "rows.json").to_list() == content


def test_any_flipped_byte(tmp_path):
    """Whatever byte of a file is another: rows, or one line."""
    for name, content in (("rows.parquet", PARQUET), ("rows.arrow", ARROW), ("rows.jsonl", LINES)):
        for place in range(0, len(content), max(1, len(content) // 40)):
            damaged = bytearray(content)
            damaged[place] ^= 0xFF
            (tmp_path / name).write_bytes(damaged)
            try:
                rows = open_dataset(tmp_path / name)[:]
            except RunError as error:
                assert "\n" not in str(error) and name in str(error)
            else:
                assert len(next(iter(rows.values()))) == len(ROWS)


def test_all_lines_that_are_no_rows_are_told(tmp_path):
    lines = LINES.split(b"\n")
    lines[3] = lines[7] = lines[11] = b"{"
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    assert "line 4 is not JSON" in (message := refusal(tmp_path / "rows.jsonl"))
    assert "lines that are no rows, too: line 8, line 12; correct or delete them" in message


def test_lines_and_their_numbers(tmp_path):
    file = Path(tmp_path / "rows.jsonl")
    file.write_bytes(b'{"a": 1}\r{"a": 2}\r\n\n{"a": 3}\n' + json.dumps({"a": "x\u2028y\x85z"}).encode())
    assert [number for number, _ in text_files.lines_of(file)] == [1, 2, 3, 4, 5]
    assert len(open_dataset(file)) == 4
