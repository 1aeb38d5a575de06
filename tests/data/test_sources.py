"""Where images come from, and what is refused before any work."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from c3l_hf.common.errors import RunError
from c3l_hf.data.sources import images_digest, load_images


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
    rows = load_images(str(folder))
    assert rows["image_id"][:] == ["a.jpg", "b.png", "more/c.png"]
    assert rows[2]["images"][0].getpixel((0, 0)) == (0, 128, 0)
    assert load_images(str(folder), limit=3)["image_id"][:] == rows["image_id"][:] and not caplog.records
    assert load_images(str(folder), limit=2)["image_id"][:] == ["a.jpg", "b.png"]
    assert "pictures: the first 2 of 3 images are taken (--num_images)" in caplog.text


def test_scenes_come_with_their_truth():
    rows = load_images("scenes", split="test", limit=3, seed=1)
    shifted = load_images("scenes-shifted", split="test", limit=3, seed=1)
    assert "objects" in rows.column_names and rows["objects"][:] != shifted["objects"][:]


def test_a_saved_dataset(tmp_path):
    rows = Dataset.from_dict({"image": [picture("red"), picture("blue")], "caption": ["a", "b"]})
    rows.save_to_disk(tmp_path / "plain")
    DatasetDict({"train": rows}).save_to_disk(tmp_path / "splits")
    assert load_images(str(tmp_path / "plain"))["caption"][:] == ["a", "b"]
    assert load_images(str(tmp_path / "plain"))["image_id"][:] == ["000000", "000001"]
    assert len(images_digest(load_images(str(tmp_path / "plain")))) == 64
    assert len(load_images(str(tmp_path / "splits"), limit=1)) == 1
    with pytest.raises(RunError, match="no split 'test'; its splits are train"):
        load_images(str(tmp_path / "splits"), split="test")


def test_what_cannot_be_used_is_named(tmp_path, folder, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="empty has no pictures in it"):
        load_images(str(tmp_path / "empty"))
    (folder / "notes.txt").write_text("not a picture")
    with pytest.raises(RunError, match=r"notes\.txt is not a picture that can be read .* remove it"):
        load_images(str(folder))
    with pytest.raises(RunError, match="is a file"):
        load_images(str(folder / "notes.txt"))
    with pytest.raises(RunError, match="needs --num_images"):
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
    Dataset.from_dict({"image": [picture("red")]}).save_to_disk(tmp_path / "one")
    with pytest.raises(RunError, match="has no rows"):
        load_images(str(tmp_path / "one"), limit=0)
    with pytest.raises(RunError, match="no_such_folder is neither a folder here nor a dataset"):
        load_images(str(tmp_path / "no_such_folder"))


def test_the_digest_follows_ids_and_contents(folder):
    first = images_digest(load_images(str(folder)))
    assert images_digest(load_images(str(folder))) == first
    picture("white").save(folder / "b.png")
    second = images_digest(load_images(str(folder)))
    (folder / "b.png").rename(folder / "d.png")
    third = images_digest(load_images(str(folder)))
    assert len({first, second, third, images_digest(load_images(str(folder), limit=1))}) == 4
    pixels = np.asarray(load_images("scenes", limit=1)[0]["images"][0])
    assert pixels.shape == (64, 64, 3)
    assert images_digest(load_images("scenes", limit=2)) != images_digest(load_images("scenes", limit=2, seed=1))
