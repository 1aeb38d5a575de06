"""A whole training: its progress line, where it went on, and how long it takes."""

import json
import re

import pytest
from safetensors import SafetensorError
from tiny_models import tiny_llava
from tiny_training import config, pseudo_labels

from c3l_hf.common.errors import RunError
from c3l_hf.training import run
from c3l_hf.training.run import steps_in, train_generator


@pytest.fixture
def lines(monkeypatch):
    """The progress lines that trainings open."""
    opened = []

    class Line(run.ProgressLine):
        def __init__(self, *args):
            super().__init__(*args)
            opened.append(self)
            self.calls = []

        def begin_part(self):
            self.calls.append(f"from {self._there()}")

        def advance(self, rows=1):
            self.calls.append("step")

        def close(self):
            self.calls.append("closed")

    monkeypatch.setattr(run, "ProgressLine", Line)
    return opened


def test_one_line_over_all_steps_and_only_new_ones_count(tmp_path, lines, capsys):
    def trained(name, **options):
        training = config(tmp_path, disable_tqdm=False, **options)
        return train_generator(*tiny_llava(), pseudo_labels(), training, tmp_path / "checkpoints", tmp_path / name)

    first = trained("first", max_steps=2, save_strategy="steps", save_steps=2)
    assert first["steps"] == 2 and "from_step" not in first
    second = trained("second", max_steps=3)
    assert second["steps"] == 3 and second["from_step"] == 2
    assert [line.calls for line in lines] == [["from 0", "step", "step", "closed"], ["from 2", "step", "closed"]]
    assert [(line.total, line._shown) for line in lines] == [(2, True), (3, True)]
    captured = capsys.readouterr()
    assert not re.search(r" \d/[23] \[", captured.err) and "{'loss'" not in captured.out  # no bar of the trainer's own


def test_disable_tqdm_means_this_line_too(tmp_path, lines):
    training = config(tmp_path, disable_tqdm=True, max_steps=1)
    train_generator(*tiny_llava(), pseudo_labels(), training, tmp_path / "checkpoints", tmp_path / "made")
    assert [line._shown for line in lines] == [False]


@pytest.mark.parametrize(
    ("epochs", "rows", "batch", "accumulated", "steps"),
    [(1, 8, 8, 1, 1), (3, 30, 8, 1, 12), (3, 30, 2, 8, 6), (0.5, 300, 8, 1, 19), (0.1, 3, 8, 1, 1)],
)
def test_steps_of_epochs(tmp_path, epochs, rows, batch, accumulated, steps):
    training = config(tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulated)
    assert steps_in(epochs, rows, training) == steps


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "steps"), [(2.0, 5, 2), (10.0, 3, 3), (None, 3, 3)], ids=["epochs", "steps", "none"]
)
def test_training_ends_with_the_first_of_both_limits(tmp_path, max_epochs, max_steps, steps):
    training = config(tmp_path, per_device_train_batch_size=4, max_steps=max_steps, num_train_epochs=7)
    folder = tmp_path / "generator"
    report = train_generator(
        *tiny_llava(), pseudo_labels(4), training, tmp_path / "checkpoints", folder, max_epochs=max_epochs
    )
    assert report["steps"] == steps and training.max_steps == max_steps
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llava"


@pytest.mark.parametrize("call", ["save_file", "save"])
def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch, call):
    """The writers of weights and of an optimizer's state raise errors of their own for it."""

    def full(*_, **__):
        if call == "save":
            raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    module = {"save_file": "transformers.modeling_utils.safe_save_file", "save": "torch.save"}[call]
    monkeypatch.setattr(module, full)
    training = config(tmp_path, max_steps=1, save_strategy="steps" if call == "save" else "no", save_steps=1)
    with pytest.raises(RunError, match="the weights cannot be written .*make room on the disk"):
        train_generator(*tiny_llava(), pseudo_labels(), training, tmp_path / "checkpoints", tmp_path / "made")
