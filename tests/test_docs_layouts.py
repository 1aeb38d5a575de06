"""The page on layouts: every example on it is what the page says."""

import json
import re
from pathlib import Path

import pytest
from datasets import Dataset
from scored_rows import assert_same, picture

from c3l_hf import I2CScorer, score_dataset
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.preferences import read_candidates
from c3l_hf.data.row_images import pictures_of
from c3l_hf.files.image import open_image
from c3l_hf.files.opening import open_dataset
from c3l_hf.finetuning.examples import encode_examples
from c3l_hf.training.collator import DataCollatorForC3L

PAGE = (Path(__file__).parents[1] / "docs" / "layouts.md").read_text("utf-8")
EXAMPLES, PREFERENCES = (
    [json.loads(block) for block in re.findall(r"```json\n(.*?)\n```", part, re.DOTALL)]
    for part in PAGE.split("## Preference rows")
)
PLAIN = {"image": "photo.jpg", "question": "What is in the picture?", "answer": "A red kite."}


def test_every_layout_has_an_example():
    shown = {layout_of(example).text for example in EXAMPLES}
    for text in shown:
        assert all(f"`{name}`" in PAGE for name in text)
    with pytest.raises(ValueError) as error:
        layout_of([])
    accepted = str(error.value).partition("accepted are: ")[2].partition("; each")[0].split("; ")
    assert sorted(" + ".join(text) for text in shown) == sorted(accepted)


@pytest.mark.parametrize("example", EXAMPLES, ids=[str(layout_of(example)) for example in EXAMPLES])
def test_an_example_is_scored_and_trained_on(llava, example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(0).save("photo.jpg")
    model, processor = llava
    Path("rows.jsonl").write_text(json.dumps(example))
    rows = open_dataset("rows.jsonl")
    scored = score_dataset(rows, I2CScorer(model, processor), cache_dir=tmp_path)
    expected = I2CScorer(model, processor).score([PLAIN])
    assert expected[0]["i2c_status"] == "ok"
    assert_same([{name: scored[0][name] for name in expected[0]}], expected)
    examples, plain = (encode_examples(rows, processor) for rows in (rows, Dataset.from_list([PLAIN])))
    one, other = (rows.encoded(0, 0).inputs["input_ids"].tolist() for rows in (examples, plain))
    assert one == other
    assert open_image(pictures_of(example, layout_of(example))[0]).size == (32, 32)


def test_preference_rows_mean_the_same_in_every_form(llava, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(0).save("photo.jpg")
    assert len(PREFERENCES) == 5
    collator = DataCollatorForC3L(llava[1])
    first = [sequence.inputs["input_ids"].tolist() for sequence in collator.encode(PREFERENCES[0])]
    for example in PREFERENCES:
        candidates = read_candidates(example)
        assert (candidates.chosen, candidates.rejected[0]) == ("A red kite.", "A blue car.")
        assert [sequence.inputs["input_ids"].tolist() for sequence in collator.encode(example)][:2] == first
