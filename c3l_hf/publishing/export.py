"""What a run leaves behind, as folders in the shape in which the Hub takes them: the dataset and the generator."""

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from datasets import Dataset, Features

from c3l_hf.common.arrow import in_tables_of
from c3l_hf.common.errors import RowError
from c3l_hf.common.files import atomic_folder
from c3l_hf.common.plain import plain
from c3l_hf.data.picture_contents import with_contents
from c3l_hf.data.schema import STATUS, STATUS_OK
from c3l_hf.data.streams import RowStream
from c3l_hf.files.image import open_image
from c3l_hf.publishing.cards import RunFacts, dataset_card, model_card
from c3l_hf.publishing.manifest import MANIFEST, DataConfig, FileRecord, Manifest

if TYPE_CHECKING:  # cards and checks do without models
    from transformers import PreTrainedModel, ProcessorMixin

__all__ = ["card_and_manifest", "example_pictures", "write_dataset", "write_generator"]

CARD = "README.md"
_SHARD_BYTES = 500_000_000
# Few enough for the Hub's viewer and for streaming, which read whole row groups, images included.
_ROW_GROUP = 100
# Rows without pictures are small, and every row group costs some kilobytes of the file's footer.
_ROW_GROUP_OF_TEXT = 1000
# A value that a row group has twice is stored once as long as its different values take no more than this; Parquet
# cannot have more than 2 GB of them. The default, 1 MB, is a few pictures.
_DICTIONARY_BYTES = 1 << 30
_EXAMPLE_PIXELS = 256


def example_pictures(
    rows: Dataset, examples: Sequence[tuple[str, str, str, float, str]] | None
) -> list[PIL.Image.Image]:
    """The first image of each example of a card, upright and not larger than a card needs.

    Args:
        rows: Rows with the columns `pair_id` and `images`, the examples among them.
        examples: As in `cards.RunFacts`.

    Raises:
        ValueError: If an example is not among the rows.
    """
    numbers = {pair_id: number for number, pair_id in enumerate(rows["pair_id"])} if examples else {}
    pictures = []
    for *_, pair_id in examples or ():
        if pair_id not in numbers:
            raise ValueError(f"the example {pair_id!r} is not among the rows")
        picture = open_image(rows[numbers[pair_id]]["images"][0])
        picture.thumbnail((_EXAMPLE_PIXELS, _EXAMPLE_PIXELS))
        pictures.append(picture)
    return pictures


