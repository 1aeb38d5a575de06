"""The cross-check with vLLM, as far as it goes without it: how it is started, and what counts as the same."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from crosscheck_vllm import VLLMArguments, command, main, readable, same, with_older_names
from safetensors.torch import load_file

from c3l_hf.generation.requests import CUT_OFF, Reply, Request
from c3l_hf.scenes import GENERATOR
from c3l_hf.scenes.templates import TEMPLATES


def test_the_command_can_be_served(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libiomp5.so").touch()
    words = shlex.split(command(tmp_path, tmp_path / "run"))
    assert words[0] == "env" and f"LD_PRELOAD={tmp_path / 'lib' / 'libiomp5.so'}" in words
    assert "{model}" in words and "{port}" in words and str(tmp_path / "bin/vllm") in words
    site = tmp_path / "run" / "site"
    compile((site / "sitecustomize.py").read_text(), "sitecustomize.py", "exec")
    assert "Name: vllm\n" in (site / "vllm-0.32.0+cpu.dist-info" / "METADATA").read_text()


def test_the_copy_has_the_same_weights(tmp_path):
    there = load_file(Path(GENERATOR) / "model.safetensors")
    copied = load_file(with_older_names(Path(GENERATOR), tmp_path / "copy") / "model.safetensors")
    assert {name.replace("vision_tower.vision_model.", "vision_tower.") for name in copied} == there.keys()
    assert all("vision_tower.vision_model." in name for name in copied if "vision_tower" in name)
    assert all(
        torch.equal(value, there[name.replace("tower.vision_model.", "tower.")]) for name, value in copied.items()
    )


def test_what_is_counted():
    request = Request(0, "a", TEMPLATES.of_type("count")[0], (0, 1, 2), [], [], 9)
    pair = Reply(" Question: How many?\nAnswer: Two.")
    replies = {("a", 0): pair, ("a", 1): replace(pair, problem=CUT_OFF), ("a", 2): Reply("What?")}
    assert readable([request], replies) == 1
    others = {("a", 0): Reply(pair.text.strip()), ("a", 1): Reply("x"), ("a", 2): Reply("What?")}
    assert same(replies, others) == 2


def test_without_vllm_it_says_how_to_get_it(tmp_path):
    with pytest.raises(SystemExit, match="has no bin/vllm; `make crosscheck-vllm` makes the environment"):
        main(VLLMArguments(vllm=str(tmp_path)))
