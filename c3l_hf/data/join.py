"""Rows without pixels and the images that they are about, together again."""

import secrets
from pathlib import Path, PurePath
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from c3l_hf.common.files import digest

__all__ = ["join_images"]


def join_images(rows: Dataset, images: Dataset, key: str = "image_id", *, folder: str | Path | None = None) -> Dataset:
    """Give rows that name their image by an id the `images` column that trainers and the scorer read.

    Every picture stays one file, which rows refer to: nothing is copied for each row, and nothing is decoded before a
    row is read. The result is an ordinary dataset, to be iterated, mapped, selected, pickled and given to a trainer.

    Costs: about 100 bytes of memory for each row. Images that are files already are referred to where they are. Images
    whose content is embedded, as in a published dataset, are written to `folder`, each different one that a row needs
    once, and not again by a later call: a row can only share a picture with another through a file. Move or remove
    neither while the result is in use; `save_to_disk` keeps the references, `to_parquet` and `push_to_hub` embed the
    contents.

    Example:

    ```python
    rows, images = (load_dataset("user/c3l-5k", name, split="train") for name in ("scored", "images"))
    join_images(rows, images)[0]["images"][0].show()
    ```

    Args:
        rows: Rows with the column `key` and without one named `images`.
        images: One row for each image, with the columns `key` and `images` (a list of `datasets.Image`).
        key: The column with the image's id.
        folder: Where to write embedded images; by default in the cache of `datasets`.

    Returns:
        The rows in their order with all their columns, `images` being the first.

    Raises:
        TypeError: If one of the two is streamed.
        ValueError: If a column is missing or in the way, an id is there twice, or an image is not there; the message
            names the column or the row.
    """
    for name, dataset, needed in (("rows", rows, (key,)), ("images", images, (key, "images"))):
        if not isinstance(dataset, Dataset):
            raise TypeError(f"{name} is {type(dataset).__name__}; give a Dataset, loaded without streaming")
        missing = [column for column in needed if column not in dataset.column_names]
        if missing:
            columns = ", ".join(dataset.column_names)
            raise ValueError(f"{name} has no column {', '.join(map(repr, missing))}; it has {columns}")
    if "images" in rows.column_names:
        raise ValueError("rows has a column 'images' already: remove it, or use the rows as they are")
    wanted, ids = _column(rows, key), _column(images, key)
    if pc.count_distinct(ids, mode="all").as_py() < len(ids):
        counts = pc.value_counts(ids)
        repeated = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise ValueError(f"column {key!r} of images must be unique; more than once: {repeated!r}")
    numbers = pc.index_in(wanted, value_set=ids.cast(wanted.type), skip_nulls=True)
    if numbers.null_count:
        row = pc.index(numbers.is_null(), True).as_py()
        pair = f" (pair {rows[row]['pair_id']!r:.60})" if "pair_id" in rows.column_names else ""
        raise ValueError(f"row {row}{pair}: its {key} {wanted[row].as_py()!r:.60} is not among the {len(ids):,} images")
    folder = Path(folder or Path(datasets.config.HF_DATASETS_CACHE) / "c3l_images")
    references = _references(images, set(pc.unique(numbers).to_pylist()), folder)
    joined = rows.add_column("images", references.take(numbers), feature=images.features["images"])
    return joined.select_columns(["images", *rows.column_names])


def _column(dataset: Dataset, name: str) -> pa.Array:
    column = dataset.select_columns([name]).with_format("arrow")[:].column(0)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _references(images: Dataset, needed: set[int], folder: Path) -> pa.Array:
    """For each row of the images its pictures as references to files; null for rows that are not needed."""
    arrow = images.select_columns(["images"]).with_format("arrow")
    parts, start = [], 0
    for table in arrow.iter(100):
        column = table.column(0)
        wanted = [start + row in needed for row in range(len(table))]
        start += len(table)
        pictures = pc.if_else(pa.array(wanted), column, pa.scalar(None, column.type)).to_pylist()
        rows = [None if row is None else [_reference(picture, folder) for picture in row] for row in pictures]
        parts.append(pa.array(rows, column.type))
    return pa.concat_arrays(parts)


def _reference(picture: dict[str, Any] | None, folder: Path) -> dict[str, Any] | None:
    if picture is None or picture["bytes"] is None:
        return picture
    content = picture["bytes"]
    name = digest(content)
    suffix = PurePath(picture["path"] or "").suffix[:10]
    path = (folder / name[:2] / f"{name}{suffix}").absolute()
    # By its content: whoever has written it has written the same. What a crash of the machine cut short is replaced.
    if not (path.is_file() and path.stat().st_size == len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        # Not `atomic_write`, which waits for the disk at every file: a million of them would take hours.
        partial.write_bytes(content)
        partial.replace(path)
    return {"bytes": None, "path": str(path)}