def write_dataset(
    configs: Mapping[str, Dataset | RowStream],
    folder: str | Path,
    facts: RunFacts,
    pictures: Sequence[PIL.Image.Image] = (),
    further: Callable[[Path, Mapping[str, DataConfig]], None] | None = None,
) -> None:
    """Write datasets as a folder that `load_dataset(folder, name)` and the Hub read.

    Columns, features and the order of rows stay as they are. The bytes of all images are in the shards, also where rows
    refer to files; equal images of one row group (100 rows) are stored once. Streams are never in memory as a whole.
    Pictures are published without their metadata (see `files.metadata`), unless the options of the facts have
    `keep_metadata`.

    An image that cannot be read is left out, so that everybody can load the dataset: its row in the configuration
    "images" stays, with an empty list, and so do rows that have no score and say so in `i2c_status`.

    Args:
        configs: Name → rows, at least one. "default" is what `load_dataset(folder)` gives; its shards are in `data`,
            those of the others in folders of their names. A run has "default" (with its images), "images" (`image_id`
            and `images`, once for each image that a row of the following is about), "scored" and "pseudo_labels". Texts
            may be in any accepted layout; pictures are in a column `images`, lists of them.
        folder: Made, with `data/train-00000-of-0000N.parquet` (up to about 500 MB each) and so on, README.md,
            manifest.json, config.yaml and the pictures of the card's examples. It appears when it is complete, or not
            at all.
        facts: What the card says.
        pictures: One for each of `facts.examples`, see `example_pictures`.
        further: Gets the folder and its configurations when all rows are written; the manifest lists what it writes
            there. `figures/scores.png` and `figures/types.png` are then shown in the card, `report.html` is named.

    Raises:
        FileExistsError: If the folder exists and is not empty.
        FileNotFoundError: If a file that a row refers to is not there, though the image was scored; the message names
            it.
        ValueError: If a configuration has no rows, its pictures are elsewhere than in `images`, or the pictures are not
            as many as the examples.
    """
    for name, rows in configs.items():
        if not len(rows):
            raise ValueError(f"the dataset {name!r} has no rows: nothing to write to {folder}")
        elsewhere = "image" in rows.features or (name == "default" and "images" not in rows.features)
        if elsewhere:
            raise ValueError(f"the dataset {name!r} must have its pictures in the column images, lists of them")
    _check_empty(folder)
    with atomic_folder(folder) as made:
        written = {}
        readable: set[str] = set()
        # Pairs first: whoever has a score has an image that was read, which need not be tried again.
        for name in sorted(configs, key=lambda name: name == "images"):
            subfolder = made / ("data" if name == "default" else name)
            rows = configs[name]
            stream = RowStream.of(rows, _ROW_GROUP) if isinstance(rows, Dataset) else rows
            tables: Iterable[pa.Table] = stream.tables()
            if name == "images":
                tables = (_without_unreadable(table, _not_among(table, readable)) for table in tables)
            elif {"images", STATUS} <= stream.features.keys():
                tables = (_without_unreadable(table, pc.not_equal(table[STATUS], STATUS_OK)) for table in tables)
            if {"image_id", STATUS} <= stream.features.keys():
                tables = _noting_scored(tables, readable)
            keep = bool((facts.options or {}).get("keep_metadata"))
            written[name] = _write_shards(tables, stream.features, subfolder, keep)
            if written[name].rows != len(rows):
                raise ValueError(f"the dataset {name!r} gave {written[name].rows:,} rows instead of {len(rows):,}")
        _write_pictures(pictures, facts, made)
        in_order = {name: written[name] for name in configs}
        if further is not None:
            further(made, in_order)
        _finish(made, "dataset", facts, in_order)


def write_generator(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    folder: str | Path,
    facts: RunFacts,
    pictures: Sequence[PIL.Image.Image] = (),
) -> None:
    """Write a generator as a folder that `AutoModelForImageTextToText` and `AutoProcessor` load.

    Args:
        model: The model with its adapters merged; saved as safetensors in its dtype, with its generation settings.
        processor: Its processor, with the chat template.
        folder: Made, with README.md, manifest.json, config.yaml and the pictures of the card's examples beside the
            model; it appears when it is complete, or not at all.
        facts: What the card says.
        pictures: One for each of `facts.examples`, see `example_pictures`.

    Raises:
        FileExistsError: If the folder exists and is not empty.
        TypeError: If the model has an adapter that is not merged.
        ValueError: If the pictures are not as many as the examples.
    """
    from peft import PeftModel

    # Also where transformers has put adapters into the model itself, which would then save these alone.
    if isinstance(model, PeftModel) or getattr(model, "peft_config", None):
        raise TypeError("the model has an adapter that is not merged: give model.merge_and_unload()")
    _check_empty(folder)
    with atomic_folder(folder) as made:
        model.save_pretrained(made)
        processor.save_pretrained(made)
        _write_pictures(pictures, facts, made)
        _finish(made, "generator", facts, {})


def card_and_manifest(
    kind: Literal["dataset", "generator"],
    facts: RunFacts,
    files: Mapping[str, FileRecord],
    configs: Mapping[str, DataConfig],
) -> dict[str, bytes]:
    """The contents of README.md and manifest.json for a folder with these other files."""
    # Through JSON, as whoever renders the card again will find the facts.
    facts = RunFacts(**facts.to_dict())
    card = (dataset_card(facts, configs, files) if kind == "dataset" else model_card(facts)).encode()
    files = {path: record for path, record in files.items() if path not in (CARD, MANIFEST)}
    manifest = Manifest(kind, facts.to_dict(), files | {CARD: FileRecord.of(card)}, configs)
    return {CARD: card, MANIFEST: manifest.to_bytes()}


