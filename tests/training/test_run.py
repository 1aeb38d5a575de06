"""A whole training: how long it takes, where steps and epochs are both limits."""

import json

import pytest
from tiny_models import tiny_llava
from tiny_training import config, pseudo_labels

from c3l_hf.training.run import steps_in, train_generator


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
