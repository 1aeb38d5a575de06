"""Near-duplicate images: copies are found, different pictures stay, the image with the best pair keeps its pairs."""

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset
from photos import COPIES, encoded, photo, shapes, stored
from scored_rows import FEATURES, pair

from c3l_hf.scenes import load_scenes
from c3l_hf.selection.curation import curate
from c3l_hf.selection.image_duplicates import embedding_links, similar_images, sketched
from c3l_hf.selection.image_sketches import look_alikes, same_contents, sketch_images

RULE = "about a near-duplicate of another image"
PHOTOS = 24


@pytest.fixture(scope="module")
def photos():
    return [photo(number) for number in range(PHOTOS)]


@pytest.fixture(scope="module")
def sketches(photos):
    return sketch_images(enumerate(map(encoded, photos)))


def pairs_of(first, second, **options):
    return {pair for one, other in look_alikes(first, second, **options) for pair in zip(one.tolist(), other.tolist())}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found_and_nothing_else(name, photos, sketches):
    copies = sketch_images(enumerate(encoded(COPIES[name](image)) for image in photos))
    pairs = pairs_of(copies, sketches)
    assert all(one == other for one, other in pairs), "different pictures are taken for copies"
    assert len(pairs) >= 0.95 * PHOTOS


def test_different_pictures_are_not_joined(sketches):
    assert pairs_of(sketches, sketches) == set()
    scenes = load_scenes(300, seed=3, split="train").with_format("arrow")["images"]
    scenes = sketch_images((number, images[0]) for number, images in enumerate(scenes[:].to_pylist()))
    assert len(scenes.hashes) == 300 and not scenes.plain.any() and pairs_of(scenes, scenes) == set()


def test_pictures_without_detail_are_equal_only_if_their_files_are():
    generator = np.random.default_rng(0)
    colours = [tuple(colour) for colour in generator.integers(0, 256, (20, 3)).tolist()]
    flat = [encoded(PIL.Image.new("RGB", (64, 64), colour)) for colour in colours]
    drawings = [encoded(shapes(number)) for number in range(60)]
    noise = [encoded(PIL.Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8))) for _ in range(40)]
    as_jpeg = [encoded(PIL.Image.new("RGB", (64, 64), colour), "JPEG") for colour in colours]
    found = sketch_images(enumerate([*flat, *drawings, *noise, *as_jpeg, flat[3], drawings[5]]))
    assert pairs_of(found, found) == set()
    assert found.plain[:20].all() and not found.plain[80:120].any()
    assert found.content.tolist() == [*range(140), 3, 25]


def test_colours_tell_pictures_apart_that_have_the_same_light(photos):
    """As an icon in other colours: a question about the colour has another answer."""
    bands = photos[0].convert("YCbCr").split()
    swapped = PIL.Image.merge("YCbCr", (bands[0], bands[1].point(lambda v: 255 - v), bands[2].point(lambda v: 255 - v)))
    found = sketch_images(enumerate(map(encoded, (photos[0], swapped.convert("RGB"), photos[0].convert("L")))))
    assert pairs_of(found, found) == {(0, 2), (1, 2)}


def test_same_contents_are_found_by_the_byte(sketches, photos, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(photos[4]))
    other = sketch_images(
        [(0, tmp_path / "a.png"), (1, {"bytes": None, "path": str(tmp_path / "a.png")})], decode=False
    )
    assert other.content.tolist() == [0, 0] and other.plain.all()
    assert [numbers.tolist() for numbers in same_contents(other, sketches)] == [[0], [4]]


def images_of(*pictures):
    return sketched((f"i{number}", [picture]) for number, picture in enumerate(pictures))


def test_what_cannot_be_read_has_its_reason_and_is_like_nothing(tmp_path):
    damaged = encoded(photo(0), "JPEG")[:900]
    images = sketched(
        [
            ("damaged", [damaged]),
            ("damaged too", [damaged]),
            ("gone", [str(tmp_path / "gone.png")]),
            ("none", []),
            ("null", [{"bytes": None, "path": None}]),
            ("address", ["https://example.invalid/a.png"]),
            ("fine", [encoded(photo(0))]),
        ]
    )
    reasons = [images.sketches.unreadable.get(number) for number in range(7)]
    assert reasons[:2] == ["the image cannot be read (it is cut off)"] * 2
    assert reasons[2] == "the image cannot be read (there is no such file)" and reasons[3].startswith(
        "the row has no image"
    )
    assert reasons[4] is not None and "not fetched" in reasons[5] and reasons[6] is None
    assert not any("example" in reason or str(tmp_path) in reason for reason in filter(None, reasons))
    similar = similar_images(images)
    # The same damaged file twice is the same file.
    assert similar.looks["damaged"] == similar.looks["damaged too"] and {"gone", "none", "null"}.isdisjoint(
        similar.looks
    )
    assert any(
        "images compared with none: 2; the image cannot be read (it is cut off)" in note for note in similar.notes
    )


