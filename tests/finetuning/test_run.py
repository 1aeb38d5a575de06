"""A whole fine-tuning: what is saved, going on after an interruption, adapters alone, wrong options, configurations."""

import contextlib
import dataclasses
import io
import json
import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, DatasetDict
from peft import PeftModel
from safetensors import SafetensorError
from tiny_families import tiny_qwen2_5_vl
from tiny_models import tiny_llava
from tiny_students import REASONS, bad_rows, batch_of, curated, weights
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import TrlParser

from c3l_hf.cli import main
from c3l_hf.common.errors import RunError
from c3l_hf.common.files import shipped
from c3l_hf.finetuning.examples import encode_examples
from c3l_hf.finetuning.run import SFTOptions, run_sft
from c3l_hf.finetuning.student import StudentConfig, StudentTrainer, fine_tune
from c3l_hf.models.loading import Source
from c3l_hf.pipeline.options import ModelOptions

SCRIPT = Path(__file__).parents[2] / "recipes" / "sft.py"
CONFIGS = sorted(shipped("configs").glob("sft_*.yaml"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Folders of a student and of datasets."""
    folder = tmp_path_factory.mktemp("inputs")
    for part in tiny_llava():
        part.save_pretrained(folder / "model")
    (folder / "data" / "data").mkdir(parents=True)
    curated().to_parquet(folder / "data" / "data" / "train-00000-of-00001.parquet")
    bad_rows().save_to_disk(folder / "bad")
    DatasetDict({"pool": curated()}).save_to_disk(folder / "splits")
    Dataset.from_dict({"picture": ["a"], "caption": ["b"]}).save_to_disk(folder / "columns")
    return folder


def parse(*args):
    """The options of a file and of a command line, as `c3l sft` reads them."""
    parser = TrlParser((ModelOptions, SFTOptions, StudentConfig))
    model, options, training = parser.parse_args_and_config([*map(str, args)])
    return options, Source.of(model, trust_remote_code=training.trust_remote_code), training


def arguments_for(inputs, output, *args):
    """Of a small fine-tuning; later options win."""
    options = ["--config", shipped("configs") / "sft_scenes.yaml", "--bf16", "false", "--max_steps", 4]
    options += ["--model", inputs / "model", "--dataset", inputs / "data", "--output_dir", output]
    return [*options, "--per_device_train_batch_size", 2, "--save_steps", 2, *args]


def settings(inputs, output, *args):
    return parse(*arguments_for(inputs, output, *args))


def run(inputs, output, *args):
    """What a fine-tuning prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run_sft(*settings(inputs, output, *args)) == Path(output) / "student"
    return printed.getvalue()


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """A fine-tuning of the five rows. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    return SimpleNamespace(folder=folder, printed=run(inputs, folder))


def test_files_and_report(inputs, finished):
    folder = finished.folder
    assert "0 of 5 rows are left out" in finished.printed and f"student  {folder / 'student'}" in finished.printed
    assert sorted(path.name for path in folder.iterdir()) == [".lock", ".lock.json", "run.json", "stages", "student"]
    text = (folder / "student" / "training.json").read_text()
    made_by = json.loads(text)
    assert (made_by["model"], made_by["dataset"]) == ("model", "data")
    assert made_by["inputs"]["model"]["digest"] and made_by["versions"]["trl"]
    assert made_by["options"]["learning_rate"] == 5e-4 and made_by["options"]["dtype"] == "float32"
    report = made_by["report"]
    assert report["steps"] == 4 and report["examples"] == 5 and report["rejected"] == 0
    assert 0 < report["trained_parameters"] < report["parameters"]
    assert not any(str(path) in text for path in (folder.parent, inputs))
    assert not list((folder / "student").glob("*.bin"))


def test_weights_are_part_of_a_training(inputs, tmp_path):
    with pytest.raises(RunError, match="data cannot be used: no column 'answer_tokens', .*c3l score makes"):
        run(inputs, tmp_path / "a", "--token_weights", "cal")
    with pytest.raises(RunError, match=r"no column 'weight' \(weight_column\)"):
        run(inputs, tmp_path / "a", "--weight_column", "weight")
    assert not (tmp_path / "a").exists()
    run(inputs, tmp_path / "b", "--weight_column", "i2c", "--max_steps", 1)
    made_by = json.loads((tmp_path / "b" / "student" / "training.json").read_text())
    assert made_by["options"]["weight_column"] == "i2c" and "token_weights" not in made_by["options"]
    with pytest.raises(RunError, match="weight_column"):
        run(inputs, tmp_path / "b", "--max_steps", 1)


def test_the_student_is_that_of_the_same_training_in_memory(inputs, finished, tmp_path):
    student = finished.folder / "student"
    processor = AutoProcessor.from_pretrained(student)
    reloaded, info = AutoModelForImageTextToText.from_pretrained(student, output_loading_info=True)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    _, source, training = settings(inputs, tmp_path)
    expected = fine_tune(AutoModelForImageTextToText.from_pretrained(source.model_id), processor, curated(), training)
    batch = batch_of(encode_examples(curated(), processor))
    del batch["labels"]
    with torch.no_grad():
        assert torch.equal(reloaded(**batch).logits, expected(**batch).logits)
        assert not torch.allclose(reloaded(**batch).logits, tiny_llava()[0](**batch).logits, atol=1e-3)


def test_again_it_is_shown_without_work_and_others_are_refused(inputs, finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished.folder, tmp_path / "out")
    monkeypatch.setattr("c3l_hf.finetuning.run.train_from_last", lambda *_: pytest.fail("trained again"))
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("run.json", ".lock.json")]
    before = {path: path.read_bytes() for path in files}
    assert "steps" in run(inputs, folder)
    for other in (["--learning_rate", 1e-3], ["--max_rows", 3], ["--seed", 1], ["--dtype", "bfloat16"]):
        with pytest.raises(RunError, match="another run's result .*output_dir"):
            run(inputs, folder, *other)
    assert before == {path: path.read_bytes() for path in before}


def test_the_recipe_is_the_command(inputs, finished, tmp_path, monkeypatch, capsys):
    """`recipes/sft.py` and `c3l sft`: the same options, the same result."""
    folder = shutil.copytree(finished.folder, tmp_path / "out")
    monkeypatch.setattr("c3l_hf.finetuning.run.train_from_last", lambda *_: pytest.fail("trained again"))
    arguments = [*map(str, arguments_for(inputs, folder))]
    monkeypatch.setattr("sys.argv", ["sft.py", *arguments])
    monkeypatch.setattr("c3l_hf.cli.interruption.Interruption.install", lambda _: None)  # this process is the tests'
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 0 and f"student  {folder / 'student'}" in capsys.readouterr().out
    # What is wrong ends in one line.
    assert main(["sft", *arguments, "--learning_rate", "1e-3"]) != 0
    assert main(["sft", *arguments, "--hub_token", "hf_secret"]) != 0
    assert main(["sft", *arguments, "--colour", "blue"]) != 0
    lines = capsys.readouterr().err.strip().splitlines()
    lines = [line for line in lines if line.startswith("c3l sft: ")]
    assert len(lines) == 3 and "another run's result" in lines[0] and "--colour" in lines[2]
    assert "hub_token is not supported" in lines[1] and "hf_secret" not in "".join(lines)


def test_it_goes_on_after_an_interruption(inputs, finished, tmp_path, monkeypatch):
    step = StudentTrainer.training_step
    with monkeypatch.context() as patch:

        def stopped(self, *args, **kwargs):
            if self.state.global_step == 3:
                raise KeyboardInterrupt
            return step(self, *args, **kwargs)

        patch.setattr(StudentTrainer, "training_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path / "parts")
    assert not (tmp_path / "parts" / "student").exists()
    steps = []
    monkeypatch.setattr(StudentTrainer, "training_step", lambda self, *a, **k: steps.append(1) or step(self, *a, **k))
    run(inputs, tmp_path / "parts")
    assert len(steps) == 2
    whole, parts = (
        (folder / "student" / "model.safetensors").read_bytes() for folder in (finished.folder, tmp_path / "parts")
    )
    assert whole == parts


def test_a_full_disk_while_the_student_is_saved(inputs, finished, tmp_path, monkeypatch):
    """In one line; and once there is room, no step is made that was not asked for."""

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(StudentTrainer, "trained_model", full)  # after the last checkpoint
        for _ in range(2):
            with pytest.raises(RunError, match="the weights cannot be written .*make room on the disk"):
                run(inputs, tmp_path)
    monkeypatch.setattr(StudentTrainer, "training_step", lambda *_: pytest.fail("one more step"))
    run(inputs, tmp_path)
    whole, again = (folder / "student" / "model.safetensors" for folder in (finished.folder, tmp_path))
    assert whole.read_bytes() == again.read_bytes()


def test_a_loss_that_is_not_finite_ends_it_in_one_line(inputs, tmp_path):
    with pytest.raises(RunError) as told:
        run(inputs, tmp_path, "--learning_rate", 1e37, "--optim", "sgd", "--warmup_steps", 0)
    text = str(told.value)
    assert re.match(r"training has ended: the loss is not finite at step 2, in row \d \(pair_id 'pair-\d'\); row", text)
    assert "Lower learning_rate, which is 1e+37" in text and "\n" not in text


def test_memory_that_runs_out_is_told_with_what_to_lower(inputs, tmp_path, monkeypatch):
    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(StudentTrainer, "compute_loss", no_memory)
    with pytest.raises(RunError, match="memory has run out.*lower per_device_train_batch_size, which is 2, and raise"):
        run(inputs, tmp_path)


def test_adapters_alone(inputs, tmp_path, monkeypatch):
    lora = ["--use_lora", "true", "--learning_rate", 1e-2, "--max_rows", 4, "--max_steps", 2]
    run(inputs, tmp_path / "merged", *lora)
    # As with a student of the Hub: what is loaded is not where it is named.
    shutil.copytree(inputs / "model", tmp_path / "snapshot")
    snapshot = tmp_path / "snapshot"
    monkeypatch.setattr(
        "c3l_hf.finetuning.run.find_model",
        lambda source: (dataclasses.replace(source, model_id=str(snapshot)), {"revision": "0" * 40}),
    )
    run(inputs, tmp_path / "adapters", *lora, "--merge_adapters", "false")
    student = tmp_path / "adapters" / "student"
    assert not (student / "model.safetensors").exists()
    named = json.loads((student / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(inputs / "model") and named["revision"] == "0" * 40
    base = AutoModelForImageTextToText.from_pretrained(inputs / "model")
    models = [
        PeftModel.from_pretrained(base, student).eval(),
        AutoModelForImageTextToText.from_pretrained(student),
        AutoModelForImageTextToText.from_pretrained(tmp_path / "merged" / "student"),
    ]
    batch = batch_of(encode_examples(curated(), AutoProcessor.from_pretrained(student)))
    del batch["labels"]
    with torch.no_grad():
        wrapped, reloaded, merged = (model(**batch).logits for model in models)
        untrained = tiny_llava()[0](**batch).logits
    torch.testing.assert_close(wrapped, merged, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reloaded, merged, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, untrained, atol=1e-2)


def test_without_adapters_to_save_alone(inputs, tmp_path):
    """Only the projector is trained, whatever is asked for of adapters."""
    options = ["--use_lora", "true", "--train_language_model", "false", "--train_projector", "true", "--max_steps", 1]
    run(inputs, tmp_path / "out", *options, "--merge_adapters", "false")
    assert (tmp_path / "out" / "student" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "stages" / "1_train" / "student").exists()


def test_what_is_left_out_is_counted(inputs, tmp_path):
    printed = run(inputs, tmp_path, "--dataset", inputs / "bad", "--max_length", 100, "--max_steps", 1)
    assert "5 of 6 rows are left out" in printed and all(reason in printed for reason in REASONS.values())
    report = json.loads((tmp_path / "stages" / "1_train" / "stage.json").read_text())["report"]
    assert report["rejected"] == 5 and report["reasons"]["the sequence is longer than 100 tokens"] == 1


WRONG = {
    "no such model": (["--model", "{}/nowhere"], "nowhere"),
    "not a model": (["--model", "{}/data"], "no config.json"),
    "no such dataset": (["--dataset", "{}/nowhere"], "nowhere"),
    "no such split": (["--split", "test"], "has no split 'test'; its splits are train"),
    "no such split on disk": (["--dataset", "{}/splits"], "no split 'train'; its splits are pool"),
    "no such configuration": (["--dataset_config", "scored"], "scored"),
    "wrong columns": (["--dataset", "{}/columns"], "cannot find pairs in the columns picture, caption"),
    "no rows": (["--max_rows", "0"], "max_rows is 0; it must be at least 1"),
    "too long, all of them": (["--max_length", "5"], "none of the 5 rows can be trained on: row 0"),
    "one checkpoint": (["--save_total_limit", "1"], "save_total_limit is 1; it must be at least 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_ends_with_one_clear_line(case, inputs, tmp_path):
    args, says = WRONG[case]
    with pytest.raises(RunError) as error:
        run(inputs, tmp_path / "out", *(arg.format(inputs) for arg in args))
    message = str(error.value)
    assert says in message and "\n" not in message.strip() and "--" not in message
    assert not (tmp_path / "out" / "student").exists()


def test_a_damaged_student_is_made_again(inputs, finished, tmp_path, caplog):
    out = shutil.copytree(finished.folder, tmp_path / "out")
    file = out / "student" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (out / "student" / "config.json").unlink()
    run(inputs, out)
    assert "student/model.safetensors is not what was written; train is made again" in caplog.text
    assert file.read_bytes() == whole and (out / "set_aside-1" / "student" / "model.safetensors").is_file()


def test_another_folder_is_not_overwritten(inputs, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and was not made by c3l_hf"):
        run(inputs, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    # A folder of this run in which somebody has put something in the place of the result.
    options, source, training = settings(inputs, tmp_path / "out")
    (tmp_path / "out" / "student").mkdir(parents=True)
    (tmp_path / "out" / "run.json").write_text("{}")
    with pytest.raises(RunError, match="student is in the way; move it"):
        run_sft(options, replace(source), training)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_trains(path, tmp_path, monkeypatch):
    """A few steps of the family it is for; the first of them is warm-up, at a learning rate of 0."""
    # As on the hardware the file is meant for.
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *args: True)
    options = ["--output_dir", tmp_path, "--max_steps", 3, "--dataloader_num_workers", 1]
    _, source, training = parse("--config", path, *options)
    assert source.model_id and training.get_warmup_steps(1000) == 30
    model, processor = tiny_qwen2_5_vl() if "qwen" in path.name else tiny_llava()
    model.to(torch.float32 if source.dtype == "auto" else getattr(torch, source.dtype))
    before = weights(model)
    trained = fine_tune(model, processor, curated(), training).state_dict()
    moved = [name for name in before if not torch.equal(before[name], trained[name])]
    assert any("language_model" in name for name in moved) and not any("vision_tower" in name for name in moved)
    assert len(CONFIGS) == 3 and all(tensor.isfinite().all() for tensor in trained.values())
