"""What a run leaves behind, as folders in the shape in which the Hub takes them: the dataset and the generator."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from datasets import Dataset
from datasets.table import embed_table_storage
from peft import PeftModel
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.errors import RowError
from c3l_hf.data.image import open_image
from c3l_hf.data.schema import STATUS, STATUS_OK
from c3l_hf.publishing.cards import RunFacts, dataset_card, model_card, plain, renderer
from c3l_hf.publishing.manifest import MANIFEST, DataConfig, FileRecord, Manifest

__all__ = ["card_and_manifest", "write_dataset", "write_generator"]

CARD = "README.md"
_SHARD_BYTES = 500_000_000
# Few enough for the Hub's viewer and for streaming, which read whole row groups, images included.
_ROW_GROUP = 100
_EXAMPLE_PIXELS = 256


def write_dataset(configs: Mapping[str, Dataset], folder: str | Path, facts: RunFacts) -> None:
    """Write datasets as a folder that `load_dataset(folder, name)` and the Hub read.

    Columns and features stay as they are. The bytes of all images are in the shards, also where rows refer to files.
    Images that cannot be read are left out of rows that have no score.

    Args:
        configs: Name → dataset with at least one row. "default" is what `load_dataset(folder)` gives; its shards are in
            `data`, those of the others in folders of their names.
        folder: Made, with `data/train-00000-of-0000N.parquet` (up to about 500 MB each) and so on, README.md,
            manifest.json, config.yaml and the pictures of the card's examples. It appears when it is complete, or not
            at all.
        facts: What the card says. The examples are rows of the default dataset.

    Raises:
        FileExistsError: If the folder exists and is not empty.
        FileNotFoundError: If a file that a row refers to is not there; the message names it.
        ValueError: If a dataset has no rows.
    """
    for name, dataset in configs.items():
        if not len(dataset):
            raise ValueError(f"the dataset {name!r} has no rows: nothing to write to {folder}")
    with _complete_or_nothing(folder) as made:
        written = {}
        for name, dataset in configs.items():
            subfolder = "data" if name == "default" else name
            shards = _write_shards(dataset, made / subfolder)
            written[name] = DataConfig(subfolder, len(dataset), shards)
        _write_pictures(configs["default"], facts, made)
        _finish(made, "dataset", facts, written)


def write_generator(
    model: PreTrainedModel, processor: ProcessorMixin, folder: str | Path, facts: RunFacts, dataset: Dataset
) -> None:
    """Write a generator as a folder that `AutoModelForImageTextToText` and `AutoProcessor` load.

    Args:
        model: The model with its adapters merged; saved as safetensors in its dtype, with its generation settings.
        processor: Its processor, with the chat template.
        folder: Made, with README.md, manifest.json, config.yaml and the pictures of the card's examples beside the
            model; it appears when it is complete, or not at all.
        facts: What the card says.
        dataset: The curated dataset, of which the examples are rows.

    Raises:
        FileExistsError: If the folder exists and is not empty.
        TypeError: If the model has an adapter that is not merged.
    """
    if isinstance(model, PeftModel):
        raise TypeError("the model has an adapter that is not merged: give model.merge_and_unload()")
    with _complete_or_nothing(folder) as made:
        model.save_pretrained(made)
        processor.save_pretrained(made)
        _write_pictures(dataset, facts, made)
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
    manifest = Manifest(kind, facts.to_dict(), files | {CARD: FileRecord.of(card)}, configs, renderer())
    return {CARD: card, MANIFEST: manifest.to_bytes()}


def _finish(folder: Path, kind: Literal["dataset", "generator"], facts: RunFacts, configs: Mapping[str, DataConfig]):
    options: dict[str, Any] = plain(facts.options)
    (folder / "config.yaml").write_text(yaml.safe_dump(options, sort_keys=False, allow_unicode=True), "utf-8")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): FileRecord.of(path) for path in paths}
    for name, content in card_and_manifest(kind, facts, files, configs).items():
        (folder / name).write_bytes(content)


def _write_shards(dataset: Dataset, folder: Path) -> int:
    """Writes parquet shards, images embedded; returns how many."""
    folder.mkdir()
    schema = dataset.features.arrow_schema
    tables = dataset.with_format("arrow").iter(_ROW_GROUP)
    shards: list[Path] = []
    table = next(tables, None)
    while table is not None:
        shards.append(folder / f"{len(shards)}.unfinished")
        size = 0
        # Chunks cut by content: on the Hub, shards that are equal in part are stored once.
        with pq.ParquetWriter(shards[-1], schema, use_content_defined_chunking=True, write_page_index=True) as writer:
            while table is not None and size < _SHARD_BYTES:
                table = embed_table_storage(_without_unreadable(table))
                writer.write_table(table)
                size += table.nbytes
                table = next(tables, None)
    for number, path in enumerate(DataConfig(folder.name, len(dataset), len(shards)).files):
        shards[number].rename(folder.parent / path)
    return len(shards)


def _without_unreadable(table: pa.Table) -> pa.Table:
    """Takes images that cannot be read out of rows whose status says so: with them, nobody could load the dataset."""
    if STATUS not in table.column_names or pc.all(pc.equal(table[STATUS], STATUS_OK)).as_py():
        return table
    images = table["images"].to_pylist()
    for row, status in enumerate(table[STATUS].to_pylist()):
        if status != STATUS_OK:
            images[row] = [image for image in images[row] or () if _is_readable(image)]
    number = table.schema.get_field_index("images")
    return table.set_column(number, table.field(number), pa.array(images, table.field(number).type))


def _is_readable(image: Any) -> bool:
    try:
        open_image(image)
    except RowError:
        return False
    return True


def _write_pictures(dataset: Dataset, facts: RunFacts, folder: Path) -> None:
    """The first image of each example, upright and not larger than a card needs."""
    if not facts.examples:
        return
    (folder / "examples").mkdir()
    rows = {pair_id: row for row, pair_id in enumerate(dataset["pair_id"])}
    for number, (*_, pair_id) in enumerate(facts.examples):
        picture = open_image(dataset[rows[pair_id]]["images"][0])
        picture.thumbnail((_EXAMPLE_PIXELS, _EXAMPLE_PIXELS))
        picture.save(folder / "examples" / f"{number}.png")


@contextlib.contextmanager
def _complete_or_nothing(folder: str | Path) -> Iterator[Path]:
    """A new folder beside `folder` to write into, which takes its name when all went well."""
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty: remove it, or give another folder")
    # One name, so that what a killed run has left is removed by the next.
    made = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        yield made
        if folder.is_dir():
            folder.rmdir()
        os.rename(made, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
