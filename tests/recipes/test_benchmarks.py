"""What the benchmarks measure is what they say."""

import copy

import generation
import memory
import pytest
import scoring
import storage

from c3l_hf.scoring.scorer import I2CScorer


def test_the_obvious_script_has_the_same_scores():
    model, processor = scoring.build(0, layers=2)
    rows = scoring.make_rows(2, 2, 0)
    scores = [row["pmi"] for row in I2CScorer(model, processor).score(rows)]
    assert scoring.obvious_script(model, processor, rows) == pytest.approx(scores, abs=1e-4)
    work = scoring.least_work(model, processor, rows)
    # two images of 576 tokens through tower and language model, each weight used at least once per token
    layers = [*model.model.vision_tower.parameters(), *model.model.language_model.layers.parameters()]
    assert work > 2 * 576 * 2 * sum(p.numel() for p in layers if p.ndim == 2)
    assert scoring.least_work(model, processor, rows[:2]) < work


def test_every_way_writes_as_many_texts_of_the_same_length(llava):
    model, processor = llava
    own = model.generation_config
    model.generation_config = copy.deepcopy(own)
    try:
        generation.never_end(model, processor)
        pictures = generation.images(3, 0)
        assert generation.ours(model, processor, pictures, 2, 5, 4) == 6
        for way in generation.SCRIPTS:
            assert generation.script(way, model, processor, pictures, 2, 5) == 6
    finally:
        model.generation_config = own


def test_streamed_rows():
    rows = list(memory.stream(12))
    assert len(rows) == 15 and len({row["image"].tobytes() for row in rows}) == 3
    assert all(row["question"] and row["answer"] for row in rows)


def test_pictures_of_a_known_size(tmp_path):
    size = storage.make_pictures(tmp_path / "pictures", 3, 384)
    assert 0.8e5 < size / 3 < 1.2e5 and size == storage.bytes_of(tmp_path, "pictures/*.jpg")
    before = storage.written_bytes()
    (tmp_path / "more").write_bytes(bytes(100_000))
    assert 100_000 <= storage.written_bytes() - before < 150_000
    found = storage.start(tmp_path / "pictures", tmp_path / "run")
    assert found["images"] == 3 and (tmp_path / "run" / "images.parquet").is_file()
