"""The progress line: what it counts, and that logs have few lines of it."""

import io

import pytest

from c3l_hf.common import progress
from c3l_hf.common.progress import ProgressLine


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_has_a_line_every_five_minutes(clock, capsys):
    with ProgressLine("score", 1000, "pairs") as line:
        line.begin_part()
        for _ in range(100):
            clock.now += 10
            line.advance(5)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "score: 150 of 1,000 pairs, 0.5/s, 28:20 left",
        "score: 300 of 1,000 pairs, 0.5/s, 23:20 left",
        "score: 450 of 1,000 pairs, 0.5/s, 18:20 left",
    ]


def test_a_short_stage_leaves_nothing_in_a_log(clock, capsys):
    with ProgressLine("score", 10, "pairs") as line:
        assert list(line.over([[1] * 4, [1] * 6])) == [[1] * 4, [1] * 6]
        clock.now += 299
        line.advance(0)
    assert capsys.readouterr().err == ""


def test_what_was_there_is_shown_and_no_part_of_the_rate(clock, capsys):
    with ProgressLine("score", 1000, "pairs", lambda: 600) as line:
        line.begin_part()
        clock.now += 300
        line.advance(100)
    assert capsys.readouterr().err == "score: 700 of 1,000 pairs, 0.333/s, 15:00 left\n"


def test_the_parts_of_other_processes_count(clock, capsys):
    there = [0]
    with ProgressLine("score", 1000, "pairs", lambda: there[0]) as line:
        for _ in line.over([[1] * 50]):
            pass
        there[0] = 200  # its own part, and three of others
        clock.now += 290
        tables = line.over([[1] * 50])
        next(tables)
        clock.now += 10
        assert next(tables, None) is None
    assert capsys.readouterr().err.startswith("score: 250 of 1,000 pairs, 0.833/s")


def test_a_terminal_has_one_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with ProgressLine("score", 8, "pairs", lambda: 2) as line:
        for part in ([[1], [1]], [[1]]):
            list(line.over(part))
    shown = terminal.getvalue()
    assert "score:  25%" in shown and "2/8" in shown and "\n" not in shown


@pytest.mark.parametrize("shown", [True, False])
def test_nothing_is_opened_before_work_begins(monkeypatch, shown):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with ProgressLine("score", 8, "pairs", lambda: 2, shown) as line:
        assert terminal.getvalue() == ""
        line.begin_part()
    assert bool(terminal.getvalue()) == shown
