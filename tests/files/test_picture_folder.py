"""Folders of pictures as people have them, with other files, broken ones and metadata; and snapshots of datasets."""

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pillow_heif
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from PIL import Image

from c3l_hf.common.errors import RowError, RunError
from c3l_hf.data.file_states import FILE_STATES
from c3l_hf.data.sources import load_images
from c3l_hf.data.stored_rows import stored_row
from c3l_hf.files import picture_folder
from c3l_hf.files.image import open_image
from c3l_hf.files.inventory import list_files


def picture(colour, size=(8, 6)):
    return Image.new("RGB", size, colour)


def encoded(colour, kind="PNG"):
    file = io.BytesIO()
    picture(colour).save(file, kind)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for name, colour in (("a.png", "red"), ("b.jpg", "blue"), ("more/c.webp", "green")):
        picture(colour).save(tmp_path / "pictures" / name, **({"lossless": True} if name.endswith("webp") else {}))
    return tmp_path / "pictures"


OTHERS = {
    "Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(100),
    "LICENSE": b"do as you like",
    "README.md": b"# pictures",
    "a.txt": b"a caption",
    "film.mp4": b"\0\0\0\x18ftypmp42" + bytes(100),
    "raw.nef": None,  # TIFF, and in it a small picture of what it is
    "labels.csv": b"file,label\na.png,1\n",
    "annotations.json": b"{}",
}


def fill(folder, names=OTHERS):
    picture("white").save(folder / "raw.tif")
    (folder / "raw.tif").rename(folder / "raw.nef")
    for name in names:
        if OTHERS[name] is not None:
            (folder / name).write_bytes(OTHERS[name])


def test_files_of_other_kinds_are_passed_over_and_counted(folder, caplog):
    before = load_images(str(folder))
    assert not caplog.records
    fill(folder)
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._a.png").write_bytes(b"of the archive")
    images = load_images(str(folder))
    assert images.dataset["image_id"][:] == ["a.png", "b.jpg", "more/c.webp"]
    assert images.digest == before.digest  # which is of the pictures alone
    (record,) = caplog.records
    assert "8 files of other kinds passed over (1 .nef, " in record.message or "8 files" in record.message
    for ending in (".db", "without an ending", ".md", ".mp4", ".nef", ".csv", ".json", ".txt"):
        assert f"1 {ending}" in record.message


BAD = {
    "1_404.jpg": b"<html>404</html>",
    "2_empty.png": b"",
    "3_iphone.heic": b"\0\0\0\x18ftypheic" + bytes(64),
    "4_lfs.webp": b"version https://git-lfs.github.com/spec/v1\n",
    "5_cut.gif": b"GIF8",
}


def test_pictures_that_cannot_be_read_are_kept_and_named_at_once(folder, caplog, tmp_path):
    for name, content in BAD.items():
        (folder / name).write_bytes(content)
    inventory = tmp_path / "images.parquet"
    images = load_images(str(folder), inventory=inventory)
    assert images.dataset["image_id"][:] == [*BAD, "a.png", "b.jpg", "more/c.webp"]
    (record,) = caplog.records
    assert "5 files cannot be read; rows are kept, with the reason: 1_404.jpg (a web page (HTML)" in record.message
    for part in ("2_empty.png (empty)", "3_iphone.heic (damaged HEIC", "4_lfs.webp (a pointer", "5_cut.gif (not a"):
        assert part in record.message
    for row in range(len(BAD)):
        with pytest.raises(RowError, match="cannot be read"):
            open_image(stored_row(images.dataset, row)["images"][0])
    # The same is said, and the digest is the same, when nothing is read again.
    caplog.clear()
    again = load_images(str(folder), inventory=inventory)
    assert (
        again.digest == images.digest == load_images(str(folder)).digest and caplog.records[0].message == record.message
    )
    picture("white").save(folder / "2_empty.png")
    assert load_images(str(folder), inventory=inventory).digest != images.digest
    for number in range(20):
        (folder / f"z{number:02d}.png").write_bytes(b"no")
    caplog.clear()
    load_images(str(folder), inventory=inventory)
    assert "24 files cannot be read" in caplog.text and "z05.png (not a picture) and 14 more" in caplog.text


