"""`c3l convert`: its sources, its options, and what it tells."""

import json

import pytest
from datasets import Dataset
from scored_rows import picture, png

from c3l_hf.cli import main
from c3l_hf.data.written_layouts import written_rows
from c3l_hf.files.opening import open_dataset


def call(*words):
    return main(["convert", *map(str, words)])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def table(tmp_path):
    """Somebody's table: other names, paths into a folder, one of which is wrong, and pictures' names that differ."""
    (tmp_path / "bilder").mkdir()
    for number in range(2):
        picture(number).save(tmp_path / "bilder" / f"{number}.png")
    names = ["0.png", "1.png", "0.png", "weg.png", "fort.png"]
    lines = ["bild,frage,antwort,wert", *(f'{name},"Was, hier?",{n},0.5' for n, name in enumerate(names))]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    columns = ("--columns", "question=frage", "answer=antwort", "image=bild")
    return tmp_path / "rows.csv", *columns, "--image_folder", tmp_path / "bilder"


def test_what_is_left_out_is_told_counted_and_listed(table, tmp_path, capsys):
    assert call(*table, "--to", "sharegpt", "--output", tmp_path / "out") == 0
    told = capsys.readouterr().out
    (line,) = (line for line in told.splitlines() if "no such file" in line)
    assert line.split("  ")[0] == "the image cannot be read (there is no such file), as row 3" and line.endswith(" 2")
    assert "is --image_folder, where relative paths begin, given and right?" in told
    assert f"3 of 5 rows, 2 pictures → {tmp_path / 'out' / 'data.json'}" in told.splitlines()
    assert "weg.png" in (tmp_path / "out" / "left_out.txt").read_text()
    rows = json.loads((tmp_path / "out" / "data.json").read_text())
    assert [row["conversations"][1]["value"] for row in rows] == ["0", "1", "2"]
    assert rows[0]["images"] == rows[2]["images"] != rows[1]["images"] and rows[0]["wert"] == 0.5


def test_a_run_is_its_dataset(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert call(tmp_path / "run", "--to", "jsonl", "--output", tmp_path / "out") == 1
    assert "is the folder of a run that has written no dataset yet" in capsys.readouterr().err
    rows = [{"images": [{"bytes": png(0), "path": None}], "messages": [{"role": "user", "content": "Q?"}]}]
    rows[0]["messages"].append({"role": "assistant", "content": "A."})
    Dataset.from_list(rows).save_to_disk(tmp_path / "run" / "dataset")
    assert call(tmp_path / "run", "--to", "jsonl", "--output", tmp_path / "out") == 0
    assert len(open_dataset(tmp_path / "out")) == 1


def test_columns_that_do_not_go_along_are_named(table, tmp_path, capsys):
    assert call(*table, "--to", "openai", "--output", tmp_path / "out", "--pictures", "files") == 0
    assert "columns that the layout has no place for: wert" in capsys.readouterr().out.splitlines()
    row = json.loads((tmp_path / "out" / "data.jsonl").read_text().splitlines()[0])
    (address, _) = row["messages"][0]["content"]
    assert (tmp_path / "out" / address["image_url"]["url"]).read_bytes() == (tmp_path / "bilder" / "0.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--to", "lava"), 2, "lava"),
        (("--to", "csv", "--pictures", "embedded"), 1, "--pictures is 'embedded'; in the layout csv they are files"),
        (("--to", "csv", "--image_folder", "."), 1, "none of 5 rows can be written in the layout csv: 5 × the image"),
        ((), 2, "--to"),
    ],
)
def test_calls_that_are_wrong(table, words, code, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path / "cache" if (tmp_path / "cache").is_dir() else tmp_path)
    given = table[:-2] if "--image_folder" in words else table
    assert call(*given, *words, "--output", tmp_path / "out") == code
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_is_there_stays(table, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert call(*table, "--to", "csv", "--output", tmp_path / "out") == 1
    assert "--output" in capsys.readouterr().err and not any((tmp_path / "out").iterdir())


def test_what_nobody_reads_back_is_not_written(monkeypatch, table, tmp_path, capsys):
    """The last check of every row: whatever a layout's writer does."""
    wrong = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "Another."}]}
    forms = written_rows.__globals__["_FORMS"]
    monkeypatch.setitem(forms, "jsonl", lambda *_: wrong)
    assert call(*table, "--to", "jsonl", "--output", tmp_path / "out") == 1
    assert "3 × the layout would change the message" in capsys.readouterr().err
