"""Rows from wherever they are, and the one line that says why they cannot be opened."""

import gzip
import io
import json
import tarfile

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Image

from c3l_hf.common.errors import RunError
from c3l_hf.files.opening import folder_cache, open_dataset

ROWS = {"question": ["a?", "b?", "c?"], "answer": ["1", "2", "3"]}


@pytest.fixture(scope="module")
def rows():
    return Dataset.from_dict(ROWS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def configured(tmp_path, rows):
    """A folder with two configurations, none of which is the default."""
    folder = tmp_path / "configured"
    lines = ["---", "configs:"]
    for config in ("scored", "labels"):
        (folder / config).mkdir(parents=True)
        rows.to_parquet(folder / config / "train.parquet")
        lines += [f"- config_name: {config}", f"  data_files: {config}/train.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet", "csv"])
def test_a_file(rows, tmp_path, ending):
    file = tmp_path / f"rows.{ending}"
    if ending == "json":
        file.write_text(json.dumps(rows.to_list()))
    else:
        {"jsonl": rows.to_json, "parquet": rows.to_parquet, "csv": rows.to_csv}[ending](file)
    assert open_dataset(file)["question"][:] == ROWS["question"]
    assert open_dataset(str(file), limit=2)["question"][:] == ROWS["question"][:2]
    assert len(open_dataset(file, limit=9)) == 3


def test_a_saved_dataset_and_one_with_splits(rows, tmp_path):
    rows.save_to_disk(tmp_path / "saved")
    assert open_dataset(tmp_path / "saved", split="train")["question"][:] == ROWS["question"]
    DatasetDict({"train": rows, "validation": rows.select([2])}).save_to_disk(tmp_path / "splits")
    assert open_dataset(tmp_path / "splits", split="validation")["question"][:] == ["c?"]
    with pytest.raises(RunError, match="has no split 'validating'; its splits are train, validation; did you mean 'v"):
        open_dataset(tmp_path / "splits", split="validating")


def test_a_folder_of_data_files(rows, configured, tmp_path):
    (tmp_path / "files").mkdir()
    rows.to_parquet(tmp_path / "files" / "train.parquet")
    rows.select([1]).to_parquet(tmp_path / "files" / "dev.parquet")
    assert len(open_dataset(tmp_path / "files")) == 3
    # `datasets` calls a file dev.* the split validation
    for split in ("dev", "validation"):
        assert open_dataset(tmp_path / "files", split=split)["question"][:] == ["b?"]
    with pytest.raises(RunError, match="files has no split 'tain'; its splits are train, validation; did you mean"):
        open_dataset(tmp_path / "files", split="tain")
    assert len(open_dataset(configured, "scored")) == 3
    with pytest.raises(RunError, match="has no configuration 'score'; .* scored, labels; did you mean 'scored'"):
        open_dataset(configured, "score")
    with pytest.raises(RunError, match="has several configurations: scored, labels; say which"):
        open_dataset(configured)


