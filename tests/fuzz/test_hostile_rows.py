"""A seeded slice of the hostile rows; `python tests/fuzz/many.py` has as many as one wants."""

import base64

import pytest
from datasets import Dataset, Features, Image, Value
from hostile_chain import choose, generate, load, score, show, write
from hostile_rows import messages, rows
from scored_rows import png
from transformers import AutoModelForImageTextToText, AutoProcessor

from c3l_hf.scenes import GENERATOR
from c3l_hf.scoring.dataset import score_dataset
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.selection.pseudo_labels import select_pseudo_labels

SEED = 21


@pytest.fixture(scope="module")
def scorer(llava):
    return I2CScorer(*llava)


def test_pictures_and_texts(scorer, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    scored = score(load(rows(120, SEED), tmp_path / "rows"), scorer, tmp_path / "scores")
    statuses = scored["i2c_status"][:]
    assert 30 < statuses.count("ok") < 100 and len(set(statuses)) > 8
    choose(scored)
    (tmp_path / "out").mkdir()
    assert write(scored, tmp_path / "out", ("llava", "openai", "csv", "webdataset", "trl"))
    show(scored, tmp_path)


def test_pictures_to_generate_from():
    generator = AutoModelForImageTextToText.from_pretrained(GENERATOR), AutoProcessor.from_pretrained(GENERATOR)
    pairs = generate(rows(12, SEED), *generator)
    assert len(set(pairs["generation_status"][:])) > 1


def test_messages(scorer, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    scored = score(load(messages(120, SEED), tmp_path / "rows"), scorer, tmp_path / "scores")
    assert len(set(scored["i2c_status"][:])) > 8
    choose(scored)


def test_pictures_as_data_urls_are_chosen_from(scorer, tmp_path):
    """The scorer reads them, so they reach selection."""
    url = f"data:image/png;base64,{base64.b64encode(png(0)).decode()}"
    pairs = [
        {"image": {"bytes": None, "path": url}, "question": "What?", "answer": a} for a in ("A kite.", "Two dogs.")
    ]
    features = Features({"image": Image(decode=False), "question": Value("string"), "answer": Value("string")})
    scored = score_dataset(Dataset.from_list(pairs, features=features), scorer, cache_dir=tmp_path)
    assert scored["i2c_status"][:] == ["ok", "ok"]
    assert len(select_pseudo_labels(scored)[0]) == 1
