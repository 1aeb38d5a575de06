"""Files of rows in others' layouts, written row by row: JSON, CSV, parquet with pictures, WebDataset's tars."""

import csv
import io
import json
import math
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, List, Value

from c3l_hf import _compat
from c3l_hf.common.errors import RowError
from c3l_hf.data.encoded_pictures import EncodedPicture
from c3l_hf.data.written_layouts import Written

__all__ = ["RowsFile", "WrittenRow", "open_rows_file"]

# Of a shard, before the next one is begun.
_SHARD_BYTES = 500_000_000
# Bytes of pictures in one Arrow array, which holds 2 GB, and in one row group.
_GROUP_BYTES = 2**28
_GROUP_ROWS = 100
_HALF = "a column has half a character (a surrogate), which no file can hold"
# Marks that some readers take for the end of a line; JSON has another way to write them.
_LINE_ENDS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}

_ITEMS = List({"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})})
_IN_PARQUET: dict[Written, dict[str, Any]] = {
    "texts": {"images": List(Image()), "texts": List({"user": Value("string"), "assistant": Value("string")})},
    "trl": {"images": List(Image()), "prompt": _ITEMS, "completion": _ITEMS},
}
_NAMES: dict[Written, str] = {"llava": "data.json", "sharegpt": "data.json", "csv": "data.csv"}


class WrittenRow(NamedTuple):
    """A row to be written.

    Attributes:
        row: Its columns in the layout.
        others: The source's further columns.
        pictures: In the order of their places.
    """

    row: dict[str, Any]
    others: dict[str, Any]
    pictures: Sequence[EncodedPicture]


class RowsFile(Protocol):
    """One or several files of rows; `files` is a pattern that names them in their folder."""

    files: str

    def add(self, row: WrittenRow) -> None:
        """Appends a row.

        Raises:
            RowError: If the file cannot hold it; nothing of it is written then.
        """

    def close(self) -> None:
        """Completes the files."""


def open_rows_file(to: Written, folder: Path, others: Features) -> RowsFile:
    """The file, or files, in which rows of a layout are.

    Args:
        to: The layout.
        folder: Where they are written.
        others: The types of the source's further columns that the layout keeps.
    """
    if to in _IN_PARQUET:
        return _Parquet(folder, Features({**_IN_PARQUET[to], **others}))
    if to == "webdataset":
        return _Tars(folder)
    if to == "csv":
        return _Csv(folder / _NAMES[to], list(others))
    name = _NAMES.get(to, "data.jsonl")
    return _Json(folder / name, is_list=name.endswith(".json"), with_id=to == "llava")


def _line(row: Mapping[str, Any]) -> str:
    """A row as one line of JSON, with letters as they are.

    Raises:
        RowError: If a text has half a character.
    """
    text = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError(_HALF) from None
    return text.translate(_LINE_ENDS)


def _plain(value: Any) -> Any:
    """A value without what JSON has no form for: numbers that are none are null, arrays are lists."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_characters(value: Any) -> None:
    """That all texts of a value are whole."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _check_characters(item)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RowError(_HALF) from None


class _Json:
    """Lines, or one list, written as it grows."""

    def __init__(self, path: Path, is_list: bool, with_id: bool):
        self.files = path.name
        self._file = path.open("w", encoding="utf-8", newline="")
        self._is_list, self._with_id = is_list, with_id
        self._count = 0

    def add(self, row: WrittenRow) -> None:
        content = {**row.row, **row.others}
        if self._with_id:
            known = (row.others.get(name) for name in ("id", "pair_id"))
            content = {"id": None} | content
            content["id"] = str(next((value for value in known if value is not None), self._count))
        text = _line(content)
        if self._is_list:
            self._file.write(("[\n" if self._count == 0 else ",\n") + text)
        else:
            self._file.write(f"{text}\n")
        self._count += 1

    def close(self) -> None:
        if self._is_list:
            self._file.write("\n]\n" if self._count else "[]\n")
        self._file.close()


class _Csv:
    def __init__(self, path: Path, others: Sequence[str]):
        self.files = path.name
        self._file = path.open("w", encoding="utf-8", newline="")
        # All in quotes: a carriage return would else stand in a field without them.
        self._writer = csv.writer(self._file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        self._columns = ["image", "question", "answer", *others]
        self._writer.writerow(self._columns)

    def add(self, row: WrittenRow) -> None:
        content = {**row.others, **row.row}
        fields = ["" if content.get(name) is None else str(content[name]) for name in self._columns]
        _check_characters(fields)
        if any("\0" in field for field in fields):
            raise RowError("a text has the character 0, which no CSV holds")
        self._writer.writerow(fields)

    def close(self) -> None:
        self._file.close()


class _Tars:
    """Samples named by their number, so that no name of the source can lead out of the tar."""

    # The kinds of pictures that readers of WebDataset know by their ending.
    _KINDS = frozenset("jpg png webp gif bmp tif ppm".split())

    def __init__(self, folder: Path):
        self.files = "shard-*.tar"
        self._folder = folder
        self._tar: tarfile.TarFile | None = None
        self._shards = self._count = 0

    def add(self, row: WrittenRow) -> None:
        for picture in row.pictures:
            if picture.ending not in self._KINDS:
                raise RowError(f"the image is {picture.ending}, which readers of WebDataset do not know")
        text = _line({**row.others, **{name: value for name, value in row.row.items() if name != "images"}})
        if self._tar is not None and self._tar.offset > _SHARD_BYTES:
            self._tar.close()
            self._tar = None
        if self._tar is None:
            self._tar = tarfile.open(self._folder / f"shard-{self._shards:06d}.tar", "w")
            self._shards += 1
        key = f"{self._count:09d}"
        for number, picture in enumerate(row.pictures):
            place = f"{number}." if len(row.pictures) > 1 else ""
            self._write(f"{key}.{place}{picture.ending}", picture.content)
        self._write(f"{key}.json", text.encode())
        self._count += 1

    def _write(self, name: str, content: bytes) -> None:
        assert self._tar is not None
        info = tarfile.TarInfo(name)  # of no owner and no time: the same rows give the same file
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))
        _compat.forget_members(self._tar)

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()


class _Parquet:
    """Shards that `load_dataset` reads, the pictures in them."""

    def __init__(self, folder: Path, features: Features):
        self.files = "train-*.parquet"
        self._folder, self._features = folder, features
        self._writer: pq.ParquetWriter | None = None
        self._shards: list[Path] = []
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, row: WrittenRow) -> None:
        _check_characters(row.others)
        content = {**row.others, **row.row}
        self._rows.append({name: content[name] for name in self._features})
        self._bytes += sum(len(picture.content) for picture in row.pictures)
        if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        schema = self._features.arrow_schema
        if self._writer is None:
            self._shards.append(self._folder / f"{len(self._shards)}.unfinished")
            self._writer = pq.ParquetWriter(self._shards[-1], schema)
        rows, self._rows, self._bytes = self._rows, [], 0
        self._writer.write_table(Dataset.from_list(rows, self._features).with_format("arrow")[:].cast(schema))
        if self._shards[-1].stat().st_size > _SHARD_BYTES:
            self._writer.close()
            self._writer = None

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
        for number, shard in enumerate(self._shards):
            shard.rename(self._folder / f"train-{number:05d}-of-{len(self._shards):05d}.parquet")
