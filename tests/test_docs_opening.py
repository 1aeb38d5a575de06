"""The page on files and columns: its code does what it says."""

import base64
import re
from pathlib import Path

import pandas as pd
from scored_rows import png

from c3l_hf import I2CScorer, score_dataset
from c3l_hf.files.opening import open_dataset

PAGE = (Path(__file__).parents[1] / "docs" / "opening.md").read_text("utf-8")


def test_the_code_on_the_page(llava, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    pictures = [base64.b64encode(png(number)).decode() for number in range(2)]
    rows = {"bild": pictures, "frage": ["a?", "b?"], "antwort": ["1", "02"]}
    pd.DataFrame(rows).to_csv("rows.tsv", sep="\t", index=False)
    (code,) = re.findall(r"```python\n(.*?)\n```", PAGE, re.DOTALL)
    names = {"score_dataset": score_dataset, "scorer": I2CScorer(*llava)}
    exec(code, names)
    scored = names["scored"]
    assert scored.column_names[:3] == ["bild", "frage", "antwort"] and scored["i2c_status"][:] == ["ok", "ok"]
    assert scored["antwort"][:] == ["1", "02"]


def test_the_endings_on_the_page_are_those_that_are_read(tmp_path):
    table = PAGE.partition("| a file |")[2].partition("\n")[0]
    try:
        (tmp_path / "rows.odd").write_text("")
        open_dataset(tmp_path / "rows.odd")
    except Exception as error:
        known = str(error).partition("none of ")[2].split(", ")
    assert {f".{ending}" for ending in re.findall(r"rows\.(\w+)", table)} == set(known) - {".ndjson"}
