"""What a training goes on from, and which options tell it from another."""

import os
from types import SimpleNamespace

import pytest
from tiny_models import tiny_llava
from tiny_training import config, make_trainer

from c3l_hf.common.errors import RunError
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.finetuning.student import StudentConfig
from c3l_hf.training import checkpoints
from c3l_hf.training.checkpoints import last_checkpoint, remove_checkpoints, training_folder, training_options


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


def test_a_checkpoint_that_was_not_written_to_its_end(tmp_path, monkeypatch):
    """The process is ended while it removes older checkpoints; and while it writes the weights."""
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "max_steps": 3}

    def killed(*_, **__):
        raise KeyboardInterrupt

    assert last_checkpoint(tmp_path) is None and last_checkpoint(tmp_path / "nowhere") is None
    built = tiny_llava()
    monkeypatch.setattr("transformers.trainer.rotate_checkpoints", killed)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, built, **options).train()
    monkeypatch.undo()
    # It has all that is needed to go on from it.
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    trainer = make_trainer(tmp_path, tiny_llava(), **options)
    save = trainer.save_model
    monkeypatch.setattr(
        trainer, "save_model", lambda folder, **kw: killed() if folder.endswith("-3") else save(folder, **kw)
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=last_checkpoint(tmp_path))
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    again = make_trainer(tmp_path, tiny_llava(), **options)
    again.train(resume_from_checkpoint=last_checkpoint(tmp_path))
    assert again.state.global_step == 3 and last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")


def test_the_highest_step_is_the_newest(tmp_path):
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


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
    assert other != first and first.name in caplog.text and str(tmp_path) in caplog.text
    # A step is another one with more processes.
    caplog.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "process_state", lambda: SimpleNamespace(num_processes=2, is_main_process=True))
        assert training_folder(planned(tmp_path, max_steps=3), "train") != first and first.name in caplog.text
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
