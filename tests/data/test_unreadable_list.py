"""The file that names the images that cannot be read."""

import csv

from datasets import Dataset, Features, Image, List, Value

from c3l_hf.data.unreadable_list import beside, unreadable_images, write_unreadable

BAD = "the image cannot be read (it is no picture)"


def rows_of(file):
    with open(file, newline="", encoding="utf-8") as text:
        return list(csv.reader(text))


def test_images_are_named_once_with_what_a_published_reason_leaves_out(tmp_path):
    (tmp_path / "a.png").write_bytes(b"<html>")
    images = Dataset.from_dict(
        {"images": [[{"bytes": None, "path": str(tmp_path / "a.png")}], []], "image_id": ["more/a.png", "b"]},
        features=Features({"images": List(Image()), "image_id": Value("string")}),
    )
    statuses = [("more/a.png", BAD), ("more/a.png", BAD), ("b", "ok"), ("b", "no answer")]
    assert unreadable_images(statuses) == {"more/a.png": BAD}
    (reason,) = unreadable_images(statuses, images).values()
    assert str(tmp_path / "a.png") in reason and "a web page (HTML)" in reason


def test_any_name_comes_back(tmp_path, caplog):
    reasons = {'a, "b"\nc.png': "no, it is empty", "grün/日.png": BAD}
    file = write_unreadable(tmp_path / "unreadable.csv", reasons)
    assert rows_of(file) == [["image", "reason"], *map(list, reasons.items())]
    assert f"2 images cannot be read; {file} names them" in caplog.text


def test_a_file_of_something_else_stays(tmp_path):
    file = tmp_path / "unreadable.csv"
    file.write_text("name,why\nmine,mine\n")
    (tmp_path / "unreadable-2.csv").write_bytes(b"\xff\xfe\0")
    for reasons in ({"a": BAD}, {"b": BAD}):  # its own is replaced
        assert write_unreadable(file, reasons) == tmp_path / "unreadable-3.csv"
        assert rows_of(tmp_path / "unreadable-3.csv")[1:] == [list(*reasons.items())]
    assert write_unreadable(file, {}) is None and file.read_text() == "name,why\nmine,mine\n"


def test_nothing_is_left_where_all_can_be_read_now(tmp_path):
    file = write_unreadable(tmp_path / "unreadable.csv", {"a": BAD})
    assert write_unreadable(file, {}) is None and not file.exists()


def test_where_it_stands_beside_a_result():
    assert [beside(name).name for name in ("x/pairs.parquet", "pairs/", "v1.2.jsonl")] == [
        "pairs.unreadable.csv",
        "pairs.unreadable.csv",
        "v1.2.unreadable.csv",
    ]
