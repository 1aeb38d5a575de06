"""The images of pseudo-labels: lists of images as `datasets` stores them, however the scored rows have them."""

import atexit
import functools
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Image, List, concatenate_datasets

from c3l_hf.common.arrow import in_lists
from c3l_hf.data.image_files import located, stored_here
from c3l_hf.data.layouts import IMAGE_COLUMNS, layout_of
from c3l_hf.data.pair_columns import is_plain
from c3l_hf.data.row_images import images_as_stored, pictures_of
from c3l_hf.data.stored_rows import stored_row
from c3l_hf.files.addresses import is_address, shown_address

__all__ = ["label_images"]

_STORED = Features({"images": List(Image())})
_BATCH = 100


def label_images(dataset: Dataset, rows: np.ndarray, folder: str | Path | None = None) -> Dataset | None:
    """The columns that say which images some rows are about, not decoded.

    Args:
        dataset: The scored rows.
        rows: Numbers of some of them.
        folder: Where images are that are named by a relative path; by default the working folder.

    Returns:
        `images` (lists of `datasets.Image`) and `image_row`, those of them that the rows have. None if they have none.

    Raises:
        ValueError: If a row has no image where others have one, the file that it names is not there or not in the
            folder, or it names an address.
    """
    parts = []
    if (images := _images(dataset, rows, folder)) is not None:
        parts.append(images)
    if "image_row" in dataset.column_names:
        parts.append(dataset.select_columns(["image_row"]).select(rows))
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts, axis=1)


def _images(dataset: Dataset, rows: np.ndarray, folder: str | Path | None) -> Dataset | None:
    columns = [name for name in IMAGE_COLUMNS if name in dataset.column_names]
    if columns == ["images"] and dataset.features["images"] == List(Image()) and folder is None:
        return dataset.select_columns(columns).select(rows)
    if not columns and not _in_messages(dataset, rows):
        return None
    layout = layout_of(dataset.column_names)
    images = images_as_stored(dataset, layout, rows.tolist(), [str(row) for row in rows])
    images = images.remove_columns("image_id")
    if images.features != _STORED:
        images = _mapped(images, _as_lists)
    if columns and dataset.features[columns[0]] == _STORED["images"] and folder is None:
        return images
    return _mapped(images, lambda table: _placed(table, folder))


def _in_messages(dataset: Dataset, rows: np.ndarray) -> bool:
    """Whether the pictures are in the messages themselves, told by the first of the rows."""
    if is_plain(dataset) or not len(rows):
        return False
    try:
        layout = layout_of(dataset.column_names)
        return bool(pictures_of(stored_row(dataset.select_columns(list(layout.columns)), int(rows[0])), layout))
    except ValueError:  # also a RowError: it has none
        return False


@functools.cache
def _scratch() -> Path:
    """A folder in the cache of `datasets` that goes when this process ends."""
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="c3l_hf-labels-", dir=cache))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# Never from the cache, as whether a file is there is no matter of the rows; so the pictures of each call would stay
# there for nobody.
def _mapped(images: Dataset, function: Callable[[pa.Table], pa.Table | dict[str, list]]) -> Dataset:
    mapped = images.with_format("arrow").map(
        function,
        batched=True,
        batch_size=_BATCH,
        remove_columns=images.column_names,
        features=_STORED,
        load_from_cache_file=False,
        cache_file_name=str(_scratch() / f"{uuid.uuid4().hex}.arrow"),
    )
    return mapped.with_format(None)


def _as_lists(table: pa.Table) -> pa.Table:
    """A column of images, or of lists of them, as `images`."""
    column = in_lists(table.column(0).combine_chunks())
    return pa.table({"images": column.cast(_STORED.arrow_schema.field("images").type)})


def _placed(table: pa.Table, folder: str | Path | None) -> dict[str, list]:
    """Images with their files found: a path that leads nowhere would end the reading of the labels."""
    return {"images": [[_found(image, folder) for image in images] for images in table["images"].to_pylist()]}


def _found(image: Mapping[str, Any], folder: str | Path | None) -> Mapping[str, Any]:
    here = stored_here(located(image, folder))
    if here is not None:
        return here
    path = str(image["path"])
    if is_address(path):  # which `datasets` would fetch whenever the label is read
        raise ValueError(f"the image {shown_address(path)} is an address, which is not downloaded (download_images)")
    raise ValueError(f"the image {path} is not there{f' in {folder}' if folder else ''}; say where (image_folder)")
