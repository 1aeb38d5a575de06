"""Published layouts → questions, with what is wrong with each row; predictions → MMBench's submission."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tiny_benchmarks
from datasets import Dataset, DatasetDict, Value, load_dataset
from loopback_hub import LoopbackHub

from c3l_hf.common.errors import RowError
from c3l_hf.data.turns import to_turns
from c3l_hf.evaluation.benchmarks import BENCHMARKS, SEED_DIMENSIONS
from c3l_hf.evaluation.counts import count_answers
from c3l_hf.evaluation.predictions import PREDICTION_FEATURES
from c3l_hf.evaluation.questions import QUESTION_FEATURES, bare_questions, load_questions
from c3l_hf.evaluation.submission import write_submission
from c3l_hf.files.image import open_image
from c3l_hf.models.encoding import encode_prompt

WRITE = {
    "pope": tiny_benchmarks.write_pope,
    "seed": tiny_benchmarks.write_seed,
    "mmbench": tiny_benchmarks.write_mmbench,
    "llava_w": tiny_benchmarks.write_llava_bench,
}
ROWS = {
    "pope": tiny_benchmarks.pope_rows,
    "seed": tiny_benchmarks.seed_rows,
    "mmbench": tiny_benchmarks.mmbench_rows,
    "llava_w": tiny_benchmarks.llava_bench_rows,
}
DIMENSIONS = ", ".join(map(str, SEED_DIMENSIONS))
LETTER = "Answer with the option's letter from the given choices directly."


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(tmp_path, benchmark, rows, **options):
    return load_questions(benchmark, WRITE[benchmark](tmp_path / benchmark, rows), **options)


def meta(question):
    return json.loads(question["meta"])


def without_images(questions):
    return questions.remove_columns("images").to_list()


def test_pope(tmp_path):
    questions = load(tmp_path, "pope", 12)
    assert questions.features == QUESTION_FEATURES and len(questions) == 12
    assert without_images(questions)[3] == {
        "question_id": "adversarial-2",
        "question": "Is there a blue square in the image?\nAnswer the question using a single word or phrase.",
        "options": [],
        "answer": "no",
        "group": "adversarial",
        "cluster": "picture-1",
        "status": "ok",
        "meta": '{"stem": "Is there a blue square in the image?"}',
    }
    # The published question_id is unique within a category only.
    assert len(set(questions["question_id"])) == 12 and set(questions["status"]) == {"ok"}
    assert questions["group"][:3] == ["adversarial", "popular", "random"]


def test_seed_has_the_questions_about_images(tmp_path, caplog):
    questions = load_questions("seed", tiny_benchmarks.write_seed(tmp_path, 10, videos=3))
    assert len(questions) == 10 and set(questions["status"]) == {"ok"} and not caplog.records
    assert questions.info.description.endswith("split test: 10 rows; left out: 3 about videos")
    assert without_images(questions)[1] == {
        "question_id": "2-102",
        "question": f"What is the colour of this picture?\nA. Green\nB. Blue\nC. Yellow\nD. Red\n{LETTER}",
        "options": ["Green", "Blue", "Yellow", "Red"],
        "answer": "D",
        "group": "Instance Identity",
        "cluster": "picture-0",
        "status": "ok",
        "meta": '{"stem": "What is the colour of this picture?"}',
    }
    assert questions["group"][:9] == list(SEED_DIMENSIONS.values())


def test_rows_between_videos_keep_their_own_picture(tmp_path):
    rows = tiny_benchmarks.seed_rows(6, videos=2)
    rows = [rows[6], *rows[:4], rows[7], *rows[4:6]]
    questions = load(tmp_path, "seed", rows)
    images = [row["image"] for row in rows if row["data_type"] == "image"]
    assert [row["images"] for row in questions] == images


def test_mmbench_published_rotations_are_used(tmp_path, caplog):
    questions = load_questions("mmbench", tiny_benchmarks.write_mmbench(tmp_path, 6))
    published = load_dataset(str(tmp_path), "en", split="dev")
    assert questions["question_id"][:] == [str(index) for index in published["index"]]
    assert questions["answer"][:] == published["answer"][:] and not caplog.records
    rows = without_images(questions)
    assert rows[1]["question_id"] == "242" and rows[7]["question_id"] == "1000242"
    assert rows[7]["question"] == (
        f"The picture has one colour.\nWhich colour is it?\nA. green\nB. blue\nC. red\n{LETTER}"
    )
    assert meta(rows[7]) == {
        "stem": "The picture has one colour.\nWhich colour is it?",
        "index": 1_000_242,
        "base": 242,
        "rotation": 1,
        "question": "Which colour is it?",
        "hint": "The picture has one colour.",
        "category": "object_localization",
    }
    assert rows[7]["group"] == "finegrained_perception (instance-level)"


def test_mmbench_rotations_are_made_where_none_are_published(tmp_path):
    made = load_questions("mmbench", tiny_benchmarks.write_mmbench(tmp_path / "once", 6, circular=False))
    published = load_questions("mmbench", tiny_benchmarks.write_mmbench(tmp_path / "all", 6))
    assert len(made) == 18 and made["question_id"][:3] == ["241", "1000241", "242"]
    by_id = {row["question_id"]: row for row in published}
    for row in made:
        assert row == by_id[row["question_id"]]
    right = [row["options"]["ABCD".index(row["answer"])] for row in made if meta(row)["base"] == 243]
    assert right == ["blue"] * 4


@pytest.mark.parametrize("published", [True, False])
def test_mmbench_each_question_once(tmp_path, published):
    folder = tiny_benchmarks.write_mmbench(tmp_path, 6, circular=published)
    questions = load_questions("mmbench", folder, circular=False)
    assert questions["question_id"][:] == ["241", "242", "243", "244", "245", "246"]
    assert {meta(row)["rotation"] for row in questions} == {0}


def test_mmbench_test_split_needs_no_answers(tmp_path):
    folder = tiny_benchmarks.write_mmbench(tmp_path, 4, circular=False)
    questions = load_questions("mmbench", folder, split="test")
    assert set(questions["status"]) == {"ok"} and set(questions["answer"]) == {""}
    assert questions["options"][2:5] == [["red", "green", "blue"], ["green", "blue", "red"], ["blue", "red", "green"]]


def test_mmbench_rotations_share_a_cluster_and_so_do_questions_about_a_picture(tmp_path):
    rows = tiny_benchmarks.mmbench_rows(4, circular=True)
    for row in rows:
        if row["index"] % 1_000_000 == 243:
            row["image"] = tiny_benchmarks.picture(0)
    next(row for row in rows if row["index"] == 1_000_242)["image"] = tiny_benchmarks.picture(99)  # encoded anew
    questions = load(tmp_path, "mmbench", rows)
    clusters = {}
    for row in questions:
        clusters.setdefault(meta(row)["base"], set()).add(row["cluster"])
    assert all(len(names) == 1 for names in clusters.values())
    assert clusters[241] == clusters[243] and len(set.union(*clusters.values())) == 3


@pytest.mark.parametrize("missing", [None, "nan", "", "NaN"])
def test_missing_hints_and_options(tmp_path, missing):
    (row,) = tiny_benchmarks.mmbench_rows(1)
    row |= {"hint": missing, "A": "None of them", "B": "none", "C": "nan", "D": missing}
    (question, turned) = load(tmp_path, "mmbench", [row])
    assert question["question"] == f"Which colour is it?\nA. None of them\nB. none\n{LETTER}"
    assert turned["options"] == ["none", "None of them"] and (question["answer"], turned["answer"]) == ("A", "B")


def test_mmbench_incomplete_rotations_are_named(tmp_path, caplog):
    rows = [row for row in tiny_benchmarks.mmbench_rows(3, circular=True) if row["index"] != 1_000_242]
    questions = load(tmp_path, "mmbench", rows)
    assert len(questions) == 8 and set(questions["status"]) == {"ok"}
    assert [record.message for record in caplog.records] == [
        "MMBench: 1 questions have not one rotation for each option: 242"
    ]


def test_llava_bench(tmp_path):
    questions = load(tmp_path, "llava_w", 6)
    assert without_images(questions)[4] == {
        "question_id": "4",
        "question": "Describe this photo in detail.",
        "options": [],
        "answer": "It is green.",
        "group": "detail",
        "cluster": "001",
        "status": "ok",
        "meta": '{"stem": "Describe this photo in detail.", "caption": "A square of one colour, number 1."}',
    }


def test_captions_may_be_lists(tmp_path):
    folder = tiny_benchmarks.write_llava_bench(tmp_path / "hub", 3)
    published = load_dataset(str(folder), split="train")
    captions = [["One.", "Two."], ["", ""], []]
    published.remove_columns("caption").add_column("caption", captions).to_parquet(tmp_path / "data" / "train.parquet")
    questions = load_questions("llava_w", tmp_path / "data")
    assert meta(questions[0])["caption"] == "One.\nTwo."
    assert [status.split(",")[0] for status in questions["status"]] == ["ok", "the caption", "the caption"]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_pictures_are_those_of_the_source_and_not_decoded(tmp_path, benchmark):
    rows = ROWS[benchmark](5)
    questions = load(tmp_path, benchmark, rows, circular=False)
    published = [row["image"] if isinstance(row["image"], list) else [row["image"]] for row in rows]
    assert [row["images"] for row in questions] == published
    assert open_image(questions[0]["images"][0]).size == (32, 32)


def test_pictures_are_not_copied(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    tiny_benchmarks.PILImage.fromarray(noise).save(tmp_path / "noise.png")
    content = (tmp_path / "noise.png").read_bytes()
    rows = [{**row, "image": {"bytes": content, "path": None}} for row in tiny_benchmarks.mmbench_rows(8)]
    many = [{**row, "image": [{"bytes": content, "path": None}] * 2} for row in tiny_benchmarks.seed_rows(8, 2)]
    for benchmark, source in (("mmbench", rows), ("seed", many)):
        load(tmp_path, benchmark, source)  # fills the cache of `datasets`
        before = pa.total_allocated_bytes()
        with monkeypatch.context() as patch:
            # It would read all of them.
            patch.setattr(datasets.arrow_dataset, "generate_fingerprint", lambda dataset: pytest.fail("read"))
            questions = load_questions(benchmark, tmp_path / benchmark)
        assert len(questions) >= 8 and pa.total_allocated_bytes() - before < len(content)
        assert questions[-1]["images"][0]["bytes"] == content


@pytest.mark.parametrize("places", [range(12), range(3, 9), [0, 7, 2, 11]])
def test_bare_questions_have_the_pictures_of_the_source(tmp_path, places, monkeypatch):
    """Published SEED-Bench has more of them than an Arrow array holds."""
    content = tiny_benchmarks.picture(0)["bytes"] + bytes(500_000)
    rows = [{**row, "image": [{"bytes": content, "path": None}]} for row in tiny_benchmarks.seed_rows(12)]
    questions = load(tmp_path, "seed", rows).select(places)
    before = pa.total_allocated_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(datasets.arrow_dataset, "generate_fingerprint", lambda dataset: pytest.fail("read"))
        bare = bare_questions(questions)
    assert pa.total_allocated_bytes() - before < len(content)
    assert bare.features == QUESTION_FEATURES and bare._fingerprint != questions._fingerprint
    stem = "What is the colour of this picture?"
    assert list(bare) == [{**row, "question": stem} for row in questions] and len(bare) == len(places)
    assert bare["question"][:] == [stem] * len(places)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_folders_of_save_to_disk(tmp_path, benchmark):
    questions = load(tmp_path, benchmark, 6)
    layout = BENCHMARKS[benchmark]
    published = load_dataset(str(tmp_path / benchmark), layout.config, split=layout.split)
    published.save_to_disk(tmp_path / "one")
    DatasetDict({layout.split: published, "other": published.select([0])}).save_to_disk(tmp_path / "several")
    for folder in ("one", "several"):
        assert load_questions(benchmark, tmp_path / folder).to_list() == questions.to_list()
    with pytest.raises(ValueError, match=rf"split 'val': .* has no split .val.; its splits are {layout.split}, other"):
        load_questions(benchmark, tmp_path / "several", split="val")


def test_mmbench_folder_of_one_configuration(tmp_path):
    folder = tiny_benchmarks.write_mmbench(tmp_path / "hub", 3)
    (folder / "README.md").unlink()
    (folder / "en").rename(tmp_path / "data")
    assert len(load_questions("mmbench", tmp_path / "data")) == 9
    assert load_questions("mmbench", tmp_path / "data", split="test")["answer"][0] == ""


HUB = """
import json, sys
from pathlib import Path
import datasets
from huggingface_hub import HfApi
from c3l_hf.evaluation.benchmarks import BENCHMARKS
from c3l_hf.evaluation.questions import load_questions