def test_a_picture_is_one_whatever_it_is_called(tmp_path, caplog):
    """As downloads are named by digests, without an ending or with that of a page."""
    for name, kind in (
        ("3f2a", "PNG"),
        ("4b", "TIFF"),
        ("picture.php", "JPEG"),
        ("x.jpg.1", "WEBP"),
        ("B.JPG", "JPEG"),
    ):
        (tmp_path / name).write_bytes(encoded("red", kind))
    (tmp_path / "list.json").write_text("[]")
    images = load_images(str(tmp_path), copies="all")
    assert images.dataset["image_id"][:] == ["3f2a", "4b", "B.JPG", "picture.php", "x.jpg.1"]
    assert all(open_image(stored_row(images.dataset, row)["images"][0]).size == (8, 6) for row in range(5))
    assert "1 file of other kinds passed over (1 .json)" in caplog.text


def test_a_folder_without_a_picture_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(RunError, match=r"has no pictures in it; 1 file of other kinds \(1 .md\); put some there"):
        load_images(str(tmp_path))
    (tmp_path / "a.jpg").write_text("<html>")
    for _ in range(2):  # also when it is known
        with pytest.raises(RunError, match=r"has no picture that can be read: a.jpg \(a web page"):
            load_images(str(tmp_path), inventory=tmp_path.parent / "images.parquet")


def test_the_first_pictures_only_are_read(folder, monkeypatch, caplog):
    fill(folder, ["README.md"])
    looked_at, plain = [], picture_folder._look
    monkeypatch.setattr(picture_folder, "_look", lambda root, name: looked_at.append(name) or plain(root, name))
    assert load_images(str(folder), limit=1).dataset["image_id"][:] == ["a.png"]
    assert sorted(looked_at) == ["README.md", "a.png", "raw.nef"]
    assert "the first 1 of 3 images are taken" in caplog.text


def test_what_is_no_picture_is_looked_at_once(folder, monkeypatch, tmp_path):
    fill(folder)
    inventory = tmp_path / "images.parquet"
    first = load_images(str(folder), inventory=inventory)
    monkeypatch.setattr(picture_folder, "_look", lambda *_: pytest.fail("it is read again"))
    assert load_images(str(folder), inventory=inventory).digest == first.digest


def test_an_inventory_of_an_older_version(folder, tmp_path):
    """It knows of pictures only, all of which can be read."""
    inventory = tmp_path / "images.parquet"
    first = load_images(str(folder), inventory=inventory)
    table = pq.read_table(inventory)
    pq.write_table(table.drop_columns(["problem"]), inventory)
    assert load_images(str(folder), inventory=inventory).digest == first.digest


@pytest.mark.parametrize("content", [b"", b"PAR1", None])
def test_a_damaged_inventory_is_forgotten(folder, tmp_path, caplog, content):
    inventory = tmp_path / "images.parquet"
    first = load_images(str(folder), inventory=inventory)
    whole = inventory.read_bytes()
    digest = pq.read_table(inventory)["digest"][0].as_py()
    assert whole.count(digest) >= 1
    damaged = whole.replace(digest, digest[:-1] + bytes([digest[-1] ^ 1])) if content is None else content
    inventory.write_bytes(damaged)
    assert load_images(str(folder), inventory=inventory).digest == first.digest
    assert "images.parquet cannot be read" in caplog.text and "the files are read again" in caplog.text
    assert pq.read_table(inventory).to_pylist()[0]["digest"] == digest


def test_a_name_that_is_no_text(folder, caplog):
    name = os.fsencode(folder) + b"/gr\xfcn.png"
    try:
        with open(name, "wb") as file:
            file.write(encoded("green"))
    except OSError:
        pytest.skip("this file system has no such names")
    assert len(load_images(str(folder))) == 3
    assert "1 files passed over, whose names are not UTF-8; rename: gr\\udcfcn.png" in caplog.text


