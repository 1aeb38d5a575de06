"""What a run starts from: images, perhaps pairs, and models; and the plan of its stages in its folder."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from c3l_hf.common.files import file_sha256
from c3l_hf.common.processes import process_state
from c3l_hf.common.run_folder import INVENTORY, RunFolder
from c3l_hf.common.versions import versions
from c3l_hf.data.imported_pairs import ImportedPairs, import_pairs
from c3l_hf.data.reading import fetch_pictures, read_dataset
from c3l_hf.data.sources import Images, columns_digest, is_misspelt, is_picture_folder, load_images
from c3l_hf.data.unreadable_list import unreadable_images, write_unreadable
from c3l_hf.generation.pairs import check_columns
from c3l_hf.models.finding import find_model
from c3l_hf.models.loading import Source
from c3l_hf.pipeline.curation_options import CurationOptions
from c3l_hf.pipeline.image_checks import OpenedBenchmark, open_benchmarks
from c3l_hf.pipeline.options import STAGES, ImageOptions
from c3l_hf.pipeline.settings import Settings
from c3l_hf.pipeline.writers import check_written_tokens
from c3l_hf.training.checkpoints import training_options

__all__ = [
    "EMBEDDINGS",
    "REPORT",
    "RESULTS",
    "UNREADABLE",
    "Inputs",
    "list_unreadable",
    "open_inputs",
    "plan",
    "set_old_results_aside",
    "with_image_comparison",
]

# What a finished run has beside its stages: the result of the last one, in its place.
RESULTS = ("dataset", "generator", "config.yaml")
# Where the vectors of pairs are, in a folder of the stage that scored them.
EMBEDDINGS = "embeddings"
# Beside a run's results; and in the folder of a dataset.
REPORT = "report.html"
# What names the images that cannot be read.
UNREADABLE = "unreadable.csv"
# What in a run's folder goes where a stage's result goes. Replies of servers: they are known by the model's name, which
# a generator trained anew has again. Vectors, by the options of the stages. Checkpoints, likewise.
_BESIDE = {
    **{stage: (f"replies/{stage}", f"{EMBEDDINGS}/{stage}") for stage in STAGES},
    "train": ("training-*",),
    "write": (REPORT, f"{Path(REPORT).stem}_files"),  # which tells of them
}
# Options that have another name in what identifies a stage.
_CALLED = {"temperature": "sampling_temperature"}


@dataclass(frozen=True)
class Inputs:
    """What a run starts from.

    Attributes:
        images: The images.
        pairs: Pairs that somebody has, in place of the first generation; or None.
        generator: The generator, in a folder here.
        generator_identity: Commit on the Hub, or digests of its files; see `find_model`.
        scorer: The model that scores, in both rounds: one measure for both. In a folder here, too.
        scorer_identity: Likewise; None if the generator scores, as it was before training.
        benchmarks: What the dataset is to have nothing of.
    """

    images: Images
    pairs: ImportedPairs | None
    generator: Source
    generator_identity: Mapping[str, str]
    scorer: Source
    scorer_identity: Mapping[str, str] | None
    benchmarks: Sequence[OpenedBenchmark] = ()


def open_inputs(settings: Settings) -> Inputs:
    """Find and check images, pairs and models.

    Raises:
        RunError: If one of them cannot be used; the message names it.
    """
    options, model = settings.images, settings.model
    with_code = settings.training.trust_remote_code
    if options.images is not None and is_misspelt(options.images):
        load_images(options.images)  # says so now: of the models gigabytes may have to be fetched
    generator, identity = find_model(Source.of(model, trust_remote_code=with_code))
    scorer, scorer_identity = generator, None
    if settings.scoring.scorer_model is not None:
        other = Source.of(model, model_id=settings.scoring.scorer_model, trust_remote_code=with_code)
        scorer, scorer_identity = find_model(replace(other, revision=settings.scoring.scorer_revision))
    pairs = None
    file = Path(settings.training.output_dir) / INVENTORY
    inventory = None if settings.run.dry_run and not file.is_file() else file  # a dry run makes no file
    if settings.run.pairs is not None:
        rows = read_dataset(settings.run.pairs, settings.run)
        fetch_pictures(rows, settings.run)
        pairs = import_pairs(rows, inventory, settings.run.image_folder)
        images = pairs.images
    else:
        images = load_images(
            str(options.images),
            split=options.images_split,
            limit=options.num_images,
            seed=settings.training.seed,
            inventory=inventory,
            copies=options.copies,
        )
    asked = settings.generating(0)
    check_columns(asked, images.dataset)
    check_written_tokens(settings.backend, asked, generator)
    benchmarks = open_benchmarks(settings.curation.decontaminate or (), inventory)
    return Inputs(images, pairs, generator, identity, scorer, scorer_identity, benchmarks)


def with_image_comparison(curation: CurationOptions, images: ImageOptions) -> CurationOptions:
    """The options with near-duplicate images decided where they are "auto": in a folder of somebody's pictures there
    are bursts and smaller copies; in a dataset it is somebody's choice which images are there.

    Raises:
        RunError: See `data.sources.is_picture_folder`.
    """
    if curation.near_duplicate_images != "auto":
        return curation
    own = images.images is not None and is_picture_folder(images.images)
    return replace(curation, near_duplicate_images="similar" if own else "none")


def list_unreadable(
    folder: RunFolder, inputs: Inputs, batches: Iterable[pa.Table | pa.RecordBatch], column: str
) -> None:
    """Name the images that cannot be read in a file of the run's folder, on the main process.

    Args:
        folder: The run's folder.
        inputs: With the images.
        batches: Rows with `image_id` and the column.
        column: Their status.
    """
    if process_state().is_main_process:
        rows = (row for batch in batches for row in zip(batch["image_id"].to_pylist(), batch[column].to_pylist()))
        write_unreadable(folder.folder / UNREADABLE, unreadable_images(rows, inputs.images.dataset))


def plan(settings: Settings, inputs: Inputs) -> RunFolder:
    """The run's folder, with all stages and the options that make them. Writes nothing.

    Raises:
        RunError: See `RunFolder.plan`.
    """
    seed = settings.training.seed
    identity: dict[str, Any] = {"images": inputs.images.digest, "model": inputs.generator_identity, "seed": seed}
    if inputs.pairs is not None:
        identity["pairs"] = inputs.pairs.digest
    identity["c3l_hf"] = versions()["c3l-hf"]
    folder = RunFolder(Path(settings.training.output_dir), identity, RESULTS, _BESIDE, _CALLED)
    loading = Source.of(settings.model, trust_remote_code=settings.training.trust_remote_code).loading()
    generate, regenerate = (settings.generation_identity(trained) | loading for trained in (False, True))
    # What the templates say of each image is a part of what is asked.
    if fields := sorted(settings.generating(0).template_set.fields):
        generate["fields"] = regenerate["fields"] = columns_digest(inputs.images.dataset, fields)
    if settings.generation.retries and inputs.scorer_identity is not None:
        generate["scorer"] = regenerate["scorer"] = dict(inputs.scorer_identity)  # which images are asked about again
    select = dict(vars(settings.selection))
    if inputs.pairs is not None:
        select["templates"] = regenerate["templates"]  # which labels ask with where the pairs do not say what was asked
    max_epochs = settings.run.max_epochs
    score: dict[str, Any] = {"ranking": settings.scoring.ranking, **loading}
    if inputs.scorer_identity is not None:
        score["scorer"] = dict(inputs.scorer_identity)
    folder.plan(
        {
            "generate": {} if inputs.pairs is not None else generate,
            "score": score,
            "select": select,
            "train": training_options(settings.training) | ({} if max_epochs is None else {"max_epochs": max_epochs}),
            "regenerate": regenerate,
            "rescore": score,
            "curate": _curation_identity(settings, inputs),
            "write": settings.words() | ({"keep_metadata": True} if settings.publishing.keep_metadata else {}),
        },
        settings.run.stages,
        settings.run.restart_from,
    )
    return folder


def _curation_identity(settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """The options of the curation, files being known by their contents."""
    options = vars(settings.curation) | {"decontaminate": {one.name: one.digest for one in inputs.benchmarks}}
    file = options.pop("marks")
    if file is None:
        return options
    settings.curation.read_marks()  # which says now, and not after hours, what is wrong with it
    return options | {"marks": file_sha256(file).hex()}


def set_old_results_aside(folder: RunFolder, first: str) -> None:
    """Move what a stage and those after it have made into a folder of its own, and say where. Every process calls
    this."""
    if process_state().is_main_process and folder.folder.is_dir():
        aside = folder.set_aside(first)
        if aside is not None:
            print(f"the results from {first} on are now in {aside}; without restart_from the run goes on")
    process_state().wait_for_everyone()
