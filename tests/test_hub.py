"""What a run writes: folders that load back, cards that hostile text cannot break and that say nothing unmeasured."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset, Features, Image, List, load_dataset
from huggingface_hub import DatasetCard, ModelCard
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_llava
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer

import c3l_hf.hub as hub
from c3l_hf.hub import RunFacts, dataset_card, model_card, versions, write_dataset, write_generator
from c3l_hf.schema import PAIR_FEATURES, SCORE_FEATURES, SCORES

FEATURES = Features({**PAIR_FEATURES, **SCORE_FEATURES})

HOSTILE = (
    "a | b\n---\nlicense: evil\n# heading </script><img src=x onerror=alert(1)> {{ 7 * 7 }} {% raw %} `code` ```\n"
    "[link](javascript:x) ![](https://evil.example/x.png) **bold** $$x$$ @user \\| \x00\u202e\u2028 \ud800"
)


def picture(number: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8))


def row(number: int) -> dict:
    return {
        "images": [picture(number)],
        "image_id": str(number),
        "pair_id": f"{number}/0",
        "template": "count-1",
        "type": "count",
        "prompt": [{"role": "user", "content": "How many dogs are there?"}],
        "completion": [{"role": "assistant", "content": "two"}],
        "raw": "Question: How many dogs are there?\nAnswer: two",
        "generation_status": "ok",
        **dict.fromkeys(("i2c", *SCORES), number + 0.1),
        "answer_tokens": ["t", "wo"],
        **dict.fromkeys(("token_kl_per_token", "logprob_per_token", "logprob_blind_per_token"), [0.5, number / 3]),
        "turns": [{**dict.fromkeys(("i2c", *SCORES), number + 0.1), "tokens": 2}],
        "i2c_status": "ok",
    }


def pairs(n: int) -> Dataset:
    return Dataset.from_list([row(number) for number in range(n)], features=FEATURES)


def facts(**changes) -> RunFacts:
    full = RunFacts(
        title="C3L pairs",
        generator="org/vlm",
        generator_revision="0123abc",
        images="scenes world, 3,000 images",
        images_license="Apache-2.0",
        license="apache-2.0",
        rows=5000,
        seed=7,
        ranking="pmi",
        options={"images": "scenes", "types": ("count", "where"), "temperature": 1.0},
        stages=[("generate", [("pairs", 15_000), ("ok", 14_801)]), ("curate", [("kept", 5000)])],
        synthetic_images=True,
        config_file="recipes/configs/scenes.yaml",
        type_shares={"count": 0.25, "where": 0.75},
        score_quantiles={"5 %": -0.5, "50 %": np.float32(1.25)},
        length_correlation=(0.118, 5000),
        truth=[("generated", 14_801, 0.8, 0.79, 0.81), ("kept", 5000, 0.9, 0.89, 0.91)],
        examples=[("How many dogs?", "two", "count", 1.5)],
    )
    return dataclasses.replace(full, **changes)


# Folders


def test_folders_of_one_name_load_their_own_rows(tmp_path):
    for number in range(2):
        folder = tmp_path / f"run{number}" / "dataset"
        write_dataset(pairs(number + 1), folder, card=dataset_card(facts()))
        assert len(load_dataset(str(folder), split="train")) == number + 1


def test_dataset_loads_back(tmp_path):
    dataset = pairs(5).select([4, 0, 2])
    write_dataset(dataset, tmp_path / "run" / "dataset", card=dataset_card(facts(rows=3)))

    loaded = load_dataset(str(tmp_path / "run" / "dataset"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    loaded = loaded["train"]
    assert loaded.features == FEATURES
    assert loaded["image_id"][:] == ["4", "0", "2"]
    for name in FEATURES:
        if name != "images":
            assert loaded[name][:] == dataset[name][:]
    assert loaded[0]["images"][0].tobytes() == picture(4).tobytes()
    names = [str(path.relative_to(tmp_path / "run")) for path in sorted((tmp_path / "run").rglob("*"))]
    assert names == ["dataset", "dataset/README.md", "dataset/data", "dataset/data/train-00000-of-00001.parquet"]


def test_streaming_and_code_in_the_card(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    card = dataset_card(facts(rows=2))
    write_dataset(pairs(2), tmp_path / "dataset", card=card)
    assert [row["image_id"] for row in load_dataset(str(tmp_path / "dataset"), split="train", streaming=True)] == [
        "0",
        "1",
    ]

    monkeypatch.chdir(tmp_path)
    exec(python_code(card), {})
    assert "How many dogs are there?" in capsys.readouterr().out


def test_images_given_as_files_are_embedded(tmp_path):
    originals = tmp_path / "originals"
    originals.mkdir()
    rows = []
    for number in range(3):
        picture(number).save(originals / f"{number}.png")
        rows.append({**row(number), "images": [str(originals / f"{number}.png")]})
    dataset = Dataset.from_list(rows, features=FEATURES)
    write_dataset(dataset, tmp_path / "dataset", card="")
    shutil.rmtree(originals)

    loaded = load_dataset(str(tmp_path / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["images"][0].tobytes() for row in loaded] == [picture(number).tobytes() for number in range(3)]
    # Nor does a path of this machine stay behind.
    stored = pq.read_table(tmp_path / "dataset/data/train-00000-of-00001.parquet")["images"].to_pylist()
    assert [images[0]["path"] for images in stored] == ["0.png", "1.png", "2.png"]


def test_a_missing_image_is_named_and_nothing_is_left(tmp_path):
    rows = [row(0), {**row(1), "images": [str(tmp_path / "gone.png")]}]
    dataset = Dataset.from_list([{"images": r["images"]} for r in rows], features=Features({"images": List(Image())}))
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        write_dataset(dataset, tmp_path / "out" / "dataset", card="")
    assert list((tmp_path / "out").iterdir()) == []


def test_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_SHARD_BYTES", 1)
    monkeypatch.setattr(hub, "_ROW_GROUP", 2)
    write_dataset(pairs(5), tmp_path / "dataset", card="")
    names = sorted(path.name for path in (tmp_path / "dataset/data").iterdir())
    assert names == [f"train-{number:05d}-of-00003.parquet" for number in range(3)]
    loaded = load_dataset(str(tmp_path / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["image_id"][:] == list("01234")


def test_same_dataset_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_dataset(pairs(3), tmp_path / name, card=dataset_card(facts()))
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 2
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_nothing_is_overwritten(tmp_path, llava):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("full", "file"):
        with pytest.raises(FileExistsError, match=f"{name} exists and is not empty: remove it"):
            write_dataset(pairs(1), tmp_path / name, card="")
        with pytest.raises(FileExistsError, match=f"{name} exists and is not empty: remove it"):
            write_generator(*llava, tmp_path / name, card="")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "precious.txt"]


def test_empty_folder_and_leftovers_of_a_killed_run(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / ".dataset.unfinished" / "data").mkdir(parents=True)
    (tmp_path / ".dataset.unfinished" / "data" / "train-00000-of-00009.parquet").write_text("half")
    write_dataset(pairs(1), tmp_path / "dataset", card="")
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    assert len(list((tmp_path / "dataset/data").iterdir())) == 1


def test_empty_dataset_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        write_dataset(pairs(1).select([]), tmp_path / "dataset", card="")
    assert list(tmp_path.iterdir()) == []


def test_generator_loads_back(tmp_path, monkeypatch, capsys):
    model, processor = tiny_llava()
    model.generation_config.max_new_tokens = 11
    # As in a run: read from a folder first, whose path must not be written on.
    write_generator(model, processor, tmp_path / "first", card="")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "first")
    card = model_card(facts())
    write_generator(again, AutoProcessor.from_pretrained(tmp_path / "first"), tmp_path / "generator", card=card)
    shutil.rmtree(tmp_path / "first")

    folder = tmp_path / "generator"
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(loaded) is type(model)
    assert loaded.generation_config.max_new_tokens == 11
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert AutoProcessor.from_pretrained(folder).chat_template == processor.chat_template
    assert {"model.safetensors", "generation_config.json", "README.md"} <= {path.name for path in folder.iterdir()}
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
        assert str(tmp_path) not in path.read_text(), path.name

    monkeypatch.chdir(tmp_path)
    picture(0).resize((32, 32)).save("picture.png")
    exec(python_code(card), {})
    assert capsys.readouterr().out


def test_adapters_must_be_merged(tmp_path):
    model, processor = tiny_llava()
    adapted = get_peft_model(model, LoraConfig(target_modules=r".*language_model.*q_proj"))
    with pytest.raises(TypeError, match="merge_and_unload"):
        write_generator(adapted, processor, tmp_path / "generator", card="")
    assert list(tmp_path.iterdir()) == []


def test_dataset_goes_into_sft_trainer(tmp_path):
    write_dataset(pairs(2), tmp_path / "dataset", card=dataset_card(facts(rows=2)))
    model, processor = tiny_llava()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = SFTConfig(
        output_dir=str(tmp_path / "sft"),
        max_steps=1,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        max_length=None,
        report_to="none",
        save_strategy="no",
    )
    dataset = load_dataset(str(tmp_path / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))
    SFTTrainer(model, config, train_dataset=dataset, processing_class=processor).train()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# Cards


def python_code(card: str) -> str:
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def table(card: str, first_header: str) -> list[list[str]]:
    """The cells of the table with this first header, as a Markdown reader splits them."""
    lines = card.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_header} |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def test_dataset_card_metadata():
    data = DatasetCard(dataset_card(facts())).data.to_dict()
    assert data == {
        "pretty_name": "C3L pairs",
        "license": "apache-2.0",
        "language": ["en"],
        "task_categories": ["image-text-to-text", "visual-question-answering"],
        "size_categories": ["1K<n<10K"],
        "tags": ["c3l", "i2c", "vision-language-instruction-tuning"],
    }


@pytest.mark.parametrize(
    "rows, size", [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**5, "100K<n<1M"), (10**6, "n>1M")]
)
def test_size_category(rows, size):
    assert DatasetCard(dataset_card(facts(rows=rows))).data.size_categories == [size]


def test_model_card_metadata():
    data = ModelCard(model_card(facts())).data.to_dict()
    assert data == {
        "base_model": "org/vlm",
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "license": "apache-2.0",
        "language": ["en"],
        "tags": ["c3l", "i2c", "vision-language-instruction-tuning", "trl"],
    }
    local = facts(generator="/home/someone/models/mine", generator_revision=None, generator_digest="feed", license=None)
    data = ModelCard(model_card(local)).data.to_dict()
    assert "base_model" not in data and "license" not in data


@pytest.mark.parametrize("render", [dataset_card, model_card])
def test_what_every_card_says(render):
    card = render(facts())
    for text in (
        "C3L as implemented here",
        "*Chosen",
        "arXiv:2405.12752",
        "Ma, Ji and Suo, Wei and Wang, Peng and Zhang, Yanning",
    ):
        assert text in card
    assert "says that the image *matters* to the answer, not that the answer is *true*" in card
    assert "small synthetic world" in card
    assert "`pmi`" in card and "(1/N) sum_t [ln p_t(a_t) - ln q_t(a_t)]" in card
    assert "`org/vlm`, revision `0123abc`\n- **" in card
    assert "**Seed:** `7`\n" in card
    assert "| pairs | 15,000 |\n| ok | 14,801 |" in card
    assert "| generated | 14,801 | 80.0 % | 79.0 % to 81.0 % |" in card
    assert "`recipes/configs/scenes.yaml`" in card
    options = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])
    assert options == {"images": "scenes", "types": ["count", "where"], "temperature": 1.0}
    assert dict(table(card, "package")[2:]) == versions()
    # Blank lines around every block: a table right under a text is not a table.
    assert not re.search(r"\n\n\n", card)
    assert not re.search(r"^[^|\n].*\n\|", card, re.MULTILINE)


def test_figures_of_the_dataset_card():
    card = dataset_card(facts())
    assert table(card, "quantile")[2:] == [["5 %", "-0.5"], ["50 %", "1.25"]]
    assert table(card, "type asked for")[2:] == [["count", "25.0 %"], ["where", "75.0 %"]]
    assert table(card, "question")[2:] == [["How many dogs?", "two", "count", "1.5"]]
    assert [row[0] for row in table(card, "score")[2:]] == [f"`{name}`" for name in SCORES]
    assert "answer's length in words: +0.12, over 5,000 pairs." in card
    described = {name for row in table(card, "column")[2:] for name in re.findall(r"`(\w+)`", row[0])}
    assert described == set(FEATURES)


@pytest.mark.parametrize("render", [dataset_card, model_card])
def test_what_was_not_measured_is_absent(render):
    optional = {field.name: None for field in dataclasses.fields(RunFacts) if field.default is None}
    card = render(facts(**optional, options={}, synthetic_images=False))
    absent = (
        "None",
        "nan",
        "revision",
        "weights `",
        "quantile",
        "Spearman",
        "## Types",
        "## Truth",
        "## Examples",
        "yaml",
        "synthetic",
    )
    for text in (*absent, "Configuration"):
        assert text not in card, text
    assert "**Licence of the images:** not stated" in card
    assert "not stated." in card.split("## Known limits")[1]
    assert not re.search(r"\n\n\n", card)


def test_correlation_that_does_not_exist_is_absent():
    assert "Spearman" not in dataset_card(facts(length_correlation=(float("nan"), 5)))


@pytest.mark.parametrize("render, reader", [(dataset_card, DatasetCard), (model_card, ModelCard)])
def test_hostile_text_breaks_nothing(render, reader):
    plain = render(facts())
    card = render(
        facts(
            title=HOSTILE,
            images=HOSTILE,
            images_license=HOSTILE,
            options={"prompt": HOSTILE + "\n```\n"},
            stages=[(HOSTILE, [(HOSTILE, 1)])],
            type_shares={HOSTILE: 1.0},
            truth=[(HOSTILE, 1, 1.0, 1.0, 1.0)],
            examples=[(HOSTILE, HOSTILE, HOSTILE, 1.0), ("long " * 10_000, "x" * 100_000, "count", 2.0)],
        )
    )
    card.encode("utf-8")
    data, expected = reader(card).data.to_dict(), reader(plain).data.to_dict()
    assert data.pop("pretty_name", "").startswith("a | b --- license: evil") or render is model_card
    expected.pop("pretty_name", None)
    assert data == expected

    # Without the two blocks of YAML, in which text stands as it was.
    body = card.split("\n---\n", 1)[1].split("```yaml")[0] + card.split("## Citation")[1]
    for evil in (
        "<img",
        "</script",
        "**bold**",
        "](javascript",
        "![](",
        "$$",
        "@user",
        "https://evil",
        "\x00",
        "\u202e",
        "\u2028",
    ):
        assert evil not in body, evil
    for line in card.splitlines():
        assert line != "license: evil" and not line.startswith(("# heading", "<"))
    assert "49" not in re.sub(r"&#\d+;", "", body.split("## How to load it")[0])

    options = yaml.safe_load(re.search(r"^(`{3,})yaml\n(.*?)^\1$", card, re.DOTALL | re.MULTILINE)[2])
    assert options["prompt"].startswith("a | b\n---\n")
    if render is dataset_card:
        examples = table(card, "question")
        assert [len(row) for row in examples] == [4] * 4
        assert len(examples[3][1]) == 300 and examples[3][1].endswith("…")
        assert examples[2][0].startswith("a &#124; b --- license: evil &#35; heading &#60;/script&#62;&#60;img")


def test_no_path_of_this_machine():
    changes = {
        "generator": "/home/someone/models/mine",
        "generator_revision": None,
        "images": "/data/pictures",
        "config_file": "/home/someone/my.yaml",
        "options": {
            "output_dir": Path("/home/someone/out"),
            "nested": [{"a": "~/secret"}],
            "b": r"C:\Users\someone\run",
        },
    }
    for render in (dataset_card, model_card):
        card = render(facts(**changes))
        assert "`mine`" in card and "`my.yaml`" in card and "pictures" in card
        assert "output_dir: out\n" in card and "a: secret\n" in card and "b: run\n" in card
        assert "someone" not in card and "~" not in card and "/data" not in card.replace("data/train", "")


def test_same_facts_same_card():
    for render in (dataset_card, model_card):
        assert render(facts()) == render(facts())
    assert dataset_card(facts()) != dataset_card(facts(seed=8))


def test_unknown_ranking_is_refused():
    with pytest.raises(ValueError, match="one of answer_kl, token_kl, .* not 'clip'"):
        facts(ranking="clip")
