"""The images of rows as they are stored: what `image_row` of a pair table names is a row of the images' dataset."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from c3l_hf.common.arrow import in_lists
from c3l_hf.data.file_states import FILE_STATES, check_files
from c3l_hf.data.image_files import stored_here
from c3l_hf.data.picture_contents import AT_ONCE
from c3l_hf.data.sources import image_column

__all__ = ["AT_ONCE", "WithImages", "images_of_rows", "storable", "stored_images"]


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


def _rows_of(images: Dataset, numbers: Sequence[int]) -> Iterable[tuple[int, list | None]]:
    return zip(numbers, images_of_rows(images, numbers).to_pylist(), strict=True)


def images_of_rows(images: Dataset, rows: Sequence[int]) -> pa.Array:
    """The images of some rows of a dataset, as they are stored; a list of images for each.

    Args:
        images: With the columns `images` or `image`.
        rows: Row numbers, in any order, also more than once.

    Raises:
        RunError: If a file is not what it was, where the images have `data.file_states`.
    """
    columns = [image_column(images), *(name for name in (FILE_STATES,) if name in images.column_names)]
    table = images.select_columns(columns).with_format("arrow")[list(rows)]
    values = in_lists(table[columns[0]].combine_chunks())
    if FILE_STATES in columns:
        check_files(values.to_pylist(), table[FILE_STATES].to_pylist())
    return _with_files(values)


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
