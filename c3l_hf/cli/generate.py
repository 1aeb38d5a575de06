"""`c3l generate`: pairs about images."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

import datasets
import pyarrow as pa
from datasets import Dataset, load_dataset

from c3l_hf.cli.command import CallOptions, Command, UsageError, set_up_process
from c3l_hf.cli.rows import OutputOptions, check_output, write_rows
from c3l_hf.common.errors import RunError
from c3l_hf.common.files import digest
from c3l_hf.common.processes import process_state
from c3l_hf.common.shards import Shards
from c3l_hf.common.tables import format_table
from c3l_hf.common.versions import versions
from c3l_hf.data.schema import PAIR_FEATURES
from c3l_hf.data.sources import Images, load_images
from c3l_hf.data.status import generation_counts
from c3l_hf.data.stored_images import with_contents
from c3l_hf.files.inventory import cached
from c3l_hf.generation.pairs import PairGenerationConfig, generate_pairs
from c3l_hf.models.finding import find_model
from c3l_hf.models.loading import Source, load
from c3l_hf.pipeline.options import GenerationOptions, ImageOptions, UsedModelOptions

__all__ = ["COMMAND"]

_SHARD_IMAGES = 500


@dataclass
class SeedOptions:
    """What random choices come from."""

    _argument_group_name: ClassVar[str] = "Seed"
    seed: int = field(default=0, metadata={"help": "Seed of the generation, and of an embedded world's images."})


def generate(
    images: ImageOptions,
    model: UsedModelOptions,
    generation: GenerationOptions,
    seed: SeedOptions,
    output: OutputOptions,
    _: CallOptions,
) -> None:
    """Generates pairs; see `COMMAND`."""
    set_up_process()
    if images.images is None:
        raise UsageError("images is missing: name a folder of pictures, a dataset, or 'scenes'")
    path = check_output(output)
    config = generation.config(seed.seed)
    how, identity = find_model(Source.of(model, trust_remote_code=model.trust_remote_code))
    source = load_images(
        images.images,
        split=images.images_split,
        limit=images.num_images,
        seed=seed.seed,
        inventory=cached("images", os.path.abspath(images.images), images.images_split, images.num_images, seed.seed),
    )
    pairs = _in_shards(source, how, config, identity)
    counts = generation_counts(pairs)
    if process_state().is_main_process:
        write_rows(pairs, output)
        print(f"{format_table([('pairs', counts.pop('pairs')), *counts.items()])}\n\n{len(pairs):,} rows → {path}")
    if not pairs.num_rows or "ok" not in pairs["generation_status"][:]:
        raise RunError(f"none of {len(pairs):,} texts is a pair; {path} has the reasons in generation_status")


def _in_shards(images: Images, how: Source, config: PairGenerationConfig, identity: dict[str, str]) -> Dataset:
    """All pairs. They are kept in the cache of `datasets` in shards, named by what they are made from, at which several
    processes take turns, and after which the same command goes on."""
    # The size of a batch changes no pair.
    settings = {name: value for name, value in asdict(config).items() if name != "batch_size"}
    made_from = digest(images.digest, identity, settings, how.loading(), versions()["c3l-hf"])
    folder = Path(datasets.config.HF_DATASETS_CACHE) / f"c3l_hf-pairs-{made_from}"
    size = max(1, min(_SHARD_IMAGES, -(-len(images) // process_state().num_processes)))
    starts = range(0, len(images), size)
    shards = Shards(folder / str(size), len(starts))
    schema = PAIR_FEATURES.arrow_schema
    model, processor = load(how) if shards.missing else (None, None)

    def pairs_of(number: int) -> Iterator[pa.Table]:
        end = min(starts[number] + size, len(images))
        part = images.dataset.select(range(starts[number], end))
        for table in generate_pairs(part, model, processor, config).with_format("arrow").iter(100):
            # A picture in a file goes with its pairs.
            yield with_contents(table.cast(schema), PAIR_FEATURES)

    shards.write_missing(pairs_of, schema)
    return load_dataset("parquet", data_files=[str(file) for file in shards.files], split="train")


COMMAND = Command(
    description="Lets a vision-language model write instruction/answer pairs about images. Texts that are no pair "
    "stay, with the reason in generation_status. After an interruption the same command goes on.",
    examples=(
        "c3l generate --images my_pictures/ --model llava-hf/llava-1.5-7b-hf --output pairs.parquet",
        "c3l generate --images scenes --num_images 20 --model scenes --output pairs.parquet",
    ),
    groups=(ImageOptions, UsedModelOptions, GenerationOptions, SeedOptions, OutputOptions, CallOptions),
    call=generate,
    resumes=True,
)
