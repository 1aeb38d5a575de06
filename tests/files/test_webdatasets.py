"""WebDataset tars as other people pack them."""

import io
import json
import tarfile

import pytest
from datasets import Image, List, load_dataset
from scored_rows import png

from c3l_hf.common.errors import RowError, RunError
from c3l_hf.data.stored_rows import stored_row
from c3l_hf.files import webdatasets
from c3l_hf.files.image import open_image
from c3l_hf.files.opening import open_dataset
from c3l_hf.files.webdatasets import spread


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def pack(path, files, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files:
            content = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def pair(question, answer="a dog", **more):
    return json.dumps({"question": question, "answer": answer, **more})


def test_pictures_and_pairs(tmp_path, caplog):
    files = [
        ("./a/0001.jpg", png(0)), ("./a/0001.json", pair("What?", image="coco/1.jpg", year=2017)),
        ("a/0002.JPG", png(1)[:60]), ("a/0002.json", pair("Where?", 5)),
        ("a/0003.png", png(2)), ("a/0003.json", "{"), ("a/0003.txt", "a caption"),
        ("a/0004.json", pair("Nothing to see?")), ("README", "x"), ("a/._0004.json", b"\xff"),
    ]  # fmt: skip
    rows = open_dataset(pack(tmp_path / "x.tar", files))
    assert rows["__key__"][:] == ["a/0001", "a/0002", "a/0003", "a/0004"] and rows.features["image"] == Image()
    assert rows["question"][:] == ["What?", "Where?", None, "Nothing to see?"]
    assert rows["answer"][:] == ["a dog", 5, None, "a dog"] and rows["year"][:] == [2017, None, None, None]
    assert rows["txt"][:] == [None, None, "a caption", None]
    assert [stored_row(rows, row)["image"] and stored_row(rows, row)["image"]["bytes"] for row in range(4)] == [
        png(0), png(1)[:60], png(2), None
    ]  # fmt: skip
    assert rows["json.image"][0] == "coco/1.jpg" and "json.image is from the JSON" in caplog.text
    assert "1 texts and JSON files cannot be read and are null: a/0003.json" in caplog.text


def test_several_pictures_in_the_order_of_their_numbers(tmp_path, caplog):
    files = [(f"s.{number}.png", png(number)) for number in (10, 2, 1)]
    files += [("s.conversations.json", "[]"), ("t.1.png", png(5)), ("t.mp3", b"x"), ("t.cls", "3"), ("s2.cls", "007")]
    rows = open_dataset(pack(tmp_path / "x.tar.gz", files, "w:gz"))
    assert rows.features["images"] == List(Image())
    images = [[image["bytes"] for image in stored_row(rows, row)["images"]] for row in range(3)]
    assert images == [[png(1), png(2), png(10)], [png(5)], []]
    assert rows["cls"][:] == [None, 3, "007"] and rows["conversations.json"][:] == [[], None, None]
    assert "its files 1.png, 2.png, 10.png, in this order" in caplog.text and "are not read: mp3" in caplog.text


def test_json_that_is_no_object_stays_one_column(tmp_path):
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "null"}]
    rows = open_dataset(pack(tmp_path / "x.tar", [("1.jpg", png(0)), ("1.json", json.dumps(turns))]))
    assert rows["json"][0] == turns and set(rows.column_names) == {"__key__", "__url__", "image", "json"}


def test_several_tars_and_folders_of_them(tmp_path):
    for split, number in (("train", 0), ("train", 1), ("validation", 2)):
        # Keys of one may be keys of the next; a column may come with the second.
        more = {"more": 1} if number else {}
        pack(tmp_path / "w" / f"{split}-{number}.tar", [("k.jpg", png(number)), ("k.json", pair(f"{number}?", **more))])
    assert open_dataset(f"{tmp_path}/w/*.tar")["question"][:] == ["0?", "1?", "2?"]
    rows = open_dataset(tmp_path / "w")
    assert rows["question"][:] == ["0?", "1?"] and rows["more"][:] == [None, 1]
    assert open_dataset(tmp_path / "w", split="validation")["question"][:] == ["2?"]
    assert open_dataset(tmp_path / "w", split="dev")["question"][:] == ["2?"]