datasets.config.USE_PARQUET_EXPORT = False
api = HfApi()
for name, folder in json.loads(sys.argv[1]).items():
    repo = BENCHMARKS[name].repository
    api.create_repo(repo, repo_type="dataset")
    api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=folder)
api.create_tag("lmms-lab/POPE", tag="v1", repo_type="dataset")
api.upload_folder(repo_id="lmms-lab/POPE", repo_type="dataset", folder_path=sys.argv[2])
found = {name: len(load_questions(name)) for name in BENCHMARKS}
found["test"] = load_questions("mmbench", split="test")["answer"][:]
found["v1"] = len(load_questions("pope", revision="v1"))
try:
    load_questions("pope", "lmms-lab/none")
except ValueError as error:
    found["none"] = str(error)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_from_the_hub(tmp_path):
    folders = {name: str(write(tmp_path / name, 3)) for name, write in WRITE.items()}
    newer = tiny_benchmarks.write_pope(tmp_path / "newer", 5)
    # Another language, published in the same repository and listed first.
    published = Path(folders["mmbench"])
    shutil.copytree(tiny_benchmarks.write_mmbench(tmp_path / "chinese", 1) / "en", published / "cn")
    card = (published / "README.md").read_text()
    listed = card.split("configs:\n")[1].removesuffix("---\n")
    (published / "README.md").write_text(f"---\nconfigs:\n{listed.replace('en', 'cn')}{listed}---\n")
    with LoopbackHub({"secret": "lmms-lab"}) as hub:
        env = {**os.environ, **hub.environment("secret", home=tmp_path / "home")}
        command = [sys.executable, "-c", HUB, json.dumps(folders), str(newer)]
        root = Path(__file__).parents[2]
        result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=root)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found.pop("none").startswith("POPE cannot be loaded from lmms-lab/none, split 'test': ")
    assert found == {"pope": 5, "seed": 3, "mmbench": 9, "llava_w": 3, "test": [""] * 9, "v1": 3}