def test_a_folder_is_read_whatever_is_called_so_on_the_hub(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user" / "name").mkdir(parents=True)
    rows.to_parquet(tmp_path / "user" / "name" / "train.parquet")
    assert len(open_dataset("user/name")) == 3


def test_a_changed_folder_is_read_again(tmp_path):
    """`datasets` alone would serve the rows that a folder with such a README had before."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: rows.parquet\n---\n")
    read = []
    for answer in ("first", "second"):
        Dataset.from_dict({"question": ["?"], "answer": [answer]}).to_parquet(folder / "rows.parquet")
        read += open_dataset(folder)["answer"][:]
    assert read == ["first", "second"]
    assert folder_cache("user/name") is None


def test_what_cannot_be_opened(rows, tmp_path, monkeypatch):
    rows.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.txt").write_text("a")
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{"a": ')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    cases = {
        "rows.txt": r"rows.txt ends in none of .json, .jsonl, .parquet, .csv, .tsv, .ndjson, .arrow, .tar",
        "row.parquet": r"there is no such file or folder \(there is .*rows.parquet\)",
        "nowhere/row.parquet": r"there is no such file or folder \(nor is there a folder .*nowhere\)",
        "bad.jsonl": "bad.jsonl cannot be read: ",
        "empty": "empty cannot be read: ",
        "run": "is the folder of a run; its dataset is .*dataset, all its scored pairs, without .*scored",
    }
    for name, message in cases.items():
        with pytest.raises(RunError, match=message) as caught:
            open_dataset(tmp_path / name)
        assert "\n" not in str(caught.value), name
    with pytest.raises(RunError, match="is a file, which has no configurations such as 'scored'"):
        open_dataset(tmp_path / "rows.parquet", "scored")
    with pytest.raises(RunError, match="limit is 0; it must be at least 1"):
        open_dataset(tmp_path / "rows.parquet", limit=0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"user/rows is neither a file or folder here \(nor is there.* on the Hub that"):
        open_dataset("user/rows")


def test_the_format_of_a_saved_dataset_stays_behind(rows, tmp_path):
    """It would turn what is read into arrays, and hide columns."""
    first = rows.column_names[0]
    for number, saved in enumerate((rows, DatasetDict(train=rows))):
        saved.with_format("numpy", columns=[first]).save_to_disk(tmp_path / str(number))
        opened = open_dataset(tmp_path / str(number))
        assert opened.format["type"] is None and opened[0] == rows[0]


def test_arrow_files_keep_their_types(tmp_path):
    images = Dataset.from_dict({"image": [{"bytes": b"none", "path": None}]}).cast_column("image", Image())
    images.save_to_disk(tmp_path / "saved")
    file = next((tmp_path / "saved").glob("*.arrow"))
    assert open_dataset(file).features["image"] == Image()
    with (
        pa.OSFile(str(tmp_path / "file.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, pa.schema({"a": pa.int64()})) as new,
    ):
        new.write(pa.record_batch({"a": [1, 2]}))
    assert open_dataset(tmp_path / "file.arrow")["a"][:] == [1, 2]


def test_several_files_by_a_pattern(rows, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for number, folder in enumerate((tmp_path, tmp_path / "deep", tmp_path / "deep" / "er")):
        rows.select([number]).to_parquet(folder / f"part-{number}.parquet")
        (folder / f"part-{number}.json").write_text(json.dumps([{**rows[number], **({"more": 1} if number else {})}]))
        rows.select([number]).to_csv(folder / f"part-{number}.tsv", sep="\t")
    for ending in ("parquet", "json", "tsv"):
        found = open_dataset(f"{tmp_path}/**/part-?.{ending}")
        assert sorted(found["question"][:]) == ROWS["question"] and len(open_dataset(tmp_path / f"*.{ending}")) == 1
    with pytest.raises(RunError, match=r"part-0.json and .*part-0.parquet are of different kinds; give those of one"):
        open_dataset(tmp_path / "part-*")
    with pytest.raises(RunError, match="there is no such file or folder"):
        open_dataset(tmp_path / "*.csv")
    (tmp_path / "part-1.tsv").write_text("question\tother\na\tb\n")
    with pytest.raises(
        RunError, match=r"part-1.tsv has the columns question, other, and .*part-0.tsv question, answer"
    ):
        open_dataset(tmp_path / "*.tsv")
    # A file may be called so.
    rows.to_parquet(tmp_path / "all[1].parquet")
    assert len(open_dataset(tmp_path / "all[1].parquet")) == 3


def test_files_of_a_folder_are_read_as_single_ones_are(tmp_path):
    for split, answers in (("train", ["1", None, "null"]), ("test", ["02", "x", "y"])):
        folder = tmp_path / "tsv"
        folder.mkdir(exist_ok=True)
        (folder / f"{split}.tsv").write_text("question\tanswer\n" + "".join(f"?\t{a or ''}\n" for a in answers))
        folder = tmp_path / "json"
        folder.mkdir(exist_ok=True)
        rows = [{"question": "?", "answer": [answer] if answer == "x" else answer} for answer in answers]
        (folder / f"{split}.json").write_text(json.dumps(rows))
    for kind in ("tsv", "json"):
        assert open_dataset(tmp_path / kind)["answer"][:] == ["1", None, "null"]
    assert open_dataset(tmp_path / "tsv", split="test")["answer"][:] == ["02", "x", "y"]
    assert open_dataset(tmp_path / "json", split="test")["answer"][:] == ["02", ["x"], "y"]
    with pytest.raises(RunError, match="tsv has no split 'tain'; its splits are train, test; did you mean 'train'"):
        open_dataset(tmp_path / "tsv", split="tain")
    # As its README says, by `datasets`.
    lines = ["---", "configs:", "- config_name: default", "  data_files: train.tsv", '  sep: ";"', "---", ""]
    (tmp_path / "tsv" / "README.md").write_text("\n".join(lines))
    assert open_dataset(tmp_path / "tsv").column_names == ["question\tanswer"]


def test_an_empty_file_in_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.json").write_text("")
    with pytest.raises(RunError, match="train.json is empty: it has no rows"):
        open_dataset(tmp_path / "folder")


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tar"])
def test_compressed_files_that_are_damaged(tmp_path, ending):
    rows = [{"question": f"{number}?", "answer": str(number**7)} for number in range(3000)]
    if ending == "tar":
        with tarfile.open(tmp_path / "rows.tar", "w") as tar:
            for number, row in enumerate(rows):
                content = json.dumps(row).encode()
                member = tarfile.TarInfo(f"{number}.json")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        content = (tmp_path / "rows.tar").read_bytes()
    elif ending == "csv":
        content = "\n".join(["question,answer", *(",".join(row.values()) for row in rows)]).encode()
    else:
        content = (json.dumps(rows) if ending == "json" else "\n".join(map(json.dumps, rows))).encode()
    whole = gzip.compress(content, mtime=0)
    file = tmp_path / f"rows.{ending}.gz"
    file.write_bytes(whole)
    assert open_dataset(file)["question"][:] == [row["question"] for row in rows]
    middle = len(whole) // 2
    for damaged in (whole[:middle], whole[:middle] + bytes(100) + whole[middle + 100 :], whole[:-8] + bytes(8)):
        file.write_bytes(damaged)
        with pytest.raises(RunError, match=f"rows.{ending}.gz") as caught:
            open_dataset(file)
        assert "\n" not in str(caught.value)


def test_a_folder_that_says_what_it_has_is_taken_at_its_word(tmp_path, caplog):
    """As a published dataset, with a manifest beside the rows."""
    for name in ("data", "scored"):
        (tmp_path / name).mkdir()
        Dataset.from_dict({"question": [name]}).to_parquet(tmp_path / name / "rows.parquet")
    (tmp_path / "manifest.json").write_text("{}")
    configs = "".join(
        f"- config_name: {config}\n  data_files: {folder}/*.parquet\n"
        for config, folder in (("default", "data"), ("scored", "scored"))
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert open_dataset(tmp_path)["question"][:] == ["data"] and "files are read" not in caplog.text


def test_files_of_a_second_kind_are_named(tmp_path, caplog):
    """Of a folder with several kinds `datasets` takes one, and says nothing of the others."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.json").write_text('[{"question": "a?", "answer": "1"}]')
    assert len(open_dataset(tmp_path / "data")) == 1 and "files are read" not in caplog.text
    (tmp_path / "data" / "b.csv").write_text("question,answer\nb?,2\n")
    (tmp_path / "data" / ".hidden.csv").write_text("question,answer\nc?,3\n")
    rows = open_dataset(tmp_path / "data")
    read, other = (".json", "b.csv") if rows["question"][:] == ["a?"] else (".csv", "a.json")
    assert len(rows) == 1 and f"only its {read} files are read, not {other};" in caplog.text
