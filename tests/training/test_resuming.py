"""A training that was ended anywhere is the one that was not; and what may go wrong is told in one line."""

import contextlib
import os
import sys

import pytest
import torch
from datasets import Dataset
from safetensors import SafetensorError
from tiny_models import tiny_llava
from tiny_training import config, make_trainer, message, pseudo_labels

from c3l_hf.common.errors import RunError
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.training.checkpoints import last_checkpoint, training_folder
from c3l_hf.training.resuming import told_in_one_line, train_from
from c3l_hf.training.run import train_generator
from c3l_hf.training.trainer import C3LTrainer

_EVENTS = {"os.rename", "os.remove", "shutil.rmtree"}
_watch = {"below": None, "left": 0}


class Killed(BaseException):
    """The process ends here."""


def _hook(event, args):
    if _watch["below"] is None or event not in {"open", *_EVENTS} or not isinstance(args[0], str | os.PathLike):
        return
    writes = event in _EVENTS or (isinstance(args[1], str) and set(args[1]) & set("wax+"))
    if writes and os.fspath(args[0]).startswith(_watch["below"]):
        _watch["left"] -= 1
        if _watch["left"] < 0:
            raise Killed


sys.addaudithook(_hook)  # it cannot be taken away again; it does nothing outside of `killed_at`


@contextlib.contextmanager
def killed_at(folder, operation):
    """A context that ends before the so-manieth operation on files below a folder, counted from 0."""
    _watch.update(below=f"{folder}{os.sep}", left=operation)
    try:
        yield
    finally:
        _watch["below"] = None


def complete(folder, killed=None):
    """The stage of a training of three steps, as a run makes it; ended at an operation on files after the last step."""
    run = RunFolder(folder, {})
    run.plan({"train": {}}, ["train"])
    run.claim()
    checkpoints = training_folder(run, "train")
    # A step has 3 of 4 rows: the third is within an epoch.
    options = {"per_device_train_batch_size": 3, "save_strategy": "steps", "save_steps": 2}
    training = config(folder, use_lora=False, max_steps=3, **options)
    steps = []

    def make(path):
        with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
            train, step = C3LTrainer._load_from_checkpoint, C3LTrainer.training_step

            def begin():
                if killed is not None and _watch["below"] is None:
                    stack.enter_context(killed_at(folder, killed))

            def counted(self, *args, **kwargs):
                steps.append(self.state.global_step + 1)
                result = step(self, *args, **kwargs)
                if self.state.global_step == 2:
                    begin()
                return result

            def load(self, checkpoint, model=None):
                train(self, checkpoint, model)
                if checkpoint.endswith("-3"):
                    begin()

            patch.setattr(C3LTrainer, "training_step", counted)
            patch.setattr(C3LTrainer, "_load_from_checkpoint", load)
            return train_generator(*tiny_llava(), pseudo_labels(), training, checkpoints, path / "generator")

    report = run.complete("train", make)
    return run, report, steps


