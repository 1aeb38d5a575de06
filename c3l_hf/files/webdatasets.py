"""WebDataset tars: the files of a sample, which share a name up to the first dot, as one row.

Not by the builder of `datasets`, which takes columns and types from the first five samples, ends at a sample with other
files or drops what its JSON has beside, and gives each picture of a sample a column named by its ending.
"""

import gzip
import json
import logging
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from datasets import Dataset, Features, Image, List, Value

from c3l_hf import _compat
from c3l_hf.common.arrow import beside
from c3l_hf.common.errors import RunError
from c3l_hf.common.names import listed
from c3l_hf.files.inferred import Kind, feature_of, is_deep, kind_of, merged, stored
from c3l_hf.files.text_files import is_compressed, source_digest

__all__ = ["open_tars", "spread"]

logger = logging.getLogger(__name__)

_PICTURES = frozenset("jpg jpeg jpe jfif png webp gif bmp tif tiff ppm pgm pnm".split())
_TEXTS = frozenset("txt text transcript caption".split())
_NUMBERS = frozenset("cls cls2 index inx id".split())
_JSON = frozenset("json jsn".split())
_READ = _PICTURES | _TEXTS | _NUMBERS | _JSON
_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)
_LARGEST = 2**29  # bytes of a file that is read: what is packed may be zeros without end
_AT_ONCE = 2**28  # bytes of rows in one Arrow array, which holds 2 GB


@dataclass
class _Look:
    """What is in the tars: the kinds of what is no picture, the most pictures of a sample, and what cannot be read."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    most_pictures: int = 0
    pictures: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)
    large: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    rows: int = 0
    size: int = 0


def open_tars(files: Sequence[Path]) -> Dataset:
    """The samples of WebDataset tars as rows, in their order; also compressed (.tar.gz).

    Columns are `__key__` and `__url__`; the picture as `image`, or `images` where a sample has several, in the order of
    their names (1, 2, …, 10), as they are stored; texts (`txt`) and numbers (`cls`) under their endings; and the keys
    of `json`, if it is an object, each as a column (as `json.KEY` where that name is taken). What is missing is null.
    A warning says which files were taken for several pictures of a sample, which are none of all these, and which texts
    and JSON cannot be read: they are null. Links are passed over, and counted: a tar may have some to
    anywhere. A file of more than 512 MB is not read: a picture is empty then, which its row says, and a text null.

    Raises:
        RunError: If a tar is damaged, has no samples, or the files of a sample do not follow each other.
    """
    look = _looked_through(files)
    if not look.rows:
        raise RunError(f"{files[0]} has no samples: files that are named like 0001.jpg and 0001.json")
    pictures = "images" if look.most_pictures > 1 else "image" if look.most_pictures else None
    columns = _columns(look.kinds, {"__key__", "__url__", *filter(None, [pictures])})
    _warn(files[0], look, columns)
    features = {"__key__": Value("string"), "__url__": Value("string")}
    if pictures is not None:
        features[pictures] = Image() if pictures == "image" else List(Image())
    features |= {name: feature_of(kind) for name, (_, kind) in columns.items()}
    return Dataset.from_generator(
        _rows,
        features=Features(features),
        gen_kwargs={"files": tuple(files), "columns": columns, "pictures": pictures},
        fingerprint=source_digest(files, features),
        writer_batch_size=max(1, min(1000, _AT_ONCE * look.rows // max(look.size, 1))),
    )


def spread(dataset: Dataset) -> Dataset:
    """The samples of tars that `datasets` has opened, as on the Hub, with the columns of `open_tars`, where they are
    only to be named: one picture, and `json` whose fields are the same in all samples. Other datasets as they are.
    """
    if not {"__key__", "__url__"} <= set(dataset.column_names):
        return dataset
    pictures = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
    if len(pictures) == 1 and not {"image", "images"} & set(dataset.column_names):
        dataset = dataset.rename_column(pictures[0], "image")
    if not isinstance(dataset.features.get("json"), dict):
        return dataset
    names = set(dataset.column_names) - {"json"}
    fields = dataset.select_columns(["json"]).flatten(max_depth=2)
    free = {name: name.removeprefix("json.") for name in fields.column_names if name.removeprefix("json.") not in names}
    return beside(dataset.remove_columns("json"), fields.rename_columns(free))


def _rows(
    files: Sequence[Path], columns: Mapping[str, tuple[tuple[str, ...], Kind]], pictures: str | None
) -> Iterator[dict[str, Any]]:
    for file in files:
        for key, sample in _samples(file):
            images = [
                {"bytes": sample[name] or b"", "path": f"{PurePosixPath(key).name}.{name}"}
                for name in _picture_names(sample)
            ]
            values, _ = _values(sample)
            row: dict[str, Any] = {"__key__": key, "__url__": str(file)}
            if pictures is not None:
                row[pictures] = images if pictures == "images" else images[0] if images else None
            yield row | {name: stored(_at(values, path), kind) for name, (path, kind) in columns.items()}


def _looked_through(files: Sequence[Path]) -> _Look:
    look = _Look()
    for file in files:
        for key, sample in _samples(file, look.links):
            names = _picture_names(sample)
            look.rows += 1
            look.size += sum(len(content or b"") for content in sample.values())
            look.large += [f"{key}.{name}" for name, content in sample.items() if content is None]
            look.most_pictures = max(look.most_pictures, len(names))
            look.pictures.update(names)
            look.unread.update(name for name in sample if _ending(name) not in _READ)
            values, damaged = _values(sample)
            look.damaged += [f"{key}.{name}" for name in damaged]
            for name, value in values.items():
                look.kinds[name] = merged(look.kinds.get(name), kind_of(value))
    return look


def _columns(kinds: Mapping[str, Kind], taken: Iterable[str]) -> dict[str, tuple[tuple[str, ...], Kind]]:
    """Column → where its values are in a sample, and their kind."""
    spread = next((name for name in ("json", "jsn") if isinstance(kinds.get(name), dict)), None)
    columns: dict[str, tuple[tuple[str, ...], Kind]] = {}
    columns |= {name: ((name,), kind) for name, kind in kinds.items() if name != spread}
    names = {*taken, *columns}
    if spread is not None:
        for key, kind in kinds[spread].items():
            columns[f"{spread}.{key}" if key in names else key] = ((spread, key), kind)
    return columns


def _warn(file: Path, look: _Look, columns: Mapping[str, tuple[tuple[str, ...], Kind]]) -> None:
    if look.most_pictures > 1:
        names = sorted(look.pictures, key=_natural)
        logger.warning("%s: the images of a sample are its files %s, in this order", file, listed(names))
    if clashes := [name for name, (path, _) in columns.items() if len(path) > 1 and name != path[-1]]:
        logger.warning("%s: the column %s is from the JSON, as there is one of that name", file, listed(clashes))
    if look.unread:
        logger.warning("%s: files of these kinds are not read: %s", file, listed(sorted(look.unread)))
    if look.large:
        logger.warning("%s: %d files of more than 512 MB are not read: %s", file, len(look.large), listed(look.large))
    if look.links:
        logger.warning("%s: %d links are passed over: %s", file, len(look.links), listed(look.links))
    if look.damaged:
        logger.warning(
            "%s: %d texts and JSON files cannot be read and are null: %s",
            file,
            len(look.damaged),
            listed(look.damaged),
        )


def _samples(file: Path, links: list[str] | None = None) -> Iterator[tuple[str, dict[str, bytes | None]]]:
    """The samples of a tar: the key, and the content by ending, null of a file that is too large. The ending is all
    after the name's first dot. To `links` their names are added."""
    seen: set[str] = set()
    current: str | None = None
    sample: dict[str, bytes | None] = {}
    try:
        with tarfile.open(file) as tar:
            for member in tar:
                # Bytes that are no UTF-8 come as halves of characters, which no table can hold.
                path = member.name.encode("utf-8", "backslashreplace").decode()
                folder, _, name = path.removeprefix("./").rpartition("/")
                if links is not None and (member.issym() or member.islnk()):
                    links.append(path)
                stem, dot, ending = name.partition(".")
                if not member.isfile() or not stem or not dot or "__MACOSX" in folder:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if key != current:
                    if current is not None:
                        yield current, sample
                    if key in seen:
                        raise RunError(f"{file}: the files of {key} do not follow each other; pack it sorted by name")
                    seen.add(key)
                    current, sample = key, {}
                if (ending := ending.lower()) in sample:
                    raise RunError(f"{file} has {key}.{ending} twice")
                is_read = _ending(ending) in _READ  # not of a film
                content = tar.extractfile(member) if is_read and member.size <= _LARGEST else None
                sample[ending] = content.read() if content is not None else None if is_read else b""
                _compat.forget_members(tar)
            if current is not None:
                yield current, sample
            _check_end(file, tar)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise RunError(f"{file} cannot be read: {' '.join(str(error).split())}") from None


