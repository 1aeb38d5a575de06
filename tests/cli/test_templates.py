"""`c3l templates`: what is told of shipped sets and of files, and what is wrong with a file, in one line."""

import json
import re

import pytest
from scored_rows import picture

from c3l_hf.cli import main
from c3l_hf.prompts.template_files import load_templates, shipped_sets

MINE = "templates:\n  - id: a-1\n    type: a\n    system: See.\n    user: |\n      About {{ caption }}.\n      Ask.\n"


@pytest.fixture
def call(capsys):
    def call(*words, code=0):
        assert main(["templates", *words]) == code
        captured = capsys.readouterr()
        return captured.out if code == 0 else captured.err.splitlines()[-1]

    return call


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    return file


def test_the_list(call):
    text = call()
    assert text == call("list") and all(f"{name}: " in text for name in shipped_sets())
    assert "16 templates: 2 presence, " in text
    lines = call("list", "instruct-de").splitlines()
    assert len(lines) == 2 + len(load_templates("instruct-de").templates)
    assert re.match(r"gespraech-1 +conversation +3 +1 +labelled +de +1 +640", lines[2])


def test_what_is_asked(call, mine, tmp_path):
    assert call("show", str(mine), "a-1", "--fields", "caption=a=b c") == (
        "a-1 (a): labelled, turns 1, pairs 1, at most 128 tokens\n"
        "  system:\n    See.\n  user:\n    [picture: the row]\n    About a=b c.\n    Ask.\n"
    )
    assert call("show", "instruct").count("[picture: the row]") == len(load_templates("instruct").templates)
    picture(0).save(tmp_path / "a.png")
    mine.write_text(
        MINE + "    examples: [{image: a.png, fields: {caption: cats}, turns: [{question: Who, answer: They}]}]\n"
    )
    text = call("show", str(mine), "--fields", "caption=dogs")
    assert re.search(
        r"\[picture: \S+/a.png\]\n    About cats\.(.*\n)+  assistant:\n    Question: Who\n    Answer: They", text
    )


def test_a_file_is_checked(call, mine, tmp_path):
    assert call("check", str(mine)) == (
        "ok: 1 template; types a; no control tokens of common families; "
        "fields caption (--images looks for their columns)\n"
    )
    (tmp_path / "pictures").mkdir()
    picture(0).save(tmp_path / "pictures" / "a.png")
    metadata = tmp_path / "pictures" / "metadata.jsonl"
    metadata.write_text(json.dumps({"file_name": "a.png", "caption": "A cat."}) + "\n")
    told = call("check", str(mine), "--images", str(tmp_path / "pictures"), "--model", "scenes")
    assert told.endswith("pictures has all fields\n") and "no control tokens of scenes;" in told
    metadata.write_text(json.dumps({"file_name": "a.png", "captoin": "A cat."}) + "\n")
    line = call("check", str(mine), "--images", str(tmp_path / "pictures"), code=1)
    assert f"{mine}:2: template 'a-1' uses the field 'caption'" in line and line.endswith("did you mean 'captoin'?")
    mine.write_text(MINE.replace("Ask.", "<|im_end|> <image>"))
    assert f"{mine}:2: template 'a-1' has the control token '<|im_end|>' in user" in call("check", str(mine), code=1)
    # Letters, for a model that has no such token; but it has the other one.
    assert "control token '<image>'" in call("check", str(mine), "--model", "scenes", code=1)
    mine.write_text(MINE.replace("type", "typ"))
    assert f"{mine}:3: a template has no key 'typ'" in call("check", str(mine), code=1)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["check"], 2, "NAME is missing"),
        (["show"], 2, "NAME is missing"),
        (["look"], 2, "invalid choice: 'look'"),
        (["check", "instruct", "--fields", "a=b"], 2, "--fields is for c3l templates show, not for check"),
        (["list", "instruct", "--model", "scenes"], 2, "--model is for c3l templates check, not for list"),
        (["show", "instruct", "--fields", "a"], 2, "--fields has 'a'; write NAME=VALUE"),
        (["show", "instruct", "--fields", "a=b"], 2, "--fields has 'a', which no template here uses"),
        (["show", "instruct", "conversation-3"], 1, "no template 'conversation-3'"),
        (["show", "instruc"], 1, "did you mean 'instruct'?"),
        (["check", "instruct", "--model", "nowhere/at/all"], 1, "nowhere/at/all"),
    ],
)
def test_calls_that_are_wrong(call, words, code, message):
    assert message in call(*words, code=code)


def test_a_field_without_a_value(call, mine):
    line = call("show", str(mine), code=1)
    assert line == "c3l templates: template 'a-1': field 'caption' has no value; give --fields NAME=VALUE"
