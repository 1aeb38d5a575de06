"""`c3l generate`: pairs about images."""

import contextlib
import functools
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets
import pyarrow as pa

from c3l_hf.cli.command import CallOptions, Command, UsageError, set_up_process
from c3l_hf.cli.rows import OutputOptions, check_output, write_rows
from c3l_hf.common.errors import RunError
from c3l_hf.common.files import digest
from c3l_hf.common.locks import alone_in
from c3l_hf.common.memory_errors import made_in_batches
from c3l_hf.common.nodes import check_places, check_same, check_shared
from c3l_hf.common.processes import process_state
from c3l_hf.common.progress import ProgressLine
from c3l_hf.common.shard_sizes import sized_folder
from c3l_hf.common.shards import Shards
from c3l_hf.common.tables import format_table
from c3l_hf.common.versions import versions
from c3l_hf.data.schema import GENERATION_STATUS, PAIR_TABLE_FEATURES, STATUS_OK
from c3l_hf.data.sources import Images, columns_digest, load_images
from c3l_hf.data.status import count_repeated, count_statuses
from c3l_hf.data.unreadable_list import beside, unreadable_images, write_unreadable
from c3l_hf.files.inventory import cached
from c3l_hf.generation.pairs import PairGenerationConfig, check_columns, generate_tables, pairs_with_images
from c3l_hf.generation.retries import Retries, count_attempts, generate_with_retries
from c3l_hf.generation.server import is_unanswered
from c3l_hf.models.finding import find_model
from c3l_hf.models.loading import Source, load
from c3l_hf.pipeline.options import BackendOptions, GenerationOptions, ImageOptions, UsedModelOptions
from c3l_hf.pipeline.sizes import images_in_shard
from c3l_hf.pipeline.writers import check_backend, check_written_tokens, open_writer
from c3l_hf.scoring.dataset import score_tables
from c3l_hf.scoring.scorer import I2CScorer

__all__ = ["COMMAND"]

logger = logging.getLogger(__name__)


@dataclass
class GeneratorOptions(UsedModelOptions):
    """The vision-language model that writes in this process, or that `serve` has served, and how it is loaded."""

    model: str | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "A folder, a Hub id, or 'scenes' for the small generator that is shipped; not with base_url."
        },
    )


@dataclass
class SeedOptions:
    """What random choices come from."""

    _argument_group_name: ClassVar[str] = "Seed"
    seed: int = field(default=0, metadata={"help": "Seed of the generation, and of an embedded world's images."})


def generate(
    images: ImageOptions,
    model: GeneratorOptions,
    generation: GenerationOptions,
    backend: BackendOptions,
    seed: SeedOptions,
    output: OutputOptions,
    _: CallOptions,
) -> None:
    """Generates pairs; see `COMMAND`."""
    set_up_process()
    check_places({"images": images.images, "model": model.model, "templates": generation.templates})
    if images.images is None:
        raise UsageError("images is missing: name a folder of pictures, a dataset, or 'scenes'")
    check_backend(backend)
    elsewhere = backend.backend == "server" and backend.base_url is not None
    if elsewhere and (backend.serve or model.model):
        raise RunError(f"{'serve' if backend.serve else 'model'} is not used: the server at base_url has the generator")
    if not elsewhere and model.model is None:
        raise UsageError("model is missing: a folder or a Hub id; or backend server with base_url, which has the model")
    if elsewhere and generation.retries:
        raise RunError("retries are not for base_url: what is asked about again is told by a model in this process")
    path = check_output(output)
    config = generation.config(seed.seed, images.images, model.model)
    how: Source | None = None
    identity: dict[str, Any] = {}
    if backend.backend == "server":
        identity = {"server": backend.served_model, "extra_body": backend.server_extra_body}
    if model.model is not None:
        options: Any = model  # whose model may be None
        how, found = find_model(Source.of(options, trust_remote_code=model.trust_remote_code))
        identity |= {**found, "loading": how.loading()}
    source = load_images(
        images.images,
        split=images.images_split,
        limit=images.num_images,
        seed=seed.seed,
        inventory=cached("images", os.path.abspath(images.images), images.images_split, images.num_images, seed.seed),
        copies=images.copies,
    )
    check_columns(config, source.dataset)
    check_written_tokens(backend, config, how)
    identity |= generation.retry_identity()
    pairs = _in_shards(source, how, config, backend, generation, identity)
    rows = [row for batch in pairs.batches(["image_id", GENERATION_STATUS]) for row in zip(*batch.to_pydict().values())]
    counts = count_statuses((status for _, status in rows), "pairs")
    if generation.retries:
        counts |= count_attempts(pairs.batches(["image_row", "attempt"]))
    if process_state().is_main_process:
        write_rows(pairs_with_images(source.dataset, pairs.batches, pairs.num_rows), output)
        write_unreadable(beside(path), unreadable_images(rows, source.dataset))
        print(f"{format_table([('pairs', counts.pop('pairs')), *counts.items()])}\n\n{len(rows):,} rows → {path}")
        if repeated := count_repeated(pairs.batches(["image_id", "prompt", "completion"])):
            print(f"{repeated:,} pairs have the same texts as another of their image")
    if STATUS_OK not in {status for _, status in rows}:
        raise RunError(f"none of {len(rows):,} texts is a pair; {path} has the reasons in generation_status")


