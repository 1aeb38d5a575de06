"""JSON files: one row a line, a list of rows, or an object with such a list in it.

Not by the builder of `datasets`, which takes types from a part of the rows and from the look of texts: values change
unseen (see `inferred`), or a later row ends it.
"""

import functools
import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import digest
from c3l_hf.common.names import listed
from c3l_hf.common.records import read_record, write_record
from c3l_hf.files.inferred import DEEPEST, Kind, features_of, is_deep, kind_of, merged, stored
from c3l_hf.files.text_files import check_text, lines_of, not_utf8, open_bytes, source_digest

__all__ = ["open_json"]

logger = logging.getLogger(__name__)

_AT_ONCE = 2**28  # bytes of rows in one Arrow array, which holds 2 GB of text
_LINES = {"jsonl", "ndjson"}
# Bytes of a file that is read whole, because its lines are no rows; in memory it takes several times as much.
_MOST_WHOLE = 2**32
# Lists of objects that a single row has; other ones in a file of one object are the rows.
_LISTS_OF_A_ROW = {
    *("messages", "conversations", "texts", "prompt", "completion", "images", "answers", "history"),
    *("chosen", "rejected"),
}


def open_json(files: Sequence[Path]) -> Dataset:
    """The rows of JSON files, whatever their ending; also compressed (.gz).

    A file is JSON lines, a list of objects, an object that is one row, or one with exactly one list of objects in it
    (`{"info": …, "data": […]}`), which are then the rows; a warning says which. In a file named .jsonl or .ndjson a
    line is a row, whatever is in it, also if it is the only one. Columns have the types of all their
    values: what is missing is null, and a column of several kinds (texts and lists, say) has the type `Json`.
    NaN is null, and half a character (a surrogate by itself) is U+FFFD.

    Raises:
        RunError: If a file is empty, not UTF-8 or not JSON, has no rows, or has several lists of objects.
    """
    state = source_digest(files)
    look = Path(datasets.config.HF_DATASETS_CACHE) / f"c3l_hf-json-{state}.json"
    known = read_record(look)
    if known is None:
        known = _looked_through(files)
        look.parent.mkdir(parents=True, exist_ok=True)
        write_record(look, known, shared=True)  # perhaps by several processes at once
    kinds, count, size = known["kinds"], known["rows"], known["bytes"]
    features = features_of(kinds)
    if not count or not kinds:
        raise RunError(f"{files[0]} has no rows")
    if odd := [name for name in kinds if "\0" in name]:
        raise RunError(f"{files[0]} has the column {odd[0]!r:.60}, whose name has a character 0; rename it")
    return Dataset.from_generator(
        _stored_rows,
        features=features,
        gen_kwargs={"files": tuple(files), "kinds": kinds},
        fingerprint=digest(state, features),
        writer_batch_size=max(1, min(1000, _AT_ONCE * count // max(size, 1))),
    )


def _looked_through(files: Sequence[Path]) -> dict[str, Any]:
    """The columns' kinds, the number of rows, and about how many bytes they have."""
    kinds: dict[str, Kind] = {}
    count = size = 0
    for file in files:
        for length, row in _rows(file):
            count, size = count + 1, size + length
            for name, value in row.items():
                kinds[name] = merged(kinds.get(name), kind_of(value))
    return {"kinds": kinds, "rows": count, "bytes": size}


def _stored_rows(files: Sequence[Path], kinds: dict[str, Kind]) -> Iterator[dict[str, Any]]:
    for file in files:
        for _, row in _rows(file):
            yield {name: stored(row.get(name), kind) for name, kind in kinds.items()}


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows, and the bytes of each."""
    start = check_text(file)
    try:
        if start.startswith(b"{") and _is_json_lines(file):
            yield from _rows_of_lines(file)
            return
        text = _whole(file)
        content = _loaded(text, "it")
        rows = _rows_in(content, file) if isinstance(content, dict) else content
        if not isinstance(rows, list):
            raise _Problem(f"it is {type(rows).__name__}, not rows")
        for number, row in enumerate(rows):
            yield len(text) // len(rows), _checked(row, f"item {number:,} of its list")
    except _Problem as error:
        raise _unreadable(file, str(error)) from None
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(file, str(error)) from None


def _rows_of_lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows up to the first line that is none, which ends the file; only after all others have been looked at."""
    unfit: list[str] = []
    for number, line in _text_lines(file):
        where = f"line {number:,}"
        try:
            row = _checked(_loaded(line, where), where)
        except _Problem as error:
            unfit.append(where if unfit else str(error))
        else:
            if not unfit:
                yield len(line), row
    if unfit:
        first, *others = unfit
        more = f"; lines that are no rows, too: {listed(others, 3)}" if others else ""
        raise _Problem(f"{first}{more}; correct or delete {'them' if others else 'it'}")


def _is_json_lines(file: Path) -> bool:
    """Whether lines are rows: the first is an object by itself, and another follows or the file's name says so. With
    such a name a first line that is damaged is one, too, unless it looks as if an object went on in the next."""
    is_named_so = not _LINES.isdisjoint(file.name.lower().split(".")[1:])
    lines = (line for _, line in _text_lines(file))
    first = next(lines)
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return is_named_so and not first.endswith(("{", "[", ","))
    return is_named_so or next(lines, None) is not None


def _text_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, counted from 1. Not by `splitlines`, which also splits at marks that texts may have."""
    for number, line in lines_of(file):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise not_utf8(file, f"line {number:,}: {error.reason}") from None
        if text:
            yield number, text


def _whole(file: Path) -> str:
    with open_bytes(file) as content:
        start = content.read(_MOST_WHOLE + 1)
        if len(start) > _MOST_WHOLE:
            raise _Problem(
                f"it has more than {_MOST_WHOLE:,} bytes; save its rows as JSON lines, which are read one by one"
            )
        try:
            return start.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise not_utf8(file, f"byte {error.start:,}: {error.reason}") from None


class _Problem(ValueError):
    """What is no row, and why."""


def _loaded(text: str, where: str) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
        if text.count("[") + text.count("{") > DEEPEST and is_deep(value):
            raise RecursionError
        # Half a character, as `\ud83d` alone: no UTF-8 has it.
        return _with_whole_characters(value) if "\\ud" in text.lower() else value
    except json.JSONDecodeError as error:
        place = f"line {error.lineno:,}, column" if "\n" in text else "character"
        raise _Problem(f"{where} is not JSON: {error.msg} ({place} {error.colno:,})") from None
    except RecursionError:
        raise _Problem(f"{where} has lists and objects in each other, more than {DEEPEST} deep") from None
    except _Problem as error:  # keys that repeat
        raise _Problem(f"{where}: {error}") from None
    except ValueError:
        raise _Problem(f"{where} has a number of thousands of digits") from None


def _constant(name: str) -> float | None:
    # Python writes what is missing so; among numbers it would be neither low nor high.
    return None if name == "NaN" else float(name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Problem(f"an object has the key {next(key for key in keys if keys.count(key) > 1)!r:.60} twice")
    return content


def _with_whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return _object([(_with_whole_characters(key), _with_whole_characters(item)) for key, item in value.items()])
    return [_with_whole_characters(item) for item in value] if isinstance(value, list) else value


@functools.cache  # a file is read twice, to look at it and to store its rows
def _tell_rows(file: Path, name: str) -> None:
    logger.warning("%s is an object; its rows are the list %r", file, name)


def _rows_in(content: dict[str, Any], file: Path) -> list[Any]:
    """The rows of a file that is one object."""
    if _are_columns(content):
        raise _unreadable(file, f"it is an object of columns ({', '.join(content)}); save a list of rows")
    lists = [name for name, value in content.items() if isinstance(value, list) and _has_objects(value)]
    if lists and set(lists) <= _LISTS_OF_A_ROW:
        return [content]  # a row by itself
    if len(lists) > 1:
        raise _unreadable(
            file,
            f"it is an object with several lists of objects ({', '.join(lists)}); save that of the rows alone",
        )
    if lists:
        _tell_rows(file, lists[0])
    return content[lists[0]] if lists else [content]


def _are_columns(content: dict[str, Any]) -> bool:
    """Whether an object has all values of a column together, by row number or in a list; messages are no column."""
    values = list(content.values())
    if values and all(isinstance(value, dict) for value in values):
        return all(value.keys() == values[0].keys() for value in values) and all(key.isdigit() for key in values[0])
    lists = bool(values) and all(isinstance(value, list) and not _has_objects(value) for value in values)
    return lists and len({len(value) for value in values}) == 1


def _has_objects(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], dict)


def _checked(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        kind = "null" if row is None else type(row).__name__
        raise _Problem(f"{where} is {kind}, not a row (an object of columns)")
    return row


def _unreadable(file: Path, why: str) -> RunError:
    return RunError(f"{file} cannot be read: {why}")
