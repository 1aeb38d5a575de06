"""The whole method as a user runs it, at a very small size: results, resuming, other people's pictures and pairs."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import PIL.Image
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset, Features, Value, load_dataset
from datasets import Image as ImageFeature
from loopback_hub import LoopbackHub
from transformers import AutoModelForImageTextToText, AutoProcessor

from c3l_hf import join_images
from c3l_hf.cli import main
from c3l_hf.common.errors import RunError
from c3l_hf.common.shards import Shards
from c3l_hf.pipeline import inputs, pair_clusters, stages
from c3l_hf.pipeline.curation_options import CurationOptions
from c3l_hf.pipeline.options import (
    BackendOptions,
    GenerationOptions,
    ImageOptions,
    ModelOptions,
    PublishingOptions,
    RunOptions,
    ScoringOptions,
    SelectionOptions,
)
from c3l_hf.pipeline.settings import Settings, check_options
from c3l_hf.publishing.hub import verify
from c3l_hf.scenes import GENERATOR, load_scenes
from c3l_hf.scenes.evaluation import answer_questions
from c3l_hf.selection.clusters import cluster_vectors
from c3l_hf.selection.curation import curate
from c3l_hf.selection.marks import texts_digest
from c3l_hf.training.config import C3LConfig

ROOT = Path(__file__).parents[2]
SMALL = "--config scenes --num_images 14 --pairs_per_image 3 --max_steps 2 --warmup_steps 0 --target_size 20".split()
LICENSED = ["--license", "apache-2.0"]
TOKEN = "hf_recipesecret"
STAGES = ("generate", "score", "select", "train", "regenerate", "rescore", "curate", "write")


def run(*words):
    """The exit code of `c3l run …`, in this process."""
    return main(["run", *SMALL, *LICENSED, *map(str, words)])


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub({TOKEN: "user"}) as hub:
        yield hub


@pytest.fixture(scope="module")
def finished(hub, tmp_path_factory):
    """A finished small run, published, and what it printed: by the recipe, in a folder that is no checkout."""
    folder = tmp_path_factory.mktemp("run") / "out"
    command = [sys.executable, str(ROOT / "recipes" / "c3l.py"), *SMALL, *LICENSED]
    command += ["--push_to_hub", "--hub_namespace", "user", "--hub_dataset_name", "c3l-20"]
    environment = {**os.environ, **hub.environment(TOKEN, folder.parent / "home")}
    done = subprocess.run(
        [*command, "--output_dir", str(folder)], capture_output=True, text=True, env=environment, cwd=folder.parent
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert TOKEN not in done.stdout + done.stderr
    return folder, done.stdout


def files_of(folder, *patterns):
    return {
        path: path.stat().st_mtime_ns
        for pattern in patterns or ["**/*"]
        for path in folder.glob(pattern)
        if path.is_file() and path.name not in (".lock", ".lock.json", "images.parquet")
    }


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
    positions = [printed.index(f"== {stage}") for stage in STAGES]
    assert positions == sorted(positions)
    assert printed.count(" s)\n") == len(STAGES)  # the time of each
    assert "true (type-balanced" in printed and "random" in printed


def test_a_picture_is_kept_once(finished):
    """Stages have none, the published dataset each in one configuration and once more beside the curated pairs."""
    folder, _ = finished
    for shard in folder.glob("stages/*/*.parquet"):
        assert "images" not in Shards(shard.parent).schema.names
    dataset = folder / "dataset"
    images = load_dataset(str(dataset), "images", split="train")
    assert sorted(images["image_id"][:]) == [f"scene-validation-0-{number:06d}" for number in range(14)]
    for name in ("scored", "pseudo_labels"):
        rows = load_dataset(str(dataset), name, split="train")
        assert "images" not in rows.column_names and set(rows["image_id"][:]) <= set(images["image_id"][:])
        joined = join_images(rows, images, folder=folder.parent / f"joined-{name}")
        assert joined[0]["images"][0].size == (64, 64) and joined.column_names[1:] == rows.column_names
    streamed = next(iter(load_dataset(str(dataset), "scored", split="train", streaming=True)))
    assert streamed["pair_id"].endswith("/0")


def test_a_run_is_published(hub, finished):
    folder, printed = finished
    pushed = printed.split("== push")[1]
    assert f"{hub.url}/datasets/user/c3l-20  commit" in pushed and f"{hub.url}/user/c3l-generator  commit" in pushed
    # The trainer has not pushed checkpoints of its own.
    assert set(hub.repos) == {("datasets", "user/c3l-20"), ("models", "user/c3l-generator")}
    assert all(repo.private and len(repo.commits) == 2 for repo in hub.repos.values())
    assert verify(str(folder))
    written = [path for path in [*folder.rglob("*"), *hub.storage.rglob("*")] if path.is_file()]
    assert len(written) > 30 and not any(TOKEN.encode() in path.read_bytes() for path in written)
    # Publishing is no part of what made the results.
    for record in (folder / "run.json", folder / "config.yaml", *folder.glob("stages/*/stage.json")):
        assert "hub_" not in record.read_text()


def test_reports_of_a_run_and_of_what_it_has_published(hub, finished, tmp_path):
    """The one beside the dataset has nothing of the first round, which is not published; by its name it is found."""
    folder, printed = finished
    assert f"report: {folder / 'report.html'}" in printed
    own, published = ((place / "report.html").read_text() for place in (folder, folder / "dataset"))
    assert "first round" in own and "not true" in own  # the truth about each pair, too
    assert "first round" not in published and str(folder) not in own + published
    output = tmp_path / "hub.html"
    command = [sys.executable, "-m", "c3l_hf", "report", "user/c3l-20", "-o", str(output)]
    environment = {**os.environ, **hub.environment(TOKEN, tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"42 pairs, 14 pictures → {output}" in done.stdout
    assert TOKEN not in output.read_text()


def test_a_report_that_has_gone_is_made_again(finished, tmp_path, capsys):
    folder = shutil.copytree(finished[0], tmp_path / "out")
    (folder / "report.html").unlink()
    before = files_of(folder, "stages/*/*", "dataset/**/*")
    assert run("--output_dir", folder) == 0
    assert (folder / "report.html").read_bytes() == (finished[0] / "report.html").read_bytes()
    assert before == files_of(folder, "stages/*/*", "dataset/**/*")


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


def test_the_published_configuration_makes_the_same_run(finished, tmp_path, capsys):
    """Nothing is made again: by its own configuration, a run is the one that is there."""
    folder = shutil.copytree(finished[0], tmp_path / "out")
    before = files_of(folder, "stages/*/*", "dataset/**/*")
    assert main(["run", "--config", str(folder / "dataset" / "config.yaml"), "--output_dir", str(folder)]) == 0
    assert before == files_of(folder, "stages/*/*", "dataset/**/*")
    assert "== write" in capsys.readouterr().out


def test_training_changed_the_language_model_only(finished):
    before = AutoModelForImageTextToText.from_pretrained(GENERATOR, dtype=torch.float32).state_dict()
    after = AutoModelForImageTextToText.from_pretrained(finished[0] / "generator", dtype=torch.float32).state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("language_model" in name or name == "lm_head.weight" for name in moved)


def test_a_finished_run_is_shown_again_without_work(finished, capsys):
    folder, printed = finished
    before = files_of(folder, "stages/*/*")
    assert run("--output_dir", folder) == 0
    assert before == files_of(folder, "stages/*/*")
    again = capsys.readouterr().out
    assert printed.split("== write")[1].split("\n(")[0] == again.split("== write")[1].split("\n(")[0]


def test_a_dry_run_writes_nothing(finished, tmp_path, capsys):
    assert run("--output_dir", tmp_path / "out", "--dry_run") == 0
    printed = capsys.readouterr().out
    assert "14 images" in printed and "generate: to be made" in printed and "num_images: 14" in printed
    assert not (tmp_path / "out").exists()
    assert run("--output_dir", finished[0], "--dry_run") == 0
    assert "write: is there" in capsys.readouterr().out


def test_results_that_were_not_moved_yet_come_to_their_place(finished, tmp_path):
    """The process was ended after the last stage was complete."""
    folder = shutil.copytree(finished[0], tmp_path / "out")
    (stage,) = (folder / "stages").glob("*_write")
    for name in ("dataset", "config.yaml"):
        os.rename(folder / name, stage / name)
    assert run("--output_dir", folder) == 0
    assert not (stage / "dataset").exists()
    for name in ("dataset/README.md", "config.yaml", "generator/model.safetensors"):
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes()


def test_what_became_of_a_finished_run_is_found_and_made_again(finished, tmp_path, caplog):
    """A flipped bit in an answer and in a score, and a dataset that was removed."""
    folder = shutil.copytree(finished[0], tmp_path / "out")
    harmed = [f"stages/{stage}/00000-of-00001.parquet" for stage in ("1_generate", "6_rescore")]
    for name in harmed:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    shutil.rmtree(folder / "dataset")
    (folder / "generator" / "README.md").write_text("my own words")
    assert run("--output_dir", folder) == 0
    for number, name in enumerate(harmed, 1):
        assert f"{name} is not what was written; it is made again" in caplog.text
        assert (folder / f"set_aside-{number}" / name).exists()
    assert " dataset is missing; write is made again" in caplog.text
    for names in ("stages/*/*.parquet", "stages/*/*/*.safetensors", "dataset/**/*.parquet", "generator/*.safetensors"):
        one, two = (
            {path.relative_to(root): path.read_bytes() for path in root.glob(names)} for root in (finished[0], folder)
        )
        assert one == two and one
    # It came out as it was, so that what follows was not made again.
    before, after = (files_of(path, "stages/[234578]_*/*") for path in (finished[0], folder))
    assert set(after.values()) - set(before.values()) == set(files_of(folder, "stages/8_write/*").values())
    assert (folder / "set_aside-3" / "generator" / "README.md").read_text() == "my own words"


def test_stages_one_by_one_give_the_same_dataset(finished, tmp_path):
    folder = tmp_path / "out"
    for names in (["generate"], ["score", "select"], ["train", "regenerate", "rescore", "curate", "write"]):
        # other batch sizes change nothing
        sizes = ["--generation_batch_size", 7, "--scoring_batch_size", 3]
        assert run(*sizes, "--output_dir", folder, "--stages", *names) == 0
    first, second = (load_dataset(str(path / "dataset"), split="train") for path in (finished[0], folder))
    for column in ("pair_id", "prompt", "completion", "raw"):
        assert first[column][:] == second[column][:]
    assert first["i2c"][:] == pytest.approx(second["i2c"][:], abs=1e-4)


def test_another_runs_results_stay(finished, capsys):
    folder, _ = finished
    before = files_of(folder)
    assert run("--seed", 1, "--output_dir", folder) == 1
    says = capsys.readouterr().err
    assert "another run's result" in says and "output_dir" in says and "restart_from generate" in says
    assert "seed: 0 there, 1 asked for" in says and len(says.splitlines()) == 1
    assert before == files_of(folder)


def test_stages_are_made_again_and_the_old_ones_kept(finished, tmp_path, capsys):
    folder = shutil.copytree(finished[0], tmp_path / "out")
    old = (folder / "dataset" / "README.md").read_bytes()
    assert run("--output_dir", folder, "--target_size", 5) == 1
    assert "curation" not in capsys.readouterr().out
    assert run("--output_dir", folder, "--target_size", 5, "--restart_from", "curate") == 0
    assert "are now in" in capsys.readouterr().out
    assert len(load_dataset(str(folder / "dataset"), split="train")) == 5
    assert (folder / "set_aside-1" / "dataset" / "README.md").read_bytes() == old
    assert sorted(path.name for path in (folder / "set_aside-1" / "stages").iterdir()) == ["7_curate", "8_write"]
    # What came before stays as it was made.
    before, after = files_of(finished[0], "stages/6_rescore/*"), files_of(folder, "stages/6_rescore/*")
    assert len(before) == len(after) == 3  # a shard, the record and its copy


def test_the_dataset_has_the_best_by_the_score_of_curation(finished, tmp_path):
    """By default `pmi_k`; `i2c`, by which pseudo-labels are chosen, would keep others."""
    folder = shutil.copytree(finished[0], tmp_path / "out")
    scored = load_dataset(str(folder / "dataset"), "scored", split="train")

    def best(size):
        return {score: curate(scored, target_size=size, score=score)[0]["pair_id"][:] for score in ("pmi_k", "i2c")}

    size, kept = next((n, found) for n in range(1, 21) if (found := best(n))["pmi_k"] != found["i2c"])
    for words, score in (((), "pmi_k"), (("--curation_score", "i2c"), "i2c")):
        assert run("--output_dir", folder, "--target_size", size, *words, "--restart_from", "curate") == 0
        assert load_dataset(str(folder / "dataset"), split="train")["pair_id"][:] == kept[score]


def test_curation_within_clusters(finished, tmp_path, capsys, monkeypatch):
    folder, words = shutil.copytree(finished[0], tmp_path / "out"), ["--restart_from", "curate", "--target_size", 8]
    words += ["--floors", "pmi=-0.5", "--embeddings", "hidden", "--output_dir", folder]
    assert run(*words, "--clusters", 4) == 0
    printed = capsys.readouterr().out
    assert "groups by cluster" in printed and "curated from these, without clusters" in printed
    assert (
        printed.count("  by answer_kl, without clusters ") == 2
    )  # what the paper's form would have kept, of each round
    # Vectors of the pairs that could be scored, in the shards of the pairs; the choice by hand.
    (vectors,) = (Shards(path) for path in folder.glob("embeddings/rescore/hidden-*"))
    scored = Shards(folder / "stages" / "6_rescore").table(["i2c_status", "pmi"]).to_pydict()
    table = vectors.table()
    assert table["embedding_status"].to_pylist() == scored["i2c_status"]
    report = json.loads((folder / "stages" / "7_curate" / "stage.json").read_text())["report"]
    ok = [pmi for pmi, status in zip(scored["pmi"], scored["i2c_status"]) if status == "ok"]
    assert report["counts"]["dropped: pmi below -0.5"] == sum(pmi < -0.5 for pmi in ok)
    clusters = cluster_vectors(lambda: table["embedding"].chunks, 4).table["cluster"].to_pylist()
    ids = Shards(folder / "stages" / "5_regenerate").table(["pair_id"])["pair_id"].to_pylist()
    rows = load_dataset(str(folder / "dataset"), split="train")
    shares = Counter(clusters[ids.index(pair_id)] for pair_id in rows["pair_id"])
    assert len(rows) == 8 and set(shares) == set(range(4)) and min(rows["pmi"]) >= -0.5
    card = (folder / "dataset" / "README.md").read_text()
    assert "the best by `pmi_k` are kept, equally many of each cluster" in card and "(4 clusters of like pairs)" in card
    assert "below a floor (pmi=-0.5)" in card

    # Other clusters of the same pairs need no new vectors; a new second round does.
    monkeypatch.setattr(pair_clusters, "PairEmbedder", lambda *_, **__: pytest.fail("embedded again"))
    assert run(*words, "--clusters", 3) == 0
    assert run("--output_dir", folder, "--restart_from", "rescore", "--stages", "generate") == 0
    assert not list(folder.glob("embeddings/*")) and len(list(folder.glob("set_aside-3/embeddings/rescore/*"))) == 1


def test_pictures_of_a_benchmark_leave_the_dataset(finished, tmp_path, capsys):
    folder, bench = shutil.copytree(finished[0], tmp_path / "out"), tmp_path / "bench"
    bench.mkdir()
    kept = load_dataset(str(folder / "dataset"), split="train")
    first = kept["image_id"][0]
    kept[0]["images"][0].convert("L").save(bench / "x.jpg")
    words = ["--output_dir", folder, "--decontaminate", bench, "--near_duplicate_images", "similar"]
    assert run(*words, "--restart_from", "curate") == 0
    left = set(load_dataset(str(folder / "dataset"), split="train")["image_id"])
    assert first not in left and left >= set(kept["image_id"]) - {first}  # its places are free for others
    card = (folder / "dataset" / "README.md").read_text()
    assert re.search(r"\| dropped: about an image of bench \| [1-9]", card) and str(tmp_path) not in card
    assert "| dropped: about a near-duplicate of another image | 0 |" in card
    # The same again goes on; with other pictures in the folder it would be another dataset.
    assert run(*words) == 0
    kept[1]["images"][0].save(bench / "y.png")
    capsys.readouterr()
    assert run(*words) == 1
    assert "decontaminate" in capsys.readouterr().err


def test_a_folder_of_pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    place = PIL.Image.Exif()
    place[0x010F], place.get_ifd(0x8825)[29] = "SecretPhone", "SecretPlace"
    for index, row in enumerate(load_scenes(6, seed=4, split="test")):
        row["images"][0].resize((90, 70)).save(tmp_path / "pictures" / f"{index}.png", exif=place)
    damaged = (tmp_path / "pictures" / "5.png").read_bytes()
    (tmp_path / "pictures" / "6.png").write_bytes(damaged[: len(damaged) // 2])
    # With the configuration of the scenes: what is said there of their images does not hold for these.
    assert run("--images", f"{tmp_path / 'pictures'}/", "--output_dir", tmp_path / "out") == 0
    dataset = tmp_path / "out" / "dataset"
    rows = load_dataset(str(dataset), split="train")
    assert set(rows["image_id"]) <= {f"{index}.png" for index in range(6)} and rows[0]["images"][0].size == (90, 70)
    # The damaged one stopped nothing, and is counted.
    pool = load_dataset(str(dataset), "scored", split="train")
    unscored = [row for row in pool if row["i2c_status"] != "ok" and row["image_id"] == "6.png"]
    assert len(pool) == 21 and len(unscored) == 3
    images = load_dataset(str(dataset), "images", split="train")
    assert [len(row["images"]) for row in images] == [1] * 6 + [0]
    card = (dataset / "README.md").read_text()
    assert "| the image cannot be read (it is cut off) | 3 |" in card
    assert "**Licence of the images:** not stated" in card
    assert "pictures, 7 images" in card and str(tmp_path) not in card
    assert verify(str(tmp_path / "out"))
    # It is named, and nothing says where the pictures were taken.
    named = (tmp_path / "out" / "unreadable.csv").read_text().splitlines()
    assert len(named) == 2 and named[1].startswith("6.png,the image ") and "it is cut off" in named[1]
    assert "**Metadata of the images:** removed" in card
    published = [path.read_bytes() for path in dataset.rglob("*") if path.is_file()]
    published += [str(pq.read_table(path).to_pylist()).encode() for path in dataset.rglob("*.parquet")]  # unpacked
    assert not [content for content in published if b"SecretP" in content]
    assert b"SecretPlace" in (tmp_path / "pictures" / "0.png").read_bytes()


def test_pairs_that_somebody_has(tmp_path, capsys):
    """The first generation is theirs; questions and answers about the pictures that they come with."""
    rows = []
    for number, row in enumerate(load_scenes(5, seed=4, split="test")):
        for question, answer in (("What is there?", f"A dog, {number}."), ("Is there a dog?", "Yes."), ("", "")):
            rows.append({"picture_of": str(number), "image": row["images"][0], "question": question, "answer": answer})
    features = {name: Value("string") for name in ("picture_of", "question", "answer")}
    table = Dataset.from_list(rows, features=Features({**features, "image": ImageFeature()}))
    table.remove_columns("picture_of").to_parquet(tmp_path / "mine.parquet")
    folder = tmp_path / "out"
    code = main(
        ["run", "--pairs", str(tmp_path / "mine.parquet"), "--model", "scenes", "--output_dir", str(folder)]
        + ["--dtype", "float32", "--use_lora", "false", "--max_steps", "1", "--bf16", "false", "--report_to", "none"]
        + ["--pairs_per_image", "2", "--max_new_tokens", "40", "--target_size", "5", "--scorer_model", "scenes"]
    )
    assert code == 0
    printed = capsys.readouterr().out
    assert "pairs: 15\nok: 10\n" in printed and "generated again" in printed
    assert Shards(folder / "stages" / "1_generate").num_rows == 15
    assert len(load_dataset(str(folder / "dataset"), "images", split="train")) == 5
    assert verify(str(folder))
    # Other pairs are another run.
    table.remove_columns("picture_of").select(range(12)).to_parquet(tmp_path / "fewer.parquet")
    assert (
        main(["run", "--pairs", str(tmp_path / "fewer.parquet"), "--model", "scenes", "--output_dir", str(folder)]) == 1
    )


def test_pairs_with_paths_of_pictures(tmp_path):
    """As a table of paths has them; of what cannot be read no path gets into what will be published."""
    load_scenes(1, seed=4, split="test")[0]["images"][0].save(tmp_path / "a picture.png")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "a picture.png").read_bytes()[:500])
    rows = [f"{tmp_path / name},{question},A dog." for name in ("a picture.png", "damaged.png") for question in "ab"]
    (tmp_path / "mine.csv").write_text("\n".join(["image,question,answer", *rows]))
    folder = tmp_path / "out"
    call = ["run", "--pairs", str(tmp_path / "mine.csv"), "--model", "scenes", "--output_dir", str(folder)]
    assert main([*call, "--dtype", "float32", "--bf16", "false", "--stages", "generate", "score"]) == 0
    assert Shards(folder / "stages" / "2_score").table()["i2c_status"].to_pylist() == [
        *["ok"] * 2,
        *["the image cannot be read (it is cut off)"] * 2,
    ]
    assert str(tmp_path) not in (folder / "stages" / "2_score" / "stage.json").read_text()


def test_an_interruption_loses_what_was_not_complete(finished, tmp_path, monkeypatch):
    """Killed between two shards: what was complete is not made again, and the result is the same."""
    folder, made = tmp_path / "out", []
    plain = stages.generate_tables

    def counted(images, *args, first_row, **kwargs):
        made.append(first_row)
        if len(made) == 3:
            raise KeyboardInterrupt
        return plain(images, *args, first_row=first_row, **kwargs)

    monkeypatch.setattr(stages, "generate_tables", counted)
    assert run("--output_dir", folder, "--stages", "generate", "--shard_size", 5) == 130
    assert run("--output_dir", folder, "--stages", "generate", "score") == 0  # whatever size is given now
    assert made == [0, 5, 10, 10]
    one, two = (Shards(path / "stages" / "1_generate").table() for path in (finished[0], folder))
    assert one.equals(two)
    one, two = (Shards(path / "stages" / "2_score").table()["pmi"].to_numpy() for path in (finished[0], folder))
    assert one == pytest.approx(two, abs=1e-4)


def test_a_generator_that_writes_no_pairs(tmp_path, capsys, monkeypatch):
    """The run ends where that is seen, in one message with the counts."""
    monkeypatch.setattr("c3l_hf.prompts.templates.Template.read", lambda *_: ["no question"])
    assert run("--output_dir", tmp_path / "out") == 1
    says = capsys.readouterr().err
    assert "none of 42 replies has a pair; most often (42): no question, as " in says and says.count("\n") == 1


@pytest.mark.parametrize(
    ("function", "option"),
    [("generate_tables", "generation_batch_size"), ("score_tables", "scoring_batch_size")],
)
def test_want_of_memory_names_the_size_of_the_batch(tmp_path, capsys, monkeypatch, function, option):
    def grows(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        yield

    monkeypatch.setattr(f"c3l_hf.pipeline.stages.{function}", grows)
    words = ["--num_images", 2, "--pairs_per_image", 2, f"--{option}", 7, "--stages", "generate", "score"]
    assert run("--output_dir", tmp_path / "out", *words) == 1
    says = capsys.readouterr().err
    assert f"memory has run out (CUDA out of memory): lower {option}, which is 7" in says and says.count("\n") == 1


def test_one_greedy_pair_of_an_image_is_enough_where_none_are_compared():
    def check(stages, **changed):
        generation = GenerationOptions(**{"pairs_per_image": 1, "sampling_temperature": 0.0} | changed)
        within = "all" if generation.types_per_image > 1 else "type"
        groups = (generation, ScoringOptions(), SelectionOptions(within), CurationOptions())
        check_options(RunOptions(stages=stages), *groups)

    check(["generate", "score"])
    for names in (["select"], ["generate", "curate"]):
        with pytest.raises(RunError, match="no image has two different pairs to compare"):
            check(names)
    check(["select"], pairs_per_image=2, types_per_image=2)


def test_a_folder_that_was_begun_on_another_device_is_not_continued(finished, capsys, monkeypatch):
    """In another dtype than what is there: half of the pairs would be of another model than the cards say."""
    monkeypatch.setattr("c3l_hf.models.loading.pick_dtype", lambda device: "bfloat16")
    assert run("--output_dir", finished[0], "--dtype", "auto") == 1
    assert "dtype: 'float32' there, 'bfloat16' asked for" in capsys.readouterr().err
    monkeypatch.undo()
    assert run("--output_dir", finished[0], "--dtype", "auto", "--dry_run") == 0


def test_a_restart_can_be_looked_at_first(finished, capsys):
    folder, _ = finished
    before = files_of(folder)
    assert run("--output_dir", folder, "--target_size", 5, "--restart_from", "curate", "--dry_run") == 0
    printed = capsys.readouterr().out
    assert re.search(r"rescore: is there\n  curate: to be made, .*, what is there is set aside\n", printed)
    assert "dataset is set aside" in printed and files_of(folder) == before


def test_marks_of_the_report_are_honoured_by_a_restart(finished, tmp_path, capsys):
    """The pair that was rejected by hand is gone, and the marks are part of what the stage is known by."""
    folder = shutil.copytree(finished[0], tmp_path / "out")
    kept = load_dataset(str(folder / "dataset"), split="train")[0]
    texts = kept["prompt"][0]["content"], kept["completion"][0]["content"]
    marks = tmp_path / "marks.json"
    mark = {"pair_id": kept["pair_id"], "digest": texts_digest(*texts), "mark": "reject"}
    marks.write_text(json.dumps({"c3l_marks": 1, "marks": [mark]}))
    assert run("--output_dir", folder, "--marks", marks) == 1  # what is there was chosen without
    assert run("--output_dir", folder, "--marks", marks, "--restart_from", "curate") == 0
    assert "marks: 0 keep, 1 reject" in capsys.readouterr().out
    left = load_dataset(str(folder / "dataset"), split="train")["pair_id"][:]
    assert left and kept["pair_id"] not in left


def test_trackers_get_the_figures_of_the_stages(finished, monkeypatch):
    calls = []
    monkeypatch.setattr("c3l_hf.pipeline.method.report_figures", lambda folder, stages, _: calls.append(tuple(stages)))
    assert run("--output_dir", finished[0], "--stages", "generate", "score") == 0
    assert calls == [("generate", "score")]


def test_a_value_that_an_option_does_not_have(tmp_path):
    """Also where no command line has read it."""
    groups = [RunOptions(), ImageOptions("scenes"), ModelOptions("scenes"), GenerationOptions(), BackendOptions()]
    groups += [ScoringOptions(), SelectionOptions(within="image"), CurationOptions(), PublishingOptions()]
    with pytest.raises(RunError, match="within is 'image'; it must be one of type, all"):
        Settings(*groups, C3LConfig(str(tmp_path), report_to="none", bf16=False)).check()


def test_the_revision_of_the_scorer_is_passed_on(tmp_path, capsys, monkeypatch):
    asked = []

    plain = inputs.find_model

    def find_model(source):
        if source.model_id == "scenes":
            return plain(source)
        asked.append((source.model_id, source.revision))
        raise RunError("enough")

    monkeypatch.setattr(inputs, "find_model", find_model)
    assert run("--output_dir", tmp_path / "out", "--scorer_model", "user/scorer", "--scorer_revision", "v1") == 1
    assert asked == [("user/scorer", "v1")] and "enough" in capsys.readouterr().err
    assert run("--output_dir", tmp_path / "out", "--scorer_revision", "v1") == 1
    assert "--scorer_revision is of a scorer_model" in capsys.readouterr().err
    assert run("--output_dir", tmp_path / "out", "--control_tokens", "escape") == 1
    assert "'escape' is not for a whole run" in capsys.readouterr().err