BROKEN = {"bytes": b"not a picture", "path": None}
GONE = {"bytes": None, "path": "/nowhere/gone.png"}


@pytest.mark.parametrize(
    ("benchmark", "change", "status"),
    [
        ("pope", {"question": None}, "the question is empty"),
        ("pope", {"question": " \n"}, "the question is empty"),
        ("pope", {"answer": "maybe"}, "the answer is 'maybe', neither yes nor no"),
        ("pope", {"answer": None}, "the answer is None, neither yes nor no"),
        ("pope", {"category": "rare"}, "category is 'rare', none of random, popular, adversarial"),
        ("pope", {"category": None, "question_id": None}, "the question has no id"),
        ("pope", {"image_source": ""}, "image_source is empty"),
        ("pope", {"image": None}, "there is no image"),
        ("pope", {"image": BROKEN}, "the image cannot be read: it is no picture"),
        ("pope", {"image": GONE}, "the image /nowhere/gone.png cannot be read: there is no such file"),
        ("seed", {"image": []}, "there is no image"),
        ("seed", {"image": None}, "there is no image"),
        ("seed", {"image": [tiny_benchmarks.picture(0), BROKEN]}, "the image cannot be read"),
        ("seed", {"choice_b": None}, "option B is missing, but not all after it"),
        ("seed", {"choice_d": ""}, "there are 3 options, not 4"),
        ("seed", {"answer": "E"}, "the answer is 'E', not among A, B, C, D"),
        ("seed", {"answer": "AB"}, "the answer is 'AB', not among A, B, C, D"),
        ("seed", {"answer": ""}, "the answer is '', not among A, B, C, D"),
        ("seed", {"data_type": "sound"}, "data_type is 'sound', neither image nor video"),
        ("seed", {"question_type_id": 10}, "question_type_id is 10, none of 1, 2, 3"),
        ("seed", {"question_type_id": None}, "question_type_id is None, none of 1, 2, 3"),
        ("seed", {"question_id": None}, "the question has no id"),
        ("seed", {"data_id": None}, "data_id is empty"),
        ("mmbench", {"A": "nan", "B": "nan"}, "the number of options is 0"),
        ("mmbench", {"B": "nan"}, "the number of options is 1"),
        ("mmbench", {"D": "four"}, "option C is missing, but not all after it"),
        ("mmbench", {"answer": "C"}, "the answer is 'C', not among A, B"),
        ("mmbench", {"answer": "nan"}, "the answer is '', not among A, B"),
        ("mmbench", {"index": None}, "the question has no id"),
        ("mmbench", {"index": -3}, "the index is -3"),
        ("mmbench", {"question": "", "hint": "A hint."}, "the question is empty"),
        ("mmbench", {"image": None}, "there is no image"),
        ("mmbench", {"image": BROKEN}, "the image cannot be read"),
        ("llava_w", {"question": ""}, "the question is empty"),
        ("llava_w", {"gpt_answer": None}, "the reference answer (gpt_answer) is empty"),
        ("llava_w", {"caption": " "}, "the caption, from which the judge knows the picture, is empty"),
        ("llava_w", {"category": "all"}, "category is 'all', none of conv, detail, complex"),
        ("llava_w", {"image_id": None}, "image_id is empty"),
    ],
)
def test_a_bad_row_stays_with_its_reason(tmp_path, caplog, benchmark, change, status):
    good = load_questions(benchmark, WRITE[benchmark](tmp_path / "good", ROWS[benchmark](4)))
    assert not caplog.records
    rows = ROWS[benchmark](4)
    rows[3] |= change
    questions = load(tmp_path, benchmark, rows)
    # With all rotations, one question of MMBench has two of them, the bad one a single row.
    assert len(questions) == len(good) - (benchmark == "mmbench")
    bad = questions[-1]
    assert bad["status"].startswith(status)
    assert questions.select(range(len(questions) - 1)).to_list() == good.select(range(len(questions) - 1)).to_list()
    (record,) = caplog.records
    assert f"1 of {len(questions)} rows cannot be asked: {bad['question_id']}: {status}" in record.message


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_an_id_that_was_there_before(tmp_path, benchmark):
    rows = ROWS[benchmark](4)
    names = ["index"] if benchmark == "mmbench" else ["question_id", "category", "question_type_id"]
    names = [name for name in names if name in rows[0]]
    rows[2] |= {name: rows[1][name] for name in names}
    questions = load(tmp_path, benchmark, rows, circular=False)
    assert [status == "ok" for status in questions["status"]] == [True, True, False, True]
    name = questions[1]["question_id"]
    assert questions[2]["status"] == f"the id {name} was there before, in row 1"
    assert questions[2]["question_id"] == f"{name} (row 2)" and len(set(questions["question_id"])) == 4