def _finish(folder: Path, kind: Literal["dataset", "generator"], facts: RunFacts, configs: Mapping[str, DataConfig]):
    options: dict[str, Any] = plain(facts.options)
    (folder / "config.yaml").write_text(yaml.safe_dump(options, sort_keys=False, allow_unicode=True), "utf-8")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): FileRecord.of(path) for path in paths}
    for name, content in card_and_manifest(kind, facts, files, configs).items():
        (folder / name).write_bytes(content)


def _write_shards(tables: Iterable[pa.Table], features: Features, folder: Path, keep_metadata: bool) -> DataConfig:
    """Writes parquet shards, images embedded."""
    folder.mkdir()
    schema, with_images = features.arrow_schema, "images" in features
    groups = in_tables_of(_ROW_GROUP if with_images else _ROW_GROUP_OF_TEXT, tables)
    shards: list[Path] = []
    rows = 0
    table = next(groups, None)
    while table is not None:
        shards.append(folder / f"{len(shards)}.unfinished")
        with pq.ParquetWriter(
            shards[-1],
            schema,
            dictionary_pagesize_limit=_DICTIONARY_BYTES,
            # Chunks cut by content: on the Hub, shards that are equal in part are stored once.
            use_content_defined_chunking=True,
            write_page_index=True,
        ) as writer:
            while table is not None:
                table = table.cast(schema)
                if with_images:
                    table = with_contents(table, features, keep_metadata)
                    _check_contents(table["images"])
                writer.write_table(table)
                rows += len(table)
                table = next(groups, None)
                if shards[-1].stat().st_size >= _SHARD_BYTES:
                    break
    config = DataConfig(folder.name, rows, len(shards))
    for number, path in enumerate(config.files):
        shards[number].rename(folder.parent / path)
    return config


def _check_contents(images: pa.ChunkedArray) -> None:
    # Not by `datasets`, which would fetch an address.
    flat = pc.list_flatten(images)
    without = pc.and_(pc.is_null(pc.struct_field(flat, "bytes")), pc.is_valid(pc.struct_field(flat, "path")))
    if paths := pc.struct_field(flat.filter(without), "path").to_pylist():
        raise FileNotFoundError(errno.ENOENT, "an image that was scored is not there", paths[0])


def _not_among(table: pa.Table, image_ids: set[str]) -> pa.Array:
    return pa.array([image_id not in image_ids for image_id in table["image_id"].to_pylist()])


def _noting_scored(tables: Iterable[pa.Table], image_ids: set[str]) -> Iterator[pa.Table]:
    """The tables as they are, while the ids of images about which a pair has a score are collected."""
    for table in tables:
        image_ids.update(table["image_id"].filter(pc.equal(table[STATUS], STATUS_OK)).to_pylist())
        yield table


def _without_unreadable(table: pa.Table, suspect: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Takes images that cannot be read out of the suspect rows: with them, nobody could load the dataset."""
    if not pc.any(suspect).as_py():
        return table
    images = table["images"].to_pylist()
    for row, is_suspect in enumerate(suspect.to_pylist()):
        if is_suspect is not False:
            images[row] = [image for image in images[row] or () if _is_readable(image)]
    number = table.schema.get_field_index("images")
    return table.set_column(number, table.field(number), pa.array(images, table.field(number).type))


def _is_readable(image: Any) -> bool:
    try:
        open_image(image)
    except RowError:
        return False
    return True


def _write_pictures(pictures: Sequence[PIL.Image.Image], facts: RunFacts, folder: Path) -> None:
    if len(pictures) != len(facts.examples or ()):
        raise ValueError(f"{len(pictures)} pictures of examples, and {len(facts.examples or ())} examples")
    for number, picture in enumerate(pictures):
        (folder / "examples").mkdir(exist_ok=True)
        picture.save(folder / "examples" / f"{number}.png")


def _check_empty(folder: str | Path) -> None:
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty: remove it, or give another folder")
