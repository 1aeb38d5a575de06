"""`c3l score` on other people's files."""

import base64
import io
import json
import os
import tarfile

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value, load_dataset
from PIL import Image as PILImage
from scored_rows import FEATURES, assert_same, pair, picture, png
from tiny_models import tiny_llava

from c3l_hf.cli import main
from c3l_hf.cli.score import some_images
from c3l_hf.data.schema import SCORE_COLUMNS
from c3l_hf.data.stored_rows import stored_row, stored_rows
from c3l_hf.files.opening import open_dataset
from c3l_hf.models.loading import Source
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
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    for part in tiny_llava():
        part.save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def llava_json(tmp_path):
    """LLaVA's own layout: one JSON, images named relative to a folder."""
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    rows = []
    for i in range(4):
        picture(i).save(tmp_path / "pictures" / "train" / f"{i}.png")
        turns = [("human", f"<image>\n{QUESTIONS[0]}"), ("gpt", ANSWERS[0]), ("human", QUESTIONS[1]), ("gpt", "two")]
        conversations = [{"from": who, "value": text} for who, text in turns]
        rows.append({"id": f"{i:03d}", "image": f"train/{i}.png", "conversations": conversations})
    rows[2]["image"] = "train/missing.png"
    del rows[3]["image"]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    return tmp_path / "data.json"


def score(*words):
    return main(["score", *map(str, words)])


def test_llava_json(folder, llava, llava_json, tmp_path, capsys):
    output = tmp_path / "scored.parquet"
    call = ["--model", folder, "--dataset", llava_json, "--output", output]
    assert score(*call, "--image_folder", tmp_path / "pictures") == 0
    printed = capsys.readouterr().out
    assert "4 rows, 2 with scores, 2 without" in printed and f"packed path → {output}" in printed
    scored = load_dataset("parquet", data_files=str(output), split="train", cache_dir=str(tmp_path / "again"))
    assert scored["id"][:] == ["000", "001", "002", "003"]
    assert (
        "missing.png cannot be read" in scored["i2c_status"][2]
        and "1 <image> markers for 0 images" in scored["i2c_status"][3]
    )
    expected = I2CScorer(*llava, image_folder=tmp_path / "pictures").score(json.loads(llava_json.read_text())[:2])
    assert_same(list(scored.select_columns(list(SCORE_COLUMNS)))[:2], expected)
    assert [len(turns) for turns in scored["turns"][:2]] == [2, 2]
    before = output.read_bytes()
    assert score(*call) == 1
    assert capsys.readouterr().err == (
        f"c3l score: --output {output} is there already; give another name, or overwrite it (--overwrite)\n"
    )
    assert output.read_bytes() == before
    assert score(*call, "--overwrite", "--image_folder", tmp_path / "pictures", "--limit", 1) == 0
    assert len(open_dataset(output)) == 1


def test_a_saved_dataset_to_jsonl(folder, llava, dataset, tmp_path, capsys):
    dataset.save_to_disk(tmp_path / "saved")
    output, config = tmp_path / "scored.jsonl", tmp_path / "score.yaml"
    config.write_text(f"model: {folder}\ndataset: {tmp_path / 'saved'}\nlimit: 5\npath: plain\n")
    assert score("--config", config, "--output", output) == 0
    assert "batched path" in capsys.readouterr().out
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(5)) and "image" not in rows[0]
    expected = I2CScorer(*llava).score(list(dataset.select(range(5)).cast_column("image", Image(decode=False))))
    assert_same([{name: row[name] for name in SCORE_COLUMNS} for row in rows], expected)


def test_a_folder_as_the_result(folder, dataset, tmp_path):
    dataset.to_parquet(tmp_path / "rows.parquet")
    call = ["--model", folder, "--dataset", tmp_path / "rows.parquet", "--output", f"{tmp_path}/scored/"]
    assert score(*call) == 0
    scored = open_dataset(tmp_path / "scored")
    assert scored["id"][:] == list(range(9)) and scored.features["image"] == Image()
    assert scored.cast_column("image", Image(decode=False))[0]["image"]["bytes"] == png(0)
    (tmp_path / "scored" / "notes.txt").write_text("mine")
    assert score(*call, "--overwrite") == 1
    assert (tmp_path / "scored" / "notes.txt").read_text() == "mine"