def test_images_of_several_pictures_are_the_same_if_all_are():
    a, b, c = (encoded(photo(number)) for number in range(3))
    copy = encoded(COPIES["jpeg 60"](photo(0)))
    images = sketched([("ab", [a, b]), ("ab again", [a, b]), ("ba", [b, a]), ("a", [a]), ("c", [c]), ("copy", [copy])])
    similar = similar_images(images)
    assert similar.looks["ab"] == similar.looks["ab again"] != similar.looks["ba"]
    assert similar.links.tolist() == [[similar.looks["a"], similar.looks["copy"]]]
    assert similar_images(images, "same").links.tolist() == []
    with pytest.raises(ValueError, match="comparison is 'none'"):
        similar_images(images, "none")


def test_embeddings():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(2500, 8)).astype(np.float32)
    vectors[2400] = 3 * vectors[5] + 0.01
    found = {tuple(pair) for pair in embedding_links(vectors, 0.97, 2500).tolist()}
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = np.argwhere(np.triu(unit @ unit.T >= 0.97, 1))
    assert (5, 2400) in found and found == set(map(tuple, near.tolist()))
    images = images_of(*(encoded(photo(number)) for number in range(3)))
    similar = similar_images(images, "same", embeddings=np.array([[1, 0], [0, 1], [1, 0.01]]))
    assert similar.links.tolist() == [[similar.looks["i0"], similar.looks["i2"]]]
    for wrong in (np.zeros(3), np.zeros((2, 2)), np.array([[1, 0], [0, 1], [np.nan, 1]])):
        with pytest.raises(ValueError, match="for each of 3 images"):
            similar_images(images, "same", embeddings=wrong)


def dataset_of(pictures, scores):
    """Two pairs about each picture, whose texts are their own."""
    rows = []
    for number, (picture, score) in enumerate(zip(pictures, scores)):
        for k in range(2):
            words = " ".join(f"w{number}x{k}y{place}" for place in range(5))
            row = pair(f"i{number}", k, score - k / 10, question=words + "?", answer=words[::-1])
            rows.append({**row, "images": [stored(picture)]})
    return Dataset.from_list(rows, features=FEATURES)


@pytest.mark.parametrize("comparison, kept", [("none", "012345"), ("same", "01234"), ("similar", "124")])
def test_the_image_with_the_best_pair_keeps_its_pairs(comparison, kept, photos):
    copies = [photos[0], COPIES["jpeg 60"](photos[0]), photos[1], COPIES["cropped"](photos[1]), photos[2], photos[0]]
    data = dataset_of(copies, [1, 3, 2, 1, 0, 0.5])
    curated, report = curate(data, near_duplicate_images=comparison)
    assert curated["pair_id"][:] == [f"i{number}/{k}" for number in kept for k in range(2)]
    assert report.dropped.get(RULE, 0) == 12 - 2 * len(kept) and (RULE in report.dropped) == (comparison != "none")
    assert RULE in str(report) or comparison == "none"


def test_groups_are_not_chains():
    """The first and the last of a chain are both kept: neither is like the other."""
    import pyarrow as pa

    from c3l_hf.selection.image_duplicates import SimilarImages

    chain = SimilarImages({name: number for number, name in enumerate("abcd")}, np.array([[0, 1], [1, 2], [2, 3]]))
    ids = pa.array(list("abcdx"))
    assert chain.kept(ids, np.array([0, 1, 2, 3, 4, 1])).tolist() == [True, False, True, False, True, False]
    assert chain.kept(ids, np.array([1, 0, 2, 3])).tolist() == [True, False, False, True]


def test_only_images_that_still_have_pairs_count(photos):
    """A copy's pairs stay where the other's have left for another reason."""
    data = dataset_of([photos[0], COPIES["half as large"](photos[0])], [-5, 1])
    curated, report = curate(data, near_duplicate_images="similar", floors={"i2c": 0})
    assert curated["pair_id"][:] == ["i1/0", "i1/1"] and report.dropped[RULE] == 0


def test_a_stranger_s_folder(tmp_path, photos):
    """Rows that name files, without ids; some are damaged or gone."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    files = []
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(encoded(photos[number], "JPEG", quality=90))
        (folder / f"small{number}.jpg").write_bytes(encoded(COPIES["half as large"](photos[number]), "JPEG"))
        files += [f"{number}.jpg", f"small{number}.jpg"]
    (folder / "bad.jpg").write_bytes(b"no picture")
    files += ["bad.jpg", "gone.jpg"]
    rows = {
        "image": files,
        "question": [f"What is in {file}, asked as number {number}?" for number, file in enumerate(files)],
        "answer": [f"{number} " * 4 for number in range(len(files))],
        "i2c": [float(number) for number in range(len(files))],
        "i2c_status": ["ok"] * len(files),
    }
    curated, report = curate(Dataset.from_dict(rows), near_duplicate_images="similar", image_folder=folder)
    assert curated["image"][:] == [*(f"small{number}.jpg" for number in range(6)), "bad.jpg", "gone.jpg"]
    assert report.dropped[RULE] == 6
    assert sum("images compared with none: 1; the image cannot be read" in line for line in report.assumed) == 2
