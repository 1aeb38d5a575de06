"""Shards: whole or missing, in their order, read in pieces."""

import pyarrow as pa
import pytest

from c3l_hf.common.shards import Shards

SCHEMA = pa.schema({"n": pa.int64(), "text": pa.string()})


def tables(number):
    for start in (0, 3):
        rows = [10 * number + start + place for place in range(3)]
        yield pa.table({"n": rows, "text": [f"row {row}" for row in rows]})


def test_missing_shards_are_made_and_others_kept(tmp_path):
    shards = Shards(tmp_path / "s", 3)
    assert shards.missing == [0, 1, 2]
    shards.write(1, tables(1), SCHEMA)
    made = []
    shards.write_missing(lambda number: made.append(number) or tables(number), SCHEMA)
    assert made == [0, 2] and shards.missing == [] and shards.num_rows == 18
    again = Shards(tmp_path / "s")
    assert len(again) == 3 and again.schema == SCHEMA
    assert again.table()["n"].to_pylist() == [10 * number + place for number in range(3) for place in range(6)]
    batches = list(again.batches(columns=["n"], size=4, numbers=[2]))
    assert [batch.num_rows for batch in batches] == [4, 2] and batches[0].schema.names == ["n"]


def test_a_shard_that_fails_is_not_there(tmp_path):
    def failing(number):
        yield next(tables(number))
        raise RuntimeError

    shards = Shards(tmp_path, 2)
    with pytest.raises(RuntimeError):
        shards.write_missing(failing, SCHEMA)
    assert shards.missing == [0, 1] and not list(tmp_path.iterdir())  # nor a checksum of what is not there
    shards.write(0, tables(0), SCHEMA)
    with pytest.raises(FileNotFoundError, match="1 of 2 shards"):
        Shards(tmp_path)


def test_shards_with_unfit_texts_are_taken_away(tmp_path):
    shards = Shards(tmp_path, 4)
    for number in (0, 1, 3):
        shards.write(number, tables(number), SCHEMA)
    assert shards.take_away("text", lambda text: text in ("row 12", "row 33")) == 1
    assert shards.missing == [1, 2, 3]
    assert Shards(tmp_path / "none", 2).take_away("text", lambda text: True) == 0


@pytest.mark.parametrize("through", ["write_missing", "take_away"])
def test_damaged_and_foreign_shards_are_made_again(tmp_path, caplog, through):
    shards = Shards(tmp_path / "run" / "s", 4, root=tmp_path / "run")
    shards.folder.mkdir(parents=True)
    for number in range(3):
        shards.write(number, tables(number), SCHEMA)
    whole = {file: file.read_bytes() for file in shards.files[:3]}
    shards.files[0].write_bytes(b"PAR1")
    shards.files[3].write_bytes(whole[shards.files[1]])  # a copy under another name, without a checksum
    (shards.folder / "00000-of-00009.parquet").write_bytes(b"of an earlier result")
    again = Shards(shards.folder, 4, root=tmp_path / "run")
    if through == "take_away":
        assert again.take_away("text", lambda text: False) == 2
    made = []
    again.write_missing(lambda number: made.append(number) or tables(number), SCHEMA)
    assert made == [0, 3] and {file: file.read_bytes() for file in shards.files[:3]} == whole
    for name, told in (("0-of-00004", "is not what was written"), ("3-of-00004", "has no checksum")):
        assert f"s/0000{name}.parquet {told}; it is made again" in caplog.text
    assert "s/00000-of-00009.parquet belongs to another result" in caplog.text
    aside = sorted(path.name for path in (tmp_path / "run" / "set_aside-1" / "s").iterdir())
    assert aside == ["00000-of-00004.parquet", "00000-of-00009.parquet", "00003-of-00004.parquet"]


def test_what_is_given_away_has_no_checksums(tmp_path):
    Shards(tmp_path, 1, with_checksums=False).write(0, tables(0), SCHEMA)
    assert [path.name for path in tmp_path.iterdir()] == ["00000-of-00001.parquet"]
