"""What a training goes on from, and which options tell it from another."""

import os
import shutil
from types import SimpleNamespace

import pytest
from tiny_training import config, make_trainer

from c3l_hf.common.checksums import CHECKSUMS, seal
from c3l_hf.common.errors import RunError
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.finetuning.student import StudentConfig
from c3l_hf.training import checkpoints
from c3l_hf.training.checkpoints import (
    keep_two,
    last_checkpoint,
    remove_checkpoints,
    training_folder,
    training_options,
)
from c3l_hf.training.resuming import train_from_last


def test_options_that_change_what_is_trained(tmp_path):
    plain = training_options(config(tmp_path / "a", max_steps=3))
    assert plain["max_steps"] == 3 and not plain.keys() & {"output_dir", "report_to", "use_cpu", "save_strategy"}
    how = {"save_total_limit": 2, "dataset_num_proc": 4, "dataloader_num_workers": 2, "ddp_timeout": 99}
    how |= {"save_strategy": "steps", "logging_steps": 7, "log_level": "info"}
    assert training_options(config(tmp_path / "b", max_steps=3, **how)) == plain
    for what in ({"temperature": 0.2}, {"lora_r": 4}, {"dataloader_drop_last": True}, {"optim": "sgd"}):
        assert training_options(config(tmp_path, max_steps=3, **what)) == {**plain, **what}
    split = {"accelerator_config": {"split_batches": True}}
    assert training_options(config(tmp_path, max_steps=3, **split)) == {**plain, **split}
    assert training_options(StudentConfig(str(tmp_path), lora_r=8))["lora_r"] == 8
    with pytest.raises(RunError, match="save_only_model=True gives checkpoints from which a training cannot go on"):
        training_options(config(tmp_path, save_only_model=True))
    with pytest.raises(RunError, match="resume_from_checkpoint is not used here"):
        training_options(config(tmp_path, resume_from_checkpoint="last"))