def test_what_is_refused(tmp_path, caplog):
    whole = pack(tmp_path / "x.tar", [("1.jpg", png(0)), ("1.json", pair("What?")), ("2.jpg", png(1) * 9)]).read_bytes()
    cases = {
        "cut.tar": (whole[:5500], "cannot be read: unexpected end of data"),
        "head.tar": (whole[: len(png(1)) + 6000], "cannot be read: unexpected end of data"),
        "none.tar": (b"no tar", "cannot be read: "),
        "empty.tar": (b"", "is empty: it has no rows"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RunError, match=f"{name} {message}"):
            open_dataset(tmp_path / name)
    (tmp_path / "open.tar").write_bytes(whole[: -(-len(png(0)) // 512) * 512 + 512])
    assert len(open_dataset(tmp_path / "open.tar")) == 1
    assert "open.tar has no mark at its end: it may be cut off" in caplog.text
    with pytest.raises(RunError, match="the files of 1 do not follow each other; pack it sorted by name"):
        open_dataset(
            pack(tmp_path / "y.tar", [("1.jpg", png(0)), ("2.jpg", png(0)), ("1.json", "{}"), ("2.json", "{}")])
        )
    with pytest.raises(RunError, match="z.tar has no samples"):
        open_dataset(pack(tmp_path / "z.tar", [("LICENSE", "x")]))
    with pytest.raises(RunError, match="has 1.jpg twice"):
        open_dataset(pack(tmp_path / "d.tar", [("1.jpg", png(0)), ("1.JPG", png(1))]))


def test_samples_that_datasets_has_opened(tmp_path):
    """As from the Hub, whose tars it reads."""
    texts = {"answer": "a dog", "txt": "of the JSON"}
    files = [
        (f"{number}.{ending}", content)
        for number in range(2)
        for ending, content in (("jpg", png(number)), ("json", pair(f"{number}?", **texts)), ("txt", "a caption"))
    ]
    tar = pack(tmp_path / "x.tar", files)
    opened = load_dataset("webdataset", data_files=str(tar), split="train", cache_dir=str(tmp_path))
    ours, theirs = open_dataset(tar), spread(opened)
    assert set(theirs.column_names) == set(ours.column_names) == {
        "__key__", "__url__", "image", "txt", "question", "answer", "json.txt"
    }  # fmt: skip
    for name in set(ours.column_names) - {"image", "__url__"}:
        assert theirs[name][:] == ours[name][:], name
    assert [stored_row(theirs, row)["image"]["bytes"] for row in range(2)] == [png(0), png(1)]
    other = opened.remove_columns("__key__")
    assert spread(other) is other


def test_what_a_tar_of_a_stranger_may_have(tmp_path, caplog):
    """Names that lead elsewhere name nothing here; links are not followed; zeros without end are not unpacked."""
    (tmp_path / "secret.txt").write_text("secret")
    path = pack(
        tmp_path / "x.tar",
        [("../../etc/1.jpg", png(1)), ("../../etc/1.txt", "a"), ("/abs/2.jpg", png(2)), ("3\udcff.jpg", png(3))],
    )
    with tarfile.open(path, "a") as tar:
        for name, kind in (("4.txt", tarfile.SYMTYPE), ("5.txt", tarfile.LNKTYPE), ("6.jpg", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(tmp_path / "secret.txt")
            tar.addfile(member)
    rows = open_dataset(path)
    assert rows["__key__"][:] == ["../../etc/1", "/abs/2", "3\\udcff"]
    assert [stored_row(rows, row)["image"]["path"] for row in range(3)] == ["1.jpg", "2.jpg", "3\\udcff.jpg"]
    assert "2 links are passed over: 4.txt, 5.txt" in caplog.text and "secret" not in str(rows.to_dict())
    assert not (tmp_path / "etc").exists()


def test_files_that_are_too_large_are_not_read(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(webdatasets, "_LARGEST", 4000)
    files = [("1.jpg", bytes(4001)), ("1.txt", "a" * 4001), ("1.json", "7" * 4001), ("2.jpg", png(2)), ("2.txt", "b")]
    rows = open_dataset(pack(tmp_path / "x.tar.gz", files, "w:gz"))
    assert rows["txt"][:] == [None, "b"] and stored_row(rows, 1)["image"]["bytes"] == png(2)
    assert "3 files of more than 512 MB are not read: 1.jpg, 1.txt, 1.json" in caplog.text
    with pytest.raises(RowError, match="it is empty"):
        open_image(stored_row(rows, 0)["image"])


def test_a_file_that_says_more_than_there_is(tmp_path):
    path = pack(tmp_path / "x.tar", [("1.jpg", png(1))])
    content = bytearray(path.read_bytes())
    content[124:136] = b"77777777777\0"  # 8 GB
    content[148:156] = b"        "
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"x\.tar cannot be read"):
        open_dataset(path)
