"""Other people's rows, published: texts in every accepted layout give the same card, and are checked like our own."""

import json

import pytest
from datasets import Dataset, concatenate_datasets, load_dataset
from published import configs, facts, pairs, tokens_of
from tiny_models import tiny_llava

from c3l_hf.data.schema import SCORE_FEATURES
from c3l_hf.publishing.export import example_pictures, write_dataset
from c3l_hf.publishing.figures import dataset_figures
from c3l_hf.publishing.verify import verify_folder
from c3l_hf.scoring.scorer import I2CScorer

ITEM = {"type": "image", "text": None}


def text_item(text):
    return {"type": "text", "text": text}


def message(role, content):
    return {"role": role, "content": content}


# How a pair of question and answer about one image is written.
FORMS = {
    "messages": lambda q, a: {"prompt": [message("user", q)], "completion": [message("assistant", a)]},
    "texts": lambda q, a: {"prompt": q, "completion": a},
    "marked texts": lambda q, a: {"prompt": f"<image>\n{q}", "completion": a},
    "items": lambda q, a: {
        "prompt": [message("user", [ITEM, text_item(q)])],
        "completion": [message("assistant", [text_item(a)])],
    },
    "system": lambda q, a: {
        "prompt": [message("system", "Be short."), message("user", q)],
        "completion": [message("assistant", a)],
    },
    "question": lambda q, a: {"question": q, "answer": a},
    "instruction": lambda q, a: {"instruction": q, "output": a},
    "conversations": lambda q, a: {
        "conversations": [{"from": "human", "value": f"<image>\n{q}"}, {"from": "gpt", "value": a}]
    },
    "one list": lambda q, a: {"messages": [message("user", q), message("assistant", a)]},
    "Json": lambda q, a: {"messages": [message("user", [ITEM, text_item(q)]), message("assistant", a)]},
    "FineVision": lambda q, a: {"texts": [{"user": q, "assistant": a}]},
}


def written(form, dataset, folder):
    """The same rows in another form, as `datasets` reads it of a file; a row without a pair has null there."""
    lines = []
    for prompt, completion in zip(dataset["prompt"], dataset["completion"]):
        pair = FORMS[form](prompt[-1]["content"], completion[-1]["content"]) if prompt else None
        lines.append(json.dumps(pair or dict.fromkeys(FORMS[form]("q", "a"))))
    file = folder / f"{form}-{len(dataset)}.jsonl"
    file.write_text("\n".join(lines))
    texts = load_dataset("json", data_files=str(file), split="train", cache_dir=str(folder / "cache"))
    assert ("Json" in str(texts.features)) == (form == "Json")
    return concatenate_datasets([dataset.remove_columns(["prompt", "completion"]), texts], axis=1)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_published_in_any_layout(form, tmp_path):
    ours = configs()
    theirs = {
        name: written(form, ours[name], tmp_path) if name in ("default", "scored") else ours[name] for name in ours
    }
    expected = dataset_figures(ours["default"], ours["scored"]["i2c"][:])
    figures = dataset_figures(theirs["default"], theirs["scored"]["i2c"][:])
    assert figures == expected and figures["examples"][0][0].startswith("How many dogs")
    pictures = example_pictures(theirs["default"], figures["examples"])
    write_dataset(
        theirs,
        tmp_path / "dataset",
        facts(**figures, stages=[], truth=None, tokens=tokens_of(ours["scored"])),
        pictures,
    )
    checks = {check.name: check for check in verify_folder(tmp_path / "dataset")}
    assert list(checks) == "manifest files schema scores selection images figures card".split()
    assert all(check.ok for check in checks.values()), checks
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "| How many dogs are there in " in card


def test_a_changed_text_is_found_in_any_layout(tmp_path):
    parts = {name: written("question", configs()[name], tmp_path) for name in ("default", "scored")}
    kept = parts["default"]
    parts["default"] = kept.map(lambda row: {"answer": row["answer"] + "!"}, features=kept.features)
    figures = dataset_figures(parts["default"], parts["scored"]["i2c"][:])
    write_dataset(parts, tmp_path / "dataset", facts(**{**figures, "examples": None}))
    failed = {check.name: check.found for check in verify_folder(tmp_path / "dataset") if not check.ok}
    assert "is not so in the scored pool" in failed["selection"]


@pytest.mark.parametrize("form", ["marked texts", "Json", "question", "conversations"])
def test_rescoring_in_any_layout(form, tmp_path):
    """The model sees the rows again as it saw them before: questions, places of pictures, decoded values."""
    llava = tiny_llava()  # its own: saving a model changes its configuration
    for part in llava:
        part.save_pretrained(tmp_path / "model")
    rows = written(form, pairs(3), tmp_path)
    scored = I2CScorer(*llava, ranking="pmi").score(rows.to_list())
    assert all(row["i2c_status"] == "ok" for row in scored)
    values = Dataset.from_list(scored, features=SCORE_FEATURES)
    rows = concatenate_datasets([rows.remove_columns(values.column_names), values], axis=1)
    told = {**dataset_figures(rows, rows["i2c"][:]), "examples": None}
    write_dataset({"default": rows}, tmp_path / "dataset", facts(**told, generator="mine"))
    checks = verify_folder(tmp_path / "dataset", rescore=3, model=str(tmp_path / "model"))
    (rescoring,) = (check for check in checks if check.name == "rescoring")
    assert rescoring.ok and rescoring.found.startswith("3 rows by mine"), rescoring


def test_texts_of_others_stay_escaped(tmp_path):
    rows = written("texts", configs()["default"], tmp_path)
    evil = "<script>alert(1)</script> | [x](http://evil) `code` \x1b[31m"
    rows = rows.map(lambda row: {"prompt": evil, "completion": evil}, features=rows.features)
    figures = dataset_figures(rows, rows["i2c"][:])
    pictures = example_pictures(rows, figures["examples"])
    write_dataset({"default": rows}, tmp_path / "dataset", facts(**figures), pictures)
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "&#60;script&#62;" in card
    for raw in ("<script>", "\x1b", "[x](", "`code`"):
        assert raw not in card


def test_what_cannot_be_published(tmp_path):
    rows = written("texts", configs()["default"], tmp_path)
    with pytest.raises(ValueError, match="columns missing: i2c; found"):
        dataset_figures(rows.remove_columns("i2c"), [1.0])
    with pytest.raises(ValueError, match="accepted"):
        dataset_figures(rows.rename_column("prompt", "words"), [1.0])
    blank = rows.map(lambda row, number: {"completion": " " if number == 3 else "a"}, with_indices=True)
    with pytest.raises(ValueError, match="^row 3: the answer is empty$"):
        dataset_figures(blank, [1.0])
    single = rows.map(lambda row: {"image": row["images"][0]}, remove_columns="images")
    with pytest.raises(ValueError, match="the dataset 'default' must have its pictures in the column images, lists"):
        write_dataset({"default": single}, tmp_path / "dataset", facts())
    with pytest.raises(ValueError, match="the dataset 'default' must have its pictures in the column images, lists"):
        write_dataset({"default": rows.remove_columns("images")}, tmp_path / "dataset", facts())
    assert not (tmp_path / "dataset").exists()
