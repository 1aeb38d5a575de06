"""`c3l report`: what it says, what it refuses, and marks on their way from the page to the dataset."""

import json

import httpx2
import pytest
from datasets import Dataset, Image, load_dataset
from huggingface_hub import HfApi
from published import write_run
from report_runs import write_stages
from scored_rows import FEATURES, pair, png

from c3l_hf.cli import main
from c3l_hf.data.reading import ColumnOptions, PictureOptions
from c3l_hf.publishing import repository
from c3l_hf.report.making import content_of
from c3l_hf.report.opening import open_source


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_run_and_again(tmp_path, capsys):
    folder, output = write_stages(tmp_path / "run", last="generate"), tmp_path / "report.html"
    assert main(["report", str(folder), "-o", str(output)]) == 0
    said = capsys.readouterr().out
    assert "The run is not finished" in said and f"13 pairs, 7 pictures → {output} (" in said
    assert output.read_text().startswith("<!doctype html>")
    assert main(["report", str(folder), "-o", str(output), "--num_pairs", "2"]) == 0  # a report is replaced
    assert "The gallery shows 2 of 13 pairs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("page.html", "<html>somebody's</html>", "--output page.html is there already, and it is no report"),
        ("page.txt", None, "--output page.txt must end in .html"),
        ("gone/page.html", None, "--output gone/page.html: there is no folder gone"),
    ],
)
def test_no_place_for_it(tmp_path, monkeypatch, capsys, name, content, message):
    monkeypatch.chdir(tmp_path)
    if content:
        (tmp_path / name).write_text(content)
    assert main(["report", str(tmp_path / "nothing"), "--output", name]) == 1
    assert message in capsys.readouterr().err
    assert not content or (tmp_path / name).read_text() == content


def test_what_cannot_be_shown(tmp_path, capsys):
    generator = write_run(tmp_path / "run") / "generator"
    assert main(["report", str(generator), "-o", str(tmp_path / "r.html")]) == 1
    assert "is a generator, of which there is nothing to be shown" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nothing.parquet"), "-o", str(tmp_path / "r.html")]) == 1
    assert "there is no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("offline", [True, False])
def test_a_name_that_is_nothing_here_while_the_hub_cannot_be_reached(tmp_path, monkeypatch, capsys, offline):
    monkeypatch.chdir(tmp_path)
    if not offline:  # but without a connection
        monkeypatch.setattr(HfApi, "repo_info", lambda *args, **options: refuse(httpx2.ConnectError("no such name")))
        monkeypatch.setattr(repository, "_WAITS", ())
    assert main(["report", "runs/mime", "-o", "r.html"]) == 1
    says = "c3l report: runs/mime is neither a file or folder here (nor is there a folder runs)"
    if not offline:
        says = "c3l report: runs/mime: the connection to the Hub failed (ConnectError), and there is no folder of that "
    assert capsys.readouterr().err.startswith(says)


def refuse(error):
    raise error


def test_marks_from_the_page_choose_the_dataset(tmp_path, capsys):
    scored = Dataset.from_list(
        [pair(f"i{k}", 0, float(k), question=f"w{k} x{k}?", answer=f"y{k}\nz{k}") for k in range(6)], features=FEATURES
    ).map(lambda row: {"images": [{"bytes": png(int(row["image_id"][1])), "path": None}]}, features=FEATURES)
    scored.to_parquet(tmp_path / "scored.parquet")
    source = open_source(str(tmp_path / "scored.parquet"), ColumnOptions(), PictureOptions())
    rows = list(content_of(source).pairs.rows())
    marks = [
        {"key": row.key, "pair_id": row.pair_id, "digest": row.digest, "stage": row.stage, "mark": mark}
        for row, mark in ((rows[0], "keep"), (rows[5], "reject"))
    ]
    (tmp_path / "marks.json").write_text(json.dumps({"c3l_marks": 1, "title": "t", "marks": marks}))
    words = [
        "curate",
        "--dataset",
        tmp_path / "scored.parquet",
        "--target_size",
        "2",
        "--output",
        tmp_path / "c.parquet",
    ]
    assert main([*map(str, words), "--marks", str(tmp_path / "marks.json")]) == 0
    said = capsys.readouterr().out
    assert "marks: 1 keep, 1 reject; of those to keep 1 are in the result" in said and "marked reject" in said
    kept = load_dataset("parquet", data_files=str(tmp_path / "c.parquet"), split="train")
    assert kept["pair_id"][:] == ["i0/0", "i4/0"]
    (tmp_path / "marks.json").write_text("{}")
    assert main([*map(str, words), "--overwrite", "--marks", str(tmp_path / "marks.json")]) == 1
    assert "it is not a file of marks; export one from a report" in capsys.readouterr().err


def test_marks_of_a_strangers_rows_fit_the_strangers_rows(tmp_path):
    """Ids that are made up, and conversations, which curation takes as one text."""
    said = ["What is this?", "A dog.", "And that?", "A  cat.\n"]
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
    rows = [{"image": png(n), "messages": messages, "i2c": float(n), "i2c_status": "ok"} for n in range(3)]
    Dataset.from_list(rows).cast_column("image", Image()).to_parquet(tmp_path / "rows.parquet")
    source = open_source(str(tmp_path / "rows.parquet"), ColumnOptions(), PictureOptions())
    first = next(iter(content_of(source).pairs.rows()))
    mark = {"pair_id": first.pair_id, "digest": first.digest, "mark": "reject"}
    (tmp_path / "marks.json").write_text(json.dumps({"c3l_marks": 1, "marks": [mark]}))
    words = ["curate", "--dataset", tmp_path / "rows.parquet", "--output", tmp_path / "c.parquet"]
    assert main([*map(str, words), "--marks", str(tmp_path / "marks.json")]) == 0
    kept = load_dataset("parquet", data_files=str(tmp_path / "c.parquet"), split="train")
    assert kept["i2c"][:] == [1.0, 2.0]


def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path, monkeypatch, capsys):
    def asked(*_):
        raise AssertionError("the Hub was asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("c3l_hf.publishing.hub.download", asked)
    (tmp_path / "pairs.jsonl").write_text("{}")
    for name in ("pair.jsonl", "data/pairs.jsonl", "pairs.json"):
        assert main(["report", name, "-o", "r.html"]) == 1
        assert f"{name}: there is no such file or folder" in capsys.readouterr().err
