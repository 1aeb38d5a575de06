"""How commands end: exit codes, and the one line of what went wrong."""

import os
import subprocess
import sys

import pytest

from c3l_hf.cli import main
from c3l_hf.cli.command import CallOptions, Command
from c3l_hf.common.errors import RunError
from c3l_hf.publishing.hub import Publication
from c3l_hf.publishing.repository import HubError


@pytest.fixture
def command(monkeypatch):
    """A command that ends as one wants."""

    def install(outcome, resumes=False):
        def call(_):
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        made = Command("Does it.", ("c3l select",), (CallOptions,), call, resumes=resumes)
        monkeypatch.setattr("c3l_hf.cli.dispatch._load", lambda name: made)

    return install


@pytest.mark.parametrize(("outcome", "code"), [(None, 0), (0, 0), (1, 1)])
def test_what_a_command_returns(command, outcome, code):
    command(outcome)
    assert main(["select"]) == code


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RunError("dry_run is 3; no"), "c3l select: --dry_run is 3; no"),
        (RunError("the dry_run is 3"), "c3l select: the dry_run is 3"),
        (ValueError("two\n  lines"), "c3l select: two"),
        (OSError(), "c3l select: OSError"),
        (RunError("user/\x1b[2Jname is bad"), "c3l select: user/?[2Jname is bad"),
        (HubError("the token may only read"), "c3l select: the token may only read"),
    ],
)
def test_expected_failures_end_in_one_line(command, capsys, error, line):
    command(error)
    assert main(["select"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == line


def test_tables_of_a_failure_stand_before_its_line(command, capsys):
    command(RunError("no pair is left:\npairs  3\nkept   0\n"))
    assert main(["select"]) == 1
    assert capsys.readouterr().err == "pairs  3\nkept   0\nc3l select: no pair is left:\n"


@pytest.mark.parametrize("resumes", [True, False])
def test_an_interruption(command, capsys, resumes):
    command(KeyboardInterrupt(), resumes)
    assert main(["select"]) == 130
    ends = "the same command goes on where it stopped" if resumes else "the same command begins anew"
    assert capsys.readouterr().err == f"c3l select: interrupted; {ends}\n"


def test_an_interruption_while_modules_are_loaded(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("c3l_hf.cli.dispatch._load", interrupted)
    assert main(["run"]) == 130
    assert capsys.readouterr().err == "c3l run: interrupted; nothing has been done yet\n"


def test_one_of_a_launchers_processes_tells_of_an_interruption(command, monkeypatch, capsys):
    command(KeyboardInterrupt(), True)
    monkeypatch.setenv("RANK", "1")
    assert main(["select"]) == 130
    assert capsys.readouterr().err == ""


def test_what_nobody_expects_keeps_its_traceback(command):
    command(KeyError("a bug"))
    with pytest.raises(KeyError, match="a bug"):
        main(["select"])


def test_where_an_expected_failure_comes_from(command):
    command(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        main(["select", "--traceback"])


def test_a_dry_run_does_nothing(command, capsys):
    command(KeyError("called"))
    assert main(["select", "--dry_run"]) == 0
    assert capsys.readouterr().out == "dry_run: true  # --dry_run\n"


def test_a_token_is_not_shown(capsys, tmp_path):
    call = ["train", "--dataset", "x", "--model", "y", "--output_dir", str(tmp_path), "--use_cpu", "--dry_run"]
    assert main([*call, "--hub_token", "hf_secret"]) == 0
    printed = capsys.readouterr().out
    assert "hf_secret" not in printed and "hub_token: (not shown)  # --hub_token" in printed


def test_push_and_verify_say_what_was_asked(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr("c3l_hf.publishing.hub.push", lambda *call: calls.append(call) or ["pushed"])
    monkeypatch.setattr("c3l_hf.publishing.hub.verify", lambda *call, **options: calls.append((call, options)) or False)
    words = "push runs/x --hub_namespace user --hub_dataset_name d --hub_generator_name g --license mit --public"
    assert main(words.split()) == 0
    assert calls.pop() == ("runs/x", Publication("user", "d", "g", public=True, license="mit"))
    assert capsys.readouterr().out == "pushed\n"
    assert main("verify user/d --rescore 3 --revision v1 --repo_type dataset --model scenes".split()) == 1
    options = {"revision": "v1", "repo_type": "dataset", "rescore": 3, "model": "scenes", "model_revision": None}
    assert calls.pop() == (("user/d",), options)


def test_what_is_no_run_and_what_is_nowhere(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.startswith("c3l verify: ")
    assert main(["push", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("nothing to push")


def test_a_reader_that_has_seen_enough_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    call = [sys.executable, "-m", "c3l_hf", "--help"]
    done = subprocess.run(call, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 1 and done.stderr == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_told_that_modules_are_loaded(terminal, capsys, monkeypatch):
    """Which takes so long that one wonders; logs have no such line."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert main(["templates", "list"]) == 0 and main(["templates", "list", "--help"]) == 0
    assert capsys.readouterr().err == "c3l templates: loading …\n" * terminal
