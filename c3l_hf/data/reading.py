"""Rows as a user's options say: which dataset, which of its columns and answers, and where its pictures are."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from c3l_hf.common.errors import RowError, RunError
from c3l_hf.data.arranging import Answers, arranged, columns_of
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.row_images import pictures_of
from c3l_hf.data.stored_rows import stored_rows
from c3l_hf.files.addresses import is_address
from c3l_hf.files.downloads import download_images
from c3l_hf.files.image import value_of
from c3l_hf.files.opening import open_dataset

__all__ = ["ColumnOptions", "PictureOptions", "addresses_in", "fetch_pictures", "read_dataset"]


@dataclass
class ColumnOptions:
    """Which columns and answers of a dataset are read."""

    columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Its own names of columns, as question=frage answer=antwort image=bild (json.question: a field of "
            "a struct; messages= leaves that column out). In YAML also a mapping.",
            "metavar": "NAME=COLUMN",
        },
    )
    answers: Answers | None = field(
        default=None, metadata={"help": "Of several answers in a row the first, or each in a row of its own."}
    )


@dataclass
class PictureOptions:
    """Where the pictures of rows are that do not hold them."""

    image_folder: str | None = field(
        default=None, metadata={"help": "Where images are that the rows name by a relative path."}
    )
    download_images: bool = field(
        default=False, metadata={"help": "Fetch images that the rows name by an address on the web."}
    )

    def __post_init__(self) -> None:
        if self.image_folder is not None and not Path(self.image_folder).is_dir():
            raise ValueError(f"image_folder {self.image_folder} is not a folder")


def read_dataset(
    name: str,
    options: ColumnOptions,
    *,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
    limit: int | None = None,
) -> Dataset:
    """A dataset with the columns that `data.layouts` reads.

    Args:
        name: See `files.opening.open_dataset`, as `config`, `split`, `revision` and `limit`.
        options: Its own names of columns, and which answers.

    Raises:
        RunError: If it cannot be opened, has no rows, or its columns are not those that the options name.
    """
    columns = columns_of(options.columns or ())
    dataset = open_dataset(name, config, split, revision, limit, texts=filter(None, columns.values()))
    if not len(dataset):
        raise RunError(f"dataset {name} has no rows")
    return arranged(dataset, columns, options.answers)


def fetch_pictures(dataset: Dataset, options: PictureOptions) -> None:
    """Downloads the pictures that rows name by addresses on the web, if the options say so. Every process calls this.

    Raises:
        ValueError: If the columns are in no accepted layout.
    """
    if options.download_images:
        download_images(addresses_in(dataset))


def addresses_in(dataset: Dataset) -> Iterator[str]:
    """The addresses on the web of the rows' pictures, in columns of images or in messages, one after the other.

    Raises:
        ValueError: If the columns are in no accepted layout.
    """
    layout = layout_of(dataset.column_names)
    needed = dataset.select_columns(list(layout.columns))
    for table in needed.with_format("arrow").iter(1000) if len(needed) else ():
        for row in stored_rows(table, needed.features):
            try:
                pictures = pictures_of(row, layout)
            except RowError:
                continue  # nothing to be fetched; whoever reads the row says why
            yield from filter(is_address, map(value_of, pictures))