def test_many_bad_rows_are_counted_and_some_named(tmp_path, caplog):
    rows = [{**row, "answer": "?"} for row in tiny_benchmarks.pope_rows(8)]
    rows[7]["answer"] = "no"
    assert len(load(tmp_path, "pope", rows)) == 8
    (record,) = caplog.records
    assert "POPE: 7 of 8 rows cannot be asked: adversarial-1: the answer is '?'" in record.message
    assert record.message.count("neither") == 5 and record.message.endswith("; …")


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_source_of_bad_rows_only_is_an_error(tmp_path, benchmark):
    rows = [{**row, "question": ""} for row in ROWS[benchmark](3)]
    folder = WRITE[benchmark](tmp_path / "data", rows)
    with pytest.raises(ValueError) as error:
        load_questions(benchmark, folder)
    layout = BENCHMARKS[benchmark]
    assert str(error.value).startswith(f"{layout.name}, {folder}, split '{layout.split}': none of 3 questions can be")
    assert str(error.value).endswith(": the question is empty") and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [Value("string"), Value("float64")])
@pytest.mark.parametrize(("benchmark", "column"), [("mmbench", "index"), ("seed", "question_type_id")])
def test_numbers_may_be_texts_or_floats(tmp_path, benchmark, column, kind):
    """As pandas reads a column that has an empty cell, and as some publish them."""
    layout = BENCHMARKS[benchmark]
    rows = [dict(row) for row in ROWS[benchmark](5)]
    good = load(tmp_path, benchmark, rows)
    rows[4][column] = None
    odd = load_dataset(str(WRITE[benchmark](tmp_path / "odd", rows)), layout.config, split=layout.split)
    odd.cast_column(column, kind).to_parquet(tmp_path / "data" / f"{layout.split}.parquet")
    questions = load_questions(benchmark, tmp_path / "data")
    found = [row for row in questions if row["status"] == "ok"]
    assert len(questions) == len(found) + 1 and found == good.to_list()[: len(found)]
    assert questions[-1]["status"] in ("the question has no id", "question_type_id is None, none of " + DIMENSIONS)


