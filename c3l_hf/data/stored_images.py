"""The images of rows as they are stored: what `image_row` of a pair table names is a row of the images' dataset."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Image

from c3l_hf.common.arrow import in_lists
from c3l_hf.common.errors import RowError
from c3l_hf.data.image_files import stored_here
from c3l_hf.data.sources import image_column
from c3l_hf.data.stored_rows import has_images
from c3l_hf.files.metadata import PlainPicture, without_metadata

__all__ = ["AT_ONCE", "WithImages", "images_of_rows", "storable", "stored_images", "with_contents", "without_contents"]

# Rows whose images are in one Arrow array, which holds 2 GB.
AT_ONCE = 32


def stored_images(images: Dataset, rows: Sequence[int]) -> list[list[dict[str, Any]]]:
    """The images of some rows as they are stored, not decoded; also those that are null or whose file is gone, so that
    who reads them can say which.

    Args:
        images: Images in a column `images` (lists of images) or `image`.
        rows: Numbers of rows, as `image_row` of a pair table has them, also more than once: each image is read once.

    Returns:
        For each row its images as dicts with "bytes" and "path", or null; none where the column `image` is null.
    """
    single = image_column(images) == "image"
    numbers = list(dict.fromkeys(rows))
    stored = {
        number: [image for image in row or () if image is not None or not single]
        for start in range(0, len(numbers), AT_ONCE)
        for number, row in _rows_of(images, numbers[start : start + AT_ONCE])
    }
    return [stored[number] for number in rows]


def storable(images: Iterable[Mapping[str, Any] | None]) -> list[Mapping[str, Any]]:
    """Those of a row's images that `datasets` can store: it ends where a file is gone, and gives null no place.

    For rows that say in a column of their own what became of their images.
    """
    here = (None if image is None else stored_here(image) for image in images)
    return [image for image in here if image is not None]


def with_contents(table: pa.Table, features: Features, keep_metadata: bool = False) -> pa.Table:
    """A table of a dataset with the contents of the files that its images name, to be read elsewhere: without what they
    say of place, time, camera and people, see `files.metadata.without_metadata`.

    An image that is not here keeps its path, and one that cannot be read its name: what metadata it has cannot be told.
    `datasets` would end at the first, after all the work on the rows, and fetch addresses on the web, whether somebody
    asked for it or not.

    Args:
        table: Some of the rows, as many as can be in memory together with their images.
        features: Those of the dataset.
        keep_metadata: Contents as they are.
    """

    def plain(image: dict[str, Any]) -> dict[str, Any]:
        embedded = _embedded(image)
        if keep_metadata or embedded["bytes"] is None:
            return embedded
        content, name = embedded["bytes"], embedded["path"] and Path(embedded["path"]).name
        if content not in made:
            if len(made) == AT_ONCE:
                made.clear()
            try:
                made[content] = without_metadata(content)
            except RowError:
                made[content] = None
        picture = made[content]
        if picture is None:
            return {"bytes": None, "path": name}
        return {"bytes": picture.content, "path": f"{name}{picture.ending}" if name else None}

    made: dict[bytes, PlainPicture | None] = {}  # rows about one image often come together
    return _changed(table, features, plain)


def without_contents(table: pa.Table, features: Features) -> pa.Table:
    """A table of a dataset whose images, also those within messages, have at most their paths."""
    return _changed(table, features, lambda image: {**image, "bytes": None})


def _embedded(image: dict[str, Any]) -> dict[str, Any]:
    here = stored_here(image)
    if here is None or here["bytes"] is not None:
        return image
    try:
        return {"bytes": Path(here["path"]).read_bytes(), "path": Path(here["path"]).name}
    except OSError:
        return image


def _changed(table: pa.Table, features: Features, change: Callable[[dict[str, Any]], dict[str, Any]]) -> pa.Table:
    """A table with other images, as they are stored."""

    def changed(value: Any, feature: Any) -> Any:
        if value is None or not has_images(feature):
            return value
        if isinstance(feature, dict):
            return {name: changed(value[name], item) for name, item in feature.items()}
        return change(value) if isinstance(feature, Image) else [changed(item, feature.feature) for item in value]

    for place, name in enumerate(table.column_names):
        if has_images(feature := features[name]):
            column = table[name]
            parts = (column.slice(start, AT_ONCE).to_pylist() for start in range(0, len(column), AT_ONCE))
            chunks = [pa.array([changed(value, feature) for value in part], column.type) for part in parts]
            table = table.set_column(place, table.schema.field(name), pa.chunked_array(chunks, column.type))
    return table


def _rows_of(images: Dataset, numbers: Sequence[int]) -> Iterable[tuple[int, list | None]]:
    return zip(numbers, images_of_rows(images, numbers).to_pylist(), strict=True)


def images_of_rows(images: Dataset, rows: Sequence[int]) -> pa.Array:
    """The images of some rows of a dataset, as they are stored; a list of images for each.

    Args:
        images: With the columns `images` or `image`.
        rows: Row numbers, in any order, also more than once.
    """
    column = image_column(images)
    values = images.select_columns([column]).with_format("arrow")[list(rows)][column].combine_chunks()
    return _with_files(in_lists(values))


def _with_files(values: pa.Array) -> pa.Array:
    """Lists of images, downloaded ones as files: `datasets` would fetch their addresses again where it stores them."""
    paths = pc.struct_field(values.flatten(), "path")
    if not pc.any(pc.match_substring(paths, "://")).as_py():
        return values
    lists = [row and [image and (stored_here(image) or image) for image in row] for row in values.to_pylist()]
    return pa.array(lists, values.type)


class WithImages:
    """A transform for `Dataset.with_transform`: rows of an `image_row` get their `images`, as they are stored, when
    they are read. Nothing is copied.

    Args:
        images: Images in a column `images` (lists of images) or `image`.
    """

    def __init__(self, images: Dataset):
        self._images = images

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        others = {name: values for name, values in rows.items() if name != "image_row"}
        return {"images": stored_images(self._images, rows["image_row"]), **others}
