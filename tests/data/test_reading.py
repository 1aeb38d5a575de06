"""Rows as a user's options say; the addresses that are fetched for them."""

import pytest
from datasets import Dataset, Features, Image, Value
from scored_rows import png

from c3l_hf.common.errors import RunError
from c3l_hf.data import reading
from c3l_hf.data.reading import ColumnOptions, PictureOptions, addresses_in, fetch_pictures, read_dataset


def test_columns_and_answers(tmp_path):
    rows = {"bild": ["a.png", "b.png"], "frage": ["What?", "Who?"], "answers": [["1", "2"], ["3"]]}
    Dataset.from_dict(rows).to_json(tmp_path / "rows.jsonl")
    options = ColumnOptions(["image=bild", "question=frage"], "each")
    read = read_dataset(str(tmp_path / "rows.jsonl"), options)
    assert read["question"][:] == ["What?", "What?", "Who?"] and read["answer"][:] == ["1", "2", "3"]
    assert len(read_dataset(str(tmp_path / "rows.jsonl"), options, limit=1)) == 2  # of one row
    with pytest.raises(RunError, match="there is no column 'farbe'"):
        read_dataset(str(tmp_path / "rows.jsonl"), ColumnOptions(["image=farbe"]))
    (tmp_path / "none.csv").write_text("image,question,answer\n")
    with pytest.raises(RunError, match="has no rows"):
        read_dataset(str(tmp_path / "none.csv"), ColumnOptions())


def test_parts_of_a_question_that_are_not_read_are_said(tmp_path, caplog):
    """MMBench as VLMEvalKit has it: the options, which the answer is one of, stand in columns of their own."""
    (tmp_path / "rows.tsv").write_text("image\tquestion\tA\tB\tanswer\na.png\tWhich?\ta dog\ta cat\tA\n")
    read_dataset(str(tmp_path / "rows.tsv"), ColumnOptions())
    assert "A, B are not read" in caplog.text
    caplog.clear()
    read_dataset(str(tmp_path / "rows.tsv"), ColumnOptions(["prompt=question", "response=answer"]))
    assert "not read" not in caplog.text


WEB = "https://example.org/a b.png?key=1"


@pytest.mark.parametrize(
    "row",
    [
        {"image": WEB, "question": "?", "answer": "1"},
        {"images": [WEB], "question": "?", "answer": " "},  # a row that has no pair
        {"image": {"bytes": None, "path": WEB}, "question": "?", "answer": "1"},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": WEB}}]}]},
        {"conversations": [{"from": "human", "value": [{"type": "image", "image": WEB}]}]},
    ],
)
def test_addresses(row):
    answered = {
        "messages": [{"role": "assistant", "content": [{"type": "text", "text": "1"}]}],
        "conversations": [{"from": "gpt", "value": [{"type": "text", "text": "1"}]}],
    }
    row = {name: value + answered[name] if name in answered else value for name, value in row.items()}
    assert list(addresses_in(Dataset.from_list([row, row]))) == [WEB, WEB]


def test_contents_and_paths_are_no_addresses():
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    rows = [{"image": image, "question": WEB, "answer": WEB} for image in ({"bytes": png(0), "path": WEB}, None)]
    assert list(addresses_in(Dataset.from_list(rows, features=features))) == []
    assert list(addresses_in(Dataset.from_dict({"image": ["a.png"], "question": [WEB], "answer": [WEB]}))) == []
    assert list(addresses_in(Dataset.from_dict({"image": [], "question": [], "answer": []}))) == []


def test_nothing_is_fetched_that_nobody_asked_for(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(reading, "download_images", asked.extend)
    rows = Dataset.from_dict({"image": [WEB], "question": ["?"], "answer": ["1"]})
    fetch_pictures(rows, PictureOptions())
    assert not asked
    fetch_pictures(rows, PictureOptions(download_images=True))
    assert asked == [WEB]
    with pytest.raises(ValueError, match="image_folder .*nowhere is not a folder"):
        PictureOptions(image_folder=str(tmp_path / "nowhere"))
