"""The contents of pictures in tables of rows: put in where there are files, without metadata, or taken out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Features, Image

from c3l_hf.common.errors import RowError
from c3l_hf.data.image_files import stored_here
from c3l_hf.data.stored_rows import has_images
from c3l_hf.files.metadata import PlainPicture, without_metadata

__all__ = ["AT_ONCE", "with_contents", "without_contents"]

# Rows whose images are in one Arrow array, which holds 2 GB.
AT_ONCE = 32
_DAMAGED = "damaged picture"


def with_contents(table: pa.Table, features: Features, keep_metadata: bool = False) -> pa.Table:
    """A table of a dataset with the contents of the files that its images name, to be read elsewhere: without what they
    say of place, time, camera and people, see `files.metadata.without_metadata`.

    An image that is not here keeps its path. Of one that is damaged there is only "damaged picture: name": what
    metadata it has cannot be told, and another file of its name is another picture. `datasets` would end at the first,
    after all the work on the rows, and fetch addresses on the web, whether somebody asked for it or not.

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
            return {"bytes": None, "path": f"{_DAMAGED}: {name}" if name else _DAMAGED}
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
