"""Where the files are that rows name, and what a cache has to know of them."""

import json
import os

import pytest
from datasets import Dataset, Features, Json, LargeList, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from c3l_hf.common.errors import RowError
from c3l_hf.data.image_files import files_state, located, row_files_state, stored_here
from c3l_hf.data.layouts import layout_of
from c3l_hf.files.image import open_image


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "pictures" / "a b.png")
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "b.png")
    return tmp_path / "pictures"


def test_files_in_a_folder(folder):
    inside = folder / "a b.png"
    names = ["a b.png", "./a b.png", "x/../a b.png", str(inside), inside, inside.as_uri(), f"file:{inside}"]
    for name in names:
        assert located(name, folder) == str(inside)
        for key in ("path", "url", "image"):
            assert located({key: name}, folder) == {key: str(inside)}
            assert open_image(located({key: name}, folder)).getpixel((0, 0)) == (255, 0, 0)
    assert located({"bytes": None, "path": "a b.png"}, folder) == {"bytes": None, "path": str(inside)}


def test_files_outside_of_a_folder_are_refused(folder):
    outside = folder.parent / "b.png"
    for name in ("../b.png", str(outside), outside, outside.as_uri(), f"{folder}/../b.png", f"{folder}2/b.png"):
        for value in (name, {"path": name}, {"image": name}, {"bytes": None, "url": name}):
            with pytest.raises(RowError, match="is not in the folder"):
                located(value, folder)


def test_what_is_no_path_stays(folder):
    picture = Image.new("RGB", (4, 4))
    data = "data:image/png;base64,iVBORw0KGgo"
    for value in (
        picture,
        b"bytes",
        data,
        {"bytes": b"x", "path": "../b.png"},
        {"image": picture},
        {"url": data},
        None,
    ):
        assert located(value, folder) == value
    for address in ("http://example.com/../a.png", "HTTPS://example.com/a.png"):
        assert located(address, folder) == address and located({"url": address}, folder) == {"url": address}


def test_without_a_folder_paths_lead_anywhere(folder):
    for value in ("../b.png", folder.parent / "b.png", (folder / "a b.png").as_uri(), {"path": "x"}):
        assert located(value, None) == value


def rows_of(folder):
    """The same file, in every way in which rows name it."""
    file = str(folder / "a b.png")
    items = [{"type": "text", "text": "x"}, {"type": "image", "image": file}]
    item_features = [{"type": Value("string"), "text": Value("string"), "image": Value("string")}]
    return {
        "path": Dataset.from_dict({"x": [file, None]}),
        "relative": Dataset.from_dict({"x": ["a b.png"]}),
        "URL": Dataset.from_dict({"x": [(folder / "a b.png").as_uri()]}),
        "paths": Dataset.from_dict({"x": [[file], [], None]}),
        "images": Dataset.from_dict({"x": [[file]]}).cast_column("x", List(ImageFeature())),
        "large list": Dataset.from_dict({"x": [[file]]}, Features({"x": LargeList(ImageFeature())})),
        "fixed list": Dataset.from_dict({"x": [[file, file]]}, Features({"x": List(Value("string"), length=2)})),
        "dict with url": Dataset.from_dict({"x": [{"url": file}, {"url": None}]}),
        "dict with image": Dataset.from_dict({"x": [{"image": {"bytes": None, "path": file}}]}),
        "messages": Dataset.from_dict(
            {"x": [[{"role": "user", "content": items}]]},
            Features({"x": [{"role": Value("string"), "content": item_features}]}),
        ),
        "Json": Dataset.from_dict({"x": [[{"content": "a text"}, {"content": items}]]}, Features({"x": List(Json())})),
        "Json alone": Dataset.from_dict({"x": [{"image_url": {"url": file}}, None]}, Features({"x": Json()})),
    }


KINDS = (
    "path, relative, URL, paths, images, large list, fixed list, dict with url, dict with image, messages, Json, "
    "Json alone"
).split(", ")


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_follows_the_file(kind, folder):
    rows = rows_of(folder)[kind]
    assert list(rows_of(folder)) == KINDS
    first = files_state(rows, "x", folder)
    assert files_state(rows, "x", folder) == first
    os.utime(folder / "a b.png", ns=(1, 1))
    second = files_state(rows, "x", folder)
    (folder / "a b.png").unlink()
    assert len({first, second, files_state(rows, "x", folder)}) == 3


def test_the_state_of_what_is_no_file(folder):
    """Contents are among the rows, and numbers are their own content."""
    text = "iVBORw0KGgo" + "QUJD" * 2000
    for values in ([text], [f"data:image/png;base64,{text}"], ["a\0b"], ["x" * 5000], [""], ["file://server/a.png"]):
        assert len(files_state(Dataset.from_dict({"x": values}), "x")) == 32
    for values in ([[[1, 2]]], [{"bytes": b"x", "path": "a"}], [json.dumps({"a": 1})], [None], []):
        assert len(files_state(Dataset.from_dict({"x": values}), "x")) == 32


def test_what_can_be_stored(folder):
    file = str(folder / "a b.png")
    assert stored_here({"bytes": b"x", "path": "gone"}) == {"bytes": b"x", "path": "gone"}
    for path in (file, (folder / "a b.png").as_uri()):
        assert stored_here({"bytes": None, "path": path}) == {"bytes": None, "path": file}
    for path in (None, "gone.png", "http://example.com/a.png", "file://server/a.png", "a\0b", str(folder)):
        assert stored_here({"bytes": None, "path": path}) is None


def test_the_state_follows_files_in_the_values_of_conversations(folder):
    def state():
        turn = {"from": "human", "value": [{"type": "image", "image": str(folder / "later.png")}]}
        rows = Dataset.from_list([{"conversations": [turn]}])
        return row_files_state(rows, layout_of(rows.column_names))

    before = state()
    (folder / "later.png").write_bytes(b"picture")
    assert state() != before
