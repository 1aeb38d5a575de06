"""The page on control tokens: its example is refused and escaped as it says, and the tokens that it names are such."""

import json
import re
from pathlib import Path

import pytest
from scored_rows import picture
from tiny_families import ALL_FAMILIES, as_letters

from c3l_hf import I2CScorer
from c3l_hf.models.control_tokens import control_of
from c3l_hf.models.encoding import encode_row

PAGE = (Path(__file__).parents[1] / "docs" / "control-tokens.md").read_text("utf-8")
EXAMPLE = json.loads(re.search(r"```json\n(.*?)\n```", PAGE, re.DOTALL)[1])
STATUSES = dict(re.findall(r"^\| `(refuse|escape)` \| `(.*?)` \|", PAGE, re.MULTILINE))


@pytest.mark.parametrize("how", ["refuse", "escape"])
def test_the_example(llava, how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(0).save("photo.jpg")
    model, processor = llava
    scored = I2CScorer(model, processor, control_tokens=how)(EXAMPLE)
    assert scored["i2c_status"] == STATUSES[how]
    if how == "escape":
        ids = encode_row(processor, [{"role": "user", "content": "a"}], EXAMPLE["answer"], [], control_tokens=how)
        assert ids.answer_ids == as_letters(processor, " " + EXAMPLE["answer"])
        assert "".join(scored["answer_tokens"]).strip() == EXAMPLE["answer"]
        assert len(scored["answer_tokens"]) == len(ids.answer_ids)


def test_the_tokens_that_it_names():
    control = {name: control_of(build()[1]).tokens for name, build in ALL_FAMILIES.items()}
    assert "</s>" in control["llava"] and "</s>" not in control["qwen2_5_vl"]
    for token in re.findall(r"`(<[^`]*>)`", PAGE.partition("## What counts as content")[0]):
        if token not in ("<|eom_id|>", "<|reserved_special_token_3|>"):  # which no tiny model has
            assert any(token in tokens for tokens in control.values()), token
