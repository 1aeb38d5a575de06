"""The page on other tools: its commands and code run in their order, and its examples are what is written."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from openai.types.chat import ChatCompletionMessageParam
from pydantic import TypeAdapter
from scored_rows import picture
from tiny_models import tiny_llava
from transformers import AutoModelForImageTextToText
from trl.scripts.sft import main as trl_sft
from trl.scripts.sft import make_parser

from c3l_hf.cli import main
from c3l_hf.data.conversations import read_conversation
from c3l_hf.data.written_layouts import Written
from c3l_hf.files.opening import open_dataset

PAGE = (Path(__file__).parents[1] / "docs" / "interoperability.md").read_text("utf-8")
BLOCKS = re.findall(r"```(bash|python|json|yaml)\n(.*?)\n```", PAGE, re.DOTALL)
# What `trl sft` needs on a machine without an accelerator, and for a test.
FOR_A_TEST = "--use_cpu true --bf16 false --report_to none --save_strategy no --per_device_train_batch_size 2".split()
OTHERS = ("distilabel", "data_juicer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the page's commands have run, one after the other."""
    folder = tmp_path_factory.mktemp("page")
    for part in tiny_llava():
        part.save_pretrained(folder / "model")
    picture(0).save(folder / "photo.png")
    row = {"image": "photo.png", "question": "What is in the picture?", "answer": "A red kite."}
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(row) for _ in range(2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        assert main(["convert", "pairs.jsonl", "--to", "trl", "--output", "curated"]) == 0
        for kind, block in BLOCKS:
            if kind == "bash":
                for line in block.splitlines():
                    run(line)
            elif kind == "python" and not any(name in block for name in OTHERS):
                exec(for_a_test(block), {})
        yield folder


def run(line):
    program, *words = shlex.split(line)
    if program == "c3l":
        assert main(words) == 0, line
    else:
        assert program == "trl" and words[0] == "sft"
        torch.manual_seed(0)
        parser = make_parser()
        trl_sft(*parser.parse_args_and_config([*words[1:], *FOR_A_TEST], fail_with_unknown_args=False))


def for_a_test(block):
    return block.replace(
        "SFTConfig(", "SFTConfig(bf16=False, use_cpu=True, report_to='none', save_strategy='no', output_dir="
    ).replace(".show()", ".load()")


def test_the_commands_and_the_code_run(folder):
    written = {path.name for path in folder.iterdir() if path.is_dir()}
    assert {"for_llava", "for_trl", "student", "tars", "from_tars", "back"} <= written
    before = AutoModelForImageTextToText.from_pretrained(folder / "model").state_dict()
    after = AutoModelForImageTextToText.from_pretrained(folder / "student").state_dict()
    assert any(not torch.equal(after[name].float(), tensor.float()) for name, tensor in before.items())
    for name in ("scored.parquet", "scored_2.parquet", "scored_3.parquet"):
        assert open_dataset(folder / name)["i2c_status"][:] == ["ok", "ok"]


def test_every_layout_has_its_line_and_its_command():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert rows == list(get_args(Written))
    assert all(f"--to {name} " in PAGE for name in rows)


def test_the_examples_are_what_is_written(folder):
    """But for a picture's name, and what the page writes as "…"."""
    examples = [json.loads(block) for kind, block in BLOCKS if kind == "json"]
    files = {name: folder / name for name in ("for_llava", "for_llama_factory", "for_openai", "as_lines")}
    text = {"for_llava": "data.json", "for_llama_factory": "data.json"}
    written = [open_lines(path / text.get(name, "data.jsonl"))[0] for name, path in files.items()]
    shown = [example for example in examples if "c3l" not in example]
    assert [shortened(row) for row in written] == [shortened(row) for row in shown]
    assert all(read_conversation(row) for row in shown)
    (entry,) = [example["c3l"] for example in examples if "c3l" in example]
    assert set(entry["columns"].values()) <= set(written[1]) and (folder / entry["file_name"]).is_file()


def open_lines(path):
    text = path.read_text("utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def shortened(row):
    return json.loads(
        re.sub(r"images/\w+\.png|images/….png|data:image/png;base64,[^\"]+", "…", json.dumps(row, ensure_ascii=False))
    )


def test_openai_knows_the_messages(folder):
    for name in ("for_openai", "with_paths"):
        for row in open_lines(folder / name / "data.jsonl"):
            TypeAdapter(list[ChatCompletionMessageParam]).validate_python(row["messages"])


def code_of(name):
    """The blocks of a section, by the names of the files that they are to be."""
    section = PAGE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"as `([\w.]+)`:\n\n```\w+\n(.*?)\n```", section, re.DOTALL)
    return {file: f"{text}\n" for file, text in blocks}


def test_the_steps_of_others_use_what_is_there():
    files = code_of("distilabel") | code_of("Data-Juicer")
    assert list(files) == ["pipeline.py", "i2c_mapper.py", "recipe.yaml"]
    for name, text in files.items():
        if name.endswith(".py"):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("c3l_hf"):
                    assert all(hasattr(importlib.import_module(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize(("name", "package"), [("distilabel", "distilabel"), ("Data-Juicer", "data_juicer")])
def test_the_steps_of_others(name, package, folder, monkeypatch):
    """Where they are installed: they want environments of their own."""
    pytest.importorskip(package)
    monkeypatch.chdir(folder)
    for file, text in code_of(name).items():
        Path(file).write_text(text)
    row = {"images": ["photo.png"], "query": "What is in the picture?", "response": "A red kite."}
    rows = [row, row | {"images": ["gone.png"]}]
    Path("samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    program = [sys.executable, "pipeline.py"]
    if name == "Data-Juicer":
        program = [str(Path(sys.executable).with_name("dj-process")), "--config", "recipe.yaml"]
    subprocess.run(program, check=True, cwd=folder)
    expected = open_dataset("scored.parquet")["i2c"][0]
    scored = open_lines(folder / ("scored_by_data_juicer.jsonl" if name == "Data-Juicer" else "scored.jsonl"))
    assert scored[0]["i2c"] == pytest.approx(expected, rel=1e-4) and scored[0]["i2c_status"] == "ok"
    assert [row["i2c"] for row in scored[1:]] == [None] * (name == "Data-Juicer")
