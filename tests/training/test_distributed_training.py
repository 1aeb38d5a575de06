"""Two processes train as one does on the same rows: with DDP, FSDP2 and DeepSpeed ZeRO-3, each by its configuration in
recipes/accelerate_configs, on CPUs."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import distributed_script
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from tiny_models import tiny_llava
from tiny_training import make_trainer, pseudo_labels
from transformers import AutoModelForImageTextToText

from c3l_hf.training.sharding import gathered_model, layers_to_shard

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "recipes" / "accelerate_configs"
METRICS = ["loss", "grad_norm", "loss/nll", "loss/contrastive", "similarity/positive", "similarity/negative"]
METRICS += ["contrastive_accuracy", "num_tokens"]
ROUGH = ["loss", "loss/nll", "num_tokens"]
EXACT = [name for name in distributed_script.RUNS if name != "bf16"]


def start(folder):
    model, processor = tiny_llava()
    model.save_pretrained(folder / "start")
    processor.save_pretrained(folder / "start")
    return folder


def launch(kind, folder, *names):
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(CONFIGS / f"{kind}.yaml"), "--num_processes", "2", "--mixed_precision", "no"]
    command += [
        "--main_process_port",
        "0",
        str(ROOT / "tests" / "helpers" / "distributed_script.py"),
        str(start(folder)),
        *names,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CI": "1", "DS_ACCELERATOR": "cpu"}
    log = folder / "log.txt"
    with open(log, "w") as file, subprocess.Popen(command, stdout=file, stderr=file, env=env) as started:
        try:
            code = started.wait(timeout=300)  # processes that wait for each other would not end
        finally:
            started.terminate()  # the launcher ends its processes
    assert code == 0, log.read_text()[-5000:]
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CI", "1")  # TRL sends no telemetry then
        folder = start(tmp_path_factory.mktemp("single"))
        distributed_script.main(folder, distributed_script.ALL)
    return folder


def result(folder, name, process=0):
    return json.loads((folder / f"{name}-{process}.json").read_text())


def weights(file):
    return torch.load(file, weights_only=True)


def assert_same_metrics(found, expected, names, rel, prefix=""):
    for name in names:
        if prefix + name in expected:  # similarities of likelihoods have no alignment
            assert found[prefix + name] == pytest.approx(expected[prefix + name], rel=rel, abs=1e-5), name


def assert_same_training(folder, single, name):
    """Within float32's rounding: 0.1 % of each weight's way through training, and 2e-6."""
    before, expected = (weights(single / f"{name}-{which}.pt") for which in ("start", "0"))
    assert sum(not torch.equal(before[key], expected[key]) for key in before) > 10
    processes = [process for process in (0, 1) if weights(folder / f"{name}-{process}.pt")]
    assert 0 in processes  # a sharded model is gathered on the first only
    for process in processes:
        found = weights(folder / f"{name}-{process}.pt")
        assert found.keys() == expected.keys()
        for key, weight in found.items():
            way, other = expected[key] - before[key], weight - before[key]
            torch.testing.assert_close(other, way, rtol=1e-3, atol=2e-6, msg=lambda text, k=key: f"{k}: {text}")


def assert_same_logs(folder, single, name, names=METRICS, rel=1e-4):
    for process in (0, 1):
        found, expected = result(folder, name, process), result(single, name)
        assert len(found["logs"]) == distributed_script.STEPS
        for log, other in zip(found["logs"], expected["logs"], strict=True):
            assert set(METRICS) <= log.keys() and ("alignment" in log) == (name != "likelihood")
            assert_same_metrics(log, other, [*names, "alignment"] if names is METRICS else names, rel)
        assert_same_metrics(found["evaluation"], expected["evaluation"], names, rel, prefix="eval_")
        assert found["packed"] and found.get("resumed") == expected.get("resumed")
        assert expected.get("resumed", name not in distributed_script.RESUMED)
        if name in distributed_script.RESUMED:  # a checkpoint of the last step is sealed, and makes no step more
            assert found["ended"] and expected["ended"] and found["last"] == [distributed_script.STEPS, True]
        assert found["rows"] == expected["rows"] and "bad" not in found["rows"] and len(found["rows"]) == 8


def assert_same_files(folder, single, name):
    """The checkpoint to publish, with adapters merged, and what `save_model` writes; neither has the head."""
    files = [f"{name}-merged/model", f"{name}-saved/" + ("model" if "lora" not in name else "adapter_model")]
    for file in files:
        found, expected = (load_file(path / f"{file}.safetensors") for path in (folder, single))
        assert not any("contrastive" in key for key in found)
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-4)
    model, info = AutoModelForImageTextToText.from_pretrained(folder / f"{name}-merged", output_loading_info=True)
    assert not any(info.values()) and type(model).__name__ == "LlavaForConditionalGeneration"
    assert model.config.architectures == ["LlavaForConditionalGeneration"]


def assert_same_student(folder, single):
    before = AutoModelForImageTextToText.from_pretrained(single / "start").state_dict()
    for name in distributed_script.STUDENTS:
        expected, found = (weights(path / f"{name}-0.pt") for path in (single, folder))
        dtype = torch.bfloat16 if "bfloat16" in name else torch.float32
        assert found.keys() == expected.keys() and {weight.dtype for weight in found.values()} == {dtype}
        assert sum(not torch.equal(before[key].to(dtype), expected[key]) for key in before) > 10
        close = {"rtol": 1e-3, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.02}
        for key, weight in found.items():
            torch.testing.assert_close(weight, expected[key], **close, msg=lambda text, k=key: f"{k}: {text}")


def assert_same_error(folder, single):
    errors = [(folder / f"error-{process}.txt").read_text() for process in (0, 1)]
    assert errors[0] == errors[1] == (single / "error-0.txt").read_text()
    assert "train_dataset: 1 of 9 rows cannot be trained on:\n  row 3 (image_id 'bad'), chosen:" in errors[0]


def assert_same_spoiled(folder, single):
    """All processes end at a loss that is not finite in one of them, and name the row."""
    told = [(folder / f"spoiled-{process}.txt").read_text() for process in (0, 1)]
    assert told[0] == told[1] == (single / "spoiled-0.txt").read_text()
    assert re.match(r"the loss is not finite at step \d, in row with image_id 'image-2'\. Lower", told[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind, wrapper", [("ddp", "DistributedDataParallel"), ("fsdp2", "FSDP")])
def test_two_processes_equal_one(single, tmp_path, kind, wrapper):
    folder = launch(kind, tmp_path)
    for name in EXACT:
        assert result(folder, name)["wrapped"].startswith(wrapper)
        assert_same_logs(folder, single, name)
        assert_same_training(folder, single, name)
        if name in distributed_script.SAVED:
            assert_same_files(folder, single, name)
    assert_same_logs(folder, single, "bf16", names=ROUGH, rel=0.05)
    assert_same_error(folder, single)
    assert_same_spoiled(folder, single)
    assert_same_student(folder, single)
    losses = [result(path, "stream", process)["eval_loss"] for path, process in ((single, 0), (folder, 0), (folder, 1))]
    assert losses[1:] == pytest.approx(losses[:1] * 2, rel=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_deepspeed_equals_one_process(single, tmp_path):
    folder = launch("deepspeed_zero3", tmp_path, "full", "full_in_batch", "bf16")
    for name in ("full", "full_in_batch"):
        assert result(folder, name)["wrapped"] == "DeepSpeedEngine"
        assert_same_logs(folder, single, name)
        assert_same_training(folder, single, name)
    assert_same_logs(folder, single, "bf16", names=ROUGH, rel=0.05)


@pytest.mark.parametrize("use_lora", [True, False], ids=["lora", "full"])
def test_the_gathered_model_is_the_merged_one(tmp_path, use_lora):
    trainer = make_trainer(tmp_path, use_lora=use_lora, train_projector=True)
    trainer.train()
    gathered = gathered_model(trainer.accelerator, trainer.model, trainer.model_wrapped)
    assert trainer.evaluate(pseudo_labels())  # it is a copy
    merged = trainer.merged_model()
    expected = merged.state_dict()
    assert type(gathered) is type(merged) and gathered.state_dict().keys() == expected.keys()
    for name, weight in gathered.state_dict().items():
        torch.testing.assert_close(weight, expected[name], msg=name)
    buffers = dict(merged.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in gathered.named_buffers())
    assert gathered.generation_config is merged.generation_config and not gathered.training
    assert gathered.lm_head.weight is gathered.get_input_embeddings().weight


def test_layers_to_shard():
    model, _ = tiny_llava()
    assert layers_to_shard(model) == ["CLIPEncoderLayer", "CLIPVisionEmbeddings", "LlamaDecoderLayer"]
    assert "CLIPTextEmbeddings" in model._no_split_modules


def test_configurations_are_read_by_accelerate():
    kinds = {path.stem: load_config_from_file(str(path)) for path in CONFIGS.glob("*.yaml")}
    assert {name: kind.distributed_type.value for name, kind in kinds.items()} == {
        "one_process": "NO",
        "ddp": "MULTI_GPU",
        "fsdp2": "FSDP",
        "deepspeed_zero3": "DEEPSPEED",
    }
    assert {name for name, kind in kinds.items() if kind.mixed_precision != "bf16"} == {"one_process"}
