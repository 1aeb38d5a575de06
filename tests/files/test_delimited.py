"""CSV and TSV: texts stay texts, pictures of megabytes, and what could be read in two ways."""

import base64
import csv
import gzip
import random

import pandas as pd
import pytest
from scored_rows import png

from c3l_hf.common.errors import RunError
from c3l_hf.files.delimited import open_delimited
from c3l_hf.files.image import open_image
from c3l_hf.files.opening import open_dataset


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


QUESTIONS = ['Is it "red"?', "Two\nlines,\tand a tab?", "'single'", "日本\r\nö", '"all in quotes"']


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t"), ("TSV", "\t"), ("tsv.gz", "\t")])
def test_what_pandas_writes(tmp_path, ending, separator, quoting):
    big = base64.b64encode(random.Random(0).randbytes(1_500_000)).decode()  # beyond the limit of Python's own reader
    table = {"index": range(5), "image": [big] * 5, "question": QUESTIONS, "answer": ["1", "02", "None", "NA", "True"]}
    table |= {"score": [0.25, None, -1e-9, 3.0, 1e20], "count": pd.array([1, None, 3, 4, 2**60], "Int64")}
    pd.DataFrame(table).to_csv(tmp_path / f"rows.{ending}", sep=separator, index=False, quoting=quoting)
    rows = open_dataset(tmp_path / f"rows.{ending}")
    assert rows["question"][:] == QUESTIONS and rows["answer"][:] == table["answer"]
    assert rows["image"][4] == big and rows["index"][:] == [0, 1, 2, 3, 4]
    assert rows["score"][:] == [0.25, None, -1e-9, 3.0, 1e20] and rows["count"][:] == [1, None, 3, 4, 2**60]


def test_numbers_only_where_nothing_is_lost(tmp_path):
    (tmp_path / "rows.csv").write_text(
        "code,long,price,mixed,answer,A,empty,flag\n"
        "007,12345678901234567890,1.50,1,1,1.50,,True\n"
        "8,2,2.5,two,2,2,,False\n"
    )
    rows = open_dataset(tmp_path / "rows.csv")
    assert rows[0] == {
        "code": "007", "long": "12345678901234567890", "price": 1.5, "mixed": "1", "answer": "1", "A": "1.50",
        "empty": None, "flag": "True",
    }  # fmt: skip
    (tmp_path / "frage.csv").write_text("frage,antwort\na?,1\nb?,2\n")
    assert open_dataset(tmp_path / "frage.csv")["antwort"][:] == [1, 2]
    assert open_delimited([tmp_path / "frage.csv"], ",", ["antwort"])["antwort"][:] == ["1", "2"]


def test_an_index_in_the_place_of_a_picture(tmp_path):
    """As VLMEvalKit writes the rotations of a question."""
    pictures = [base64.b64encode(png(seed)).decode() for seed in range(2)]
    table = {"index": [1, 2, 1000001, 7], "image": [*pictures, "1", "99"], "question": ["?"] * 4, "answer": ["A"] * 4}
    pd.DataFrame(table).to_csv(tmp_path / "rows.tsv", sep="\t", index=False)
    images = open_dataset(tmp_path / "rows.tsv")["image"][:]
    assert images == [*pictures, pictures[0], "99"] and open_image(images[2]).size == (32, 32)


def test_a_changed_file_is_read_again(tmp_path):
    for answer in ("first", "second, longer"):
        pd.DataFrame({"question": ["?"], "answer": [answer]}).to_csv(tmp_path / "rows.csv", index=False)
        assert open_dataset(tmp_path / "rows.csv")["answer"][:] == [answer]


def test_a_mark_of_utf_8_and_rows_without_content(tmp_path):
    (tmp_path / "rows.csv").write_bytes("\ufeffquestion,answer\r\n\r\nwas?,Bär\r\n".encode())
    assert open_dataset(tmp_path / "rows.csv").to_list() == [{"question": "was?", "answer": "Bär"}]
    (tmp_path / "rows.csv").write_text("question,answer\n")
    assert open_dataset(tmp_path / "rows.csv").column_names == ["question", "answer"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: it has no rows"),
        ("question,answer\nä,b\n".encode("latin-1"), "is not text in UTF-8 .*; save it as UTF-8"),
        ("question,answer\na,b\n".encode("utf-16"), r"is not text in UTF-8 \(it begins as UTF-16\)"),
        (
            b"question;answer\na;b\n",
            "has one column, 'question;answer': ';' separates it, not commas",
        ),
        (b"sep=,\nquestion,answer\na,b\n", "begins with 'sep=', a line for Excel and no header; delete this line"),
        (b"question,answer,answer\na,b,c\n", "has the column 'answer' more than once"),
        (b"question,answer\na,b\nc,d,e\n", "the record that ends in line 3 has 3 fields, and the header 2"),
        (b"question,answer\nbroken\nline,b\n", "the record that ends in line 2 has 1 fields"),
        (b'question,answer\n"Hi" he said,b\nc,"d\n', "the record after line 1 cannot be read"),
        (b'question,answer\na,"b\nc,d\n', r"the record after line \d cannot be read \(unexpected end of data\)"),
        (gzip.compress(b"question,answer\n", mtime=0)[:20], "is compressed by gzip; unpack it"),
    ],
)
def test_what_is_refused(tmp_path, content, message):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(RunError, match=f"rows.csv:? {message}") as caught:
        open_dataset(tmp_path / "rows.csv")
    assert "\n" not in str(caught.value)
    (tmp_path / "rows.csv.gz").write_bytes(b"no gzip" + content)
    with pytest.raises(RunError, match="rows.csv.gz cannot be read: "):
        open_dataset(tmp_path / "rows.csv.gz")


def test_the_index_of_pandas_is_a_column(tmp_path):
    table = pd.DataFrame({"question": ["Why?", "Who?"]}, index=[7, 8])
    table.to_csv(tmp_path / "rows.csv")
    rows = open_dataset(tmp_path / "rows.csv")
    assert rows.to_list() == [{"Unnamed: 0": 7, "question": "Why?"}, {"Unnamed: 0": 8, "question": "Who?"}]
