"""What a dry run tells: rows, what is there, an estimate, and what will not fit; and that it leaves nothing behind."""

import re
import tempfile
from collections import namedtuple

import pyarrow as pa
import pytest
from datasets import Dataset

from c3l_hf.cli import main
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.data.sources import Images
from c3l_hf.models.loading import Source
from c3l_hf.pipeline import dry_run
from c3l_hf.pipeline.calibration import Calibration
from c3l_hf.pipeline.curation_options import CurationOptions
from c3l_hf.pipeline.dry_run import format_dry_run
from c3l_hf.pipeline.inputs import Inputs
from c3l_hf.pipeline.options import (
    STAGES,
    BackendOptions,
    GenerationOptions,
    ImageOptions,
    ModelOptions,
    PublishingOptions,
    RunOptions,
    ScoringOptions,
    SelectionOptions,
)
from c3l_hf.pipeline.settings import Settings
from c3l_hf.scenes import GENERATOR
from c3l_hf.training.config import C3LConfig

TRIED = Calibration(
    images=4,
    fixed={"generate": 10.0, "score": 5.0, "train": 20.0},
    per_row={"generate": 2.0, "score": 0.1, "train": 3.0},
    pairs_per_image=5.0,
    labels_per_image=1.0,
    bytes_of_pair=1000.0,
    bytes_of_image=50_000.0,
    usage={"peak_memory_bytes": 2_000_000_000},
)


def settings_of(folder, run=None, backend=None, **training):
    options = (ImageOptions("photos/"), ModelOptions(str(GENERATOR), dtype="float32"), GenerationOptions())
    rest = (ScoringOptions(), SelectionOptions(), CurationOptions(target_size=40), PublishingOptions())
    config = {"max_steps": 6, "per_device_train_batch_size": 4, "report_to": "none", "bf16": False} | training
    made = C3LConfig(str(folder), **config)
    return Settings(run or RunOptions(), *options, backend or BackendOptions(), *rest, made)


@pytest.fixture
def inputs():
    rows = Dataset.from_dict({"image_id": [str(n) for n in range(20)]})
    source = Source(str(GENERATOR))
    return Inputs(Images(rows, "of the pictures", None), None, source, {"digest": "d"}, source, None)


@pytest.fixture
def planned(tmp_path):
    run = RunFolder(tmp_path / "out", {})
    run.plan({stage: {} for stage in STAGES}, STAGES)
    return run


@pytest.fixture
def tried(monkeypatch):
    calls = []
    monkeypatch.setattr(dry_run, "calibrate", lambda settings, inputs, images: calls.append(images) or TRIED)
    return calls


def test_what_a_try_says_of_the_whole(planned, inputs, tried):
    told = format_dry_run(planned, inputs, settings_of(planned.folder), STAGES).splitlines()
    assert tried == [7]  # a batch of 32 replies, 5 an image
    assert told[1:6] == [
        "  generate: to be made, 20 images, 100 replies, about 50 s",  # 10 + 20 · 2
        "  score: to be made, 100 pairs, about 15 s",  # 5 + 100 · 0.1
        "  select: to be made, 100 pairs",
        "  train: to be made, 6 steps of 4 pseudo-labels, about 38 s",  # 20 + 6 · 3
        "  regenerate: to be made, 20 images, 100 replies, about 50 s",
    ]
    assert "time: about 3 min, without select, curate, write" in told  # 168 s
    assert "memory: up to 2.0 GB of the process at the try" in told
    # 1.5 · 200 pairs · 1 kB, 60 pictures of 50 kB, and twice the weights, 5.15 million of 4 bytes.
    assert any(line.startswith("disk: about 45 MB in ") for line in told)
    assert not planned.folder.exists() and not any("FIT" in line for line in told)