def test_nothing_that_can_be_scored_is_a_failure(folder, dataset, tmp_path, capsys):
    dataset.select([4, 7]).to_parquet(tmp_path / "rows.parquet")
    output = tmp_path / "scored.parquet"
    assert score("--model", folder, "--dataset", tmp_path / "rows.parquet", "--output", output) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"c3l score: none of 2 rows has a score; {output} has the reasons in i2c_status"
    )
    assert open_dataset(output)["i2c_status"][0] == "the answer is empty"


def test_how_the_model_is_loaded_reaches_it(folder, dataset, tmp_path, monkeypatch):
    dataset.to_parquet(tmp_path / "rows.parquet")
    loaded = []

    def spy(source):
        loaded.append(source)
        raise OSError("seen")

    monkeypatch.setattr("c3l_hf.scoring.scorer.load", spy)
    call = ["--model", folder, "--dataset", tmp_path / "rows.parquet", "--output", tmp_path / "scored.parquet"]
    how = "--dtype bfloat16 --device_map cpu --attn_implementation eager --trust_remote_code".split()
    assert score(*call, *how) == 1
    assert loaded == [
        Source(str(folder), None, "bfloat16", trust_remote_code=True, device_map="cpu", attn_implementation="eager")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--output": "scored.txt"}, "--output scored.txt must end in .parquet or .jsonl"),
        ({"--output": "/nowhere/at/all.parquet"}, "there is no folder /nowhere/at"),
        ({"--dataset": "/nowhere.json"}, "/nowhere.json: there is no such file or folder"),
        ({"--model": "/nowhere/model"}, "/nowhere/model"),
        ({"--blind": "dark"}, "--blind: invalid choice: 'dark' (choose from 'drop', 'blank', 'noise', 'shuffle')"),
        ({"--ranking": "beauty"}, "--ranking: invalid choice: 'beauty'"),
        ({"--image_folder": "/nowhere"}, "--image_folder /nowhere is not a folder"),
        ({"--scoring_max_tokens": "0"}, "max_tokens is 0; it must be at least 1"),
    ],
)
def test_bad_options_end_in_one_line(folder, llava_json, tmp_path, capsys, options, message):
    default = {"--model": folder, "--dataset": llava_json, "--output": tmp_path / "scored.parquet"}
    assert score(*[part for pair in {**default, **options}.items() for part in pair]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("c3l score: ") and message in line
    assert not (tmp_path / "scored.parquet").exists()


def test_a_folder_that_cannot_be_written_to_is_found_before_any_work(folder, dataset, tmp_path, capsys, monkeypatch):
    dataset.to_parquet(tmp_path / "rows.parquet")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root may write everywhere
    monkeypatch.setattr("c3l_hf.scoring.scorer.load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert score("--model", folder, "--dataset", tmp_path / "rows.parquet", "--output", tmp_path / "a.parquet") == 1
    assert f"--output {tmp_path}/a.parquet: nothing may be written into {tmp_path}" in capsys.readouterr().err


def test_rows_in_no_layout(folder, dataset, tmp_path, capsys):
    dataset.remove_columns("answer").to_parquet(tmp_path / "rows.parquet")
    assert score("--model", folder, "--dataset", tmp_path / "rows.parquet", "--output", tmp_path / "a.parquet") == 1
    assert "accepted are: prompt" in capsys.readouterr().err


def test_shuffle_takes_its_images_from_the_rows(dataset):
    images = list(some_images(dataset, None))
    assert len(images) == 8 and all(isinstance(image, PILImage.Image) for image in images)  # one cannot be read


@pytest.fixture
def german(tmp_path):
    """A TSV with its own names, and answers that look like numbers."""
    pictures = [base64.b64encode(png(number)).decode() for number in range(3)]
    rows = {"bild": pictures, "frage": QUESTIONS, "antwort": ["1", "02", "3"], "messages": ["x"] * 3}
    pd.DataFrame(rows).to_csv(tmp_path / "rows.tsv", sep="\t", index=False)
    return tmp_path / "rows.tsv"


def test_columns_of_other_names_keep_them(folder, llava, german, tmp_path, capsys):
    output, config = tmp_path / "scored.parquet", tmp_path / "score.yaml"
    call = ["--model", folder, "--dataset", german, "--output", output]
    assert score(*call, "--columns", "question=frage", "answer=antwort", "image=bild") == 1
    assert "leave out messages (columns with messages: null)" in capsys.readouterr().err
    config.write_text("columns: {question: frage, answer: antwort, image: bild, messages: null}")
    assert score(*call, "--config", config) == 0
    scored = open_dataset(output)
    assert scored.column_names[:4] == ["bild", "frage", "antwort", "messages"]
    assert scored["antwort"][:] == ["1", "02", "3"]
    rows = [
        {"question": q, "answer": a, "image": picture(n)} for n, (q, a) in enumerate(zip(QUESTIONS, ["1", "02", "3"]))
    ]
    assert_same(list(scored.select_columns(list(SCORE_COLUMNS))), I2CScorer(*llava).score(rows))
    words = "question=frage,answer=antwort,image=bild,messages="
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("C3L_COLUMNS", words)
        assert score(*call, "--overwrite") == 0
    for words, message in {
        ("question=frage", "answer=i2c", "image=bild"): "columns: answer=i2c, but a column i2c is added to the result",
        ("question",): "columns: 'question' is not NAME=COLUMN",
        ("question=a", "question=b"): "columns: question is given twice",
    }.items():
        assert score(*call, "--overwrite", "--columns", *words) == 1
        assert message in capsys.readouterr().err


def test_each_of_several_answers(folder, llava, tmp_path):
    answers = [[{"answer": "two", "id": 1}, {"answer": "a dog", "id": 2}], [{"answer": "red", "id": 1}]]
    images = [{"bytes": png(number), "path": None} for number in range(2)]
    rows = Dataset.from_dict({"image": images, "question": QUESTIONS[:2], "answers": answers})
    rows.to_parquet(tmp_path / "vqa.parquet")
    call = ["--model", folder, "--dataset", tmp_path / "vqa.parquet", "--output", tmp_path / "scored.parquet"]
    assert score(*call, "--answers", "each") == 0
    scored = open_dataset(tmp_path / "scored.parquet")
    assert scored["answer"][:] == ["two", "a dog", "red"] and scored["answer_number"][:] == [1, 2, 1]
    assert scored["answers"][:] == [answers[0], answers[0], answers[1]]
    expected = [(0, "two"), (0, "a dog"), (1, "red")]
    rows = [{"question": QUESTIONS[row], "answer": answer, "image": picture(row)} for row, answer in expected]
    assert_same(list(scored.select_columns(list(SCORE_COLUMNS))), I2CScorer(*llava).score(rows))
    assert score(*call, "--answers", "first", "--overwrite") == 0
    assert open_dataset(tmp_path / "scored.parquet")["answer"][:] == ["two", "red"]


def test_a_webdataset(folder, llava, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number in range(3):
            content = png(number) if number else png(number)[:60]
            text = json.dumps({"question": QUESTIONS[number], "answer": ANSWERS[number]}).encode()
            for ending, data in (("png", content), ("json", text)):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    assert score("--model", folder, "--dataset", tmp_path / "*.tar", "--output", tmp_path / "scored/") == 0
    scored = open_dataset(tmp_path / "scored")
    assert "cannot be read" in scored["i2c_status"][0] and scored["__key__"][:] == ["0", "1", "2"]
    rows = [{"question": QUESTIONS[n], "answer": ANSWERS[n], "image": picture(n)} for n in (1, 2)]
    assert_same(list(scored.select_columns(list(SCORE_COLUMNS)))[1:], I2CScorer(*llava).score(rows))


def test_curated_pairs_keep_their_own_names(tmp_path):
    rows = [pair("a.jpg", number, number / 10) for number in range(4)]
    dataset = Dataset.from_list(rows, features=FEATURES).rename_columns({"prompt": "eingabe", "image_id": "bild"})
    dataset.to_parquet(tmp_path / "pairs.parquet")
    call = ["curate", "--dataset", tmp_path / "pairs.parquet", "--output", tmp_path / "curated.parquet"]
    options = ["--target_size", "2", "--columns", "prompt=eingabe", "image_id=bild"]
    assert main([*map(str, call), *options]) == 0
    curated = open_dataset(tmp_path / "curated.parquet")
    assert len(curated) == 2 and {"eingabe", "bild", "completion"} <= set(curated.column_names)
    assert not {"prompt", "image_id"} & set(curated.column_names)


@pytest.mark.parametrize("output", ["scored.parquet", "scored/"])
@pytest.mark.parametrize("several", [False, True])
def test_images_that_are_not_here_do_not_end_the_writing(folder, tmp_path, output, several):
    picture(0).save(tmp_path / "a.png")
    names = [str(tmp_path / "a.png"), str(tmp_path / "gone.png"), "http://127.0.0.1:9/b.png?token=secret", None]
    content = png(1)
    values = [{"bytes": None, "path": name} if name else {"bytes": content, "path": None} for name in names]
    texts = {"question": [QUESTIONS[0]] * 5, "answer": [ANSWERS[0]] * 5}
    column, feature = ("images", List(Image())) if several else ("image", Image())
    images = [[value] if several else value for value in values] + [None]
    features = Features({column: feature, "question": Value("string"), "answer": Value("string")})
    table = pa.table({column: images, **texts}).cast(features.arrow_schema)
    pq.write_table(table, tmp_path / "rows.parquet")
    assert score("--model", folder, "--dataset", tmp_path / "rows.parquet", "--output", f"{tmp_path}/{output}") == 0
    scored = open_dataset(tmp_path / output)
    assert scored.features[column] == feature
    assert [status == "ok" for status in scored["i2c_status"]] == [True, False, False, True, False]
    assert "which is not fetched" in scored["i2c_status"][2] and "secret" not in scored["i2c_status"][2]
    kept = [row[column] for row in stored_rows(scored.with_format("arrow")[:], scored.features)]
    kept = [value[0] if several and value else value for value in kept]
    assert kept[0] == {"bytes": (tmp_path / "a.png").read_bytes(), "path": "a.png"}
    assert kept[1:] == [*values[1:], None]


def test_pictures_within_messages_leave_the_texts_in_jsonl(folder, tmp_path):
    item = {"type": Value("string"), "text": Value("string"), "image": Image()}
    features = Features({"messages": List({"role": Value("string"), "content": List(item)}), "id": Value("int64")})
    question = [{"type": "image", "text": None, "image": {"bytes": png(0), "path": "a.png"}}]
    question += [{"type": "text", "text": QUESTIONS[0], "image": None}]
    answer = [{"type": "text", "text": ANSWERS[0], "image": None}]
    row = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], "id": 7}
    Dataset.from_list([row, row], features=features).to_parquet(tmp_path / "rows.parquet")
    call = ["--model", folder, "--dataset", tmp_path / "rows.parquet", "--output"]
    assert score(*call, tmp_path / "scored.jsonl") == 0 and score(*call, tmp_path / "scored.parquet") == 0
    lines = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert [line["i2c_status"] for line in lines] == ["ok", "ok"]
    user, assistant = lines[1]["messages"]
    assert [part["text"] for part in user["content"]] == [None, QUESTIONS[0]] and user["content"][0]["type"] == "image"
    assert user["content"][0]["image"] == {"bytes": None, "path": "a.png"} and user["content"][1]["image"] is None
    assert assistant["content"][0]["text"] == ANSWERS[0]
    scored = open_dataset(tmp_path / "scored.parquet")
    assert stored_row(scored, 1)["messages"][0]["content"][0]["image"]["bytes"] == png(0)
