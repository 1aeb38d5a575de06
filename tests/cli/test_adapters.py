"""A folder of LoRA adapters as the model of every command: the same result as with the merged model."""

import json

import pytest
import torch
import yaml
from datasets import load_dataset
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from c3l_hf.cli import main
from c3l_hf.models.loading import Source, load
from c3l_hf.publishing.hub import verify
from c3l_hf.publishing.manifest import Manifest

IMAGES = "--images scenes --images_split validation --num_images 4 --seed 3".split()
TRAINING = (
    "--max_steps 1 --per_device_train_batch_size 2 --use_lora false --bf16 false --gradient_checkpointing false "
    "--report_to none --save_strategy no --disable_tqdm true --dtype float32"
).split()


def call(*words):
    return main([*map(str, words)])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The shipped generator with adapters: in `adapters`, without a processor, and merged in `merged`."""
    folder = tmp_path_factory.mktemp("models")
    model, processor = load(Source("scenes", dtype="float32"))
    model.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    torch.manual_seed(0)
    targets = r".*language_model.*\.(q_proj|v_proj)"
    config = LoraConfig(target_modules=targets, r=2, lora_alpha=3, init_lora_weights=False)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.mul_(0.7)  # it goes on writing pairs
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "base")
    adapted.save_pretrained(folder / "adapters")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    processor.save_pretrained(folder / "merged")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def pairs(models, tmp_path_factory):
    """Pairs that the adapters, the merged model and the base write, in files of these names."""
    folder = tmp_path_factory.mktemp("pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        for name in ("adapters", "merged", "base"):
            how = ["--model", models / name, "--dtype", "float32", "--pairs_per_image", 3, "--max_new_tokens", 64]
            assert call("generate", *IMAGES, *how, "--output", folder / f"{name}.parquet") == 0
    return folder


def column(file, name):
    return load_dataset("parquet", data_files=str(file), split="train")[name][:]


def test_generate(pairs):
    texts = {name: column(pairs / f"{name}.parquet", "raw") for name in ("adapters", "merged", "base")}
    assert texts["adapters"] == texts["merged"] != texts["base"]


def test_score(models, pairs, tmp_path, cache):
    scores = {}
    for name in ("adapters", "merged", "base"):
        how = ["--model", models / name, "--dtype", "float32", "--output", tmp_path / f"{name}.parquet"]
        assert call("score", "--dataset", pairs / "merged.parquet", *how) == 0
        scores[name] = torch.tensor([score or 0 for score in column(tmp_path / f"{name}.parquet", "i2c")])
    torch.testing.assert_close(scores["adapters"], scores["merged"], rtol=0, atol=1e-6)
    assert (scores["adapters"] - scores["base"]).abs().max() > 1e-3


def test_evaluate(models, tmp_path, cache):
    answers = {}
    for name in ("adapters", "merged", "base"):
        words = ["--world", "scenes", "--num_images", 6, "--benchmarks", "pope", "--limit", 6, "--dtype", "float32"]
        assert call("evaluate", "--model", models / name, *words, "--output_dir", tmp_path / name) == 0
        file = tmp_path / name / "pope" / "predictions.parquet"
        answers[name] = load_dataset("parquet", data_files=str(file), split="train").to_list()
    assert answers["adapters"] == answers["merged"] and len(answers["base"]) == 6
    assert answers["adapters"] != answers["base"]


def weights(folder):
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def check_close(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("lora", ["false", "true"])
def test_train_and_sft(models, pairs, tmp_path, cache, lora):
    """Begins with the merged model; what is saved is whole."""
    scored, labels = tmp_path / "scored.parquet", tmp_path / "labels.parquet"
    how = ["--model", models / "merged", "--dtype", "float32"]
    assert call("score", "--dataset", pairs / "merged.parquet", *how, "--output", scored) == 0
    assert call("select", "--dataset", scored, "--within", "all", "--output", labels) == 0
    for command, rows, result in (("train", labels, "generator"), ("sft", scored, "student")):
        saved = []
        for name in ("adapters", "merged"):
            output = ["--output_dir", tmp_path / command / name]
            words = [*TRAINING, "--use_lora", lora, "--dataset", rows, "--model", models / name, *output]
            assert call(command, *words) == 0
            saved.append(weights(tmp_path / command / name / result))
            AutoModelForImageTextToText.from_pretrained(tmp_path / command / name / result)
        check_close(*saved)


def test_adapters_upon_adapters_are_not_saved(models, pairs, tmp_path, cache, capsys):
    words = ["--dataset", pairs / "merged.parquet", "--model", models / "adapters", "--output_dir", tmp_path / "out"]
    assert call("sft", *TRAINING, "--use_lora", "true", "--merge_adapters", "false", *words) == 1
    assert "is adapters, and others upon them could not be loaded" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_student_saved_as_adapters(models, pairs, tmp_path, cache):
    """Is a model for the next command."""
    rows = ["--dataset", pairs / "base.parquet"]
    how = [*TRAINING, "--use_lora", "true", "--learning_rate", 0.01, *rows, "--model", models / "base"]
    assert call("sft", *how, "--merge_adapters", "false", "--output_dir", tmp_path / "alone") == 0
    assert call("sft", *how, "--output_dir", tmp_path / "whole") == 0
    student = load(Source(str(tmp_path / "alone" / "student")))[0].state_dict()
    check_close(student, load(Source(str(tmp_path / "whole" / "student")))[0].state_dict())
    words = ["--model", tmp_path / "alone" / "student", "--output", tmp_path / "scored.parquet"]
    assert call("score", *rows, *words) == 0 and "ok" in column(tmp_path / "scored.parquet", "i2c_status")


def test_run(models, tmp_path, cache):
    """What is published is whole, loads without us, and its card names the model of the adapters."""
    words = "--config scenes --num_images 14 --pairs_per_image 3 --max_steps 1 --warmup_steps 0".split()
    words += [
        "--target_size",
        20,
        "--license",
        "apache-2.0",
        "--model",
        models / "adapters",
        "--scorer_model",
        models / "adapters",
    ]
    assert call("run", *words, "--output_dir", tmp_path / "out") == 0
    generator = tmp_path / "out" / "generator"
    assert not (generator / "adapter_config.json").exists() and verify(str(tmp_path / "out"))
    model = AutoModelForImageTextToText.from_pretrained(generator)
    assert AutoProcessor.from_pretrained(generator).chat_template and type(model).__name__.startswith("Llava")
    facts = Manifest.read(generator).facts
    assert facts["generator"] == facts["scorer"] == "adapters"
    assert facts["generator_base"] == facts["scorer_base"] == "base"
    assert facts["generator_base_digest"] == facts["scorer_base_digest"] != facts["generator_digest"]
    card = ModelCard.load(generator / "README.md")
    assert "`: adapters, merged into `base`, weights `" in card.text and str(models) not in card.content
    configuration = yaml.safe_load((generator / "config.yaml").read_text())
    assert configuration["model"] == "adapters"
    # The same call with another base is another run.
    assert call("run", *words, "--base_model", models / "merged", "--output_dir", tmp_path / "out") == 1


@pytest.mark.parametrize("command", ["score", "generate", "evaluate", "train", "sft", "run"])
def test_a_base_that_is_not_there(models, pairs, tmp_path, command, capsys, cache):
    """One line that says what was looked for, before any work, and the option that helps."""
    lost = tmp_path / "lost"
    lost.mkdir()
    for file in (models / "adapters").iterdir():
        (lost / file.name).write_bytes(file.read_bytes())
    config = json.loads((lost / "adapter_config.json").read_text())
    (lost / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/data/llava"}))
    rows, out = ["--dataset", pairs / "merged.parquet"], tmp_path / "out"
    words = {
        "score": [*rows, "--output", tmp_path / "x.parquet"],
        "generate": [*IMAGES, "--output", tmp_path / "x.parquet"],
        "evaluate": ["--world", "scenes", "--num_images", 2, "--limit", 1, "--output_dir", out],
        "train": [*TRAINING, *rows, "--output_dir", out],
        "sft": [*TRAINING, *rows, "--output_dir", out],
        "run": ["--config", "scenes", "--output_dir", out],
    }[command]
    assert call(command, *words, "--model", lost) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"c3l {command}: ") and "/data/llava" in line and "neither a folder here" in line
    assert "give base_model, or correct" in line and not out.exists() and not (tmp_path / "x.parquet").exists()
