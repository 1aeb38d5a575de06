"""Question files as the benchmarks' authors and VLMEvalKit publish them, with pictures of every kind, some bad."""

import base64
import csv
import io
import json

import datasets
import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, Json, Value

from c3l_hf.evaluation.questions import QUESTION_FEATURES, load_questions
from c3l_hf.files.image import open_image


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(number, form="PNG", mode="RGB"):
    """The content of a picture of one colour, other for every number."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (24, 24), (40 * number % 256, 90, 200)).convert(mode).save(file, form)
    return file.getvalue()


def text_of(content):
    return base64.b64encode(content).decode()


def colour(question):
    return open_image(question["images"][0]).getpixel((3, 3))


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def write_tsv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_pictures(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(picture(number))


# --- POPE

POPE = [
    {"question_id": 1, "image": "COCO_1.png", "text": "Is there a snowboard in the image?", "label": "yes"},
    {"question_id": 2, "image": "COCO_1.png", "text": "Is there a car in the image?", "label": "no"},
    {"question_id": 3, "image": "COCO_2.png", "text": "Is there a dog in the image?", "label": "no"},
]


def test_pope_of_its_authors(tmp_path, caplog):
    file = write_lines(tmp_path / "coco_pope_random.json", POPE)
    write_pictures(tmp_path / "pictures", ["COCO_1.png", "COCO_2.png"])
    questions = load_questions("pope", file, image_folder=tmp_path / "pictures")
    assert questions.features == QUESTION_FEATURES and set(questions["status"]) == {"ok"} and not caplog.records
    assert questions["question_id"][:] == ["random-1", "random-2", "random-3"]
    assert questions["answer"][:] == ["yes", "no", "no"] and set(questions["group"]) == {"random"}
    assert questions["cluster"][0] == questions["cluster"][1] != questions["cluster"][2]
    assert [colour(row) for row in questions] == [(0, 90, 200), (0, 90, 200), (40, 90, 200)]


def test_pope_three_categories_in_a_folder_and_pictures_beside_them(tmp_path):
    for category in ("adversarial", "popular", "random"):
        write_lines(tmp_path / "coco" / f"coco_pope_{category}.json", POPE)
    write_pictures(tmp_path / "coco", ["COCO_1.png", "COCO_2.png"])
    questions = load_questions("pope", tmp_path / "coco")
    assert len(questions) == 9 and set(questions["status"]) == {"ok"} and len(set(questions["cluster"])) == 2
    assert questions["group"][:] == ["adversarial"] * 3 + ["popular"] * 3 + ["random"] * 3
    write_lines(tmp_path / "coco" / "gqa_pope_random.json", POPE)
    with pytest.raises(ValueError, match=r"several files of the category random: coco_pope_random.json, gqa_pope_ran"):
        load_questions("pope", tmp_path / "coco")


def test_ids_that_are_numbers_and_texts(tmp_path):
    """`datasets` keeps such a column as JSON text: the id "2" is not to become "\\"2\\""."""
    rows = [{**row, "question_id": name} for row, name in zip(POPE, [1, "2", None])]
    write_lines(tmp_path / "coco" / "coco_pope_random.json", rows)
    write_pictures(tmp_path / "coco", ["COCO_1.png", "COCO_2.png"])
    for source in (tmp_path / "coco", tmp_path / "coco" / "coco_pope_random.json"):
        questions = load_questions("pope", source)
        assert questions["question_id"][:] == ["random-1", "random-2", ""]
        assert questions["status"][:] == ["ok", "ok", "the question has no id"]


def test_pope_without_a_category_is_refused(tmp_path):
    for name in ("questions.jsonl", "random_popular.jsonl"):
        file = write_lines(tmp_path / name, POPE)
        with pytest.raises(ValueError, match="its name does not say random, popular or adversarial: name it after its"):
            load_questions("pope", file)


def test_bad_pictures_and_answers_keep_their_rows(tmp_path, caplog):
    names = ["damaged.png", "gone.png", "../outside.png", "", None, "COCO_1.png", "COCO_1.png"]
    labels = ["yes"] * 6 + ["perhaps"]
    asked = zip(names, labels)
    rows = [{**POPE[0], "question_id": n, "image": name, "label": label} for n, (name, label) in enumerate(asked)]
    file = write_lines(tmp_path / "data" / "pope_popular.jsonl", rows)
    write_pictures(tmp_path / "data", ["COCO_1.png"])
    write_pictures(tmp_path, ["outside.png"])
    (tmp_path / "data" / "damaged.png").write_bytes(b"not a picture")
    questions = load_questions("pope", file)
    expected = [
        "cannot be read: it is no picture",
        "cannot be read: there is no such file",
        "is not in the folder",
        "there is no image",
    ]
    expected += ["there is no image", "ok", "the answer is 'perhaps', neither yes nor no"]
    assert len(questions) == 7
    for status, part in zip(questions["status"], expected):
        assert part in status and len(status) <= 200 and status.isprintable()
    assert "6 of 7 rows cannot be asked" in caplog.records[-1].message


def test_pope_of_vlmevalkit(tmp_path):
    rows = [
        {"index": n, "image": image, "question": row["text"], "answer": row["label"].capitalize(), "category": kind}
        for n, (row, image, kind) in enumerate(
            zip(POPE, [text_of(picture(3)), "0", text_of(picture(4, "JPEG"))], ["random", "popular", "adversarial"])
        )
    ]
    questions = load_questions("pope", write_tsv(tmp_path / "POPE.tsv", rows))
    assert set(questions["status"]) == {"ok"} and questions["answer"][:] == ["yes", "no", "no"]
    assert questions["question_id"][:] == ["random-0", "popular-1", "adversarial-2"]
    assert colour(questions[0]) == colour(questions[1]) == (120, 90, 200)
    assert questions["cluster"][0] == questions["cluster"][1] != questions["cluster"][2]


def test_folders_that_are_not_there(tmp_path):
    file = write_lines(tmp_path / "coco_pope_random.json", POPE)
    with pytest.raises(ValueError, match="the image folder .*/nowhere of POPE does not exist"):
        load_questions("pope", file, image_folder=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"none of 3 questions can be asked; the first, random-1: the image .* cannot"):
        load_questions("pope", file)


# --- SEED-Bench


def seed_row(number, **changes):
    return {
        "answer": "B",
        **{"choice_a": "One", "choice_b": "Two", "choice_c": "Three", "choice_d": "Four"},
        "data_id": f"1454426_{number}",
        "data_type": "image",
        "question": "How many towels are in the image?",
        "question_id": str(101669 + number),
        "question_type_id": 5,
        "segment": None,
        **changes,
    }


def test_seed_of_its_authors(tmp_path):
    """One object with the list of the questions, whose pictures are files without an ending; some are about videos."""
    video = {"data_type": "video", "data_id": "v.webm", "question_type_id": 10, "segment": [0, 3]}
    rows = [seed_row(0), seed_row(1, **video), seed_row(2, choice_c=None), seed_row(3), seed_row(4)]
    file = tmp_path / "SEED-Bench.json"
    file.write_text(json.dumps({"questions": rows, "question_type": {"Scene Understanding": 1}}))
    write_pictures(tmp_path / "SEED-Bench-image", ["1454426_0", "1454426_2", "1454426_3.jpg"])
    questions = load_questions("seed", file, image_folder=tmp_path / "SEED-Bench-image")
    assert "left out: 1 about videos" in questions.info.description and len(questions) == 4
    assert [status.split(":")[0] for status in questions["status"]][:3] == [
        "ok",
        "option C is missing, but not all after it",
        "ok",
    ]
    assert "1454426_4 cannot be read: there is no such file" in questions["status"][3]
    assert questions["cluster"][0] == "1454426_0" and questions["group"][0] == "Instances Counting"
    assert colour(questions[2]) == (80, 90, 200)


def test_seed_of_vlmevalkit(tmp_path):
    rows = [
        {
            **{
                "index": n,
                "image": text_of(picture(n)),
                "question": "What is it?",
                "A": "None",
                "B": "NA",
                "C": "1.50",
            },
            **{"D": "True", "answer": "A", "category": "Text Understanding"},
        }
        for n in range(2)
    ]
    questions = load_questions("seed", write_tsv(tmp_path / "SEEDBench_IMG.tsv", rows))
    assert set(questions["status"]) == {"ok"} and set(questions["group"]) == {"Text Understanding"}
    # As they stand, and not what a reader of tables makes of them.
    assert questions["options"][0] == ["None", "NA", "1.50", "True"]


# --- MMBench


def mmbench_row(index, image, **changes):
    return {
        **{"index": index, "question": "Which is right?", "hint": "", "A": "cat", "B": "dog", "C": "", "D": ""},
        **{"answer": "B", "category": "ocr", "image": image, "l2-category": "coarse_perception", "split": "dev"},
        **changes,
    }


def test_mmbench_of_vlmevalkit(tmp_path, caplog):
    """Rotations share the picture of the row as it was asked first, by its index."""
    rgba = text_of(picture(5, "PNG", "RGBA"))
    rows = [
        mmbench_row(7, text_of(picture(1))),
        mmbench_row(1_000_007, "7", A="dog", B="cat", answer="A"),
        mmbench_row(8, f"data:image/png;base64,{rgba}", hint="Look.", A="None", B="nothing, really", C="2"),
        mmbench_row(1_000_008, "8", hint="Look.", A="nothing, really", B="2", C="None", answer="A"),
        mmbench_row(2_000_008, "8", hint="Look.", A="2", B="None", C="nothing, really", answer="C"),
    ]
    questions = load_questions("mmbench", write_tsv(tmp_path / "MMBench_DEV_EN.tsv", rows))
    assert set(questions["status"]) == {"ok"} and not caplog.records
    assert questions["question_id"][:] == ["7", "1000007", "8", "1000008", "2000008"]
    assert questions["options"][2] == ["None", "nothing, really", "2"] and questions["options"][0] == ["cat", "dog"]
    assert [colour(row) for row in questions] == [(40, 90, 200)] * 2 + [(200, 90, 200)] * 3
    assert len(set(questions["cluster"])) == 2 and set(questions["group"]) == {"coarse_perception"}


def test_mmbench_rows_that_cannot_be_asked(tmp_path):
    damaged = text_of(picture(1)[:12] + bytes(90))
    rows = [
        mmbench_row(1, text_of(picture(1))),
        mmbench_row(2, damaged),
        mmbench_row(3, "99"),
        mmbench_row(4, ""),
        mmbench_row(5, "4"),
        mmbench_row(6, text_of(picture(1)), answer="C"),
        mmbench_row(7, text_of(picture(1)), B="", D="x"),
    ]
    questions = load_questions("mmbench", write_tsv(tmp_path / "MMBench.tsv", rows), circular=False)
    status = dict(zip(questions["question_id"], questions["status"]))
    assert len(questions) == 7 and status["1"] == "ok"
    assert "cannot be read" in status["2"] and "/99 cannot be read: there is no such file" in status["3"]
    assert status["4"] == status["5"] == "there is no image"
    assert status["6"] == "the answer is 'C', not among A, B" and status["7"].startswith("option B is missing")
    assert all(len(text) <= 200 and "AAAA" not in text for text in status.values())


def test_mmbench_of_the_split_that_was_asked_for(tmp_path):
    rows = [mmbench_row(1, text_of(picture(1))), mmbench_row(2, text_of(picture(2)), split="test", answer="")]
    file = write_tsv(tmp_path / "MMBench.tsv", rows)
    assert load_questions("mmbench", file, circular=False)["question_id"][:] == ["1"]
    assert load_questions("mmbench", file, split="test", circular=False)["question_id"][:] == ["2"]
    blind = [{name: value for name, value in row.items() if name not in ("answer", "hint")} for row in rows[1:]]
    test = write_tsv(tmp_path / "MMBench_TEST.tsv", blind)
    assert load_questions("mmbench", test, split="test", circular=False)["answer"][:] == [""]
    with pytest.raises(ValueError, match="split 'dev': its rows are of the split test"):
        load_questions("mmbench", test)


def test_options_beyond_those_of_the_benchmark_are_refused(tmp_path):
    file = write_tsv(tmp_path / "other.tsv", [mmbench_row(1, text_of(picture(1)), C="x", D="y") | {"E": "z"}])
    with pytest.raises(ValueError, match="row 0 has an option E; MMBench has A, B, C, D"):
        load_questions("mmbench", file)
    lacking = [{name: value for name, value in mmbench_row(1, "").items() if name != "l2-category"}]
    with pytest.raises(ValueError, match="it lacks L2-category; its columns are index, question"):
        load_questions("mmbench", write_tsv(tmp_path / "lacking.tsv", lacking))


def test_options_in_a_json_column(tmp_path):
    """Texts in some rows, numbers and lists in others: stored as JSON text, read as what they are."""
    rows = [mmbench_row(n, None, A=a, B=b) for n, (a, b) in enumerate([("two", "3"), (2, 3), (["x"], "y")])]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["image"] = [picture(n) for n in range(3)]
    features = datasets.Features(
        {
            **{name: Value("string") for name in columns},
            **{"index": Value("int64"), "image": Value("binary"), "A": Json(), "B": Json()},
        }
    )
    dataset = Dataset.from_dict(columns, features=features)
    dataset.save_to_disk(tmp_path / "saved")
    questions = load_questions("mmbench", tmp_path / "saved", circular=False)
    assert questions["options"][:2] == [["two", "3"], ["2", "3"]]
    assert questions["status"][:2] == ["ok", "ok"] and questions["status"][2] == "A is list, not a text"
    assert [colour(row)[0] for row in questions] == [0, 40, 80]


# --- LLaVA-Bench


def write_llava_bench(folder):
    questions = [
        {"question_id": n, "image": f"00{n}.jpg", "text": f"What is {n}?", "category": kind}
        for n, kind in enumerate(("conv", "detail", "complex"))
    ]
    write_lines(folder / "questions.jsonl", questions)
    write_lines(
        folder / "context.jsonl", [{"id": n, "image": f"00{n}.jpg", "caption": f"Picture {n}."} for n in range(2)]
    )
    references = [{"question_id": n, "text": f"It is {n}.", "answer_id": "x", "metadata": {}} for n in range(3)]
    write_lines(folder / "answers_gpt4.jsonl", references)
    write_lines(folder / "bard_0718.jsonl", [{"question_id": 0, "text": "No."}])
    write_pictures(folder / "images", ["000.jpg", "001.jpg", "002.jpg"])
    return folder


def test_llava_bench_of_its_authors(tmp_path):
    questions = load_questions("llava_w", write_llava_bench(tmp_path))
    assert questions["status"][:2] == ["ok", "ok"] and "the caption, from which" in questions["status"][2]
    assert questions["answer"][:] == ["It is 0.", "It is 1.", "It is 2."] and questions["cluster"][1] == "001"
    assert json.loads(questions[1]["meta"])["caption"] == "Picture 1." and questions["question"][1] == "What is 1?"
    assert colour(questions[1]) == (40, 90, 200)
    (tmp_path / "answers_gpt4.jsonl").unlink()
    with pytest.raises(ValueError, match=r"has questions.jsonl, but not answers_gpt4.jsonl"):
        load_questions("llava_w", tmp_path)


# --- pictures


@pytest.mark.parametrize(
    "form",
    ["base64", "data URL", "bytes", "dict of bytes", "path", "dict of a path", "dict of a URL", "list", "file URL"],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_pictures_of_every_kind(tmp_path, form, mode):
    content = picture(2, "PNG", mode)
    (tmp_path / "a.png").write_bytes(content)
    value = {
        "base64": text_of(content),
        "data URL": f"data:image/png;base64,{text_of(content)}",
        "bytes": content,
        "dict of bytes": {"bytes": content, "path": None},
        "path": "a.png",
        "dict of a path": {"path": "a.png"},
        "dict of a URL": {"url": f"data:image/png;base64,{text_of(content)}"},
        "list": ["a.png"],
        "file URL": (tmp_path / "a.png").as_uri(),
    }[form]
    rows = [{**row, "image": value, "category": "random"} for row in POPE[:2]]
    Dataset.from_list(rows).to_parquet(tmp_path / "pope.parquet")
    questions = load_questions("pope", tmp_path / "pope.parquet")
    assert set(questions["status"]) == {"ok"} and len(set(questions["cluster"])) == 1
    shown = np.asarray(open_image(questions[1]["images"][0]))
    assert np.array_equal(shown, np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB")))


def test_a_picture_on_nothing_is_on_white(tmp_path):
    file = io.BytesIO()
    PIL.Image.new("RGBA", (24, 24), (0, 0, 0, 0)).save(file, "PNG")
    row = {"index": 1, "image": text_of(file.getvalue()), "question": "Is there a dog?", "answer": "no"}
    questions = load_questions("pope", write_tsv(tmp_path / "POPE.tsv", [{**row, "category": "random"}]))
    assert colour(questions[0]) == (255, 255, 255)


@pytest.mark.parametrize("value", [3, 2.5, True])
def test_values_that_are_no_pictures(tmp_path, value):
    rows = [{**POPE[0], "image": value, "category": "random"}]
    Dataset.from_list(rows).to_parquet(tmp_path / "pope.parquet")
    with pytest.raises(ValueError, match="random-1: the image is (a number|true or false), not a picture"):
        load_questions("pope", tmp_path / "pope.parquet")
