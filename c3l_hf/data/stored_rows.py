"""Rows of a dataset as all stages read them: values as `datasets` gives them, images as they are stored."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
from datasets import Audio, Dataset, Features, Image, LargeList, List, Video

from c3l_hf import _compat

__all__ = ["has_images", "stored_columns", "stored_row", "stored_rows", "undecoded"]


def stored_rows(table: pa.Table, features: Features) -> list[dict[str, Any]]:
    """The rows of an Arrow table of a dataset.

    Not `to_pylist`, which gives what is stored: of a column whose values are of several kinds (the type `Json`) that is
    JSON text. Images stay as they are stored, since `datasets` would end at one that it cannot decode.

    Args:
        table: Some rows, with some of the columns.
        features: Those of the dataset.
    """
    columns = table.column_names
    batch = Features({name: undecoded(features[name]) for name in columns}).decode_batch(table.to_pydict())
    return [dict(zip(columns, values)) for values in zip(*(batch[name] for name in columns))]


def stored_columns(rows: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Columns of one row or a batch as `Dataset.map` gives them: the same values, but images as they are stored.

    `datasets` decodes all pictures of a batch when its column is looked up: a photograph of 12 megapixels takes 46 MB
    then, one that is damaged ends the whole `map`, an address is fetched, and for some formats Pillow starts another
    program. Pictures that were looked at are also written anew.

    Args:
        rows: Column → value, or list of values.
        names: The columns.
    """
    known = _compat.not_formatted(rows)
    if known is None:
        return {name: rows[name] for name in names}
    table, features, is_batch = known
    wanted = table.select([name for name in names if name in table.column_names])
    stored = stored_rows(wanted, features)
    read = {name: [row[name] for row in stored] for name in wanted.column_names}
    return {name: (read[name] if is_batch else read[name][0]) if name in read else rows[name] for name in names}


def stored_row(dataset: Dataset, number: int) -> dict[str, Any]:
    """One row of a dataset, likewise."""
    return stored_rows(dataset.with_format("arrow")[[number]], dataset.features)[0]


def undecoded(feature: Any) -> Any:
    """A feature, or a dict of features, whose images (sounds, videos) are read as they are stored, at any depth."""
    if isinstance(feature, Image | Audio | Video):
        return type(feature)(decode=False)
    if isinstance(feature, dict):
        return {name: undecoded(item) for name, item in feature.items()}
    if isinstance(feature, List):
        return List(undecoded(feature.feature), length=feature.length)
    return LargeList(undecoded(feature.feature)) if isinstance(feature, LargeList) else feature


def has_images(feature: Any) -> bool:
    """Whether a feature is of images, or has some in it, at any depth."""
    if isinstance(feature, dict):
        return any(map(has_images, feature.values()))
    return isinstance(feature, Image) or has_images(getattr(feature, "feature", None) or {})
