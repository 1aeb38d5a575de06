"""The page on selection: its options exist in the order of the rules, its code runs."""

import importlib
import re
from pathlib import Path

from datasets import Dataset
from scored_rows import picture

from c3l_hf import I2CScorer, score_dataset
from c3l_hf.cli.curate import CurateOptions
from c3l_hf.cli.dispatch import COMMANDS
from c3l_hf.cli.options import options_of
from c3l_hf.pipeline.curation_options import CurationOptions

PAGE = (Path(__file__).parents[1] / "docs" / "which-score.md").read_text("utf-8")


def command(name):
    return importlib.import_module(f"c3l_hf.cli.{COMMANDS[name][1]}").COMMAND


def test_the_options_on_the_page():
    known = {option for name in COMMANDS for option in options_of(command(name).groups)}
    assert set(re.findall(r"`--(\w+)", PAGE)) <= known
    table = set(re.findall(r"`--(\w+)`", PAGE.partition("## The order of the rules")[2].partition("##")[0]))
    # What only says how rows are compared, or where vectors come from, is no rule.
    assert {*options_of([CurationOptions]), "score", "min_quantile"} - table == {"embeddings", "curation_score"}
    lacking = set(options_of([CurateOptions])) - set(options_of(command("run").groups))
    assert lacking == set(re.findall(r"`--(\w+)`", PAGE.partition("## In a run")[2].partition(":")[0]))


def test_the_code_on_the_page(llava, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    rows = [{"images": [picture(n)], "question": f"What is {n}?", "answer": f"a {n}"} for n in range(4)]
    scored = score_dataset(Dataset.from_list(rows), I2CScorer(*llava))
    names = {"scored": scored, "model": llava[0], "processor": llava[1]}
    (code,) = re.findall(r"```python\n(.*?)\n```", PAGE, re.DOTALL)
    code = code.replace("clusters=50", "clusters=2").replace('"pmi": 0.0', '"pmi": -9.0')
    exec(code, names)
    assert len(names["chosen"]) == len(names["varied"]) == len(names["control"]) == 4
    assert names["report"].balance_by == ["cluster"] and names["clusters"].asked == 2
