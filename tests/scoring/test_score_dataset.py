"""A whole dataset: parts, interruption, and several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, LargeList, List, Value, concatenate_datasets, load_dataset
from datasets.fingerprint import Hasher
from PIL import Image as PILImage
from scored_rows import assert_same, picture, png
from tiny_models import tiny_llava

from c3l_hf.data.schema import SCORE_COLUMNS, SCORE_FEATURES, SCORES
from c3l_hf.scoring.dataset import format_scores, score_dataset
from c3l_hf.scoring.scorer import I2CScorer

QUESTIONS = ["Is there a dog?", "How many cats?", "What colour is the background?"]
ANSWERS = ["Yes, there is.", "two", "It is red, and there is a dög 日."]


@pytest.fixture(scope="module")
def dataset():
    rows = [
        {"id": i, "image": {"bytes": png(i // 3), "path": None}, "question": QUESTIONS[i % 3], "answer": ANSWERS[i % 3]}
        for i in range(9)
    ]
    rows[4]["answer"] = " "
    rows[7]["image"] = {"bytes": png(2)[:60], "path": None}
    features = {"id": Value("int64"), "image": Image(), "question": Value("string"), "answer": Value("string")}
    return Dataset.from_list(rows, features=Features(features))


@pytest.fixture(scope="module")
def scorer(llava):
    return I2CScorer(*llava)


@pytest.fixture(scope="module")
def expected(scorer, dataset):
    return scorer.score(list(dataset.cast_column("image", Image(decode=False))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    for part in tiny_llava():
        part.save_pretrained(path)
    return path


def scores(scored):
    return list(scored.select_columns(list(SCORE_COLUMNS)))


def test_score_columns_beside_the_others(scorer, dataset, expected, tmp_path, caplog):
    scored = score_dataset(dataset, scorer, part_size=4, batch_size=3, cache_dir=tmp_path)
    assert scored.features == Features({**dataset.features, **SCORE_FEATURES})
    assert_same(scores(scored), expected)
    assert scored["id"][:] == list(range(9))
    assert scored.cast_column("image", Image(decode=False))[7]["image"]["bytes"] == png(2)[:60]  # untouched
    assert [row["i2c"] is None for row in expected] == [i in (4, 7) for i in range(9)]
    assert "2 of 9 rows have no score" in caplog.text


def test_lists_of_images_and_of_rows_chosen_from_others(scorer, dataset, expected, tmp_path):
    column = [[row["image"]] for row in dataset.cast_column("image", Image(decode=False))]
    listed = dataset.remove_columns("image").add_column("images", column, feature=List(Image()))
    chosen = listed.select([8, 0, 5])
    assert_same(scores(score_dataset(chosen, scorer, cache_dir=tmp_path)), [expected[i] for i in (8, 0, 5)])


def test_continues_after_an_interruption(scorer, dataset, expected, tmp_path, monkeypatch):
    calls, score_batches = [], I2CScorer.score_batches

    def interrupted(self, batches):
        for scores in score_batches(self, batches):
            calls.append(len(scores))
            if len(calls) == 3:
                raise KeyboardInterrupt
            yield scores

    monkeypatch.setattr(I2CScorer, "score_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_dataset(dataset, scorer, part_size=4, batch_size=2, cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*/*/*.parquet"))) == 1
    scored = score_dataset(dataset, scorer, part_size=4, batch_size=2, cache_dir=tmp_path)
    assert calls == [2, 2, 2, 2, 2, 1]  # the part that was interrupted starts again, the finished one does not
    assert_same(scores(scored), expected)
    monkeypatch.setattr(I2CScorer, "score_batches", lambda *_: pytest.fail("scored again"))
    assert_same(scores(score_dataset(dataset, scorer, part_size=4, batch_size=2, cache_dir=tmp_path)), expected)


def test_files_that_come_later_or_change(scorer, tmp_path):
    """Rows name their images by paths: one that was missing is scored when it is there, a new one anew."""
    picture(0).save(tmp_path / "0.png")
    rows = [{"question": QUESTIONS[0], "answer": ANSWERS[0], "image": str(tmp_path / f"{i}.png")} for i in range(2)]
    for data in (Dataset.from_list(rows), Dataset.from_list(rows).cast_column("image", Image())):
        picture(0).save(tmp_path / "0.png")
        (tmp_path / "1.png").unlink(missing_ok=True)
        first = score_dataset(data, scorer, cache_dir=tmp_path / "cache")
        assert first["i2c_status"][0] == "ok" and "cannot be read" in first["i2c_status"][1]
        picture(1).save(tmp_path / "1.png")
        picture(3).save(tmp_path / "0.png")
        again = score_dataset(data, scorer, cache_dir=tmp_path / "cache")
        assert again["i2c_status"][:] == ["ok", "ok"]
        now = [{**row, "image": picture(seed)} for row, seed in zip(rows, (3, 1))]
        assert_same(scores(again), scorer.score(now))


def test_images_are_not_written_again(scorer, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = dataset.cast_column("image", Image(decode=False)).to_list()
    rows = [{**row, "image": {"bytes": row["image"]["bytes"] + bytes(200_000), "path": None}} for row in rows]
    Dataset.from_list(rows, features=dataset.features).to_parquet(tmp_path / "rows.parquet")
    data = load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train")
    before = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert score_dataset(data, scorer)["i2c_status"][:].count("ok") >= 6
    after = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert after - before < 200_000 < before


def test_rows_of_several_kinds_from_json(scorer, tmp_path):
    """`datasets` keeps a column of several types as JSON."""
    picture(0).save(tmp_path / "0.png")
    image = str(tmp_path / "0.png")
    contents = [QUESTIONS[0], [{"type": "text", "text": QUESTIONS[0]}], [QUESTIONS[0]], 5]
    answer = {"role": "assistant", "content": ANSWERS[0]}
    lines = [{"image": image, "messages": [{"role": "user", "content": content}, answer]} for content in contents]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train")
    found = score_dataset(data, scorer, cache_dir=tmp_path / "cache")
    assert found["i2c_status"][:2] == ["ok", "ok"] and found["i2c"][0] == pytest.approx(found["i2c"][1])
    assert all("neither a text nor a list of items" in status for status in found["i2c_status"][2:])


def test_another_scorer_or_dataset_is_scored_anew(llava, scorer, dataset, tmp_path):
    pmi = score_dataset(dataset, scorer, cache_dir=tmp_path)["i2c"][:]
    kl = score_dataset(dataset, I2CScorer(*llava, ranking="token_kl"), cache_dir=tmp_path)
    assert kl["i2c"][:] == kl["token_kl"][:] != pmi
    other = dataset.map(lambda row: {"answer": row["answer"] + " Or not."})
    assert score_dataset(other, scorer, cache_dir=tmp_path)["i2c"][:] != pmi


def test_empty_dataset_and_wrong_columns(scorer, dataset, tmp_path):
    empty = score_dataset(dataset.select([]), scorer, cache_dir=tmp_path)
    assert len(empty) == 0 and set(SCORE_COLUMNS) <= set(empty.column_names)
    with pytest.raises(ValueError, match="accepted are: prompt"):
        score_dataset(dataset.remove_columns("answer"), scorer, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="has the columns pmi already"):
        score_dataset(dataset.add_column("pmi", [0.0] * 9), scorer, cache_dir=tmp_path)


def test_totals(scorer, dataset, tmp_path):
    text = format_scores(score_dataset(dataset, scorer, cache_dir=tmp_path))
    assert "9 rows, 7 with scores, 2 without" in text
    assert "the answer is empty" in text and "the image cannot be read: " in text
    assert [line.split()[0] for line in text.splitlines() if line.startswith(("i2c", "pmi"))] == ["i2c", "pmi", "pmi_k"]
    bad = score_dataset(dataset.select([4, 7]), scorer, cache_dir=tmp_path)
    assert format_scores(bad).startswith("2 rows, 0 with scores, 2 without\n\nwithout a score, because")


@pytest.mark.slow
def test_two_processes_equal_one(folder, llava, dataset, expected, tmp_path):
    """Their scores, each part scored by one of them, and their scorers' fingerprints."""
    dataset.to_parquet(tmp_path / "rows.parquet")
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from c3l_hf.common.processes import process_state\n"
        "from datasets import load_dataset\n"
        "from datasets.fingerprint import Hasher\n"
        "from tiny_models import tiny_llava\n"
        "from c3l_hf import I2CScorer, score_dataset\n"
        f"rows = load_dataset('parquet', data_files={str(tmp_path / 'rows.parquet')!r}, split='train')\n"
        f"scorer = I2CScorer.from_pretrained({str(folder)!r})\n"
        f"scored = score_dataset(rows, scorer, part_size=2, cache_dir={str(tmp_path / 'parts')!r})\n"
        f"scored.remove_columns('image').to_json(f'{tmp_path}/out{{process_state().process_index}}.jsonl')\n"
        "hashes = f'{Hasher.hash(I2CScorer(*tiny_llava()))} {Hasher.hash(scorer)}'\n"
        "text = f'PROCESSES {process_state().num_processes} HASHES {hashes}\\n'\n"
        "os.write(1, text.encode())\n"  # at once: the processes share their output
    )
    # Without accelerators `accelerate launch` starts one process only; what it calls elsewhere starts two.
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    root = Path(__file__).parents[2]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "c"), "PYTHONHASHSEED": "7"}
    env["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "tests" / "helpers")])
    env |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(launch, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert result.returncode == 0, result.stderr
    hashes = Hasher.hash(I2CScorer(*llava)), Hasher.hash(I2CScorer.from_pretrained(folder))
    assert result.stdout.count("PROCESSES 2 HASHES {} {}\n".format(*hashes)) == 2
    for number in (0, 1):
        lines = (tmp_path / f"out{number}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["id"] for row in rows] == list(range(9))
        assert_same([{name: row[name] for name in SCORE_COLUMNS} for row in rows], expected)
    assert len(list((tmp_path / "parts").glob("*/*/*.parquet"))) == 5  # each part once


def test_large_lists_and_lists_of_other_kinds(scorer, dataset, expected, tmp_path):
    """As polars and pyarrow write them, one picture damaged."""
    stored = dataset.cast_column("image", Image(decode=False)).to_list()
    plain = dataset.remove_columns("image")
    struct = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])
    column = pa.array([[row["image"]] for row in stored], pa.large_list(struct))
    table = plain.data.table.append_column("images", column)
    texts = ["question", "answer"]
    for name in texts:
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].cast(pa.large_string()))
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "large.parquet")
    large = load_dataset("parquet", data_files=str(tmp_path / "large.parquet"), split="train", cache_dir=str(tmp_path))
    images = Dataset.from_list(
        [{"images": [row["image"]]} for row in stored], features=Features({"images": LargeList(Image())})
    )
    typed = concatenate_datasets([plain, images], axis=1)
    for rows in (large, typed):
        assert isinstance(rows.features["images"], LargeList)
        assert_same(scores(score_dataset(rows, scorer, cache_dir=tmp_path / "scores")), expected)


