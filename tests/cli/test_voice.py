"""Of several processes one tells how a command has failed, and which it is if the others have not."""

import pytest

from c3l_hf.cli.interruption import Interruption
from c3l_hf.cli.voice import Voice, voice


class Beats:
    """Signs of life of a process that is, or is not, the one that tells."""

    def __init__(self, tells, lost="", met=True):
        self.tells, self.lost, self.met, self.failed = tells, lost, met, False

    def first_to_tell(self):
        return self.tells

    def name_lost(self):
        return self.lost

    def fail(self):
        self.failed = True


@pytest.fixture
def second(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr("socket.gethostname", lambda: "node7")


@pytest.mark.parametrize("tells", [True, False])
def test_the_one_that_fails_alone_is_named_and_ends_the_others(second, capsys, tells):
    beats = Beats(tells)
    assert Voice("c3l run", beats).fail("the disk is full\nof 3", 1) == 1
    assert capsys.readouterr().err == "of 3\nc3l run: process 1 of 4, on node7: the disk is full\n" * tells
    assert beats.failed


def test_before_they_have_met_what_fails_one_is_told_and_a_wrong_call_by_the_first(second, capsys):
    Voice("c3l run", Beats(False, met=False)).fail("there is no such option", 2)
    assert capsys.readouterr().err == ""
    Voice("c3l run", Beats(False, met=False)).fail("there is no such file", 1)
    assert capsys.readouterr().err == "c3l run: process 1 of 4, on node7: there is no such file\n"


def test_the_first_one_needs_no_name(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    Voice("c3l run", Beats(True)).fail("there is no such file", 1)
    assert capsys.readouterr().err == "c3l run: there is no such file\n"


def test_after_a_lost_connection_the_other_one_is_named(second, capsys):
    error, message = RuntimeError("Connection closed by peer [127.0.0.1]:7"), "the connection was lost; go on"
    Voice("c3l run", Beats(True, "process 0 of 4 has died")).fail(message, 1, error)
    Voice("c3l run", Beats(True)).fail(message, 1, error)
    lines = ["c3l run: process 0 of 4 has died; go on", f"c3l run: process 1 of 4, on node7: {message}"]
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize("tells", [True, False])
def test_a_bug_is_printed_by_one(second, capsys, tells):
    beats = Beats(tells)
    with pytest.raises(SystemExit, match="1"):
        try:
            raise KeyError("a bug")
        except KeyError:
            Voice("c3l run", beats).crash(None)
    printed = capsys.readouterr().err
    assert printed.count("Traceback") == printed.count("process 1 of 4, on node7: an error") == tells and beats.failed


def test_alone_a_bug_is_left_to_python(capsys):
    Voice("c3l run").crash(None)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("installed", [True, False])
def test_from_python_and_alone_there_are_no_signs_of_life(monkeypatch, installed):
    monkeypatch.setenv("WORLD_SIZE", "1" if installed else "2")
    interruption = Interruption()
    interruption.installed = installed
    with voice("c3l run", interruption) as teller:
        assert teller._beats is None