@pytest.mark.parametrize(("value", "status"), [("two", "'two'"), ("-2", "'-2'"), ("2.5", "'2.5'"), (" ", "' '")])
def test_texts_that_are_no_number_keep_their_reason(tmp_path, value, status):
    rows = tiny_benchmarks.seed_rows(2)
    odd = load_dataset(str(tiny_benchmarks.write_seed(tmp_path / "hub", rows)), split="test")
    odd = odd.cast_column("question_type_id", Value("string"))
    odd = Dataset.from_list([odd[0], {**odd[1], "question_type_id": value}], features=odd.features)
    odd.to_parquet(tmp_path / "data" / "test.parquet")
    questions = load_questions("seed", tmp_path / "data")
    assert questions["status"][:] == ["ok", f"question_type_id is {status}, none of {DIMENSIONS}"]


def test_seed_dimensions_may_number_their_questions_for_themselves(tmp_path, caplog):
    rows = [{**row, "question_id": "7"} for row in tiny_benchmarks.seed_rows(4)]
    questions = load(tmp_path, "seed", rows)
    assert set(questions["status"]) == {"ok"} and not caplog.records
    assert questions["question_id"][:] == ["1-7", "2-7", "3-7", "4-7"]


@pytest.mark.parametrize("column", ["category", "L2-category"])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_rotation_in_another_category_makes_its_question_incomplete(tmp_path, caplog, column, backwards):
    rows = tiny_benchmarks.mmbench_rows(4, circular=True)
    next(row for row in rows if row["index"] == 1_000_242)[column] = "elsewhere"
    questions = load(tmp_path, "mmbench", rows[::-1] if backwards else rows)
    (bad,) = (row for row in questions if row["status"] != "ok")
    assert bad["question_id"] == "1000242" and "elsewhere" in bad["status"] and "that of its question" in bad["status"]
    assert "1000242: its category is" in caplog.text
    asked = {"prediction": "A", "ended": True, "option_logprobs": None, "option_logprobs_blind": None}
    rows = [{**row, **asked, "option_status": None} for row in without_images(questions)]
    ways = count_answers("mmbench", Dataset.from_list(rows, features=PREDICTION_FEATURES))
    assert (ways[0].metric["incomplete_questions"], ways[0].metric["questions"]) == (["242"], 3)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_folder_in_another_layout(tmp_path, benchmark):
    layout = BENCHMARKS[benchmark]
    published = load_dataset(str(WRITE[benchmark](tmp_path / "hub", 3)), layout.config, split=layout.split)
    lost = layout.columns[1]
    published.remove_columns([lost, "image"]).to_parquet(tmp_path / "data" / f"{layout.split}.parquet")
    with pytest.raises(ValueError) as error:
        load_questions(benchmark, tmp_path / "data")
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'data'} is not in the layout of {layout.name} (as {layout.repository}): ")
    assert f"lacks {lost}, image;" in message
    assert message.endswith("its columns are " + ", ".join(n for n in published.features if n not in (lost, "image")))


