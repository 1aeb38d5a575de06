"""Rows and their images, joined: nothing is copied for every row, nothing decoded early, nothing missing silently."""

import pickle

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, Features, Image, List, Value

from c3l_hf import join_images

IMAGES = Features({"image_id": Value("string"), "images": List(Image())})


def picture(number: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 48, 3), dtype=np.uint8))


def image_rows(n: int) -> Dataset:
    return Dataset.from_list([{"image_id": str(n), "images": [picture(n)]} for n in range(n)], features=IMAGES)


def rows_about(ids) -> Dataset:
    return Dataset.from_dict(
        {"pair_id": [f"{id}/{n}" for n, id in enumerate(ids)], "image_id": ids, "score": [0.5] * len(ids)}
    )


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "c3l_images"


def test_rows_have_their_images_again():
    rows = rows_about(["2", "0", "2"])
    joined = join_images(rows, image_rows(4))
    assert joined.column_names == ["images", *rows.column_names]
    assert joined.features == Features({"images": List(Image()), **rows.features})
    assert joined.remove_columns("images")[:] == rows[:]
    assert [row["images"][0].tobytes() for row in joined] == [picture(n).tobytes() for n in (2, 0, 2)]
    # As stages read them, too, and of a part in another order.
    (table,) = joined.select([1, 0]).with_format("arrow").iter(5)
    assert [PIL.Image.open(row["images"][0]["path"]).tobytes() for row in table.to_pylist()] == [
        picture(n).tobytes() for n in (0, 2)
    ]


def test_each_picture_is_written_once_and_only_where_it_is_needed(cache):
    rows = rows_about(["1", "2"] * 500)
    joined = join_images(rows, image_rows(5))
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    assert len(files) == 2 and joined.data.nbytes < 300 * len(rows)
    assert len(pickle.dumps(joined)) < 300 * len(rows)
    again = join_images(rows.select(range(7)), image_rows(5))
    assert again[0]["images"][0].tobytes() == picture(1).tobytes()
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == files
    # What was cut short is written again.
    next(iter(files)).write_bytes(b"half")
    assert all(row["images"][0].size == (48, 64) for row in join_images(rows, image_rows(5)).select([0, 1]))


def test_files_stay_where_they_are(tmp_path, cache):
    picture(0).save(tmp_path / "a.png")
    images = Dataset.from_list([{"image_id": "0", "images": [str(tmp_path / "a.png")]}], features=IMAGES)
    joined = join_images(rows_about(["0", "0"]), images)
    assert [row["images"][0].tobytes() for row in joined] == [picture(0).tobytes()] * 2
    assert not cache.exists()


def test_rows_and_images_in_another_order():
    images = image_rows(6).select([5, 3, 1])
    rows = rows_about(["0", "1", "3", "5"]).select([3, 1])
    assert [row["images"][0].tobytes() for row in join_images(rows, images)] == [picture(n).tobytes() for n in (5, 1)]
    assert len(join_images(rows, images.cast_column("images", List(Image(decode=False))))) == 2


def test_an_image_without_a_picture_keeps_its_rows():
    images = Dataset.from_list([{"image_id": "a", "images": []}], features=IMAGES)
    assert join_images(rows_about(["a"]), images)["images"][:] == [[]]


def test_what_does_not_fit_is_named(tmp_path):
    rows, images = rows_about(["0", "9"]), image_rows(2)
    with pytest.raises(ValueError, match="row 1 .pair '9/1'.: its image_id '9' is not among the 2 images"):
        join_images(rows, images)
    with pytest.raises(ValueError, match="row 0: its image_id None is not among"):
        join_images(Dataset.from_dict({"image_id": [None]}, features=Features({"image_id": Value("string")})), images)
    with pytest.raises(ValueError, match="'image_id' of images must be unique; more than once: '1'"):
        join_images(rows, image_rows(2).select([0, 1, 1]))
    with pytest.raises(ValueError, match="images has no column 'images'; it has image_id, score"):
        join_images(rows, rows.select_columns(["image_id", "score"]))
    with pytest.raises(ValueError, match="rows has no column 'picture'"):
        join_images(rows, images, key="picture")
    with pytest.raises(ValueError, match="rows has a column 'images' already"):
        join_images(images, images)


def test_streamed_rows_are_refused_in_words():
    rows = Dataset.from_dict({"image_id": ["a"]})
    images = Dataset.from_dict({"image_id": ["a"], "images": [[None]]}).to_iterable_dataset()
    with pytest.raises(TypeError, match="images is IterableDataset; give a Dataset, loaded without streaming"):
        join_images(rows, images)
    with pytest.raises(TypeError, match="rows is IterableDataset"):
        join_images(rows.to_iterable_dataset(), images)
