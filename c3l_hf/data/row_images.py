"""The images of rows in any layout as `datasets` stores them: a column `images` beside nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
from datasets import Dataset, Features, Image, LargeList, List

from c3l_hf.common.errors import RowError
from c3l_hf.common.versions import versions
from c3l_hf.common.words import what_is
from c3l_hf.data.image_files import located
from c3l_hf.data.layouts import Layout
from c3l_hf.data.stored_rows import stored_rows
from c3l_hf.data.turns import Pair, images_of_row, to_turns
from c3l_hf.files.image import content_of, file_of, is_inline, value_of

__all__ = ["as_stored", "images_as_stored", "pictures_of"]

_KINDS = (str, Path, bytes, bytearray, memoryview, Mapping, np.ndarray, PIL.Image.Image)
_STORED = Features({"images": List(Image())})


def pictures_of(row: Mapping[str, Any], layout: Layout) -> list[Any]:
    """The pictures of a row, in its columns of images or in its messages, as the row has them.

    Raises:
        RowError: If there are none.
    """
    pictures = images_of_row(row, layout)
    if not pictures:
        turns = to_turns(row)
        pictures = max((turn.images for turn in turns if isinstance(turn, Pair)), key=len, default=[])
    if not pictures:
        raise RowError("the row has no image")
    for picture in pictures:
        if not isinstance(picture, _KINDS):
            raise RowError(f"the image is {what_is(picture)}, not a picture or a path")
    return pictures


def images_as_stored(
    dataset: Dataset, layout: Layout, rows: Sequence[int], ids: Sequence[str], folder: str | Path | None = None
) -> Dataset:
    """The images of some rows, in a column `images` or `image`, with a column `image_id`. They are copied only where
    they are stored otherwise than `datasets` stores images in one column, and never decoded.

    Args:
        dataset: With the columns of the layout.
        layout: Its layout.
        rows: Their numbers; all have pictures.
        ids: The id of each.
        folder: Where images are that are named by a relative path; by default the working folder.

    Raises:
        RowError: If a path leaves the folder.
    """
    if folder is None and len(layout.images) == 1 and _are_images(dataset.features[layout.images[0]]):
        # Ids are given to all rows first: a selection would be copied.
        id_of = dict(zip(rows, ids))
        column = pa.array([id_of.get(row) for row in range(len(dataset))], pa.string())
        return dataset.select_columns(list(layout.images)).add_column("image_id", column).select(rows)
    needed = dataset.select_columns(list(layout.columns)).select(rows)
    features = needed.features

    def stored(table: pa.Table, made_by: str) -> dict[str, list]:
        pictures = (pictures_of(row, layout) for row in stored_rows(table, features))
        return {"images": [[as_stored(located(picture, folder)) for picture in row] for row in pictures]}

    # Kept in the cache of `datasets`, which does not see what the functions that are called here do.
    images = needed.with_format("arrow").map(
        stored,
        batched=True,
        batch_size=100,
        remove_columns=needed.column_names,
        features=_STORED,
        fn_kwargs={"made_by": versions()["c3l-hf"]},
    )
    return images.with_format(None).add_column("image_id", pa.array(ids, pa.string()))


def _are_images(feature: Any) -> bool:
    return isinstance(feature.feature if isinstance(feature, List | LargeList) else feature, Image)


def as_stored(value: Any) -> dict[str, Any]:
    """A picture as a dict of its encoded content and its path, one of which is null: both, if it is no picture."""
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return {"bytes": bytes(value["bytes"]), "path": value.get("path")}
        inner = value_of(value)
        return {"bytes": None, "path": None} if inner is None else as_stored(inner)
    if isinstance(value, np.ndarray | PIL.Image.Image):
        return Image().encode_example(value)
    if is_inline(value):
        try:
            return {"bytes": bytes(content_of(value)), "path": None}
        except ValueError:
            return {"bytes": value.encode(), "path": None}  # no picture, as whoever opens it says
    if str(value)[:5].lower() == "file:":
        try:
            return {"bytes": None, "path": str(file_of(value))}
        except RowError:  # another machine's, as whoever opens it says
            pass
    return {"bytes": None, "path": str(value)}