def _check_end(file: Path, tar: tarfile.TarFile) -> None:
    """`tarfile` takes a header that is cut off for the end, and does not come to the checksum of what is compressed."""
    if is_compressed(file):
        with gzip.open(file) as content:
            while content.read(1 << 24):
                pass
        return
    with file.open("rb") as content:
        content.seek(tar.offset)
        end = content.read(tarfile.BLOCKSIZE)
    if end.strip(b"\0") or 0 < len(end) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("unexpected end of data")
    if not end:
        logger.warning("%s has no mark at its end: it may be cut off", file)


def _values(sample: Mapping[str, bytes | None]) -> tuple[dict[str, Any], list[str]]:
    """What a sample has beside pictures, and which of it cannot be read."""
    values: dict[str, Any] = {}
    damaged = []
    for name, content in sample.items():
        kind = _ending(name)
        if kind not in _TEXTS | _NUMBERS | _JSON:
            continue
        if content is None:
            values[name] = None
            continue
        try:
            text = content.decode("utf-8-sig")
            if kind in _JSON:
                value = json.loads(text)
                json.dumps(value, ensure_ascii=False).encode()  # half a character has no place in a table
                if is_deep(value):
                    raise RecursionError
                values[name] = value
            else:
                number = text.strip()
                values[name] = int(number) if kind in _NUMBERS and _WHOLE.fullmatch(number) else text
        except (ValueError, RecursionError):
            values[name] = None
            damaged.append(name)
    return values, damaged


def _at(values: Any, path: Sequence[str]) -> Any:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _picture_names(sample: Iterable[str]) -> list[str]:
    return sorted((name for name in sample if _ending(name) in _PICTURES), key=_natural)


def _ending(name: str) -> str:
    return name.rpartition(".")[2]


def _natural(name: str) -> list[tuple[int, str]]:
    """For sorting names: numbers in them by their size."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