def test_two_checkpoints_are_kept(tmp_path):
    """One of them may be damaged."""
    kept = []
    for limit in (None, 0, 2, 5):
        training = config(tmp_path, save_total_limit=limit)
        keep_two(training)
        assert training_options(training) == training_options(config(tmp_path))
        kept.append(training.save_total_limit)
    assert kept == [2, 0, 2, 5]
    with pytest.raises(RunError, match="save_total_limit is 1; it must be at least 2, so that one is left"):
        training_options(config(tmp_path, save_total_limit=1))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The folder of three sealed checkpoints. Not to be changed."""
    folder = tmp_path_factory.mktemp("three")
    train_from_last(make_trainer(folder, save_strategy="steps", save_steps=1, max_steps=3))
    return folder


@pytest.fixture
def folder(three, tmp_path):
    return shutil.copytree(three, tmp_path / "training")


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-20])


def empty(file):
    file.write_bytes(b"")


DAMAGE = {
    "a bit of the weights": ("adapter_model.safetensors", flip, "is not what was written"),
    "the head": ("contrastive_head.safetensors", flip, "is not what was written"),
    "no optimizer": ("optimizer.pt", os.remove, "is missing"),
    "no scheduler": ("scheduler.pt", os.remove, "is missing"),
    "no random state": ("rng_state.pth", os.remove, "is missing"),
    "empty state": ("trainer_state.json", empty, "is not what was written"),
    "cut optimizer": ("optimizer.pt", cut, "is not what was written"),
    "cut seal": (CHECKSUMS, cut, "cannot be read"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(case, folder, caplog):
    name, damage, says = DAMAGE[case]
    damage(folder / "checkpoint-3" / name)
    assert last_checkpoint(folder) == str(folder / "checkpoint-2")
    assert f"checkpoint-3 is damaged: {name} {says}" in caplog.text and "goes on from step 2" in caplog.text
    aside = folder / "set_aside-1"
    assert f"it is set aside in {aside}" in caplog.text and (aside / "checkpoint-3").is_dir()
    caplog.clear()
    assert last_checkpoint(folder) == str(folder / "checkpoint-2") and not caplog.records
    remove_checkpoints(folder)
    assert not folder.exists()


def test_every_checkpoint_may_be_damaged_and_again(folder, three, caplog):
    for step in (1, 2, 3):
        flip(folder / f"checkpoint-{step}" / "adapter_model.safetensors")
    assert last_checkpoint(folder) is None
    assert len(caplog.records) == 3 and caplog.text.count("and training starts at its first step") == 3
    shutil.copytree(three / "checkpoint-3", folder / "checkpoint-3")
    empty(folder / "checkpoint-3" / "optimizer.pt")
    assert last_checkpoint(folder) is None and (folder / "set_aside-2" / "checkpoint-3").is_dir()


def test_a_checkpoint_without_a_seal(folder, caplog):
    """The process ended before all was written; or it is of a version that wrote none."""
    (folder / "checkpoint-3" / CHECKSUMS).unlink()
    (folder / "checkpoint-2" / CHECKSUMS).unlink()
    (folder / "checkpoint-3" / "trainer_state.json").unlink()
    assert last_checkpoint(folder) == str(folder / "checkpoint-1")
    assert caplog.text.count("was not written to its end (it has no checksums.json)") == 2
    # What nobody has use for does not grow with every interruption.
    assert {path.name for path in folder.glob("*-*")} == {"checkpoint-1", "set_aside-1"}
    assert "checkpoint-3 was not written to its end (it has no checksums.json): it is removed" in caplog.text


def test_a_checkpoint_that_has_not_all(folder, caplog):
    (folder / "checkpoint-3" / "scheduler.pt").unlink()
    seal(folder / "checkpoint-3")
    assert last_checkpoint(folder) == str(folder / "checkpoint-2") and "has no scheduler.pt" in caplog.text


def test_those_set_aside_do_not_count_among_the_trainers(folder):
    flip(folder / "checkpoint-3" / "adapter_model.safetensors")
    trainer = make_trainer(folder, save_strategy="steps", save_steps=1, max_steps=4, save_total_limit=2)
    train_from_last(trainer)
    names = {"checkpoint-3", "checkpoint-4", "set_aside-1"}
    assert trainer.state.global_step == 4 and {path.name for path in folder.glob("*-*")} == names


def test_the_highest_step_is_the_newest(folder):
    (folder / "checkpoint-3").rename(folder / "checkpoint-10")
    (folder / "checkpoint-mine").mkdir()
    assert last_checkpoint(folder) == str(folder / "checkpoint-10")
    assert last_checkpoint(folder / "nowhere") is None


def test_a_checkpoint_that_another_machine_does_not_have(folder, monkeypatch):
    monkeypatch.setattr(checkpoints, "process_state", lambda: SimpleNamespace(num_processes=2, is_main_process=True))
    monkeypatch.setattr(checkpoints, "gather_object", lambda seen: [*seen, False])
    with pytest.raises(
        RunError, match="checkpoint-3 is not there for process 1; output_dir has to be on a disk that all"
    ):
        last_checkpoint(folder)


def planned(folder, **options):
    run = RunFolder(folder, {})
    run.plan({"train": options}, ["train"])
    run.claim()
    return run


def test_another_trainings_checkpoints_are_named(tmp_path, caplog):
    first = training_folder(planned(tmp_path, max_steps=3), "train")
    (first / "checkpoint-1").mkdir(parents=True)
    assert training_folder(planned(tmp_path, max_steps=3), "train") == first and not caplog.records
    other = training_folder(planned(tmp_path, max_steps=4), "train")
    assert other != first and f"checkpoints up to step 1 in {first} are of a training with other options" in caplog.text
    # A step is another one with more processes.
    caplog.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "process_state", lambda: SimpleNamespace(num_processes=2, is_main_process=True))
        assert training_folder(planned(tmp_path, max_steps=3), "train") != first
    says = f"its checkpoints up to step 1, in {first}, were made by 1 process(es), and by 2 a step is another one"
    assert says in caplog.text and "Start it with as many as before to go on" in caplog.text
    # Not where there is nothing to train any more.
    caplog.clear()
    done = planned(tmp_path, max_steps=4)
    done.complete("train", lambda folder: {})
    training_folder(done, "train")
    assert not caplog.records


def test_only_checkpoints_are_removed(tmp_path):
    folder = tmp_path / "training-1"
    for name in ("checkpoint-1", "checkpoint-2", "runs"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("x")
    (folder / "README.md").write_text("a model card")
    remove_checkpoints(folder)
    assert os.listdir(folder) == ["runs"] and (folder / "runs" / "file").is_file()
    (tmp_path / "training-2" / "checkpoint-1").mkdir(parents=True)
    remove_checkpoints(tmp_path / "training-2")
    remove_checkpoints(tmp_path / "training-2")
    assert not (tmp_path / "training-2").exists()
