"""What reports are made of: a run's folder, a dataset that a run has written or published, or any rows."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features

from c3l_hf.common.arrow import is_list
from c3l_hf.common.errors import RowError, RunError, said_by
from c3l_hf.common.shards import Shards
from c3l_hf.data.image_files import located
from c3l_hf.data.layouts import Layout, text_layout
from c3l_hf.data.pair_columns import UNREAD, is_plain, read_pair_columns
from c3l_hf.data.row_images import pictures_of
from c3l_hf.data.schema import EMBEDDING, GENERATION_STATUS, STATUS, STATUS_OK
from c3l_hf.data.sources import image_column
from c3l_hf.data.stored_images import stored_images
from c3l_hf.data.stored_rows import stored_row, stored_rows
from c3l_hf.files.image import open_image
from c3l_hf.publishing.manifest import DataConfig
from c3l_hf.report.content import Chart, Funnel, Table
from c3l_hf.report.pools import Album, Pool

__all__ = [
    "Source",
    "album_of_images",
    "album_of_parquet",
    "pool_of_parquet",
    "pool_of_stages",
    "rows_source",
]

_AT_ONCE = 500
NO_PICTURES = "the pictures are not in the folder of a run that is not finished; say where they are (images)"

Truth = Callable[[Sequence[str], Sequence[tuple[str, str]], Sequence[str]], Sequence[bool | None]]


@dataclass(frozen=True)
class Source:
    """What a report is made of, beside what follows from its pairs.

    Attributes:
        title, facts, funnel, notes: As `content.Content` has them.
        pools: The pairs, a pool for each stage.
        album: Their pictures.
        chosen_by: The score that pairs were chosen by; None where nothing was chosen.
        charts, tables: Of the overview, beside those of the pairs.
    """

    title: str
    pools: Sequence[Pool]
    album: Album
    facts: Sequence[tuple[str, str]] = ()
    funnel: Sequence[Funnel] = ()
    chosen_by: str | None = None
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = field(default_factory=list)


def rows_source(dataset: Dataset, title: str, image_folder: str | Path | None = None) -> Source:
    """Any rows with pairs about pictures, scored or not.

    Args:
        dataset: In any layout of `data.layouts`, perhaps with the columns of scores.
        title: Of the report.
        image_folder: Where images are that rows name by a relative path; by default the working folder.

    Raises:
        RunError: If the columns are in no accepted layout.
    """
    try:
        layout = text_layout(dataset.column_names)
    except ValueError as error:
        raise RunError(f"{title}: {error}") from None
    columns = ["image_id", "pair_id", "prompt", "completion"]
    try:
        read = read_pair_columns(dataset, columns).table
        ids = pa.table(
            {
                "image_id": read["image_id"].cast(pa.string()),
                "pair_id": read["pair_id"].cast(pa.string()),
                "unread": read[UNREAD] if UNREAD in read.column_names else pa.nulls(len(read), pa.string()),
            }
        )
    except ValueError as error:
        if not str(error).startswith("no row has an image"):
            raise RunError(f"{title}: {error}") from None
        nothing = pa.nulls(len(dataset), pa.string())
        numbers = pa.array(map(str, range(len(dataset))), pa.string())
        reasons = pa.repeat(pa.scalar("the row has no image"), len(dataset))
        ids = pa.table({"image_id": nothing, "pair_id": numbers, "unread": reasons})
    ids = _with_null_texts(ids, dataset, layout)
    if layout.images and "image_id" in dataset.column_names:
        ids = _with_own_images(ids)
    encoded = ids["image_id"].combine_chunks().dictionary_encode()
    numbers = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    found, first = np.unique(numbers, return_index=True)
    first_rows = first[found >= 0]
    order = np.argsort(np.where(numbers < 0, len(numbers), numbers), kind="stable")
    if (np.diff(order) == 1).all():
        ordered = dataset
    else:  # the pairs of an image next to each other
        ordered, ids = dataset.select(order), ids.take(pa.array(order))

    def open_picture(number: int) -> PIL.Image.Image:
        row = stored_row(dataset, int(first_rows[number]))
        pictures = pictures_of({name: row[name] for name in layout.columns}, layout)
        return open_image(located(pictures[0], image_folder))

    several = _several(dataset, layout)
    notes = [f"Of rows with several pictures ({several:,}) the first is shown."] if several else []
    return Source(title, [_pool_of_rows(ordered, ids)], Album(encoded.dictionary, open_picture), notes=notes)


def _pool_of_rows(dataset: Dataset, ids: pa.Table) -> Pool:
    names = [name for name, kind in dataset.features.items() if name not in ("images", "image")]
    rows = dataset.select_columns(names)

    def tables(columns: Sequence[str] | None) -> Iterator[pa.Table]:
        chosen = rows if columns is None else rows.select_columns(list(columns))
        return chosen.with_format("arrow").iter(_AT_ONCE) if len(rows) else iter(())

    def vectors() -> Iterator[pa.Array]:
        return (table[EMBEDDING].combine_chunks() for table in tables([EMBEDDING]))

    kind = dataset.features.arrow_schema.field(EMBEDDING).type if EMBEDDING in names else pa.null()
    has_vectors = is_list(kind) and pa.types.is_floating(kind.value_type)
    return Pool("dataset", rows.features, len(rows), tables, ids, vectors=vectors if has_vectors else None)


def _with_null_texts(ids: pa.Table, dataset: Dataset, layout: Layout) -> pa.Table:
    """The ids with the reason of rows without a text, of which no status says more."""
    told = [name for name in (GENERATION_STATUS, STATUS) if name in dataset.column_names]
    reasons: list[str | None] = []
    columns = dataset.select_columns([*layout.text, *told]).with_format("arrow")
    for table in columns.iter(_AT_ONCE) if len(dataset) else ():
        rows: list[str | None] = [None] * len(table)
        for name in reversed(layout.text):
            rows = [f"{name} is null" if null else row for row, null in zip(rows, table[name].is_null().to_pylist())]
        for name in told:
            said = table[name].to_pylist()
            rows = [row if status in (None, STATUS_OK) else None for row, status in zip(rows, said)]
        reasons += rows
    unread = pc.coalesce(ids["unread"].combine_chunks(), pa.array(reasons, pa.string()))
    return ids.set_column(ids.column_names.index("unread"), "unread", unread)


def _with_own_images(ids: pa.Table) -> pa.Table:
    """The ids, a row without an `image_id` having one of its own: its picture is there all the same."""
    own = pa.array((f"row {number}" for number in range(len(ids))), pa.string())
    image_ids = pc.coalesce(ids["image_id"].combine_chunks(), own)
    return ids.set_column(ids.column_names.index("image_id"), "image_id", image_ids)


def _several(dataset: Dataset, layout: Layout) -> int:
    """How many rows have more than one picture."""
    kinds = [dataset.features.arrow_schema.field(name).type for name in layout.images]
    if any(isinstance(kind, pa.JsonType) for kind in kinds) or not (kinds or is_plain(dataset)):
        return _several_as_read(dataset, layout)
    count = 0
    for name, kind in zip(layout.images, kinds):
        # The numbers of an array, and the bytes of a picture, are one.
        if is_list(kind) and not is_list(kind.value_type) and not pa.types.is_primitive(kind.value_type):
            lists = dataset.select_columns([name]).with_format("arrow")
            for table in lists.iter(_AT_ONCE) if len(dataset) else ():
                count += pc.sum(pc.greater(pc.list_value_length(table[name]), 1)).as_py() or 0
    return count


def _several_as_read(dataset: Dataset, layout: Layout) -> int:
    """The same, of pictures within messages, and of columns with pictures and lists of them."""
    count, rows = 0, dataset.select_columns(list(layout.columns))
    for table in rows.with_format("arrow").iter(_AT_ONCE) if len(rows) else ():
        for row in stored_rows(table, rows.features):
            with contextlib.suppress(RowError):  # which has a status
                count += len(pictures_of(row, layout)) > 1
    return count


def pool_of_stages(
    stage: str, pairs: Shards, scores: Shards | None, *, are_true: Truth | None = None, **parts: Any
) -> Pool:
    """A round's pairs beside their scores, if there are any.

    Args:
        stage: What it is called.
        pairs, scores: Shards with the same rows.
        are_true: See `Pool`.
        parts: `kept`, `labels` and `vectors`, see `Pool`.
    """
    features = Features.from_arrow_schema(pairs.schema)
    theirs = Features.from_arrow_schema(scores.schema) if scores else Features({})

    def tables(columns: Sequence[str] | None) -> Iterator[pa.Table]:
        for number, file in enumerate(pairs.files):
            ours = None if columns is None else [name for name in columns if name in features]
            of_scores = None if columns is None else [name for name in columns if name in theirs]
            table = pq.read_table(file, columns=ours)
            if scores is not None and of_scores != []:
                beside = pq.read_table(scores.files[number], columns=of_scores)
                if columns is None or ours:
                    if len(table) != len(beside):
                        raise RunError(f"{scores.files[number]} has {len(beside):,} rows for {len(table):,} pairs")
                    for name in beside.column_names:
                        table = table.append_column(name, beside[name])
                else:
                    table = beside
            yield table.replace_schema_metadata()

    ids = _ids(pairs.table(["image_id", "pair_id"]))
    return Pool(stage, Features({**features, **theirs}), pairs.num_rows, tables, ids, are_true=are_true, **parts)


def pool_of_parquet(stage: str, folder: Path, config: DataConfig, **parts: Any) -> Pool:
    """The pairs of a configuration of a written dataset; `parts` as for `pool_of_stages`."""
    schema = pq.read_schema(folder / config.files[0])
    features = Features({n: kind for n, kind in Features.from_arrow_schema(schema).items() if n != "images"})

    def tables(columns: Sequence[str] | None) -> Iterator[pa.Table]:
        for path in config.files:
            with pq.ParquetFile(folder / path) as file:
                for batch in file.iter_batches(_AT_ONCE, columns=list(columns or features)):
                    yield pa.Table.from_batches([batch]).replace_schema_metadata()

    ids = _ids(pa.concat_tables(list(tables(["image_id", "pair_id"]))))
    if len(ids) != config.rows:
        raise ValueError(f"{config.files[0]} and so on have {len(ids):,} rows, the manifest says {config.rows}")
    return Pool(stage, features, config.rows, tables, ids, **parts)


def _ids(table: pa.Table) -> pa.Table:
    names = [table[name].cast(pa.string()) for name in ("image_id", "pair_id")]
    return pa.table(names, ["image_id", "pair_id"]).append_column("unread", pa.nulls(len(table), pa.string()))


def album_of_images(images: Dataset, missing: str = NO_PICTURES) -> Album:
    """The pictures of a dataset of images, with the columns `image_id` and `images` or `image`."""

    def open_picture(number: int) -> PIL.Image.Image:
        pictures = stored_images(images, [number])[0]
        if not pictures:
            raise RowError("the row has no image")
        return open_image(pictures[0])

    image_column(images)
    ids = images.with_format("arrow").select_columns(["image_id"])[:]["image_id"]
    return Album(pa.array(map(str, ids.to_pylist()), pa.string()), open_picture, missing)


def album_of_parquet(folder: Path, config: DataConfig) -> Album:
    """The pictures of the configuration "images" of a written dataset, or of another one with the same columns.

    Of the files one group of rows is in memory at a time: pictures are opened one after the other.
    """
    ids, places = [], []
    for path in config.files:
        with pq.ParquetFile(folder / path) as file:
            if "images" not in file.schema_arrow.names:
                raise ValueError(f"{path} has no column 'images'")
            for group in range(file.num_row_groups):
                column = file.read_row_group(group, columns=["image_id"])["image_id"].to_pylist()
                ids += column
                places += [(path, group, number) for number in range(len(column))]

    @functools.lru_cache(maxsize=1)
    def pictures_of_group(path: str, group: int) -> pa.ChunkedArray:
        with pq.ParquetFile(folder / path) as file:
            return file.read_row_group(group, columns=["images"])["images"]

    # Of several rows about one image, as pairs are, the first.
    first = {image_id: place for image_id, place in zip(reversed(ids), reversed(places))}
    names = list(first)

    def open_picture(number: int) -> PIL.Image.Image:
        path, group, row = first[names[number]]
        pictures = pictures_of_group(path, group)[row].as_py()
        if not pictures:
            raise RowError("the image could not be read when the dataset was written")
        if not pictures[0].get("bytes"):
            # A path would be one of this machine's files, whoever has named it.
            raise RowError("the image is not in the dataset, only a path")
        return open_image(pictures[0])

    return Album(pa.array(names, pa.string()), open_picture)


def read_record(path: Path) -> Mapping[str, Any]:
    """A JSON file of a run's folder.

    Raises:
        RunError: If it is not one.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {said_by(error, 200)}") from None
    if not isinstance(record, dict):
        raise RunError(f"{path} is not what a run writes")
    return record