def test_other_sources_that_cannot_be_used(tmp_path):
    rows = [{**row, "image": "a.png"} for row in tiny_benchmarks.pope_rows(3)]
    Dataset.from_list(rows).to_parquet(tmp_path / "paths" / "test.parquet")
    with pytest.raises(
        ValueError, match=r"POPE, .*none of 3 .*: the image .*/paths/a.png cannot be read: there is no such file"
    ):
        load_questions("pope", tmp_path / "paths")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "test.parquet").write_bytes(b"PAR1 and nothing else")
    other = tiny_benchmarks.write_pope(tmp_path / "mixed", 3) / "data" / "test-00001-of-00001.parquet"
    Dataset.from_dict({"text": ["Is it?"]}).to_parquet(other)
    for name in ("empty", "damaged", "absent", "mixed"):
        with pytest.raises(ValueError, match=f"POPE cannot be loaded from {tmp_path / name}, split 'test': .") as error:
            load_questions("pope", tmp_path / name)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert "Couldn't cast text: string" in str(error.value)
    folder = tiny_benchmarks.write_pope(tmp_path / "pope", 3)
    with pytest.raises(ValueError, match="POPE cannot be loaded from .*/pope, split 'val': .*test"):
        load_questions("pope", folder, split="val")
    with pytest.raises(ValueError, match="no benchmark 'mme'; there are pope, seed, mmbench, llava_w"):
        load_questions("mme", folder)
    videos = tiny_benchmarks.write_seed(tmp_path / "videos", 0, videos=2)
    with pytest.raises(ValueError, match=r"videos has no questions about images in split 'test' \(2 rows\)"):
        load_questions("seed", videos)


