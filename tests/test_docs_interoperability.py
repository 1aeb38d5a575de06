"""The page on other tools: its commands and code run in their order, and its examples are what is written."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from scored_rows import picture
from tiny_models import tiny_llava
from transformers import AutoModelForImageTextToText
from trl.scripts.sft import main as trl_sft
from trl.scripts.sft import make_parser

from c3l_hf.cli import main
from c3l_hf.files.opening import open_dataset

PAGE = (Path(__file__).parents[1] / "docs" / "interoperability.md").read_text("utf-8")
BLOCKS = re.findall(r"```(bash|python|json)\n(.*?)\n```", PAGE, re.DOTALL)
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
