"""Rows of a dataset as all stages read them: values as `datasets` gives them, images as they are stored."""

from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Image, LargeList, List

__all__ = ["has_images", "stored_row", "stored_rows", "undecoded"]


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


def stored_row(dataset: Dataset, number: int) -> dict[str, Any]:
    """One row of a dataset, likewise."""
    return stored_rows(dataset.with_format("arrow")[[number]], dataset.features)[0]


def undecoded(feature: Any) -> Any:
    """A feature, or a dict of features, whose images are read as they are stored, at any depth."""
    if isinstance(feature, Image):
        return Image(decode=False)
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
