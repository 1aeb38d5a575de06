"""How many threads this process may use: what was set stays, and limits are kept."""

import os

import pytest
import torch

from c3l_hf.common import processes
from c3l_hf.common.processes import limit_threads
from c3l_hf.finetuning.student import StudentConfig
from c3l_hf.training.config import C3LConfig


@pytest.fixture
def threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    chosen = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    return chosen


def test_what_was_set_stays(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(processes, "_usable_cores", lambda: 1.0)
    limit_threads()
    assert threads == []


@pytest.mark.parametrize(
    ("cores", "processes_here", "expected"), [(16, 1, []), (2, 1, [2]), (16, 4, [4]), (1.5, 4, [1])]
)
def test_no_more_than_there_are(threads, monkeypatch, cores, processes_here, expected):
    monkeypatch.setattr(processes, "_usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes_here))
    limit_threads()
    assert threads == expected


def test_limits_of_containers(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert processes._usable_cores(tmp_path) == 6
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert processes._usable_cores(tmp_path) == 6
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert processes._usable_cores(tmp_path) == 2.5
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert processes._usable_cores(tmp_path) == 1
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert processes._usable_cores(tmp_path) == 6
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    assert processes._usable_cores(tmp_path) == 3


@pytest.mark.parametrize("config", [C3LConfig, StudentConfig])
def test_processes_wait_as_long_for_each_other_under_a_trainers_options(config):
    """Which are read first, and start the group: torch's half an hour would end a run whose curation takes longer."""
    assert config("out", report_to="none").ddp_timeout_delta == processes._PATIENCE
