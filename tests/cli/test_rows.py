"""Rows as commands write them: their pictures say nothing of where and with what they were taken."""

import io

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from c3l_hf.cli.rows import OutputOptions, write_rows


def photo(kind):
    exif = PILImage.Exif()
    exif[0x010F], exif.get_ifd(0x8825)[29] = "SecretPhone", "SecretPlace"
    file = io.BytesIO()
    PILImage.linear_gradient("L").convert("RGB").resize((40, 30)).save(file, kind, exif=exif)
    assert b"SecretPhone" in file.getvalue()
    return file.getvalue()


def rows(folder):
    """Pictures in a column, in a list, and in a message; as contents and as files."""
    (folder / "own.jpg").write_bytes(photo("JPEG"))
    named = {"bytes": None, "path": str(folder / "own.jpg")}
    message = {"role": "user", "content": [{"type": "image", "image": named}]}
    features = {"role": Value("string"), "content": List({"type": Value("string"), "image": Image()})}
    return Dataset.from_list(
        [{"image": {"bytes": photo("PNG"), "path": None}, "images": [named], "messages": [message]}],
        features=Features({"image": Image(), "images": List(Image()), "messages": List(features)}),
    )


@pytest.mark.parametrize("output", ["a.parquet", "a/", "a.jsonl"])
def test_pictures_leave_without_their_metadata(output, tmp_path):
    for keep in (False, True):
        options = OutputOptions(f"{tmp_path}/{keep}-{output}", keep_metadata=keep)
        write_rows(rows(tmp_path), options)
        files = [path for path in tmp_path.rglob("*") if f"{keep}-" in str(path) and path.is_file()]
        unpacked = [str(pq.read_table(path).to_pylist()) for path in files if path.suffix == ".parquet"]
        found = str([*unpacked, *(path.read_bytes() for path in files)]).count("Secret")
        assert bool(found) is (keep and output != "a.jsonl")
        assert all(text.count("bytes': b'") == 3 for text in unpacked)
