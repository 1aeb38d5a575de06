"""`c3l score`, then `c3l curate` and `c3l select`, on other people's files: they have no ids, types or templates."""

import json
import shutil

import pytest
from datasets import concatenate_datasets
from scored_rows import picture
from tiny_models import tiny_llava

from c3l_hf.cli import main
from c3l_hf.files.opening import open_dataset
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.prompts.template_files import load_templates
from c3l_hf.training.collator import DataCollatorForC3L
from c3l_hf.training.row_checks import check_rows

QUESTIONS = ["Is there a dog?", "How many cats?", "What colour is the background?"]
ANSWERS = ["Yes, there is.", "two", "It is red, and there is a dög 日."]


def call(*words):
    return main([*map(str, words)])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """LLaVA's conversations in JSONL, with images by their paths, scored: as parquet and as JSONL."""
    folder = tmp_path_factory.mktemp("scored")
    for part in tiny_llava():
        part.save_pretrained(folder / "model")
    (folder / "pictures" / "train").mkdir(parents=True)
    rows = []
    for image in range(3):
        picture(image).save(folder / "pictures" / "train" / f"{image}.png")
        for question, answer in zip(QUESTIONS, ANSWERS):
            turns = [("human", f"<image>\n{question}"), ("gpt", answer)]
            rows.append((f"train/{image}.png", turns))
    rows[4] = ("train/missing.png", rows[4][1])
    rows.append(("train/1.png", [*rows[3][1], ("human", QUESTIONS[1]), ("gpt", "three")]))
    rows = [
        {"id": f"{number:03d}", "image": path, "conversations": [{"from": who, "value": text} for who, text in turns]}
        for number, (path, turns) in enumerate(rows)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        for output in ("scored.parquet", "scored.jsonl"):
            words = ["--dataset", folder / "rows.jsonl", "--image_folder", folder / "pictures"]
            assert call("score", "--model", folder / "model", *words, "--output", folder / output) == 0
    return folder


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_rows_are_curated_as_they_are(scored, tmp_path, capsys, kind):
    source = scored / f"scored.{kind}"
    assert call("curate", "--dataset", source, "--target_size", 5, "--output", tmp_path / "curated.parquet") == 0
    printed = capsys.readouterr().out
    assert "no column image_id: rows with the same image, by content or path, are about one image" in printed
    assert "no column type: all pairs count as one type" in printed and "5 pairs →" in printed
    before, curated = open_dataset(source), open_dataset(tmp_path / "curated.parquet")
    assert curated.column_names == before.column_names and len(curated) == 5
    rows = {row["id"]: row for row in before}
    assert all(rows[row["id"]] == row for row in curated)
    best = sorted((row for row in before if row["i2c_status"] == "ok"), key=lambda row: -row["i2c"])[:5]
    assert set(curated["id"]) == {row["id"] for row in best}
    assert call("curate", "--dataset", source, "--max_per_image", 1, "--output", tmp_path / "c.parquet") == 0
    assert sorted(open_dataset(tmp_path / "c.parquet")["image"]) == [f"train/{image}.png" for image in range(3)]


def test_curation_within_clusters(scored, tmp_path, capsys):
    output = tmp_path / "curated.parquet"
    words = ["--dataset", scored / "scored.parquet", "--output", output, "--overwrite", "--target_size", 4]
    made = ["--model", scored / "model", "--image_folder", scored / "pictures"]
    assert call("curate", *words, *made, "--embeddings", "image", "--clusters", 3, "--floors", "pmi=-9") == 0
    printed = capsys.readouterr().out
    assert "without a cluster: no vector" in printed and "groups by cluster" in printed and "pmi below -9" in printed
    before, curated = open_dataset(scored / "scored.parquet"), open_dataset(output)
    assert curated.column_names == [*before.column_names, "cluster", "cluster_similarity"]
    # Three images: as many vectors, and as many clusters.
    assert len(curated) == 4 and len(set(zip(curated["image"], curated["cluster"]))) == len(set(curated["image"])) == 3

    # The same with vectors that a column has; the image that is missing has none.
    vectors = [None if "missing" in row["image"] else [0.0, 1.0, float(row["image"][6])] for row in before]
    before.add_column("clip", vectors).to_parquet(tmp_path / "clip.parquet")
    words[1] = tmp_path / "clip.parquet"
    assert call("curate", *words, "--embeddings", "clip", "--clusters", 3, "--score", "random") == 0
    curated = open_dataset(output)
    assert "clip" in curated.column_names and len(set(zip(curated["image"], curated["cluster"]))) == 3
    for options, says in (
        (
            ["--embeddings", "hidden", "--clusters", 2],
            "--embeddings is hidden, and model, which makes them, is not given",
        ),
        (["--embeddings", "clip", "--clusters", 2, *made], "--model makes vectors if embeddings is hidden or image"),
        (["--embeddings", "clap", "--clusters", 2], "c3l curate: there is no column 'clap'; found id, image"),
        (["--embeddings", "clip", "--clusters", 10], "--clusters is 10, but only 9 of 10 rows have a vector in 'clip'"),
        (["--clusters", 2], "--clusters is 2, but embeddings is not given"),
        (["--floors", "beauty=1"], "columns missing: beauty"),
    ):
        assert call("curate", *words, *options) == 1
        assert says in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_pseudo_labels_have_pictures_that_a_trainer_reads(scored, llava, tmp_path, capsys, kind):
    words = ["select", "--dataset", scored / f"scored.{kind}", "--output", tmp_path / "labels.parquet"]
    assert call(*words) == 1
    assert "is not there; say where (image_folder)" in capsys.readouterr().err
    assert not (tmp_path / "labels.parquet").exists()
    assert call(*words, "--image_folder", scored / "pictures") == 0
    printed = capsys.readouterr().out
    assert " of the set instruct" in printed
    labels = open_dataset(tmp_path / "labels.parquet")
    assert [row["images"][0].tobytes() for row in labels] == [picture(image).tobytes() for image in range(3)]
    assert labels["prompt"][0][0]["content"] == load_templates("instruct").get("general-1").user
    pairs = list(zip(QUESTIONS, ANSWERS))
    talk = ReplyForm().write([pairs[0], (QUESTIONS[1], "three")])
    texts = {ReplyForm().write([pair]) for pair in pairs} | {talk}
    for number, label in enumerate(labels):  # the second image has a row whose picture is missing, and a conversation
        candidates = [messages[0]["content"] for messages in (label["chosen"], *label["rejected"])]
        assert len(candidates) == 3 and set(candidates) <= texts and (talk in candidates) == (number == 1)
    checked = check_rows("train_dataset", labels, DataCollatorForC3L(llava[1]), drop=False, num_proc=None)
    assert len(checked) == 3


def test_columns_of_other_names_come_back(scored, tmp_path):
    table = open_dataset(scored / "scored.parquet")
    table.rename_columns({"image": "bild", "conversations": "gespräch"}).to_parquet(tmp_path / "own.parquet")
    names = ["--dataset", tmp_path / "own.parquet", "--columns", "image=bild", "conversations=gespräch"]
    assert call("curate", *names, "--target_size", 5, "--output", tmp_path / "curated.parquet") == 0
    curated = open_dataset(tmp_path / "curated.parquet")
    assert len(curated) == 5 and {"bild", "gespräch"} < set(curated.column_names)
    assert call("select", *names, "--image_folder", scored / "pictures", "--output", tmp_path / "labels.parquet") == 0
    assert len(open_dataset(tmp_path / "labels.parquet")) == 3


def test_nothing_that_could_be_used_is_named(scored, tmp_path, capsys):
    table = open_dataset(scored / "scored.parquet")
    unscored = table.map(lambda row: {"i2c_status": "no", "i2c": None}, features=table.features)
    unscored.to_parquet(tmp_path / "unscored.parquet")
    table.select([0]).to_parquet(tmp_path / "one.parquet")
    table.remove_columns(["image", "conversations"]).to_parquet(tmp_path / "bare.parquet")
    table.remove_columns("image").to_parquet(tmp_path / "no_image.parquet")
    (tmp_path / "unknown.jsonl").write_text(json.dumps({"image": "a.png", "question": "What?", "answer": "A dog."}))
    cases = [
        ("curate", "unscored.parquet", "no pair is left for the dataset"),
        ("select", "unscored.parquet", "no image has a pseudo-label: of 10 rows 0 are pairs with a score; generation"),
        ("select", "one.parquet", "no image has a pseudo-label: of 1 rows 1 are pairs with a score; no image has two"),
        ("curate", "bare.parquet", "cannot find pairs in the columns id, i2c"),
        ("curate", "no_image.parquet", "no row has an image, nor is there a column image_id"),
        ("curate", "unknown.jsonl", "there are columns missing: i2c_status, i2c; found image, question, answer"),
        ("select", "unknown.jsonl", "there are columns missing: i2c_status, i2c; found image, question, answer"),
    ]
    for command, file, says in cases:
        assert call(command, "--dataset", tmp_path / file, "--output", tmp_path / "a.parquet") == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"c3l {command}: {says}"), last
    assert not (tmp_path / "a.parquet").exists()
    assert call("curate", "--dataset", tmp_path / "one.parquet", "--output", tmp_path / "a.parquet") == 0


