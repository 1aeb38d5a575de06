"""Where images come from, and what is refused before any work."""

import hashlib
import os

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from c3l_hf.common.errors import RunError
from c3l_hf.data import sources
from c3l_hf.data.sources import images_digest, load_images
from c3l_hf.files import picture_folder


def picture(colour, size=(8, 6)):
    return Image.new("RGB", size, colour)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    picture("red").save(tmp_path / "pictures" / "b.png")
    picture("blue").save(tmp_path / "pictures" / "a.jpg")
    picture("green").save(tmp_path / "pictures" / "more" / "c.png")
    (tmp_path / "pictures" / ".hidden").write_text("of the file manager")
    (tmp_path / "pictures" / ".thumbnails").mkdir()
    picture("red").save(tmp_path / "pictures" / ".thumbnails" / "b.png")
    return tmp_path / "pictures"


def test_a_folder_of_pictures(folder, caplog):
    rows = load_images(str(folder)).dataset
    assert rows["image_id"][:] == ["a.jpg", "b.png", "more/c.png"]
    assert rows[2]["images"][0].getpixel((0, 0)) == (0, 128, 0)
    assert load_images(str(folder), limit=3).dataset["image_id"][:] == rows["image_id"][:] and not caplog.records
    assert load_images(str(folder), limit=2).dataset["image_id"][:] == ["a.jpg", "b.png"]
    assert "pictures: the first 2 of 3 images are taken (num_images)" in caplog.text


def test_scenes_come_with_their_truth():
    rows = load_images("scenes", split="test", limit=3, seed=1).dataset
    shifted = load_images("scenes-shifted", split="test", limit=3, seed=1).dataset
    assert "objects" in rows.column_names and rows["objects"][:] != shifted["objects"][:]


def test_a_saved_dataset(tmp_path):
    rows = Dataset.from_dict({"image": [picture("red"), picture("blue")], "caption": ["a", "b"]})
    rows.save_to_disk(tmp_path / "plain")
    DatasetDict({"train": rows}).save_to_disk(tmp_path / "splits")
    assert load_images(str(tmp_path / "plain")).dataset["caption"][:] == ["a", "b"]
    assert load_images(str(tmp_path / "plain")).dataset["image_id"][:] == ["000000", "000001"]
    assert len(load_images(str(tmp_path / "plain")).digest) == 64
    assert len(load_images(str(tmp_path / "splits"), limit=1)) == 1
    with pytest.raises(RunError, match="no split 'test'; its splits are train"):
        load_images(str(tmp_path / "splits"), split="test")


def test_what_cannot_be_used_is_named(tmp_path, folder, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="empty has no pictures in it"):
        load_images(str(tmp_path / "empty"))
    (folder / "notes.txt").write_text("not a picture")
    with pytest.raises(RunError, match="is a file"):
        load_images(str(folder / "notes.txt"))
    with pytest.raises(RunError, match="needs num_images"):
        load_images("scenes")
    Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "texts")
    with pytest.raises(RunError, match="texts: no column 'images' or 'image'; found text"):
        load_images(str(tmp_path / "texts"))
    Dataset.from_dict({"image": ["a.png"]}).save_to_disk(tmp_path / "paths")
    with pytest.raises(RunError, match="paths: column 'image' holds .* not images: dataset.cast_column"):
        load_images(str(tmp_path / "paths"))
    twice = Dataset.from_dict({"image": [picture("red")] * 3, "image_id": [1, 2, 1]})
    twice.save_to_disk(tmp_path / "twice")
    with pytest.raises(RunError, match="twice: column 'image_id' must be unique; more than once: 1"):
        load_images(str(tmp_path / "twice"))
    Dataset.from_dict({"image": [picture("red")]}).select([]).save_to_disk(tmp_path / "none")
    with pytest.raises(RunError, match="none has no rows"):
        load_images(str(tmp_path / "none"))
    with pytest.raises(RunError, match="no_such_folder: there is no such file or folder"):
        load_images(str(tmp_path / "no_such_folder"))


def test_the_digest_follows_ids_and_contents(folder):
    first = load_images(str(folder)).digest
    assert load_images(str(folder)).digest == first
    picture("white").save(folder / "b.png")
    second = load_images(str(folder)).digest
    (folder / "b.png").rename(folder / "d.png")
    third = load_images(str(folder)).digest
    assert len({first, second, third, load_images(str(folder), limit=1).digest}) == 4
    pixels = np.asarray(load_images("scenes", limit=1).dataset[0]["images"][0])
    assert pixels.shape == (64, 64, 3)
    assert load_images("scenes", limit=2).digest != load_images("scenes", limit=2, seed=1).digest