def weights_of(run):
    return (run.path("train") / "generator" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of the training that nothing ended."""
    run, report, steps = complete(tmp_path_factory.mktemp("whole"))
    assert steps == [1, 2, 3] and report["steps"] == 3
    return weights_of(run)


def test_killed_at_operations_on_files_after_the_last_step(whole, tmp_path):
    """Again and again, until the record of the stage is there: no step too many, and the same weights."""
    kills, operation, sealed = 0, 0, False
    while True:
        try:
            run, report, steps = complete(tmp_path, killed=operation)
            break
        except Killed:
            kills += 1
        last = last_checkpoint(next(tmp_path.glob("training-*")))
        is_sealed = last is not None and last.endswith("-3")
        # Of the last checkpoint every fourth, of what follows every second: each costs a training that is set up anew.
        operation = 0 if is_sealed and not sealed else operation + (2 if is_sealed else 4)
        sealed = sealed or is_sealed
    assert sealed and kills >= 6 and not steps and report["steps"] == report["from_step"] == 3
    assert weights_of(run) == whole


def test_a_checkpoint_of_the_last_step_is_the_end(tmp_path, monkeypatch):
    """Within an epoch; longer trainings go on."""
    options = {"save_strategy": "steps", "per_device_train_batch_size": 1, "max_steps": -1, "num_train_epochs": 1.5}
    first = make_trainer(tmp_path, **options)
    first.train()
    assert first.state.global_step == 6
    again, checkpoint = make_trainer(tmp_path, **options), str(tmp_path / "checkpoint-6")
    with monkeypatch.context() as patch:
        patch.setattr(again, "training_step", lambda *_: pytest.fail("one more step"))
        train_from(again, checkpoint)
    assert again.state.global_step == 6 and len(again.train_dataset) == 4 and again.args.max_steps == -1
    expected, found = first.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(weight, found[name]) for name, weight in expected.items())
    longer = make_trainer(tmp_path, **{**options, "num_train_epochs": 1.75})
    train_from(longer, checkpoint)
    assert longer.state.global_step == 7


def told(folder, error, **options):
    with pytest.raises(RunError) as raised, told_in_one_line(config(folder, **options), folder):
        raise error
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_may_well_happen_is_told_in_one_line(tmp_path):
    memory = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
    assert told(tmp_path, memory, per_device_train_batch_size=8, gradient_accumulation_steps=2) == (
        "memory has run out (CUDA out of memory): lower per_device_train_batch_size, which is 8, and raise "
        "gradient_accumulation_steps, which is 2, to keep their product; training starts at its first step then"
    )
    assert "per_device_train_batch_size is 1 already" in told(tmp_path, memory, per_device_train_batch_size=1)
    disk = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert f"{tmp_path}: the weights cannot be written" in told(tmp_path, disk)
    worker = (
        "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x\n"
        "ValueError: row with image_id 'a', images: the image cannot be read\n"
    )
    assert told(tmp_path, ValueError(worker)) == "row with image_id 'a', images: the image cannot be read"
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    assert "lower dataloader_num_workers, which is 3" in told(tmp_path, killed, dataloader_num_workers=3)
    with pytest.raises(RuntimeError, match="shapes do not fit"), told_in_one_line(config(tmp_path), tmp_path):
        raise RuntimeError("shapes do not fit")


def test_rows_that_are_left_out_are_counted(tmp_path):
    rows = unfit(pseudo_labels().to_list()[0], chosen=message("assistant", " "))
    training = config(tmp_path, max_steps=1, invalid_rows="drop")
    report = train_generator(*tiny_llava(), rows, training, tmp_path / "c", tmp_path / "made")
    assert (report["rows"], report["left_out"]) == (1, 1)


def unfit(row, **values):
    return Dataset.from_list([{**row, **values}, row], features=pseudo_labels().features)


def test_rows_that_cannot_be_trained_on(tmp_path):
    """Before the first step, with what to do."""
    row = pseudo_labels().to_list()[0]
    cases = {
        "chosen: 62 tokens, but the model takes at most 40": ({"max_length": 40}, pseudo_labels()),
        "it is the chosen answer again": ({}, unfit(row, rejected=[row["chosen"]])),
        "the answer is empty": ({}, unfit(row, chosen=message("assistant", " "))),
        "control token": ({}, unfit(row, chosen=message("assistant", "a dog <image>"))),
        "train_dataset has no rows": ({}, unfit(row).select([])),
        "no row with a rejected answer": ({}, unfit(row, rejected=[]).select([0])),
    }
    for says, (options, rows) in cases.items():
        with pytest.raises(RunError) as raised:
            train_generator(*tiny_llava(), rows, config(tmp_path, **options), tmp_path / "c", tmp_path / "made")
        text = str(raised.value)
        what_to_do = ("invalid_rows", "contrastive_weight=0", "c3l select")
        assert says in text and "\n" not in text and any(words in text for words in what_to_do)
