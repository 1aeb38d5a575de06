"""Columns in parts: what outlasts an interruption is what was written, whoever else writes it."""

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value

from c3l_hf.scoring.dataset import in_parts


@pytest.fixture
def made(tmp_path):
    """A call that makes a column of 7 rows, 3 in a part, and says which rows it has made."""
    rows = {"image": ["none.png"] * 7, "question": list("abcdefg"), "answer": list("ABCDEFG")}
    dataset = Dataset.from_dict(rows)

    def call(**options):
        asked = []

        def make(rows):
            asked.extend(rows["question"])
            yield pa.table({"both": [f"{row['question']}{row['answer']}" for row in rows]})

        features = Features({"both": Value("string")})
        what = {"columns": list(rows), "names": ("both", "Both"), "fingerprint": "f", "image_folder": None}
        made = in_parts(dataset, make, features=features, **what, part_size=3, cache_dir=tmp_path, **options)
        assert made["both"][:] == ["aA", "bB", "cC", "dD", "eE", "fF", "gG"]
        (folder,) = tmp_path.glob("c3l_hf-both-*/3")
        return asked, folder

    return call


@pytest.mark.parametrize("retake", [None, ("both", lambda text: False)])
@pytest.mark.parametrize("content", [b"", b"PAR1" * 100, None])
def test_a_damaged_part_is_made_again(made, caplog, content, retake):
    asked, folder = made()
    assert len(asked) == 7 and made(retake=retake)[0] == []
    part = folder / "00001-of-00003.parquet"
    part.write_bytes((folder / "00002-of-00003.parquet").read_bytes() if content is None else content)
    assert made(retake=retake)[0] == ["d", "e", "f"]
    assert "00001-of-00003.parquet is not what was written; it is made again" in caplog.text
    assert (folder / "set_aside-1" / part.name).is_file() and made(retake=retake)[0] == []


def test_a_damaged_copy_is_never_read(made):
    """`datasets` reads the parts from a copy, which has no checksum."""
    _, folder = made()
    (copy,) = folder.rglob("*.arrow")
    content = copy.read_bytes()
    assert content.count(b"dD") == 1
    copy.write_bytes(content.replace(b"dD", b"dX"))
    assert made()[0] == []
