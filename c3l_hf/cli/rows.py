"""Rows as commands read and write them: from a file, a folder or the Hub; to a file or a folder."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image

from c3l_hf import _compat
from c3l_hf.common.arrow import in_tables_of
from c3l_hf.common.errors import RunError
from c3l_hf.common.files import atomic_folder, atomic_write
from c3l_hf.common.shards import Shards
from c3l_hf.data.arranging import columns_of, restored
from c3l_hf.data.picture_contents import with_contents, without_contents
from c3l_hf.data.reading import ColumnOptions, read_dataset
from c3l_hf.data.stored_rows import has_images
from c3l_hf.data.streams import RowStream

__all__ = [
    "OutputOptions",
    "RowsOptions",
    "check_output",
    "check_own_names",
    "open_rows",
    "with_own_names",
    "write_rows",
]

_AT_ONCE = 100  # rows whose pictures are in memory together
_SHARD_ROWS = 50 * _AT_ONCE


@dataclass(kw_only=True)
class RowsOptions(ColumnOptions):
    """The rows that a command reads."""

    _argument_group_name: ClassVar[str] = "Rows"
    dataset: str = field(
        metadata={
            "help": "A .json(l), .parquet, .csv, .tsv, .arrow or (WebDataset's) .tar file, several of a kind as a "
            "pattern in quotes, a saved dataset, a folder of data files, or a Hub id."
        }
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Its configuration (subset)."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub's dataset."})
    split: str = field(default="train", metadata={"help": "Its split."})
    limit: int | None = field(default=None, metadata={"help": "Only the first so many rows."})


@dataclass
class OutputOptions:
    """Where a command's result goes."""

    _argument_group_name: ClassVar[str] = "Result"
    output: str = field(metadata={"help": "A .parquet or .jsonl file (this without images), or a folder to be made."})
    overwrite: bool = field(default=False, metadata={"help": "Replace what is there under that name."})
    keep_metadata: bool = field(
        default=False, metadata={"help": "Leave EXIF (places, cameras, ...) and the like in the pictures."}
    )


def open_rows(options: RowsOptions) -> Dataset:
    """The rows that the options name.

    Raises:
        RunError: If they cannot be opened, there are none, or their columns are not those that the options name.
    """
    return read_dataset(
        options.dataset,
        options,
        config=options.dataset_config,
        split=options.split,
        revision=options.dataset_revision,
        limit=options.limit,
    )


def with_own_names(dataset: Dataset, options: RowsOptions) -> Dataset:
    """What was made of the rows, with the column names that they came with."""
    return restored(dataset, columns_of(options.columns or ()))


def check_own_names(options: RowsOptions, new: Iterable[str]) -> None:
    """That the rows' own names of columns are none of those that a command adds; before any work.

    Raises:
        RunError: If one is.
    """
    for name, own in columns_of(options.columns or ()).items():
        if own in set(new) - {name}:
            raise RunError(
                f"columns: {name}={own}, but a column {own} is added to the result; rename it in the dataset"
            )


def check_output(options: OutputOptions) -> Path:
    """Where the result goes, looked at before any work.

    Raises:
        RunError: If it has another ending, lies in no folder that can be written to, or something is there that is not
            to be replaced.
    """
    output = Path(options.output)
    if output.suffix not in (".parquet", ".jsonl", "") and not options.output.endswith("/"):
        raise RunError(f"output {output} must end in .parquet or .jsonl, or be a folder (end in /)")
    if not output.parent.is_dir():
        raise RunError(f"output {output}: there is no folder {output.parent}")
    if not os.access(output.parent, os.W_OK):
        raise RunError(f"output {output}: nothing may be written into {output.parent}; give another name")
    if output.exists() and not options.overwrite:
        raise RunError(f"output {output} is there already; give another name, or overwrite it (--overwrite)")
    if output.exists() and _is_folder(options) != output.is_dir():
        raise RunError(f"output {output} is {'a folder' if output.is_dir() else 'a file'}; give another name")
    if output.is_dir() and any(file.suffix != ".parquet" for file in output.iterdir()):
        raise RunError(f"output {output} has other files than .parquet, so it is not replaced; give another name")
    return output


def write_rows(rows: Dataset | RowStream, options: OutputOptions) -> None:
    """Writes rows where `check_output` found the place, whole or not at all. Images that are files go into it, too, and
    all without their metadata, unless the options keep them; those that are not there stay as they are named."""
    output, schema = Path(options.output), rows.features.arrow_schema
    if _is_folder(options):
        count = -(-len(rows) // _SHARD_ROWS)
        with atomic_folder(output) as partial:
            tables = in_tables_of(_AT_ONCE, _tables(rows, options.keep_metadata))
            shards = Shards(partial, count, with_checksums=False)
            for number in range(count):
                shards.write(number, islice(tables, _SHARD_ROWS // _AT_ONCE), schema)
        return
    with atomic_write(output) as partial:
        if output.suffix == ".jsonl":
            _without_images(rows).to_json(partial, force_ascii=False)
        elif isinstance(rows, Dataset) and not any(map(has_images, rows.features.values())):
            rows.to_parquet(partial)
        else:
            with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
                for table in _tables(rows, options.keep_metadata):
                    writer.write_table(table)


def _without_images(rows: Dataset | RowStream) -> Dataset:
    """The rows without columns of images; of those within messages there is at most the path."""
    features = Features({name: kind for name, kind in rows.features.items() if not _is_of_images(kind)})
    if isinstance(rows, Dataset) and not any(map(has_images, features.values())):
        return rows.select_columns(list(features))
    tables = (table.select(list(features)).cast(features.arrow_schema) for table in _stored_tables(rows))
    return Dataset(
        pa.concat_tables(
            [features.arrow_schema.empty_table(), *(without_contents(table, features) for table in tables)]
        )
    )


def _stored_tables(rows: Dataset | RowStream) -> Iterable[pa.Table]:
    return (rows if isinstance(rows, RowStream) else RowStream.of(rows, _AT_ONCE)).tables() if len(rows) else ()


def _is_of_images(feature: Any) -> bool:
    """Whether a feature is of images, or of lists of them."""
    inner = getattr(feature, "feature", None)
    return isinstance(feature, Image) or (inner is not None and _is_of_images(inner))


def _tables(rows: Dataset | RowStream, keep_metadata: bool) -> Iterator[pa.Table]:
    """The rows with the contents of their images, few at a time."""
    schema = rows.features.arrow_schema
    for table in _stored_tables(rows):
        # Images first: the other one, which embeds sounds and the like, would end at one that is not there.
        table = with_contents(table.cast(schema), rows.features, keep_metadata)
        others = [name for name, kind in rows.features.items() if not has_images(kind)]
        embedded = _compat.embed_images(table.select(others))
        yield pa.table({name: (embedded if name in others else table)[name] for name in table.column_names}, schema)


def _is_folder(options: OutputOptions) -> bool:
    return options.output.endswith("/") or Path(options.output).suffix == ""