def test_pictures_inside_the_messages(scorer, dataset, expected, tmp_path):
    """The images are in a struct in lists; one cannot be decoded."""
    text = {"type": "text", "image": None}
    messages = [
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": row["image"], "text": None}, {**text, "text": row["question"]}],
            },
            {"role": "assistant", "content": [{**text, "text": row["answer"]}]},
        ]
        for row in dataset.cast_column("image", Image(decode=False))
    ]
    item = {"type": Value("string"), "image": Image(), "text": Value("string")}
    features = Features({"messages": List({"role": Value("string"), "content": List(item)})})
    inside = Dataset.from_dict({"messages": messages}, features=features)
    scored = score_dataset(inside, scorer, cache_dir=tmp_path)
    assert_same(
        [row for row in scores(scored) if row["i2c"] is not None], [row for row in expected if row["i2c"] is not None]
    )
    assert "cannot be read" in scored["i2c_status"][7]


def test_splits(scorer, dataset, expected, tmp_path):
    splits = DatasetDict(train=dataset.select(range(5)), test=dataset.select(range(5, 9)))
    scored = score_dataset(splits, scorer, cache_dir=tmp_path)
    assert type(scored) is DatasetDict and list(scored) == ["train", "test"]
    assert_same(scores(scored["train"]) + scores(scored["test"]), expected)
    assert "train: 5 rows, 4 with scores, 1 without" in format_scores(scored)
    assert "test: 4 rows, 3 with scores, 1 without" in format_scores(scored)


