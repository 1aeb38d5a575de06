"""Every shipped configuration, read by its command; the same words in all commands; what reaches the method."""

import math
import re
import warnings

import pytest
import torch
from tiny_families import tiny_qwen2_5_vl
from tiny_models import tiny_llava
from tiny_training import pseudo_labels

from c3l_hf.cli import main
from c3l_hf.cli.dispatch import COMMANDS, _load
from c3l_hf.cli.options import options_of
from c3l_hf.cli.rows import RowsOptions
from c3l_hf.cli.settings import read_settings
from c3l_hf.common.files import shipped
from c3l_hf.pipeline.options import ModelOptions, RunOptions
from c3l_hf.training.config import C3LConfig, language_model_lora
from c3l_hf.training.run import train_generator

CONFIGS = sorted(file.stem for file in shipped("configs").glob("*.yaml"))


@pytest.fixture
def as_on_the_hardware(monkeypatch):
    """The files are for accelerators with bfloat16."""
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *args, **options: True)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_read_by_its_command(name, as_on_the_hardware):
    command = _load("sft" if name.startswith("sft_") else "run")
    settings = read_settings(command, ["--config", name], {}, list)
    assert settings.config.stem == name and len(settings.values) > 10
    (training,) = (group for group in settings.groups if hasattr(group, "learning_rate"))
    assert training.output_dir.startswith("runs/")
    (model,) = (group for group in settings.groups if isinstance(group, ModelOptions))
    assert model.dtype == ("float32" if name.endswith("scenes") else "bfloat16")


def test_the_method_gets_what_was_set(monkeypatch):
    calls = []
    monkeypatch.setattr("c3l_hf.pipeline.method.run_c3l", lambda *call, **options: calls.append((call, options)))
    words = ["run", "--config", "scenes", "--num_images", "14", "--scorer_model", "other", "--restart_from", "curate"]
    assert main(words) == 0
    ((groups, options),) = calls
    assert options == {"config_name": "scenes.yaml"}
    run, images, model, generation, backend, scoring, selection, curation, publishing, training = groups
    assert run == RunOptions(restart_from="curate", max_epochs=3.0)
    assert images.num_images == 14 and images.images_split == "validation"
    assert (model.model, model.dtype, scoring.scorer_model) == ("scenes", "float32", "other")
    assert (generation.generation_batch_size, selection.max_rejected, curation.target_size) == (250, 4, None)
    assert isinstance(training, C3LConfig) and training.max_steps == 150 and training.seed == 0
    assert publishing.hub_namespace is None
    assert main(["run", "--images", "x", "--model", "y"]) == 0
    assert calls[1][1] == {"config_name": None}


def test_a_dry_run_prints_the_settings_and_asks_the_method(monkeypatch, capsys):
    monkeypatch.setattr("c3l_hf.pipeline.method.run_c3l", lambda run, *_, **__: print("planned", run.dry_run))
    monkeypatch.setenv("C3L_NUM_IMAGES", "20")
    assert main(["run", "--config", "scenes", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "planned True"
    for line in (
        "num_images: 20  # C3L_NUM_IMAGES",
        "learning_rate: 1.0e-4  # scenes.yaml",
        "dry_run: true  # --dry_run",
        "temperature: 0.3",
    ):
        assert line in [*lines, *(line.replace("0.0001", "1.0e-4") for line in lines)]
    assert not any(line.startswith("adam_beta1") for line in lines)  # neither given nor among those of the help


def test_the_same_words_mean_the_same_in_every_command():
    """A model is named, and loaded, by the same options wherever there is one."""
    words = options_of([ModelOptions])
    for name in ("run", "generate", "score", "train", "evaluate", "sft"):
        options = options_of(_load(name).groups)
        # On a server that is there already the generator needs no model here.
        same = {word: option for word, option in words.items() if (name, word) != ("generate", "model")}
        assert {word: options[word] for word in same} == same, name
        assert options["trust_remote_code"].default is False, name
    rows = options_of([RowsOptions])
    for name in ("score", "select", "curate", "train"):
        options = options_of(_load(name).groups)
        assert {word: options[word] for word in rows} == rows, name
    kinds: dict = {}
    for name in COMMANDS:
        for option in options_of(_load(name).groups).values():
            if (name, option.name) != ("evaluate", "max_new_tokens"):  # there each benchmark may have its own
                kind = set(option.kinds) - {type(None)}  # what is needed in one may be left out in another
                assert kinds.setdefault(option.name, kind) == kind, (name, option.name)


def test_the_recipe_is_the_command(monkeypatch):
    import runpy
    import sys
    from pathlib import Path

    calls = []
    monkeypatch.setattr("c3l_hf.pipeline.method.run_c3l", lambda *call, **options: calls.append(options))
    monkeypatch.setattr("c3l_hf.cli.interruption.Interruption.install", lambda _: None)  # this process is the tests'
    root = Path(__file__).parents[2]
    monkeypatch.setattr(sys, "argv", ["c3l.py", "--config", str(root / "recipes" / "configs" / "scenes.yaml")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(root / "recipes" / "c3l.py"), run_name="__main__")
    assert end.value.code == 0 and calls == [{"config_name": "scenes.yaml"}]


# Configuration of the method → a tiny model of its family, and the layers of a block that get adapters.
_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
FAMILIES = {"llava15_7b": tiny_llava, "qwen25_vl_7b": tiny_qwen2_5_vl}


def test_every_configuration_of_a_real_model_has_a_tiny_one():
    assert set(FAMILIES) == {name for name in CONFIGS if not name.startswith("sft_")} - {"scenes"}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_configuration_trains_its_family(name, as_on_the_hardware, tmp_path):
    """As many steps as four pseudo-labels give, with adapters on the language model's blocks and nowhere else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=r"(?i).*deprecated", module="transformers|trl|c3l_hf")
        settings = read_settings(_load("run"), ["--config", name, "--output_dir", str(tmp_path)], {}, list)
    run, training = (next(one for one in settings.groups if isinstance(one, kind)) for kind in (RunOptions, C3LConfig))
    assert training.get_warmup_steps(1000) == 50 and (training.max_steps, run.max_epochs) == (1000, 3.0)
    model, processor = FAMILIES[name]()
    model.to(torch.bfloat16)
    adapters = language_model_lora(model, training.lora_r, training.lora_alpha)
    hit = [path for path, _ in model.named_modules() if re.fullmatch(adapters.target_modules, path)]
    assert {path.rpartition(".")[2] for path in hit} == _LAYERS
    assert all(".language_model.layers." in path and "visual" not in path for path in hit)
    training.dataloader_num_workers = 0
    report = train_generator(
        model, processor, pseudo_labels(), training, tmp_path / "checkpoints", tmp_path / "trained", run.max_epochs
    )
    # 16 pseudo-labels a step; the first of these is warm-up, at a learning rate of 0.
    assert report["steps"] == 3 and report["log"][0]["step"] == 1
    assert all(math.isfinite(entry["loss"]) for entry in report["log"] if "loss" in entry)
