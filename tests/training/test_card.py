"""The card beside what the trainer saves: its code is run, and no path of this machine is in it."""

import re

import pytest
import yaml
from PIL import Image
from tiny_families import tiny_gemma3
from tiny_models import tiny_llava
from tiny_training import make_trainer
from transformers import AutoModelForImageTextToText, AutoProcessor

from c3l_hf.training.card import trainer_card
from c3l_hf.training.trainer import C3LTrainer

PAPER = C3LTrainer._paper


def metadata_of(card):
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize("build", [tiny_llava, tiny_gemma3])
@pytest.mark.parametrize("use_lora", [True, False], ids=["adapters", "full"])
def test_the_code_of_the_card_loads_what_was_saved(tmp_path, monkeypatch, capsys, build, use_lora):
    model, processor = build()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    trainer = make_trainer(
        tmp_path / "trained", (base, AutoProcessor.from_pretrained(tmp_path / "base")), use_lora=use_lora
    )
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "trained" / "README.md").read_text()
    assert str(tmp_path) not in card and "pipeline(" not in card and "None" not in card
    metadata = metadata_of(card)
    assert metadata["pipeline_tag"] == "image-text-to-text" and {"c3l", "trl"} <= set(metadata["tags"])
    assert metadata["library_name"] == ("peft" if use_lora else "transformers") and "base_model" not in metadata
    assert "`base`, a local one" in card

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40), "red").save("picture.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names = {}
    exec(compile(code.replace("max_new_tokens=64", "max_new_tokens=2"), "card", "exec"), names)
    assert capsys.readouterr().out
    assert type(names["model"]).__name__.startswith("Peft" if use_lora else type(model).__name__)


def test_what_peft_writes_beside_adapters_is_replaced(tmp_path):
    model, processor = tiny_llava()
    model.save_pretrained(tmp_path / "base")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    trainer = make_trainer(tmp_path / "out", (model, processor))
    trainer.save_model(str(tmp_path / "adapters"))
    card = (tmp_path / "adapters" / "README.md").read_text()
    assert card.startswith("---\n") and "# adapters\n" in card and str(tmp_path) not in card
    assert 'name = "adapters"' in card and 'base = "base"  # a folder' in card


def test_names_on_the_hub_are_linked():
    card = str(
        trainer_card(
            base="llava-hf/llava-1.5-7b-hf",
            name="user/c3l",
            adapters=True,
            paper=PAPER,
            dataset="user/labels",
            tags=["trl"],
        )
    )
    metadata = metadata_of(card)
    assert metadata["base_model"] == "llava-hf/llava-1.5-7b-hf" and metadata["datasets"] == ["user/labels"]
    assert "adapters for the vision-language model [llava-hf/llava-1.5-7b-hf](https://huggingface.co/llava-hf/" in card
    assert 'name = "user/c3l"\nbase = "llava-hf/llava-1.5-7b-hf"\n' in card and "# c3l\n" in card
    assert "papers/2405.12752" in card and "@inproceedings{ma2024c3l" in card and "- c3l-hf " in card


def test_words_for_a_dataset_and_a_path_are_no_metadata():
    card = str(
        trainer_card(base="/data/models/mine", name="/out/here", adapters=False, paper=PAPER, dataset="/data/labels")
    )
    assert "datasets" not in metadata_of(card) and "/data" not in card and "/out" not in card
    assert "trained on labels" in card and "`mine`, a local one" in card and 'name = "here"' in card