def test_what_is_there_costs_nothing(planned, inputs, tried, monkeypatch):
    planned.claim()

    def rows(first, last):
        if first == 15:
            raise KeyboardInterrupt
        yield pa.table({"y": list(range(first, last))})

    with pytest.raises(KeyboardInterrupt):
        planned.in_shards("generate", 20, rows, pa.schema({"y": pa.int64()}), lambda _: {}, 5)
    before = {path: path.stat().st_mtime_ns for path in planned.folder.rglob("*")}
    told = format_dry_run(planned, inputs, settings_of(planned.folder), STAGES)
    assert "generate: to be made, 20 images, 100 replies, about 20 s" in told  # 10 + 5 · 2
    assert before == {path: path.stat().st_mtime_ns for path in planned.folder.rglob("*")}


@pytest.mark.parametrize(
    ("run", "backend", "says"),
    [
        ({"calibrate": 0}, {}, "no estimate of time: calibrate is 0"),
        ({}, {"backend": "server", "base_url": ["http://h/v1"]}, "no estimate of time: a dry run asks no server"),
    ],
)
def test_when_nothing_is_tried(planned, inputs, tried, run, backend, says):
    settings = settings_of(planned.folder, RunOptions(**run), BackendOptions(**backend))
    told = format_dry_run(planned, inputs, settings, STAGES)
    assert says in told and not tried and "disk: at least about" in told


def test_a_large_model_without_accelerator_is_tried_when_asked(planned, inputs, tried, monkeypatch):
    monkeypatch.setattr("c3l_hf.pipeline.memory_needed._parameters", lambda folder: 7_000_000_000)
    monkeypatch.setattr(dry_run, "memory_free", lambda: (10_000_000_000, "the machine's memory"))
    told = format_dry_run(planned, inputs, settings_of(planned.folder), STAGES)
    # 28 GB, read once a token at 20 GB/s, 256 times.
    assert "the model has 7.0 billion parameters" in told and "takes 6 min or more" in told and not tried
    assert "WILL NOT FIT: the weights alone need 28.0 GB, and the machine's memory has 10.0 GB free" in told
    asked = settings_of(planned.folder, RunOptions(calibrate=1))
    assert "estimated from" in format_dry_run(planned, inputs, asked, STAGES) and tried == [1]


def test_a_training_of_all_weights_may_not_fit(planned, inputs, tried, monkeypatch):
    monkeypatch.setattr(dry_run, "memory_free", lambda: (50_000_000, "the accelerator"))  # 5.15 million · 4 are 21 MB
    settings = settings_of(planned.folder, use_lora=False)
    assert "optimizer of the training need 82 MB" in format_dry_run(planned, inputs, settings, STAGES)
    assert "FIT" not in format_dry_run(planned, inputs, settings_of(planned.folder), STAGES)  # adapters
    assert "FIT" not in format_dry_run(planned, inputs, settings, ["generate", "score"])


def test_a_disk_that_is_too_small(planned, inputs, tried, monkeypatch):
    usage = namedtuple("Usage", "free")(1_000_000)
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda path: usage)
    told = format_dry_run(planned, inputs, settings_of(planned.folder), STAGES)
    assert re.search(r"WILL NOT FIT: the disk of .*out lacks 44 MB", told)


def test_a_dry_run_of_the_scenes(tmp_path, capsys, monkeypatch):
    """By the stages themselves; nothing stays, neither in the run's folder nor in that of the try."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    words = "run --config scenes --num_images 30 --pairs_per_image 3 --calibrate 6 --dry_run --output_dir".split()
    assert main([*words, str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    for stage in ("generate", "score", "train", "regenerate", "rescore"):
        assert re.search(rf"  {stage}: to be made, .*, about [\d.]+ (s|min)\n", told)
    assert "estimated from 6 images" in told and "could not be tried" not in told
    assert not (tmp_path / "out").exists() and not list((tmp_path / "temporary").iterdir())


def test_what_cannot_be_tried_is_named(tmp_path, capsys, monkeypatch):
    def too_large(*_):
        raise RuntimeError("out of memory\nwith details")

    monkeypatch.setattr("c3l_hf.pipeline.calibration.stages.score", too_large)
    words = "run --config scenes --num_images 4 --calibrate 1 --dry_run --output_dir".split()
    assert main([*words, str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "score could not be tried: out of memory\n" in told and "train: to be made, 3 steps of 8" in told
    assert "about" not in next(line for line in told.splitlines() if line.startswith("  score"))