def test_a_marker_in_a_question(tmp_path, llava):
    """The question stays as it was published. Its one marker is the picture's place, as in every row; and a model whose
    control token it is is not asked with it as letters."""
    text = "What does <image> mean? [IMG] </s>"
    rows = tiny_benchmarks.llava_bench_rows(1)
    rows[0]["question"] = text
    (question,) = load(tmp_path, "llava_w", rows)
    assert (question["question"], question["status"], len(question["images"])) == (text, "ok", 1)
    (pair,) = to_turns(question)
    kinds = [item["type"] for item in pair.prompt[0]["content"]]
    assert kinds == ["text", "image", "text"] and len(pair.images) == 1
    with pytest.raises(RowError, match="contains the control token '<image>'"):
        encode_prompt(llava[1], [{"role": "user", "content": text}], [open_image(pair.images[0])])


def test_a_folder_that_has_changed_is_read_again(tmp_path):
    rows = tiny_benchmarks.pope_rows(3)
    folder = tiny_benchmarks.write_pope(tmp_path / "hub", rows)
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: data/test-*\n---\n")
    first, again = load_questions("pope", folder, split="train"), load_questions("pope", folder, split="train")
    assert first._fingerprint == again._fingerprint
    rows[1]["image"] = tiny_benchmarks.picture(50)
    tiny_benchmarks.write_pope(folder, rows)
    changed = load_questions("pope", folder, split="train")
    assert changed[1]["images"] == [rows[1]["image"]] and without_images(changed) == without_images(first)
    assert changed._fingerprint != first._fingerprint