def _in_shards(
    images: Images,
    how: Any,
    config: PairGenerationConfig,
    backend: BackendOptions,
    generation: GenerationOptions,
    identity: dict[str, Any],
) -> Shards:
    """All pairs, without the pictures. They are kept in the cache of `datasets` in shards, named by what they are made
    from, at which several processes take turns, and after which the same command goes on."""
    fields = columns_digest(images.dataset, sorted(config.template_set.fields))
    made_from = digest(images.digest, fields, identity, config.identity(), versions()["c3l-hf"])
    folder = Path(datasets.config.HF_DATASETS_CACHE) / f"c3l_hf-pair-texts-{made_from}"
    check_same({"pairs": made_from}, "all need the same images, model, templates and options")
    check_shared(folder.parent, "HF_DATASETS_CACHE")
    place, size = sized_folder(folder, len(images), images_in_shard(generation, backend, len(images)))
    starts = range(0, len(images), size)
    shards = Shards(place, len(starts), root=folder)
    schema = PAIR_TABLE_FEATURES.arrow_schema
    k = config.pairs_per_image

    def there() -> int:
        missing = shards.missing
        return k * sum(min(size, len(images) - start) for n, start in enumerate(starts) if n not in missing)

    line = ProgressLine("generate", k * len(images), "replies", there)
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone_in(folder))
        _make_room(shards)
        stack.enter_context(line)
        loading = functools.cache(lambda: load(how))
        if shards.missing:
            writer = stack.enter_context(open_writer(backend, config, how, loading, folder / "replies"))

        def score(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
            return score_tables(tables, images.dataset, I2CScorer(*loading()))

        def pairs_of(number: int) -> Iterator[pa.Table]:
            first = starts[number]
            part = images.dataset.select(range(first, min(first + size, len(images))))
            line.begin_part()
            if generation.retries:
                retries = Retries(score, generation.retries, generation.retry_floor)
                tables = generate_with_retries(part, writer, config, retries, first_row=first, progress=line.advance)
            else:
                tables = generate_tables(part, writer, config, first_row=first, progress=line.advance)
            return made_in_batches(tables, "generation_batch_size", generation.generation_batch_size)

        shards.write_missing(pairs_of, schema)
    return shards


def _make_room(shards: Shards) -> None:
    """Takes away the shards with replies that no server gave, which are asked for again, and says what is there."""
    if process_state().is_main_process:
        if there := shards.take_away("generation_status", is_unanswered):
            logger.warning(
                "%d of %d shards are those of an earlier call with the same options, in %s; without that folder all "
                "is asked again",
                there,
                len(shards),
                shards.folder.parent,
            )
    process_state().wait_for_everyone()


COMMAND = Command(
    description="Lets a vision-language model write instruction/answer pairs about images: in this process, or on a "
    "server that speaks OpenAI's API. Texts that are no pair stay, with the reason in generation_status. After an "
    "interruption the same command goes on.",
    examples=(
        "c3l generate --images my_pictures/ --model llava-hf/llava-1.5-7b-hf --output pairs.parquet",
        "c3l generate --images my_pictures/ --backend server --base_url http://host:8000/v1 --output pairs.parquet",
        "c3l generate --images scenes --num_images 20 --model scenes --output pairs.parquet",
    ),
    groups=(
        ImageOptions,
        GeneratorOptions,
        GenerationOptions,
        BackendOptions,
        SeedOptions,
        OutputOptions,
        CallOptions,
    ),
    call=generate,
    resumes=True,
)
