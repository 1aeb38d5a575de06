"""What a dataset is to have nothing of, by name: benchmarks in their layouts, folders of pictures, other datasets."""

import json

import pytest
from datasets import Dataset, Image
from photos import COPIES, encoded, photo, stored
from tiny_benchmarks import (
    llava_bench_rows,
    mmbench_rows,
    pope_rows,
    seed_rows,
    write_llava_bench,
    write_mmbench,
    write_pope,
    write_seed,
)

from c3l_hf.common.errors import RunError
from c3l_hf.pipeline.curation_options import CurationOptions
from c3l_hf.pipeline.image_checks import ImageChecks, open_benchmarks
from c3l_hf.pipeline.inputs import with_image_comparison
from c3l_hf.pipeline.options import ImageOptions
from c3l_hf.selection.image_duplicates import sketched

LONG = "Considering the two bicycles that lean against the old wall, which of them has a basket in front?"


def planted(rows, number=0):
    """A benchmark's rows, the first two with a photo; one asks a long question."""
    for row in rows[:2]:
        row["image"] = [stored(photo(number))] if isinstance(row["image"], list) else stored(photo(number))
    rows[1]["question"] = LONG
    return rows


LAYOUTS = {
    "pope": lambda folder: write_pope(folder, planted(pope_rows(6))),
    "seed": lambda folder: write_seed(folder, planted(seed_rows(4))),
    "mmbench": lambda folder: write_mmbench(folder, planted(mmbench_rows(4)), circular=False),
    "llava_w": lambda folder: write_llava_bench(folder, planted(llava_bench_rows(3))),
}


def images(*pictures):
    rows = {"images": [[stored(picture)] for picture in pictures], "image_id": [f"i{n}" for n in range(len(pictures))]}
    return Dataset.from_dict(rows).cast_column("images", [Image()])


def contaminated(benchmarks, *pictures):
    checks = ImageChecks(CurationOptions(), images(*pictures), benchmarks)
    return dict(checks.found.contamination.images)


@pytest.mark.parametrize("name", LAYOUTS)
def test_benchmarks_in_their_layouts(name, tmp_path):
    folder = LAYOUTS[name](tmp_path / "there")
    (opened,) = open_benchmarks([f"{name}={folder}"])
    assert opened.name == name and any(LONG in text for _, text in opened.texts)
    assert contaminated([opened], photo(0), COPIES["jpeg 60"](photo(0)), photo(1)) == {"i0": 0, "i1": 0}
    contents = opened.contents()
    assert len(contents.runs) >= len(LONG.split()) - 12 and not contents.images.sketches.unreadable


def test_folders_of_pictures_and_datasets(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(encoded(photo(1), "JPEG"))
    file = tmp_path / "asked.jsonl"
    rows = [{"question": LONG, "answer": "The left.", "image": str(folder / "a.jpg")}, {"question": "?", "answer": "-"}]
    file.write_text("\n".join(json.dumps({"image": None} | row) for row in rows))
    saved = tmp_path / "saved"
    images(photo(2)).save_to_disk(saved)
    again = tmp_path / "again" / "pictures"
    again.mkdir(parents=True)
    (again / "b.png").write_bytes(encoded(photo(3)))
    opened = open_benchmarks(map(str, (folder, file, saved, again)))
    assert [one.name for one in opened] == ["pictures", "asked.jsonl", "saved", "pictures (2)"]
    assert [len(one.texts) for one in opened] == [0, 2, 0, 0] and opened[1].texts[0][1] == LONG
    found = contaminated(opened, *(photo(number) for number in range(4)))
    assert found == {"i1": 0, "i2": 2, "i3": 3}
    digests = [one.digest for one in opened]
    assert len(set(digests)) == 4 and digests == [
        one.digest for one in open_benchmarks(map(str, (folder, file, saved, again)))
    ]
    (folder / "c.png").write_bytes(encoded(photo(4)))
    assert open_benchmarks([str(folder)])[0].digest != digests[0]


def test_another_split(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    images(photo(0)).to_parquet(folder / "train-00000.parquet")
    images(photo(1)).to_parquet(folder / "test-00000.parquet")
    for source, found in ((str(folder), {"i0": 0}), (f"{folder}#test", {"i1": 0})):
        assert contaminated(open_benchmarks([source]), photo(0), photo(1)) == found


@pytest.mark.parametrize("source", ["pope=/nowhere/at/all", "/nowhere/at/all", "pope=", "nobody"])
def test_what_cannot_be_opened_is_named(source, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RunError, match=f"decontaminate has '{source}': "):
        open_benchmarks([source])


def test_pictures_are_read_when_asked_for_and_once(monkeypatch):
    read = []
    monkeypatch.setattr("c3l_hf.selection.hygiene.sketched", lambda *a, **k: read.append(k) or sketched(*a, **k))
    nothing = ImageChecks(CurationOptions(), images(photo(0)), [])
    assert nothing.found.similar is None and nothing.found.contamination is None and not read
    checks = ImageChecks(CurationOptions(near_duplicate_images="same"), images(photo(0), photo(0)), [])
    assert not read and checks.found.similar.looks == {"i0": 0, "i1": 0} and checks.found is checks.found
    assert read == [{"decode": False}]


def test_pictures_of_ones_own_that_look_alike_are_used_once_by_default(tmp_path):
    (tmp_path / "own").mkdir()
    photo(0).save(tmp_path / "own" / "a.png")
    Dataset.from_dict({"image": [photo(0)]}).save_to_disk(tmp_path / "rows")
    for source, expected in ((tmp_path / "own", "similar"), (tmp_path / "rows", "none"), ("scenes", "none")):
        decided = with_image_comparison(CurationOptions(), ImageOptions(str(source)))
        assert decided.near_duplicate_images == expected
        kept = with_image_comparison(CurationOptions(near_duplicate_images="same"), ImageOptions(str(source)))
        assert kept.near_duplicate_images == "same"
    assert with_image_comparison(CurationOptions(), ImageOptions()).image_comparison() == "none"  # pairs