def test_the_fingerprint_depends_on_the_rotations(tmp_path):
    folder = tiny_benchmarks.write_mmbench(tmp_path, 3, circular=False)
    once = load_questions("mmbench", folder, circular=False)
    assert load_questions("mmbench", folder)._fingerprint != once._fingerprint


def predictions(tmp_path, texts):
    """Prediction rows for all rotations of two questions of the test split."""
    folder = tiny_benchmarks.write_mmbench(tmp_path / "mmbench", 2)
    questions = without_images(load_questions("mmbench", folder, split="test"))
    return [{**question, "prediction": text} for question, text in zip(questions, texts)]


@pytest.mark.parametrize(("suffix", "read"), [("tsv", pd.read_table), ("csv", pd.read_csv)])
def test_submission(tmp_path, caplog, suffix, read):
    texts = ['B\nbecause "so",\tit is', "=SUM(A1)", None, "A\x00\x1b", " C. "]
    write_submission(predictions(tmp_path, texts), tmp_path / f"answers.{suffix}")
    table = read(tmp_path / f"answers.{suffix}", keep_default_na=False)
    columns = ["index", "question", "A", "B", "C", "D", "category", "l2-category", "prediction"]
    assert list(table.columns) == columns
    assert table["index"].tolist() == [241, 242, 1_000_241, 1_000_242, 2_000_242]
    assert table["prediction"].tolist() == ['B because "so", it is', " =SUM(A1)", "", "A  ", " C. "]
    assert table[["A", "B", "C", "D"]].values.tolist()[2:4] == [["green", "red", "", ""], ["green", "blue", "red", ""]]
    assert set(table["question"]) == {"Which colour is it?"}
    assert table["l2-category"][0] == "coarse_perception" and table["category"][0] == "image_scene"
    (record,) = caplog.records
    assert record.message.endswith("1 of 5 questions have no prediction: 1000241")


def test_submission_is_refused(tmp_path):
    rows = predictions(tmp_path, "ABABA")
    with pytest.raises(ValueError, match="answers.xlsx must end in .tsv or .csv"):
        write_submission(rows, tmp_path / "answers.xlsx")
    (tmp_path / "there.tsv").write_text("mine")
    with pytest.raises(ValueError, match="there.tsv is there already; give another name, or move it away"):
        write_submission(rows, tmp_path / "there.tsv")
    assert (tmp_path / "there.tsv").read_text() == "mine"
    (other,) = without_images(load(tmp_path, "pope", 1))
    with pytest.raises(ValueError, match="adversarial-1 is not a question of MMBench"):
        write_submission([*rows, {**other, "prediction": "yes"}], tmp_path / "answers.tsv")
    assert not list(tmp_path.glob("*answers*"))


def test_the_tiny_layouts_are_read_back_as_they_are_declared(tmp_path):
    for benchmark, features in (("pope", "POPE"), ("seed", "SEED"), ("mmbench", "MMBENCH"), ("llava_w", "LLAVA_BENCH")):
        layout = BENCHMARKS[benchmark]
        published = load_dataset(str(WRITE[benchmark](tmp_path / benchmark, 2)), layout.config, split=layout.split)
        assert published.features == getattr(tiny_benchmarks, features)
        assert set(layout.columns) | {"image"} <= set(published.features)
