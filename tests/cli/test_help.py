"""What the help says, how long it is, and what it does not load."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import c3l_hf
from c3l_hf.cli import main
from c3l_hf.cli.dispatch import COMMANDS, _load
from c3l_hf.cli.settings import read_settings
from c3l_hf.common.files import shipped

ROOT = Path(__file__).parents[2]


def help_of(capsys, *words):
    assert main([*words]) == 0
    return capsys.readouterr().out


def test_the_overview_names_every_command(capsys):
    text = help_of(capsys, "--help")
    assert all(f"\n  {name} " in text for name in COMMANDS) and len(text.splitlines()) < 30
    assert main([]) == 2  # nothing was asked for
    assert capsys.readouterr().out == text


def test_the_overview_shows_what_to_type_and_it_can_be_typed(capsys, monkeypatch):
    """Its first lines, each read by its command, with configurations that there are."""
    lines = [
        line for line in help_of(capsys, "--help").splitlines() if line.startswith("  c3l ") and "COMMAND" not in line
    ]
    assert len(lines) == 5 and max(map(len, lines)) <= 120
    for line in lines:
        words = re.split(r" {4,}", line.strip())[0].split()[1:]
        command = _load(words[0])
        settings = read_settings(command, words[1:], {}, list)
        assert len(settings.values) >= 3, line


def test_the_version_and_a_command_that_is_left_out(capsys):
    assert help_of(capsys, "--version") == help_of(capsys, "-V") == f"c3l_hf {c3l_hf.__version__}\n"
    assert main(["--config", "scenes"]) == 2
    assert capsys.readouterr().err == "c3l: a command comes first, as in c3l run --config; see c3l --help\n"


def test_a_run_without_a_model_or_images_says_what_to_give(capsys):
    assert main(["run", "--images", "my_pictures/"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("c3l run: --model is missing: give --model, ") and line.count("\n") == 1
    assert re.search(r"as Qwen/Qwen2.5-VL-7B-Instruct \(17 GB\), .* \(8 GB\) .*; scenes is a toy", line)
    assert main(["run", "--model", "scenes"]) == 1
    assert capsys.readouterr().err.startswith(
        "c3l run: --images is missing: a folder of pictures, a dataset, or scenes"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_a_screen_or_two(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = help_of(capsys, *name.split(), "--help")
    lines = text.splitlines()
    assert len(lines) <= 95 and max(map(len, lines)) <= 120
    assert lines[0].startswith(f"c3l {name} ") and f"\n  c3l {name} " in text
    assert "--dry_run" in text and "--config NAME" in text


def test_help_has_groups_defaults_and_choices(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = help_of(capsys, "run", "--help")
    # Also where the value is among the words that say what the option is.
    for value in ("[pmi]", "[type]", "[auto]"):
        assert value in text, value
    assert "\n\nRun (8 more with --help_all)\n" in text
    for group in ("Images", "Model", "Pseudo-labels", "Publishing"):
        assert f"\n\n{group}\n" in text
    for group in ("Generation", "Server", "Scoring", "Curation"):
        assert re.search(rf"\n\n{group} \(\d+ more with --help_all\)\n", text)
    for says in (
        "--pairs_per_image N             Replies per image, k: pairs or conversations. [5]",
        "--model TEXT                    A folder, a Hub id, or 'scenes' for the small generator that is shipped. (nee",
        "--dtype auto|float32|bfloat16|float16",
        "--min_margin X                  Smallest score of the best over the worst pair. [0.0]",
        "--contrastive_weight X",
        "more with --help_all)",
        "scenes",
    ):
        assert says in text
    assert "adam_beta1" not in text and "--logging_steps" not in text


def test_all_options_of_the_trainer_are_in_the_long_help(capsys):
    from c3l_hf.cli.options import options_of
    from c3l_hf.training.config import C3LConfig

    text = help_of(capsys, "run", "--help_all")
    assert all(f"  --{name}" in text for name in options_of([C3LConfig])) and "--help_all" not in text


def test_help_names_the_shipped_configurations(capsys):
    text = " ".join(help_of(capsys, "select", "--help").split())
    assert all(file.stem in text for file in shipped("configs").glob("*.yaml"))


@pytest.mark.parametrize("words", [["--help"], ["verify", "--help"]], ids=" ".join)
def test_help_waits_for_no_heavy_import(words):
    code = (
        "import sys; from c3l_hf.cli import main; assert main(sys.argv[1:]) == 0; "
        "print([name for name in ('torch', 'transformers', 'trl', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "c3l_hf", "scorex"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == "c3l: there is no command scorex; did you mean score?; see c3l --help\n"