def test_pictures_are_read_again_only_when_they_changed(folder, tmp_path, monkeypatch):
    file = tmp_path / "run" / "images.parquet"
    first = load_images(str(folder), inventory=file)
    assert first.digest == load_images(str(folder)).digest

    looked_at = []
    plain = picture_folder._look
    monkeypatch.setattr(picture_folder, "_look", lambda root, name: looked_at.append(name) or plain(root, name))
    assert load_images(str(folder), inventory=file).digest == first.digest and not looked_at
    picture("white").save(folder / "b.png")
    second = load_images(str(folder), inventory=file)
    assert looked_at == ["b.png"] and second.digest == load_images(str(folder)).digest != first.digest
    (folder / "a.jpg").unlink()
    looked_at.clear()
    assert load_images(str(folder), inventory=file).dataset["image_id"][:] == ["b.png", "more/c.png"] and not looked_at
    assert load_images(str(folder), inventory=file, limit=1).dataset["image_id"][:] == ["b.png"]


def test_a_dataset_is_read_once(tmp_path, monkeypatch):
    rows = Dataset.from_dict({"image": [picture("red"), picture("blue")]})
    rows.save_to_disk(tmp_path / "rows")
    file = tmp_path / "images.parquet"
    first = load_images(str(tmp_path / "rows"), inventory=file)
    assert first.digest == load_images(str(tmp_path / "rows")).digest
    monkeypatch.setattr(hashlib, "sha256", None)  # nothing is digested again
    assert load_images(str(tmp_path / "rows"), inventory=file).digest == first.digest
    monkeypatch.undo()
    other = Dataset.from_dict({"image": [picture("red"), picture("green")]})
    other.save_to_disk(tmp_path / "other")
    assert load_images(str(tmp_path / "other"), inventory=file).digest != first.digest


def test_files_that_a_dataset_names_are_looked_at_every_time(tmp_path):
    picture("red").save(tmp_path / "a.png")
    rows = Dataset.from_dict({"image": [str(tmp_path / "a.png")], "image_id": ["a"]}).cast_column(
        "image", ImageFeature()
    )
    first = images_digest(rows, tmp_path / "inventory.parquet")
    picture("blue").save(tmp_path / "a.png")
    assert images_digest(rows, tmp_path / "inventory.parquet") != first


def test_a_picture_that_was_replaced_without_a_trace_is_read_again(tmp_path):
    """As archives do that are unpacked over each other: the same name, size and time of the content."""
    (tmp_path / "pictures").mkdir()
    file, inventory = tmp_path / "pictures" / "a.bmp", tmp_path / "images.parquet"
    digests = []
    for colour in ("red", "blue"):
        picture(colour).save(file)
        os.utime(file, (1e9, 1e9))
        digests.append(load_images(str(tmp_path / "pictures"), inventory=inventory).digest)
    assert digests[0] != digests[1]


def test_files_that_a_dataset_names_are_read_again_only_when_they_changed(tmp_path, monkeypatch):
    picture("red").save(tmp_path / "a.png")
    rows = {"image": [str(tmp_path / "a.png")], "image_id": ["a"]}
    rows = Dataset.from_dict(rows).cast_column("image", ImageFeature())
    read = []
    plain = sources.sha256_of
    monkeypatch.setattr(sources, "sha256_of", lambda path: read.append(path) or plain(path))
    first = images_digest(rows, tmp_path / "inventory.parquet")
    assert images_digest(rows, tmp_path / "inventory.parquet") == first and len(read) == 1
    picture("blue").save(tmp_path / "a.png")
    assert images_digest(rows, tmp_path / "inventory.parquet") != first and len(read) == 2


def test_an_image_that_is_nothing_has_a_digest():
    """As a parquet file can have it; `datasets` would refuse to write it."""
    features = Features({"image": ImageFeature(), "image_id": Value("string")})
    rows = pa.table({"image": [{"bytes": None, "path": None}, None], "image_id": ["a", "b"]}, features.arrow_schema)
    assert len(images_digest(Dataset(rows))) == 64


@pytest.mark.parametrize("limit", [0, -1])
def test_no_images_are_refused(folder, limit):
    for source in (str(folder), "scenes"):
        with pytest.raises(RunError, match=f"num_images is {limit}; it must be at least 1"):
            load_images(source, limit=limit)


def test_a_place_that_cannot_be_written_costs_time_only(folder, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    kept_nowhere = tmp_path / "file" / "images.parquet"
    assert load_images(str(folder), inventory=kept_nowhere).digest == load_images(str(folder)).digest
    assert "cannot be kept" in caplog.text
