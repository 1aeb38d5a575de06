"""A benchmark's columns and pictures as others name and store them → those of the published layout."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Image, List

from c3l_hf.common.arrow import in_lists
from c3l_hf.common.errors import RowError
from c3l_hf.common.words import what_is
from c3l_hf.data.image_files import located
from c3l_hf.data.row_images import as_stored
from c3l_hf.data.stored_rows import stored_rows
from c3l_hf.evaluation.benchmarks import LETTERS, SEED_DIMENSIONS, Layout
from c3l_hf.files.decoders import opened
from c3l_hf.files.image import image_key, open_image
from c3l_hf.files.unreadable import cause_of

__all__ = ["Pictures", "published_rows"]

# Column of the published layout → what it is called in the authors' files and in VLMEvalKit's, the first that is there.
_OTHER_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "pope": {
        "question_id": ("question_id", "id", "index"),
        "question": ("question", "text"),
        "answer": ("answer", "label"),
        "image_source": ("image_source",),
    },
    "seed": {
        "question_id": ("question_id", "index"),
        "question_type_id": ("question_type_id", "category"),
        **{f"choice_{letter.lower()}": (f"choice_{letter.lower()}", letter) for letter in LETTERS},
    },
    "mmbench": {"L2-category": ("L2-category", "l2-category", "l2_category", "L2_category")},
    "llava_w": {"question": ("question", "text"), "image_id": ("image_id",)},
}
# What some of the forms leave out: it is then this, or of the picture.
_DEFAULTS: dict[str, dict[str, Any]] = {"mmbench": {"hint": None}, "seed": {"data_type": "image"}}
_OF_THE_PICTURE = {"pope": "image_source", "seed": "data_id", "llava_w": "image_id"}
_IMAGE_NAMES = ("image", "images", "image_path")
_FURTHER_OPTIONS = "EFGHIJKLMNOPQRSTUVWXYZ"
_ENDINGS = ("", ".jpg", ".jpeg", ".png")  # of the files that SEED-Bench's `data_id` names
_LONGEST_INDEX = 64
_AT_ONCE = 256 * 2**20  # bytes of pictures in one Arrow array, which holds 2 GB
_STORED = pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()}))


def published_rows(
    benchmark: str, layout: Layout, dataset: Dataset, source: str, split: str, folder: Path | None
) -> tuple[list[dict[str, Any]], "Pictures", dict[int, str]]:
    """The rows with the columns of the published layout, and their pictures, neither decoded nor copied where they are
    stored as `datasets` stores them; and by row number what in a row is no text or number.

    Args:
        benchmark: A key of `BENCHMARKS`.
        layout: Its layout.
        dataset: The rows, with their own names of columns.
        source: What errors call them.
        split: Which split it is; MMBench's test split has no answers.
        folder: What relative paths of pictures are relative to, and must be in; None for those of a dataset.

    Raises:
        ValueError: If columns are missing, or hold something else.
    """
    names = {name: _OTHER_NAMES[benchmark].get(name, (name,)) for name in layout.columns}
    own = {name: next((other for other in others if other in dataset.features), None) for name, others in names.items()}
    optional = {*_DEFAULTS.get(benchmark, {}), _OF_THE_PICTURE.get(benchmark)}
    optional |= {"answer"} if (benchmark, split) == ("mmbench", "test") else set()
    image = next((name for name in _IMAGE_NAMES if name in dataset.features), None)
    if image is None and benchmark == "seed" and folder is not None:
        image = own["data_id"]  # in its authors' file it names the picture
    missing = [name for name, column in own.items() if column is None and name not in optional]
    if missing or image is None:
        lacks = ", ".join([*missing, *([] if image else ["image"])])
        raise ValueError(
            f"{source} is not in the layout of {layout.name} (as {layout.repository}): it lacks {lacks}; "
            f"its columns are {', '.join(dataset.column_names)}"
        )
    table = dataset.with_format("arrow")[:]
    read = list(dict.fromkeys(filter(None, own.values())))
    further = [name for name in _FURTHER_OPTIONS if name in dataset.features] if "A" in dataset.features else []
    raw = stored_rows(table.select([*read, *further]), dataset.features)
    for number, row in enumerate(raw):
        if extra := next((name for name in further if str(row[name] or "").strip() not in ("", "nan")), None):
            raise ValueError(f"{source}: row {number} has an option {extra}; {layout.name} has {', '.join(LETTERS)}")
    defaults = _DEFAULTS.get(benchmark, {})
    rows = [{name: row[column] if column else defaults.get(name) for name, column in own.items()} for row in raw]
    if benchmark == "seed" and own["question_type_id"] == "category":
        numbers = {name: number for number, name in SEED_DIMENSIONS.items()}
        for row in rows:
            row["question_type_id"] = numbers.get(row["question_type_id"], row["question_type_id"])
    videos = {number for number, row in enumerate(rows) if row.get("data_type") == "video"}
    indices = _indices(dataset, table)
    pictures = Pictures(table[image], dataset.features[image], folder, indices, image == "data_id", videos)
    of_picture = _OF_THE_PICTURE.get(benchmark)
    if of_picture and own[of_picture] is None:
        for number, row in enumerate(rows):
            row[of_picture] = pictures.name(number) or f"row {number}"
    problems = {
        number: f"{own[name]} is {type(value).__name__}, not a text"
        for number, row in enumerate(rows)
        for name, value in row.items()
        if isinstance(value, list | dict | bytes) and not (name == "caption" and isinstance(value, list))
    }
    return rows, pictures, problems


def _indices(dataset: Dataset, table: pa.Table) -> dict[str, int]:
    """Row number by `index`: VLMEvalKit writes a picture once, and in other rows of it the index of that row."""
    return {str(value): n for n, value in enumerate(table["index"].to_pylist())} if "index" in dataset.features else {}


class Pictures:
    """The pictures of rows, as lists of what `datasets` stores: {"bytes", "path"}.

    Attributes:
        column: (n,) lists of them.
        problems: Row number → why its pictures are not there.
    """

    def __init__(
        self,
        column: pa.ChunkedArray,
        feature: Any,
        folder: Path | None,
        indices: Mapping[str, int],
        any_ending: bool,
        passed_over: set[int],
    ):
        self.problems: dict[int, str] = {}
        self._folder, self._any_ending = folder, any_ending
        inner = feature.feature if isinstance(feature, List) else feature
        if isinstance(inner, Image) and folder is None:
            self.column = _as_lists(column)
        else:
            self.column = self._stored(column, feature, indices, passed_over)

    def values(self, number: int) -> list[dict[str, Any]]:
        """A row's pictures as `datasets` has them, but the bytes as buffers into the source."""
        values = [picture for picture in self.column[number].values or () if picture.is_valid]
        return [{"bytes": value["bytes"].as_buffer(), "path": value["path"].as_py()} for value in values]

    def name(self, number: int) -> str:
        """A name of a row's picture, equal for equal pictures."""
        key = next(iter([image_key(value) for value in self.values(number)]), None)
        return key.hex() if isinstance(key, bytes) else str(key or "")

    def problem(self, number: int) -> str | None:
        """Why a row's pictures cannot be read, as far as their beginnings tell."""
        if number in self.problems:
            return self.problems[number]
        values = self.values(number)
        if not values:
            return "there is no image"
        for value in values:
            content = value["bytes"]
            try:
                # The header only, read where it is.
                with opened(value["path"] if content is None else pa.BufferReader(content)):
                    pass
            except Exception:  # decoders raise errors of many types; `open_image` words them
                try:
                    open_image({**value, "bytes": content and content.to_pybytes()})
                except RowError as error:
                    return str(error)
        return None

    def _stored(
        self, column: pa.ChunkedArray, feature: Any, indices: Mapping[str, int], passed_over: set[int]
    ) -> pa.ChunkedArray:
        chunks, part, size = [], [], 0
        for number, value in enumerate(_decoded(column, feature)):
            part.append([] if number in passed_over else self._row(number, value, column, feature, indices))
            size += sum(len(picture["bytes"] or b"") for picture in part[-1])
            if size > _AT_ONCE:
                chunks.append(pa.array(part, _STORED))
                part, size = [], 0
        return pa.chunked_array([*chunks, pa.array(part, _STORED)], _STORED)

    def _row(
        self, number: int, value: Any, column: pa.ChunkedArray, feature: Any, indices: Mapping[str, int]
    ) -> list[dict[str, Any]]:
        key = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if 0 < len(key) <= _LONGEST_INDEX and indices.get(key, number) != number:
            value = next(_decoded(column.slice(indices[key], 1), feature))
        try:
            items = value if isinstance(value, list) else [value]
            return [self._as_picture(item) for item in items if item is not None and item != ""]
        except RowError as error:
            self.problems[number] = str(error)
        except Exception as error:  # of base64 that is none, and of values that are no pictures
            self.problems[number] = str(RowError(f"the image cannot be read: {cause_of(error)}"))
        return []

    def _as_picture(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, str | bytes | Mapping):
            raise RowError(f"the image is {what_is(value)}, not a picture or a path")
        picture = as_stored(located(value, self._folder))
        if self._any_ending and picture["path"] is not None:
            paths = (f"{picture['path']}{ending}" for ending in _ENDINGS)
            picture["path"] = next((path for path in paths if Path(path).is_file()), picture["path"])
        return picture


def _decoded(column: pa.ChunkedArray, feature: Any) -> Iterator[Any]:
    """The values of a column, one at a time."""
    features = Features({"image": feature})
    for start in range(0, len(column), 16):
        yield from (row["image"] for row in stored_rows(pa.table({"image": column.slice(start, 16)}), features))


def _as_lists(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of pictures, or of lists of pictures, as lists; the bytes stay where they are."""
    return pa.chunked_array([in_lists(chunk).cast(_STORED) for chunk in column.chunks], _STORED)