def test_a_folder_that_nobody_made_for_it(tmp_path, caplog):
    """What lies in people's folders: all of it is read, or named with its reason."""

    def photo(seed, size=(40, 30)):
        return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))

    pictures = {
        "A.JPG": (photo(1), {}),
        "IMG_1.HEIC": (photo(2, (64, 48)), {"format": "HEIF"}),
        "anim.gif": (photo(3), {"save_all": True, "append_images": [photo(4)]}),
        "anim.webp": (photo(5), {"save_all": True, "append_images": [photo(6)]}),
        "big.jpg": (Image.linear_gradient("L").resize((5000, 4000)), {}),
        "cmyk.jpg": (photo(7).convert("CMYK"), {}),
        "grün 日.png": (photo(8), {}),
        "new\nline.png": (photo(9), {}),
        "palette.png": (photo(10).quantize(), {"transparency": 0}),
        "really_png.jpg": (photo(11), {"format": "PNG"}),
        "sixteen.png": (Image.fromarray(np.linspace(0, 65_535, 1200).reshape(30, 40).astype(np.uint16)), {}),
        "x.avif": (photo(12, (64, 48)), {}),
        "y.TIFF": (photo(13), {}),
        ".hidden.png": (photo(14), {}),
    }
    pillow_heif.register_heif_opener()  # to write it
    for name, (image, options) in pictures.items():
        image.save(tmp_path / name, **options)
    (tmp_path / "IMG_2").write_bytes((tmp_path / "IMG_1.HEIC").read_bytes() + b" ")
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "Thumbs.db").write_bytes(bytes(100))
    rows = load_images(str(tmp_path)).dataset
    names = sorted({*pictures, "IMG_2", "zero.jpg"} - {".hidden.png"})
    assert sorted(rows["image_id"]) == names
    for row, name in enumerate(rows["image_id"]):
        stored = stored_row(rows, row)["images"][0]
        if name == "zero.jpg":
            with pytest.raises(RowError, match="it is empty"):
                open_image(stored)
            continue
        image = open_image(stored)
        assert image.mode == "RGB" and (image.width * image.height <= 4096**2)
        assert name == "big.jpg" or image.size == pictures[name if name in pictures else "IMG_1.HEIC"][0].size
    assert "1 file of other kinds passed over (1 .db)" in caplog.text and "zero.jpg (empty)" in caplog.text


# Copies, links


def test_copies_are_used_once_unless_all_are_wanted(folder, caplog):
    for name in ("a (1).png", "a copy.png", "z.png", "more/a.jpg"):
        (folder / name).write_bytes((folder / "a.png").read_bytes())
    for name in ("empty1.png", "empty2.png"):  # of which nothing is known but that they cannot be read
        (folder / name).write_bytes(b"")
    once = load_images(str(folder)).dataset["image_id"][:]
    # By the name that its metadata know it by.
    assert once == ["a.png", "b.jpg", "empty1.png", "empty2.png", "more/c.webp"]
    assert (
        "4 files left out, copies of others to the byte: a (1).png (as a.png), a copy.png (as a.png), more/a.jpg"
        in (caplog.text)
    )
    assert "copies: all takes them" in caplog.text
    caplog.clear()
    assert len(load_images(str(folder), copies="all")) == 9 and "left out" not in caplog.text


def test_copies_do_not_count_among_the_first_pictures(folder, tmp_path, caplog):
    for name in ("a0.png", "a1.png"):
        (folder / name).write_bytes((folder / "a.png").read_bytes())
    inventory = tmp_path / "images.parquet"
    for _ in range(2):
        images = load_images(str(folder), limit=2, inventory=inventory)
        assert images.dataset["image_id"][:] == ["a.png", "b.jpg"]
        assert "the first 2 of 3 images are taken" in caplog.text


