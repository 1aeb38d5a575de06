"""The figures of the stages, as trackers get them."""

import json

import pyarrow as pa
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from c3l_hf.common.run_folder import RunFolder
from c3l_hf.common.shards import Shards
from c3l_hf.pipeline.tracking import figures, report_figures
from c3l_hf.training.config import C3LConfig


class Lines(GeneralTracker):
    """Writes what it gets into a file of lines."""

    name, requires_logging_directory = "lines", True

    def __init__(self, run_name, logging_dir):
        super().__init__()
        self.run_name, self.folder = run_name, logging_dir

    @property
    def tracker(self):
        return self.file

    def start(self):
        self.file = open(f"{self.folder}/{self.run_name}.jsonl", "a")

    def log(self, values, step=None):
        self.file.write(json.dumps(values) + "\n")

    def finish(self):
        self.file.close()


class Broken(Lines):
    def start(self):
        raise ConnectionError("no service")


@pytest.fixture
def run(tmp_path):
    """A run that has scored, and trained, and no more."""
    run = RunFolder(tmp_path / "out", {})
    run.plan({"score": {}, "train": {}, "write": {}, "later": {}}, ["score"])
    run.claim()

    def scores(path):
        rows = [{"i2c": float(n), "i2c_status": "ok"} for n in range(11)] + [{"i2c": None, "i2c_status": "no pair"}]
        Shards(path, 1).write(0, [pa.Table.from_pylist(rows)], pa.schema({"i2c": pa.float32(), "i2c_status": "string"}))
        return {"counts": {"ok": 11, "no pair: „odd“": 1}}

    run.complete("score", scores)
    run.complete("train", lambda _: {"steps": 7, "log": []})
    pools = [{"name": "  curated", "true": [0.5, 0.25, 0.75]}, {"name": "unknown", "true": None}]
    run.complete("write", lambda _: {"pools": pools})
    return run


STAGES = ("score", "train", "write", "later")


def config(run, *report_to):
    made = C3LConfig(str(run.folder), report_to="none", bf16=False)
    made.report_to = list(report_to)  # the trainer's own trackers are others
    return made


def test_figures_of_complete_stages(run):
    values = figures(run, STAGES)
    assert values["score/ok"] == 11 and values["score/no pair odd"] == 1 and values["train/steps"] == 7
    assert values["score/i2c q10"] == pytest.approx(1) and values["score/i2c q50"] == pytest.approx(5)
    assert values["write/curated/true"] == 0.5 and values["write/curated/high"] == 0.75
    assert values["train/seconds"] >= 0 and values["train/peak_memory_bytes"] > 1e6
    assert not any("unknown" in name or "later" in name for name in values)


def test_a_tracker_gets_them(run, tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "lines", Lines)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path))
    report_figures(run, STAGES, config(run, "lines"))
    assert json.loads((tmp_path / "stages.jsonl").read_text()) == figures(run, STAGES)


def test_a_tracker_that_fails_ends_no_run(run, monkeypatch, caplog):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "broken", Broken)
    report_figures(run, STAGES, config(run, "broken", "telegraph"))
    assert "broken did not get the figures of the stages: ConnectionError: no service" in caplog.text
    assert "report_to has telegraph, which gets the figures of the training alone" in caplog.text


def test_without_report_to_nothing_is_told(run, monkeypatch):
    monkeypatch.setattr("c3l_hf.pipeline.tracking._open", lambda *_: pytest.fail("opened"))
    report_figures(run, STAGES, config(run))
