"""Blind baselines: what stands in the image's place, from the row's content alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from c3l_hf.common.errors import RowError
from c3l_hf.data.turns import Pair
from c3l_hf.scoring.blind import BASELINES, PairEncoder
from c3l_hf.scoring.scorer import I2CScorer


def picture(seed, size=(32, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def pair(image, question="What?"):
    return Pair([{"role": "user", "content": question}], "A dog.", image if isinstance(image, list) else [image])


def pixels(processor, image):
    return processor.image_processor(image, return_tensors="pt")["pixel_values"]


def test_drop(llava):
    _, processor = llava
    with_image, blind = PairEncoder(processor, None).encode(pair(picture(0)))
    assert "pixel_values" in with_image.inputs and "pixel_values" not in blind.inputs and blind.images == ()


def test_blank_is_the_mean_colour(llava):
    _, processor = llava
    image = Image.new("RGB", (40, 20), (10, 20, 30))
    image.paste((110, 120, 130), (0, 0, 20, 20))
    _, blind = PairEncoder(processor, None, "blank").encode(pair(image))
    assert torch.equal(blind.inputs["pixel_values"], pixels(processor, Image.new("RGB", (40, 20), (60, 70, 80))))


def test_noise_comes_from_the_image(llava):
    _, processor = llava
    rows = [PairEncoder(processor, None, "noise").encode(pair(picture(seed)))[1] for seed in (0, 0, 1)]
    values = [row.inputs["pixel_values"] for row in rows]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    assert not torch.equal(values[0], pixels(processor, picture(0)))


def test_shuffle_takes_another_image(llava):
    _, processor = llava
    pool = [picture(seed) for seed in range(4)]
    encoder = PairEncoder(processor, None, "shuffle", pool)
    known = [pixels(processor, image) for image in pool]
    for number, image in enumerate(pool):
        taken = encoder.encode(pair(image.copy()))[1].inputs["pixel_values"]
        index = [torch.equal(taken, other) for other in known].index(True)
        assert index != number
        again = PairEncoder(processor, None, "shuffle", pool).encode(pair(image))[1].inputs["pixel_values"]
        assert torch.equal(again, taken)
    with pytest.raises(RowError, match="no image other than"):
        PairEncoder(processor, None, "shuffle", [picture(7)]).encode(pair(picture(7)))


@pytest.mark.parametrize("blind", BASELINES)
def test_every_baseline_scores_the_same_with_image(llava, blind):
    options = {"blind_images": [picture(8), picture(9)]} if blind == "shuffle" else {}
    rows = [{"image": picture(i // 2), "question": f"What is {i}?", "answer": "A dog."} for i in range(4)]
    drop, scored = I2CScorer(*llava).score(rows), I2CScorer(*llava, blind=blind, **options).score(rows)
    alone = [I2CScorer(*llava, blind=blind, **options, path="plain")(row) for row in rows]
    for a, b, c in zip(drop, scored, alone):
        assert b["i2c_status"] == "ok"
        assert a["logprob"] == pytest.approx(b["logprob"], rel=1e-5)
        assert (a["logprob_blind"] == pytest.approx(b["logprob_blind"], rel=1e-4)) == (blind == "drop")
        assert c["pmi"] == pytest.approx(b["pmi"], rel=1e-4, abs=1e-5)


def test_several_images_each_have_their_substitute(llava):
    _, processor = llava
    images = [picture(0), picture(1)]
    _, blind = PairEncoder(processor, None, "noise").encode(pair(images))
    assert blind.inputs["pixel_values"].shape[0] == 2
    assert not torch.equal(*blind.inputs["pixel_values"])


def test_relative_paths(llava, tmp_path):
    _, processor = llava
    (tmp_path / "pictures").mkdir()
    picture(0).save(tmp_path / "pictures" / "a.png")
    encoder = PairEncoder(processor, None, image_folder=tmp_path / "pictures")
    row, _ = encoder.encode(pair("a.png"))
    assert torch.equal(row.inputs["pixel_values"], pixels(processor, picture(0)))
    picture(1).save(tmp_path / "b.png")
    row, _ = encoder.encode(pair({"bytes": None, "path": "a.png"}))
    assert torch.equal(row.inputs["pixel_values"], pixels(processor, picture(0)))
    for path in ("../b.png", str(tmp_path / "b.png"), {"bytes": None, "path": str(tmp_path / "b.png")}):
        with pytest.raises(RowError, match="is not in the folder"):
            encoder.encode(pair(path))
    with pytest.raises(RowError, match="none.png cannot be read: FileNotFoundError"):
        encoder.encode(pair("none.png"))
    # A link in the folder may lead to another disk.
    (tmp_path / "disk").mkdir()
    picture(2).save(tmp_path / "disk" / "c.png")
    (tmp_path / "pictures" / "linked").symlink_to(tmp_path / "disk")
    row, _ = encoder.encode(pair("linked/c.png"))
    assert torch.equal(row.inputs["pixel_values"], pixels(processor, picture(2)))
    with pytest.raises(RowError, match="cannot be read: ValueError"):
        encoder.encode(pair("a\0.png"))