def test_links(folder, tmp_path, caplog):
    """To files, to folders within and without, to each other, to what is gone, and to a folder above."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    picture("yellow").save(elsewhere / "d.png")
    (elsewhere / "back").symlink_to(folder)
    for name, target in {
        "0_first": "more",
        "a_link.png": "a.png",
        "around": "around",
        "gone.png": "nothing.png",
        "outside": elsewhere,
        "outside_too": elsewhere,
        "up": "..",
        "root": "/",
    }.items():
        (folder / name).symlink_to(target)
    (folder / "more" / "self").symlink_to(folder / "more")
    names = load_images(str(folder)).dataset["image_id"][:]
    assert names == ["a.png", "b.jpg", "more/c.webp", "outside/d.png"]
    text = caplog.text
    assert f"links to folders, followed: 1 (outside → {elsewhere})" in text
    assert "links that lead nowhere: 2 (around, gone.png)" in text and "a_link.png (as a.png)" in text
    assert "passed over" in text and "6 (0_first, more/self, outside/back, outside_too, root and 1 more)" in text
    assert len(load_images(str(folder), copies="all")) == 5  # but a folder never twice


METADATA = {
    "metadata.csv": 'file_name,text,number\nmore/c.webp,"third,\nwith a line",3\na.png,grün,1\nb.jpg,NA,2\n',
    "metadata.jsonl": (
        '{"file_name": "more/c.webp", "text": "third,\\nwith a line", "number": 3}\n'
        '{"file_name": "./a.png", "text": "grün", "number": 1}\n{"file_name": "b.jpg", "text": "NA", "number": 2}\n'
    ),
}


@pytest.mark.parametrize("name", [*METADATA, "metadata.parquet"])
def test_metadata_give_further_columns(folder, name, caplog):
    before = load_images(str(folder))
    if name.endswith("parquet"):
        columns = {"file_name": ["more/c.webp", "a.png", "b.jpg"], "text": ["third,\nwith a line", "grün", "NA"]}
        pq.write_table(pa.table({**columns, "number": [3, 1, 2]}), folder / name)
    else:
        (folder / name).write_text(METADATA[name], "utf-8-sig" if name.endswith("csv") else "utf-8")
    images = load_images(str(folder))
    assert images.dataset.column_names == ["images", "image_id", FILE_STATES, "text", "number"]
    assert images.dataset["text"][:] == ["grün", "NA", "third,\nwith a line"]
    assert images.dataset["number"][:] == [1, 2, 3] and images.digest == before.digest
    assert images.dataset[2]["images"][0].getpixel((0, 0)) == (0, 128, 0) and not caplog.records
    assert load_images(str(folder), limit=2).dataset["number"][:] == [1, 2]


def test_metadata_are_those_of_imagefolder(folder):
    """`datasets` itself reads the same, but for the text "NA", which pandas takes for nothing."""
    (folder / "metadata.csv").write_text(METADATA["metadata.csv"].replace("NA", "N A"))
    theirs = load_dataset("imagefolder", data_dir=str(folder), split="train")
    ours = load_images(str(folder)).dataset
    texts = {row["images"][0].tobytes(): row["text"] for row in ours}
    assert {row["image"].convert("RGB").tobytes(): row["text"] for row in theirs} == texts


def test_metadata_in_folders_below_and_what_is_missing(folder, caplog):
    (folder / "metadata.csv").write_text("file_name,text\n0012.png,x\na.png,first\n")
    (folder / "more" / "metadata.jsonl").write_text('{"file_name": "c.webp", "score": 0.5}\n')
    images = load_images(str(folder)).dataset
    assert images["text"][:] == ["first", None, None] and images["score"][:] == [None, None, 0.5]
    assert "metadata of 1 file that are not there: 0012.png" in caplog.text
    assert "no metadata for 1 file: b.jpg" in caplog.text


def test_metadata_are_read_as_every_file_of_rows(folder):
    """No number, date or word is taken for something else, and a column of several kinds is one of JSON."""
    row = "a.png,007,2024-01-02,true,NA,1.50\n"
    (folder / "metadata.csv").write_text(f"file_name,camera,day,flag,gap,price\n{row}")
    images = load_images(str(folder)).dataset
    texts = {name: images[name][0] for name in ("camera", "day", "flag", "gap")}
    assert texts == {"camera": "007", "day": "2024-01-02", "flag": "true", "gap": "NA"} and images["price"][0] == 1.5
    (folder / "metadata.csv").unlink()
    rows = [{"file_name": "a.png", "tags": "x", "box": [1, 2]}, {"file_name": "b.jpg", "tags": ["x", "y"]}]
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    images = load_images(str(folder)).dataset
    assert images["tags"][:] == ["x", ["x", "y"], None] and images["box"][:] == [[1, 2], None, None]


def test_metadata_that_say_nothing(folder):
    (folder / "metadata.csv").write_text("file_name\na.png\n")
    assert load_images(str(folder)).dataset.column_names == ["images", "image_id", FILE_STATES]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name,text\na.png,x\n", "has no column file_name, .* it has .'name', 'text'"),
        (b"file_name;text\na.png;x\n", "has one column, 'file_name;text': ';' separates it, not commas"),
        (b"file_name,image_id\na.png,1\n", "has the column image_id, whose name is taken; rename it"),
        (b"file_name,images\na.png,1\n", "has the column images, whose name is taken; rename it"),
        (b"file_name,text\na.png,1\n./a.png,2\n", "name files more than once: a.png"),
        (b"file_name,text\na.png,gr\xfcn\n", "is not text in UTF-8 .*; save it as UTF-8"),
        ("file_name,text\na.png,x\n".encode("utf-16"), "metadata.csv is not text in UTF-8"),
        (b"", "metadata.csv is empty"),
        (b"file_name,text\na.png,1,2\n", "metadata.csv: the record that ends in line 2 has 3 fields, and the header 2"),
        (b"file_name,a,a\na.png,1,2\n", "has the column 'a' more than once"),
    ],
)
def test_metadata_that_cannot_be_used_are_refused(folder, content, says):
    (folder / "metadata.csv").write_bytes(content)
    with pytest.raises(RunError, match=says):
        load_images(str(folder))


def test_metadata_that_do_not_go_together(folder):
    (folder / "metadata.csv").write_text("file_name,number\na.png,1\n")
    (folder / "more" / "metadata.csv").write_text("file_name,number\nc.webp,x\n")
    with pytest.raises(RunError, match="metadata.csv, more/metadata.csv do not go together"):
        load_images(str(folder))


@pytest.mark.parametrize("name", ["train.parquet", "data/train-00000-of-00001.parquet"])
def test_a_snapshot_of_a_dataset_is_read_as_one(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    rows = Dataset.from_list([{"image": picture(colour), "caption": colour} for colour in ("red", "blue")])
    rows.to_parquet(tmp_path / name)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / ".gitattributes").write_text("*.parquet filter=lfs")
    images = load_images(str(tmp_path))
    assert images.dataset["caption"][:] == ["red", "blue"] and images.dataset["image_id"][:] == ["000000", "000001"]
    assert images.digest == load_images(str(tmp_path), inventory=tmp_path.parent / "i.parquet").digest
    # Rows and pictures together can be read in two ways.
    picture("white").save(tmp_path / "banner.png")
    with pytest.raises(
        RunError, match=r"has both 1 pictures \(banner.png, ...\) and 1 files of rows \(.*parquet, ...\)"
    ):
        load_images(str(tmp_path))


def test_a_folder_of_tables_without_images(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(RunError, match="no column 'images' or 'image'; found text"):
        load_images(str(tmp_path))


def test_names_of_every_kind(folder, caplog):
    """Odd names are names; those that no table can hold are told; none writes into the terminal."""
    odd = ["a\nb.png", "\x1b[31mred.png", "con.png", "…" * 80 + ".png", "-rf.png", "%s.png", "a'\"<b>.png", "..png"]
    for number, name in enumerate(odd):
        picture((number, 0, 0)).save(folder / name, "PNG")
    (folder / "\x1b[2Jbad.jpg").write_bytes(b"no picture")
    picture("pink").save(os.fsencode(folder) + b"/latin\xe9.png", "PNG")
    rows = load_images(str(folder)).dataset
    kept = {*odd, "a.png", "b.jpg", "more/c.webp", "\x1b[2Jbad.jpg"} - {"..png"}  # hidden
    assert set(rows["image_id"][:]) == kept and len(rows) == len(kept)
    for row in range(len(rows)):
        stored = stored_row(rows, row)
        if not stored["image_id"].endswith("bad.jpg"):
            assert open_image(stored["images"][0]).size == (8, 6)
    assert "1 files passed over, whose names are not UTF-8; rename: latin\\udce9.png" in caplog.text
    assert "cannot be read; rows are kept, with the reason: ?[2Jbad.jpg" in caplog.text and "\x1b" not in caplog.text


def test_folders_deeper_than_recursion_goes(tmp_path):
    with contextlib.chdir(tmp_path):
        for _ in range(1500):  # its path is too long to be given in one
            os.mkdir("a")
            os.chdir("a")
        Path("x.txt").touch()
        assert [file.name for file in list_files(tmp_path)] == [f"{'a/' * 1500}x.txt"]
        Path("x.txt").unlink()
        for _ in range(1500):  # which `rmtree` cannot
            os.chdir("..")
            os.rmdir("a")


def test_a_folder_that_vanishes_meanwhile(folder, monkeypatch):
    scan = os.scandir

    def vanishing(path):
        entries = list(scan(path))
        if str(path) == str(folder):
            (folder / "more" / "c.webp").unlink()
            (folder / "more").rmdir()
        return entries

    monkeypatch.setattr("c3l_hf.files.inventory.os.scandir", vanishing)
    notes = []
    assert [file.name for file in list_files(folder, notes)] == ["a.png", "b.jpg"]
    assert notes == ["folders that cannot be read: 1 (more)"]
    with pytest.raises(RunError, match="gone cannot be read: No such file or directory"):
        list_files(folder / "gone")
