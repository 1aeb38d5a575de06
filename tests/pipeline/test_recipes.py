"""The recipes as a user runs them, at a very small size; every configuration file; what a wrong call says."""

import inspect
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import published
import pytest
import torch
import yaml
from datasets import Dataset, load_dataset, load_from_disk
from loopback_hub import LoopbackHub
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import TrlParser

from c3l_hf.common.errors import RunError
from c3l_hf.common.run_folder import Run
from c3l_hf.models.loading import find_model
from c3l_hf.publishing.hub import verify
from c3l_hf.scenes import GENERATOR, load_scenes
from c3l_hf.scenes.evaluation import answer_questions
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.selection.curation import curate

ROOT = Path(__file__).parents[2]
# As `python recipes/c3l.py` has it; the last, because of evaluate.py there.
sys.path.append(str(ROOT / "recipes"))

from c3l_options import C3LArguments  # noqa: E402

SCENES = ROOT / "recipes" / "configs" / "scenes.yaml"
SMALL = [
    "--num_images",
    "14",
    "--pairs_per_image",
    "3",
    "--max_steps",
    "2",
    "--warmup_steps",
    "0",
    "--target_size",
    "20",
    "--license",
    "apache-2.0",
]
TOKEN = "hf_recipesecret"


def recipe(name):
    return runpy.run_path(str(ROOT / "recipes" / name))


def run(*args, monkeypatch):
    """recipes/c3l.py in this process, as `python recipes/c3l.py …`."""
    config = [] if "--config" in args else ["--config", SCENES]
    monkeypatch.setattr(sys, "argv", ["c3l.py", *map(str, [*config, *args])])
    runpy.run_path(str(ROOT / "recipes" / "c3l.py"), run_name="__main__")


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub({TOKEN: "user"}) as hub:
        yield hub


