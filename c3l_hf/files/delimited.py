"""CSV and TSV as they are written: texts stay texts, fields may be megabytes, and what is ambiguous is refused.

Python's `csv` takes the records apart. pandas, with which `datasets` reads such files, changes values unseen: "01"
becomes 1, "None" and "NA" become nothing, and a quote that only begins a text swallows the rows up to the next one.
"""

import csv
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value

from c3l_hf.common.errors import RunError
from c3l_hf.files.image import is_inline
from c3l_hf.files.text_files import LONGEST_LINE, check_text, lines_of, not_utf8, source_digest

__all__ = ["open_delimited"]

# Columns that are texts whatever they look like: an answer "01" is not 1, nor is an option "1.50".
_TEXTS = frozenset(
    "question answer prompt completion response instruction input output text caption hint image images image_path "
    "image_id question_id pair_id".split()
)
_WHOLE = re.compile(r"0|-?[1-9]\d{0,18}", re.ASCII)
# With a point or an exponent: digits alone that are too many for a whole number are a name.
_DECIMAL = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+(?:[eE][+-]?\d+)?|[eE][+-]?\d+)", re.ASCII)
# VLMEvalKit writes a picture once: in other rows `image` is the `index` of the row that has it. So its reader tells.
_LONGEST_INDEX = 64
# Rows in one Arrow array, which holds 2 GB of text.
_BATCH = 50


def open_delimited(files: Sequence[Path], separator: str, texts: Iterable[str] = ()) -> Dataset:
    """The rows of CSV or TSV files, with a header each; also compressed (.gz).

    A column is of whole numbers or of decimals if all that stands in it is one, in a form from which nothing is lost
    (not "007"); else, and where its name says that it is a text (`question`, `answer`, `A`, ...), it has the texts as
    they stand: "None", "NA" and "True" are words. An empty field is null. Where `image` is the `index` of another row,
    as MMBench and others are written by VLMEvalKit, it is that row's picture.

    Args:
        files: With the same columns.
        separator: "," or a tab.
        texts: Further columns that are texts whatever they look like.

    Raises:
        RunError: If a file is empty, is not UTF-8, has rows of other lengths than its header, quotes that do not end
            where a field does, or a column twice.
    """
    header = _header(files[0], separator)
    for file in files[1:]:
        if (other := _header(file, separator)) != header:
            raise RunError(f"{file} has the columns {', '.join(other)}, and {files[0]} {', '.join(header)}")
    kinds, pictures, count = _looked_through(files, separator, header, frozenset(texts) | _TEXTS)
    features = Features({name: Value(kind) for name, kind in zip(header, kinds)})
    if count == 0:
        return Dataset.from_dict({name: [] for name in header}, features=features)
    return Dataset.from_generator(
        _rows,
        features=features,
        gen_kwargs={"files": tuple(files), "separator": separator, "features": features, "pictures": pictures},
        fingerprint=source_digest(files, separator, features),
        writer_batch_size=_BATCH,
    )


def _rows(
    files: Sequence[Path], separator: str, features: Features, pictures: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    values = {"int64": int, "float64": float, "string": str}
    to_value = {name: values[feature.dtype] for name, feature in features.items()}
    for file in files:
        records = _records(file, separator)
        next(records)  # the header, whose names `features` has
        for _, record in records:
            row: dict[str, Any] = {
                name: None if field == "" else to_value[name](field)
                for name, field in zip(features, record, strict=True)
            }
            if pictures and row["image"] in pictures:
                row["image"] = pictures[row["image"]]
            yield row


def _header(file: Path, separator: str) -> list[str]:
    check_text(file)
    _, header = next(_records(file, separator))
    if header[0].startswith("sep="):
        raise RunError(f"{file} begins with {header[0]!r:.20}, a line for Excel and no header; delete this line")
    names = [name or f"Unnamed: {number}" for number, name in enumerate(header)]
    if repeated := [name for number, name in enumerate(names) if name in names[:number]]:
        raise RunError(f"{file} has the column {repeated[0]!r} more than once; rename one of them")
    other = next((mark for mark in ";\t,|" if mark != separator and mark in header[0]), None)
    if len(header) == 1 and other is not None:
        wanted = "tabs" if separator == "\t" else "commas"
        raise RunError(
            f"{file} has one column, {header[0]!r:.100}: {other!r} separates it, not {wanted}; save it with {wanted}"
        )
    return names


def _records(file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Lines that records end in, counted from 1, and their fields."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
    number = 0
    try:
        # Strict: a quote that only begins a text would else swallow the rows up to the next one.
        reader = csv.reader(_decoded(file), delimiter=separator, strict=True)
        for record in reader:
            number = reader.line_num
            if record:
                yield number, record
    except csv.Error as error:
        raise RunError(
            f"{file}: the record after line {number} cannot be read ({error}); a text with a quote, a separator or a "
            'line break must stand in quotes, with quotes in it doubled ("")'
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise RunError(f"{file} cannot be read: {error}") from None


def _decoded(file: Path) -> Iterator[str]:
    for number, line in lines_of(file):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(file, f"line {number:,}: {error.reason}") from None


def _looked_through(
    files: Sequence[Path], separator: str, header: Sequence[str], texts: frozenset[str]
) -> tuple[list[str], dict[str, str], int]:
    """The type of each column, the pictures that other rows name by their index, and how many rows there are."""
    candidates = {number for number, name in enumerate(header) if not (name in texts or re.fullmatch("[A-Z]", name))}
    whole, decimal, filled = set(candidates), set(candidates), set[int]()
    places = (header.index("index"), header.index("image")) if {"index", "image"} <= set(header) else None
    named: set[str] = set()
    count = 0
    for record in _checked_records(files, separator, header):
        count += 1
        for number in decimal.copy():
            if (field := record[number]) == "":
                continue
            filled.add(number)
            if not (_WHOLE.fullmatch(field) and -(2**63) <= int(field) < 2**63):
                whole.discard(number)
                if not _DECIMAL.fullmatch(field):
                    decimal.discard(number)
        if places is not None and 0 < len(record[places[1]]) <= _LONGEST_INDEX:
            named.add(record[places[1]])
    kinds = ["string"] * len(header)
    for number in decimal & filled:
        kinds[number] = "int64" if number in whole else "float64"
    if places is None or not named:
        return kinds, {}, count
    pictures = {
        record[places[0]]: record[places[1]]
        for record in _checked_records(files, separator, header)
        if record[places[0]] in named and len(record[places[1]]) > _LONGEST_INDEX and is_inline(record[places[1]])
    }
    return kinds, pictures, count


def _checked_records(files: Sequence[Path], separator: str, header: Sequence[str]) -> Iterator[list[str]]:
    for file in files:
        records = _records(file, separator)
        next(records)
        for line, record in records:
            if len(record) != len(header):
                raise RunError(
                    f"{file}: the record that ends in line {line:,} has {len(record)} fields, and the header "
                    f"{len(header)}; a text with a separator or a line break must stand in quotes"
                )
            yield record
