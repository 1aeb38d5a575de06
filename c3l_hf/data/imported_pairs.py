"""Pairs that somebody has, in any accepted layout → images, each once, and a pair table as generation makes it."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from datasets import Dataset, Image, LargeList, List

from c3l_hf.common.errors import RowError, RunError
from c3l_hf.common.files import digest
from c3l_hf.data.image import image_key
from c3l_hf.data.layouts import layout_of, to_pairs
from c3l_hf.data.schema import PAIR_TABLE_FEATURES
from c3l_hf.data.sources import Images, images_digest

__all__ = ["ImportedPairs", "import_pairs"]

_NO_TYPE, _NO_TEMPLATE = "general", "general-1"


@dataclass(frozen=True)
class ImportedPairs:
    """Somebody's pairs as a run takes them.

    Attributes:
        images: The images that the pairs are about, each once, in the order in which they first appear.
        table: Rows of `PAIR_TABLE_FEATURES`, by image. A row that is no pair has its reason in `generation_status`.
        first_rows: (images + 1,): where the pairs of each image begin in the table.
        digest: What identifies texts and images.
        without_image: How many rows have no image: nothing that could be scored, so they have no place in the table.
    """

    images: Images
    table: pa.Table
    first_rows: list[int]
    digest: str
    without_image: int

    def tables(self, first: int, last: int) -> Iterator[pa.Table]:
        """The pairs about the images first, ..., last - 1."""
        start, stop = self.first_rows[first], self.first_rows[last]
        yield self.table.slice(start, stop - start)


def import_pairs(dataset: Dataset) -> ImportedPairs:
    """Read the pairs of a dataset.

    Args:
        dataset: Rows in one of the layouts of `data.layouts.to_pairs`. The columns `image_id`, `pair_id`, `type` and
            `template` are used where they are there. Rows about one image are those of one `image_id`, or, without this
            column, those whose image has the same content or path. Images may be stored by `datasets`, or be paths
            (relative ones to the working folder) or structs of "bytes" and "path", as other tools write them.

    Raises:
        RunError: If the columns are in no accepted layout, a `pair_id` or `image_id` is missing or not unique, or there
            are no rows with an image.
    """
    try:
        columns = layout_of(dataset.column_names)
    except ValueError as error:
        raise RunError(f"pairs: {error}") from None
    dataset = _with_images(dataset, columns[-1])
    extra = [name for name in ("image_id", "pair_id", "type", "template") if name in dataset.column_names]
    by_image: dict[Any, list[dict[str, Any]]] = {}
    first_row: dict[Any, int] = {}
    sha, without_image = hashlib.sha256(), 0
    stored = dataset.select_columns([*columns, *extra]).with_format("arrow")
    for start, table in zip(range(0, len(dataset), 100), stored.iter(100)):
        for number, values in enumerate(table.to_pylist(), start):
            images = values[columns[-1]]
            images = [image for image in (images if isinstance(images, list) else [images]) if image is not None]
            if not images:
                without_image += 1
                continue
            if "image_id" in values:
                if values["image_id"] is None:
                    raise RunError(f"pairs: row {number} has no image_id")
                key: Any = str(values["image_id"])
            else:
                key = tuple(map(image_key, images))
            first_row.setdefault(key, number)
            pair = _pair(values)
            sha.update(digest(*pair.items(), values.get("pair_id")).encode())
            by_image.setdefault(key, []).append(pair | {"pair_id": values.get("pair_id"), **_kind(values)})
    if not by_image:
        raise RunError(f"pairs: none of the {len(dataset):,} rows has an image")
    rows, first_rows = _table_rows(by_image, named="image_id" in dataset.column_names)
    images = dataset.select(list(first_row.values()))
    if "image_id" in dataset.column_names:
        images = images.select_columns([columns[-1], "image_id"])
    else:
        images = images.select_columns([columns[-1]]).add_column("image_id", _numbers(len(by_image)))
    content = images_digest(images)
    table = pa.Table.from_pylist(rows, schema=PAIR_TABLE_FEATURES.arrow_schema)
    return ImportedPairs(
        Images(images, content), table, first_rows, digest(sha.hexdigest(), content, without_image), without_image
    )


def _with_images(dataset: Dataset, column: str) -> Dataset:
    """The dataset with its column of paths or contents as images. Nothing is decoded."""
    feature = dataset.features[column]
    listed = isinstance(feature, List | LargeList)
    if isinstance(feature.feature if listed else feature, Image):
        return dataset
    try:
        return dataset.cast_column(column, List(Image()) if listed else Image())
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise RunError(
            f"pairs: column {column!r} holds {feature}; it must hold images, paths, or lists of them ({error})"
        ) from None


def _numbers(count: int) -> list[str]:
    return [f"{number:06d}" for number in range(count)]


def _table_rows(by_image: Mapping[Any, list[dict[str, Any]]], named: bool) -> tuple[list[dict[str, Any]], list[int]]:
    """The rows of the pair table, and where those of each image begin."""
    ids = list(by_image) if named else _numbers(len(by_image))
    rows, first_rows, seen = [], [0], set()
    for image_row, (image_id, pairs) in enumerate(zip(ids, by_image.values())):
        for number, pair in enumerate(pairs):
            pair_id = f"{image_id}/{number}" if pair["pair_id"] is None else str(pair["pair_id"])
            if pair_id in seen:
                raise RunError(f"pairs: column 'pair_id' must be unique; {pair_id} is there more than once")
            seen.add(pair_id)
            rows.append({**pair, "image_id": image_id, "image_row": image_row, "pair_id": pair_id, "raw": None})
        first_rows.append(len(rows))
    return rows, first_rows


def _pair(values: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt and completion of a row with one answer, or why it has none."""
    try:
        pairs = to_pairs(values)
        if len(pairs) > 1:
            raise RowError(f"the conversation has {len(pairs)} answers; a pair has one")
        prompt = [{"role": message["role"], "content": _text(message["content"])} for message in pairs[0].prompt]
        completion = [{"role": "assistant", "content": pairs[0].answer}]
        return {"prompt": prompt, "completion": completion, "generation_status": "ok"}
    except RowError as error:
        return {"prompt": None, "completion": None, "generation_status": str(error)}


def _text(content: Any) -> str:
    """The text of a message whose images come first, where the pair table has them too."""
    if isinstance(content, str):
        return content
    kinds = [item.get("type") for item in content or ()]
    texts = [item.get("text") for item in content or () if item.get("type") == "text"]
    if not all(isinstance(text, str) for text in texts) or set(kinds) - {"text", "image"}:
        raise RowError("the prompt has items that are neither text nor image")
    if "image" in kinds[kinds.index("text") if "text" in kinds else len(kinds) :]:
        raise RowError("the prompt has an image after a text; a pair's images come first")
    return "".join(texts)


def _kind(values: Mapping[str, Any]) -> dict[str, str]:
    return {"type": values.get("type") or _NO_TYPE, "template": values.get("template") or _NO_TEMPLATE}