@pytest.fixture(scope="module")
def finished(hub, tmp_path_factory):
    """A finished small run, published, and what it printed."""
    folder = tmp_path_factory.mktemp("run") / "out"
    command = [sys.executable, str(ROOT / "recipes" / "c3l.py"), "--config", str(SCENES), *SMALL]
    command += ["--push_to_hub", "--hub_namespace", "user", "--hub_dataset_name", "c3l-20"]
    environment = {**os.environ, **hub.environment(TOKEN, folder.parent / "home")}
    done = subprocess.run(
        [*command, "--output_dir", str(folder)], capture_output=True, text=True, env=environment, cwd=folder.parent
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert TOKEN not in done.stdout + done.stderr
    return folder, done.stdout


def test_a_run_ends_with_a_dataset_and_a_generator(finished):
    folder, printed = finished
    rows = load_dataset(str(folder / "dataset"), split="train")
    assert 0 < len(rows) <= 20
    row = rows[0]
    assert row["images"][0].size == (64, 64)
    assert row["prompt"][0]["role"] == "user" and row["completion"][0]["role"] == "assistant"
    assert row["i2c"] == row["pmi"] and row["i2c_status"] == "ok"
    assert len(row["answer_tokens"]) == len(row["token_kl_per_token"]) > 0

    processor = AutoProcessor.from_pretrained(folder / "generator")
    model = AutoModelForImageTextToText.from_pretrained(folder / "generator", dtype=torch.float32)
    picture = load_scenes(1, seed=5, split="test")[0]["images"][0]
    (answer,) = answer_questions(model, processor, ["What colour is the background?"], [picture])
    assert answer.startswith("The background is")

    for part, says in (("dataset", "load_dataset"), ("generator", "from_pretrained")):
        assert says in (folder / part / "README.md").read_text()
    assert yaml.safe_load((folder / "config.yaml").read_text())["num_images"] == 14
    made_by = json.loads((folder / "run.json").read_text())
    assert made_by["inputs"]["seed"] == 0 and made_by["versions"]["torch"]
    for stage in ("generate", "score", "select", "train", "regenerate", "rescore", "curate", "write"):
        assert f"== {stage}" in printed
    assert "true (type-balanced" in printed and "random" in printed


def test_a_run_is_published(hub, finished):
    folder, printed = finished
    pushed = printed.split("== push")[1]
    assert f"{hub.url}/datasets/user/c3l-20  commit" in pushed and f"{hub.url}/user/c3l-generator  commit" in pushed
    # The trainer has not pushed checkpoints of its own.
    assert set(hub.repos) == {("datasets", "user/c3l-20"), ("models", "user/c3l-generator")}
    assert all(repo.private and len(repo.commits) == 2 for repo in hub.repos.values())
    assert verify(str(folder / "dataset")) and verify(str(folder / "generator"))
    written = [path for path in [*folder.rglob("*"), *hub.storage.rglob("*")] if path.is_file()]
    assert len(written) > 30 and not any(TOKEN.encode() in path.read_bytes() for path in written)
    # Publishing is no part of what made the results.
    for record in (folder / "run.json", folder / "config.yaml", *folder.glob("stages/*/stage.json")):
        assert "hub_" not in record.read_text()


def test_the_end_of_the_demo(finished):
    """As `make demo` has it: a Hub of its own, to which the run goes and from which it comes back."""
    command = [sys.executable, str(ROOT / "recipes" / "demo" / "loopback_hub.py"), "--", sys.executable]
    command += [str(ROOT / "recipes" / "demo" / "publish.py"), "--folder", str(finished[0]), "--license", "apache-2.0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = len(load_dataset(str(finished[0] / "dataset"), split="train"))
    for says in ("== push", "== verify", "== load", f'"default")  {rows} rows', '"scored")  42 rows', "streamed: "):
        assert says in done.stdout
    assert done.stdout.count("all is as it should be") == 2 and "FAIL" not in done.stdout
    assert "about the same image: Question:" in done.stdout


def test_the_published_configuration_is_that_of_the_run(finished, monkeypatch):
    scope = recipe("c3l.py")

    def parsed(*arguments):
        return TrlParser((scope["C3LArguments"], scope["C3LConfig"])).parse_args_and_config(arguments)

    published = finished[0] / "dataset" / "config.yaml"
    again, first = parsed("--config", str(published)), parsed("--config", str(SCENES), *SMALL)
    options = scope["training_options"]
    assert again[0].images_license == "apache-2.0" and first[0].images_license is None  # that of the scenes is known
    first[0].images_license = "apache-2.0"
    assert again[0] == first[0] and options(again[1]) == options(first[1])


def test_training_changed_the_language_model_only(finished):
    before = AutoModelForImageTextToText.from_pretrained(GENERATOR, dtype=torch.float32).state_dict()
    after = AutoModelForImageTextToText.from_pretrained(finished[0] / "generator", dtype=torch.float32).state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("language_model" in name or name == "lm_head.weight" for name in moved)


def test_a_finished_run_is_shown_again_without_work(finished, monkeypatch, capfd):
    folder, printed = finished
    before = {path: path.stat().st_mtime_ns for path in folder.glob("stages/*/*") if path.is_file()}
    run(*SMALL, "--output_dir", folder, monkeypatch=monkeypatch)
    again = capfd.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("stages/*/*") if path.is_file()}
    assert printed.split("== write")[1].split("\n\n== push")[0] == again.split("== write")[1].rsplit("\n\n", 1)[0]


def test_results_that_were_not_moved_yet_come_to_their_place(finished, tmp_path, monkeypatch):
    """The process was ended after the last stage was complete."""
    folder = shutil.copytree(finished[0], tmp_path / "out")
    (stage,) = (folder / "stages").glob("*_write")
    for name in ("dataset", "config.yaml"):
        os.rename(folder / name, stage / name)
    run(*SMALL, "--output_dir", folder, monkeypatch=monkeypatch)
    assert not (stage / "dataset").exists()
    for name in ("dataset/README.md", "config.yaml", "generator/model.safetensors"):
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes()


def test_stages_one_by_one_give_the_same_dataset(finished, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    for stages in (["generate"], ["score", "select"], ["train", "regenerate", "rescore", "curate", "write"]):
        # other batch sizes change nothing
        sizes = ["--generation_batch_size", 7, "--scoring_batch_size", 3]
        run(*SMALL, *sizes, "--output_dir", folder, "--stages", *stages, monkeypatch=monkeypatch)
    first, second = (load_dataset(str(path / "dataset"), split="train") for path in (finished[0], folder))
    for column in ("pair_id", "prompt", "completion", "raw"):
        assert first[column][:] == second[column][:]
    assert first["i2c"][:] == pytest.approx(second["i2c"][:], abs=1e-4)


def test_a_folder_of_pictures(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    for index, row in enumerate(load_scenes(6, seed=4, split="test")):
        row["images"][0].resize((90, 70)).save(tmp_path / "pictures" / f"{index}.png")
    damaged = (tmp_path / "pictures" / "5.png").read_bytes()
    (tmp_path / "pictures" / "6.png").write_bytes(damaged[: len(damaged) // 2])
    # With the configuration of the scenes: what is said there of their images does not hold for these.
    arguments = ["--images", f"{tmp_path / 'pictures'}/", "--output_dir", tmp_path / "out"]
    run(*SMALL, *arguments, monkeypatch=monkeypatch)
    rows = load_dataset(str(tmp_path / "out" / "dataset"), split="train")
    assert set(rows["image_id"]) <= {f"{index}.png" for index in range(6)} and rows[0]["images"][0].size == (90, 70)
    # The damaged one stopped nothing, and is counted.
    pool = load_dataset(str(tmp_path / "out" / "dataset"), "scored", split="train")
    unscored = [row for row in pool if row["i2c_status"] != "ok" and row["image_id"] == "6.png"]
    assert len(pool) == 21 and len(unscored) == 3 and not unscored[0]["images"]
    card = (tmp_path / "out" / "dataset" / "README.md").read_text()
    assert "| the image cannot be read (OSError) | 3 |" in card
    assert "**Licence of the images:** not stated" in card
    assert "pictures, 7 images" in card and str(tmp_path) not in card


def wrong_calls(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_text("x")
    (tmp_path / "unknown.yaml").write_text(SCENES.read_text() + "colour_of_the_sky: blue\n")
    return {
        "no such folder": (["--images", tmp_path / "nowhere"], "nowhere"),
        "empty folder": (["--images", tmp_path / "empty"], "has no pictures"),
        "not a picture": (["--images", tmp_path / "texts"], "a.txt is not a picture"),
        "no such model": (["--model", tmp_path / "no_model"], "no_model"),
        "not a model": (["--model", tmp_path / "texts"], "no config.json"),
        "no safe weights": (["--model", tmp_path / "pickled"], "no weights as *.safetensors"),
        "unknown key": (["--config", tmp_path / "unknown.yaml"], "colour_of_the_sky"),
        "no such file": (["--config", tmp_path / "no.yaml"], "no.yaml"),
        "unknown stage": (["--stages", "bake"], "bake"),
        "unknown type": (["--types", "smell"], "smell"),
        "unknown ranking": (["--ranking", "beauty"], "beauty"),
        "nothing to compare": (
            ["--within", "type", "--types_per_image", "4", "--pairs_per_image", "4"],
            "no pseudo-label",
        ),
        "greedy": (["--sampling_temperature", "0"], "--sampling_temperature 0 no image has two different pairs"),
        "other folder": (["--output_dir", tmp_path / "other"], "not made by this recipe"),
        "push without the images' licence": (
            ["--images", tmp_path / "texts", "--push_to_hub"],
            "--push_to_hub needs --images_license",
        ),
        "push without a licence": (["--push_to_hub", "--license", ""], "--push_to_hub needs --license"),
        "push of a part": (["--push_to_hub", "--stages", "generate"], "needs the stage write"),
        "push with code": (["--push_to_hub", "--trust_remote_code", "true"], "--push_to_hub publishes no code"),
        "push offline": (["--push_to_hub"], "offline mode is enabled"),
        "token as an option": (["--push_to_hub", "--hub_token", "hf_x"], "the token comes from HF_TOKEN"),
    }


CASES = (
    "no such folder, empty folder, not a picture, no such model, not a model, no safe weights, unknown key, "
    "no such file, unknown stage, unknown type, unknown ranking, nothing to compare, greedy, other folder, "
    "push without the images' licence, push without a licence, push of a part, push with code, push offline, "
    "token as an option"
).split(", ")


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_call_ends_with_one_clear_line(case, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    args, says = wrong_calls(tmp_path)[case]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    if "--output_dir" not in args:
        args = [*args, "--output_dir", tmp_path / "out"]
    with pytest.raises(SystemExit) as stop:
        run(*SMALL, *args, monkeypatch=monkeypatch)
    message = stop.value.code
    assert isinstance(message, str) and says in message and "\n" not in message.strip() and TOKEN not in message, (
        message
    )
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_model_is_known_by_all_that_it_is_used_with(tmp_path):
    model = shutil.copytree(GENERATOR, tmp_path / "model")
    first = find_model(str(model), "main", False)
    assert first == (model, find_model("scenes", "main", False)[1])
    (model / "notes.md").write_text("mine")
    assert find_model(str(model), "main", False) == first
    (model / "chat_template.jinja").write_text("{{ messages }}")
    changed = find_model(str(model), "main", False)[1]
    assert changed["digest"] == first[1]["digest"] and changed != first[1]


def test_one_greedy_pair_of_an_image_is_enough_where_none_are_compared():
    call = {"images": "scenes", "model": "scenes", "pairs_per_image": 1, "sampling_temperature": 0.0}
    C3LArguments(**call, stages=["generate", "score"]).check()
    for stages in (["select"], ["generate", "curate"]):
        with pytest.raises(RunError, match="no image has two different pairs to compare"):
            C3LArguments(**call, stages=stages).check()
    C3LArguments(**{**call, "pairs_per_image": 2, "types_per_image": 2, "within": "all"}).check()


def test_another_runs_results_stay(finished, monkeypatch):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        run(*SMALL, "--seed", 1, "--output_dir", folder, monkeypatch=monkeypatch)
    assert "another run's result" in stop.value.code and "--output_dir" in stop.value.code
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


CONFIGS = sorted(path for path in SCENES.parent.glob("*.yaml") if not path.name.startswith("sft_"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_parses(path, monkeypatch):
    # As on the hardware the file is meant for.
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *args: True)
    scope = recipe("c3l.py")
    args, training = TrlParser((scope["C3LArguments"], scope["C3LConfig"])).parse_args_and_config(
        ["--config", str(path), "--use_cpu", "true"]
    )
    assert args.target_size == 5000 and training.output_dir.startswith("runs/")


def test_every_option_of_the_curation_reaches_it():
    scope = recipe("c3l.py")
    shared = inspect.signature(curate).parameters.keys() & scope["C3LArguments"].__dataclass_fields__.keys()
    assert "max_per_image" in shared and set(scope["_CURATION"]) == shared


def test_pretraining_continues_where_it_was_stopped(tmp_path):
    """Stopped after 2 of 4 joint steps and started again: the weights of an uninterrupted run."""
    options = "--tower_steps 2 --steps 4 --hard_steps 2 --images_per_step 2 --save_steps 2 --eval_questions 1".split()
    scope = recipe("pretrain_scenes.py")
    evaluation = scope["AnswerAccuracy"]

    class Interrupted(evaluation):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise KeyboardInterrupt

    def pretrain(folder, callback):
        scope["main"].__globals__["AnswerAccuracy"] = callback
        scope["main"](
            *TrlParser((scope["PretrainArguments"],)).parse_args_and_config(["--output_dir", folder, *options])
        )

    pretrain(str(tmp_path / "whole"), evaluation)
    with pytest.raises(KeyboardInterrupt):
        pretrain(str(tmp_path / "parts"), Interrupted)
    assert not (tmp_path / "parts" / "final").exists()
    pretrain(str(tmp_path / "parts"), evaluation)

    def weights(folder):
        return AutoModelForImageTextToText.from_pretrained(tmp_path / folder, dtype=torch.float32).state_dict()

    whole, resumed, joint = (weights(f) for f in ("whole/final", "parts/final", "parts/joint/checkpoint-4"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], joint[name].half().float()) for name in whole)
    lines = [(tmp_path / run / "evaluations.jsonl").read_text() for run in ("whole", "parts")]
    assert lines[0] == lines[1] and len(lines[0].splitlines()) == 3


def test_the_evaluation_prints_its_table(tmp_path, capsys):
    scope = recipe("evaluate_scenes.py")
    (args,) = TrlParser((scope["EvaluateScenesArguments"],)).parse_args_and_config(
        ["--n", "3", "--pairs", "3", "--output", str(tmp_path / "table.md")]
    )
    scope["main"](args)
    table = (tmp_path / "table.md").read_text()
    assert table.strip() in capsys.readouterr().out
    for name in ("answer count", "description recall", "pairs by type: well-formed", "pairs type-balanced: true"):
        assert name in table


@pytest.mark.slow
def test_two_processes_give_the_same_pairs_as_one(finished, tmp_path):
    # Without accelerators `accelerate launch` starts one process only; what it calls elsewhere starts two.
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += [str(ROOT / "recipes" / "c3l.py"), "--config", str(SCENES), *SMALL, "--stages", "generate", "score"]
    done = subprocess.run([*command, "--output_dir", str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_from_disk(path / "stages" / "2_score" / "data") for path in (finished[0], tmp_path / "out"))
    assert one["pair_id"][:] == two["pair_id"][:] and one["raw"][:] == two["raw"][:]
    assert one["i2c"][:] == pytest.approx(two["i2c"][:], abs=1e-4)


def test_the_shipped_generator(tmp_path):
    folder = Path(GENERATOR)
    assert (folder / "model.safetensors").stat().st_size <= 12e6
    assert not list(folder.glob("*.bin")) and "95 %" in (folder / "README.md").read_text()
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model).__name__ == "LlavaForConditionalGeneration" and model.dtype == torch.float16
    # A picture that is no scene, and a question in words it has never seen: it reads any text.
    model = model.float()
    answers = answer_questions(model, processor, ["Où est le château?"], [Image.new("RGB", (300, 200), "green")])
    assert isinstance(answers[0], str)


@pytest.mark.slow
def test_benchmark_compares_equal_scores():
    benchmark = recipe("benchmark.py")
    model, processor = benchmark["build"](0)
    rows = benchmark["make_rows"](2, 2, 0)
    scores = [row["pmi"] for row in I2CScorer(model, processor).score(rows)]
    assert benchmark["obvious_script"](model, processor, rows) == pytest.approx(scores, abs=1e-4)
    work = benchmark["least_work"](model, processor, rows)
    # two images of 576 tokens through tower and language model, each weight used at least once per token
    layers = [*model.model.vision_tower.parameters(), *model.model.language_model.layers.parameters()]
    assert work > 2 * 576 * 2 * sum(p.numel() for p in layers if p.ndim == 2)
    assert benchmark["least_work"](model, processor, rows[:2]) < work


def test_streamed_rows():
    rows = list(recipe("benchmark_memory.py")["stream"](12))
    assert len(rows) == 15 and len({row["image"].tobytes() for row in rows}) == 3
    assert all(row["question"] and row["answer"] for row in rows)


def test_a_first_round_with_fewer_usable_pairs_than_were_kept():
    scope = recipe("c3l.py")
    rows = [published.row(number) for number in range(3)] + [published.unscored_row(3)]
    scored = Dataset.from_list(rows, features=published.FEATURES)
    job = SimpleNamespace(curated=range(4), training=SimpleNamespace(seed=0))
    assert len(scope["C3L"]._random(job, scored)) == 3
    job.curated = range(2)
    assert len(scope["C3L"]._random(job, scored)) == 2


def test_nothing_left_to_write(tmp_path):
    """A generator that writes no pairs any more ends the run where that is seen, with the counts."""
    kind = recipe("c3l.py")["C3L"]
    job = kind.__new__(kind)
    pool = Dataset.from_list([published.unscored_row(number) for number in range(3)], features=published.FEATURES)
    job.scored_again, job.training = pool, SimpleNamespace(seed=0)
    job.args = C3LArguments(images="scenes", model="scenes")
    job.run = Run(tmp_path, {})
    job.run.plan({"curate": {}}, ["curate"])
    with pytest.raises(RunError, match=r"(?s)no pair is left for the dataset:.*no pair"):
        job.curate()