def test_a_transform_is_not_applied_and_that_is_said(scorer, dataset, expected, tmp_path, caplog):
    def black(rows):
        return {**rows, "image": [PILImage.new("RGB", (32, 32)) for _ in rows["image"]]}

    few = dataset.select(range(2))
    scored = score_dataset(few.with_transform(black), scorer, cache_dir=tmp_path)
    assert_same(scores(scored.with_format(None)), expected[:2])
    assert caplog.text.count("has a transform, which is not applied") == 1
    seen = few.with_transform(black).map(scorer, batched=True)
    assert seen.with_format(None)["pmi"][0] != pytest.approx(expected[0]["pmi"])
    caplog.clear()
    score_dataset(few.with_format("numpy"), scorer, cache_dir=tmp_path)
    assert "transform" not in caplog.text


def test_turns_without_a_score_are_counted():
    turns = [
        [{"status": "ok"}, {"status": "the answer is empty"}],
        None,
        [{"status": None}, {"status": "the answer is empty"}],
    ]
    rows = {
        "i2c_status": ["ok", "no image", "ok"],
        "i2c": [1.0, None, 2.0],
        **{name: [1.0, None, 2.0] for name in SCORES},
    }
    text = format_scores(Dataset.from_dict({**rows, "turns": turns}))
    assert "turns without a score in rows with some, because" in text
    assert text.splitlines()[-1].split() == ["the", "answer", "is", "empty", "2"]
    assert "turns" not in format_scores(Dataset.from_dict(rows))