def test_copies_and_benchmarks_leave(scored, tmp_path, capsys):
    """A file of a benchmark's picture, a copy of a picture under another name, and a picture that is gone."""
    folder = tmp_path / "pictures"
    shutil.copytree(scored / "pictures", folder)
    shutil.copy(folder / "train" / "0.png", folder / "train" / "copy.png")
    table = open_dataset(scored / "scored.parquet")
    copied = table.select([0]).map(lambda row: {"image": "train/copy.png", "i2c": 99.0}, features=table.features)
    concatenate_datasets([table, copied]).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "bench").mkdir()
    picture(2).save(tmp_path / "bench" / "x.bmp")
    words = ["--dataset", tmp_path / "rows.parquet", "--image_folder", folder, "--output", tmp_path / "curated.parquet"]
    assert call("curate", *words, "--near_duplicate_images", "same", "--decontaminate", tmp_path / "bench") == 0
    printed = capsys.readouterr().out
    assert set(open_dataset(tmp_path / "curated.parquet")["image"]) == {"train/copy.png", "train/1.png"}
    counts = {
        cells[0]: int(cells[1])
        for line in printed.splitlines()
        if len(cells := line.rsplit(maxsplit=1)) == 2 and cells[1].isdigit()
    }
    left = {name.strip(): count for name, count in counts.items()}
    assert left["dropped: about an image of bench"] == 3
    assert left["dropped: about a near-duplicate of another image"] == 3
    assert "images compared with none: 1; the image cannot be read (there is no such file)" in printed
    assert call("curate", *words, "--overwrite", "--decontaminate", tmp_path / "no") == 1
    assert f"c3l curate: --decontaminate has '{tmp_path / 'no'}'" in capsys.readouterr().err
