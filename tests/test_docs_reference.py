"""What pages list: the columns of rows, the names of the API, the options of training."""

import dataclasses
import importlib
import re

from pages import CODE, ROOT, imports_of

import c3l_hf
from c3l_hf import C3LConfig
from c3l_hf.data import schema


def test_the_rows_are_those_of_the_schema():
    pages = (ROOT / "docs" / "rows.md").read_text()
    tables = {
        "Pairs": schema.PAIR_FEATURES,
        "Scores": schema.SCORE_FEATURES,
        "Pseudo-labels": {**schema.PSEUDO_LABEL_FEATURES, **schema.CHOSEN_TOKENS_FEATURES},
    }
    for heading, features in tables.items():
        text = pages.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        found = re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE)
        assert found == [(name, type_name(feature)) for name, feature in features.items()], heading
    assert "`image_row` (int64)" in pages and schema.PAIR_TABLE_FEATURES["image_row"].dtype == "int64"


def type_name(feature) -> str:
    if isinstance(feature, dict):
        return "{" + ", ".join(f"{name}: {type_name(inner)}" for name, inner in feature.items()) + "}"
    if inner := getattr(feature, "feature", None):
        return f"list of {type_name(inner)}"
    return "Image" if type(feature).__name__ == "Image" else feature.dtype


def test_the_api_has_all_names():
    text = (ROOT / "docs" / "api.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| `?([\w.]*)`? \|", text, re.MULTILINE))
    shown = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert {name for name, module in table.items() if not module} == set(c3l_hf.__all__)
    imported = {(name, found) for block in CODE for name, found in imports_of(block) if callable(found)}
    for path in shown:
        module, name = path.rsplit(".", 1)
        found = getattr(importlib.import_module(module), name)
        assert found.__doc__ and found is getattr(importlib.import_module(table[name] or "c3l_hf"), name), path
    missing = {name for name, _ in imported} - table.keys()
    assert not missing, f"docs/api.md has not {missing}, which other pages import"


def test_options_of_training_on_the_page_of_the_method_have_its_defaults():
    text = (ROOT / "docs" / "method.md").read_text().partition("## The contrastive loss")[2]
    defaults = {field.name: field.default for field in dataclasses.fields(C3LConfig)}
    checked = 0
    for cell, value in re.findall(r"^\| (`\w+`.*?) \| (.*?) \|", text, re.MULTILINE):
        names = re.findall(r"`(\w+)`", cell)
        assert set(names) <= defaults.keys(), cell
        # "`mean`, −1 (last)" → mean, -1; what a default means follows a colon or stands in brackets
        shown = re.sub(r"\(.*?\)|:.*", "", value).replace("`", "").replace("−", "-").split(",")
        for name, word in zip(names, map(str.strip, shown)):
            if isinstance(defaults[name], str) or type(defaults[name]) in (int, float):
                assert word == str(defaults[name]) or float(word) == defaults[name], name
                checked += 1
    assert checked > 10
