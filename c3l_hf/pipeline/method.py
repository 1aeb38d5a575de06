"""C3L, the whole method: images → pairs → scores → pseudo-labels → training → new pairs → scores → the compact dataset.

`_stages` is read from top to bottom: each stage is a function that gets what the stages before it have made, and gives
its own result. What a stage makes is kept in the run's folder (`common.run_folder`); a run that was interrupted goes on
there, and makes nothing twice.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import datasets

from c3l_hf.common.processes import limit_threads, process_state
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.data.schema import GENERATION_STATUS, STATUS
from c3l_hf.generation.usable import check_usable
from c3l_hf.pipeline import stages
from c3l_hf.pipeline.closing import format_closing
from c3l_hf.pipeline.curation_options import CurationOptions
from c3l_hf.pipeline.dry_run import format_dry_run
from c3l_hf.pipeline.image_checks import ImageChecks
from c3l_hf.pipeline.inputs import (
    Inputs,
    list_unreadable,
    open_inputs,
    plan,
    set_old_results_aside,
    with_image_comparison,
)
from c3l_hf.pipeline.model_in_use import ModelInUse
from c3l_hf.pipeline.nodes import check_inputs, check_start
from c3l_hf.pipeline.options import (
    STAGES,
    BackendOptions,
    GenerationOptions,
    ImageOptions,
    ModelOptions,
    PublishingOptions,
    RunOptions,
    ScoringOptions,
    SelectionOptions,
)
from c3l_hf.pipeline.pair_tables import ScoredPairs
from c3l_hf.pipeline.plan import make_plan
from c3l_hf.pipeline.plan_text import format_plan
from c3l_hf.pipeline.progress import describe, quiet_libraries
from c3l_hf.pipeline.publication import check_publication, push_command
from c3l_hf.pipeline.settings import Settings
from c3l_hf.pipeline.sizes import sized
from c3l_hf.pipeline.tracking import report_figures
from c3l_hf.pipeline.writers import check_backend
from c3l_hf.publishing.hub import push
from c3l_hf.publishing.repository import HubError
from c3l_hf.training.config import C3LConfig

__all__ = ["run_c3l"]


@contextlib.contextmanager
def _without_caching() -> Iterator[None]:
    """Within, `datasets` keeps nothing: stages keep their results themselves."""
    was = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        yield
    finally:
        if was:
            datasets.enable_caching()


@_without_caching()
def run_c3l(
    run: RunOptions,
    images: ImageOptions,
    model: ModelOptions,
    generation: GenerationOptions,
    backend: BackendOptions,
    scoring: ScoringOptions,
    selection: SelectionOptions,
    curation: CurationOptions,
    publishing: PublishingOptions,
    training: C3LConfig,
    config_name: str | None = None,
) -> None:
    """Run C3L, or go on with a run that was interrupted, and print what each stage has made.

    Every process of a launcher calls this. Results: `<output_dir>/dataset` (`load_dataset`) and
    `<output_dir>/generator` (`from_pretrained`), with their cards, and `config.yaml`.

    Args:
        run, images, model, generation, backend, scoring, selection, curation, publishing: The options, see
            `pipeline.options`.
        training: Those of the training; `output_dir` is the run's folder, `seed` the seed of everything, and
            `push_to_hub` says whether the results are published.
        config_name: Name of the configuration file, for the cards.

    Raises:
        RunError: If something about the call is wrong, which is found before any work, or a stage has no result.
        HubError: If the results cannot be published; what was made stays.
    """
    if run.plan is None:
        curation = with_image_comparison(curation, images)
    settings = Settings(
        run, images, model, generation, backend, scoring, selection, curation, publishing, training, config_name
    )
    check_start(settings)
    settings.check()
    if run.plan is not None:
        limit_threads()
        quiet_libraries()
        process_state().print(format_plan(make_plan(settings)))
        return
    check_backend(backend)
    limit_threads()
    quiet_libraries()
    started, state = time.monotonic(), process_state()
    folder = Path(training.output_dir)
    RunFolder(folder, {}).check_folder()
    publication = check_publication(publishing, settings.images_license, training, "write" in run.stages)
    inputs = open_inputs(settings)
    check_inputs(settings, inputs)
    settings, sizes = sized(settings, len(inputs.images))
    state.print(sizes, flush=True)
    run_folder = plan(settings, inputs)
    if run.dry_run:
        state.print(format_dry_run(run_folder, inputs, settings, _needed(run.stages)))
        return
    if run.restart_from:
        set_old_results_aside(run_folder, run.restart_from)
    run_folder.claim()
    steps = _stages(settings, inputs, run_folder)
    needed = _needed(run.stages)
    try:
        for stage in needed:
            state.print(f"\n== {stage}", flush=True)
            begun, there = time.monotonic(), run_folder.is_done(stage)
            state.print(next(steps))
            state.print("(was there)" if there else f"({time.monotonic() - begun:.1f} s)", flush=True)
    finally:
        if state.is_main_process:
            report_figures(run_folder, needed, training)
    if state.is_main_process:
        print(f"\n{format_closing(run_folder, needed, scoring.ranking)}", flush=True)
    if publication and state.is_main_process:
        print("\n== push", flush=True)
        try:
            print("\n".join(map(str, push(folder, publication))), flush=True)
        except HubError as error:
            raise HubError(f"{error}\nThe run is complete; the same command again goes on with the push.") from None
    if publication is None and "write" in run.stages:
        state.print(f"\npublish it with  {push_command(folder, publishing.license, settings.images_license)}")
    state.print(f"\n{time.monotonic() - started:.0f} s")


def _stages(settings: Settings, inputs: Inputs, folder: RunFolder) -> Iterator[str]:
    """The stages in their order, each of which gives the text that tells what it has made."""
    models = ModelInUse(settings.model, settings.training.trust_remote_code)
    pairs = stages.generate("generate", folder, settings, inputs, models, inputs.generator)
    if inputs.pairs is None:
        list_unreadable(folder, inputs, pairs.batches(["image_id", GENERATION_STATUS]), GENERATION_STATUS)
        check_usable(pairs.batches([GENERATION_STATUS, "raw"]))
    yield describe(folder, "generate")
    first = ScoredPairs(pairs, stages.score("score", folder, settings, inputs, models, pairs))
    if inputs.pairs is not None:
        list_unreadable(folder, inputs, first.tables(["image_id", STATUS]), STATUS)
    yield describe(folder, "score")
    labels = stages.select(folder, settings, first)
    yield describe(folder, "select")
    trained = stages.train(folder, settings, inputs, models, labels)
    yield describe(folder, "train")
    pairs = stages.generate("regenerate", folder, settings, inputs, models, trained)
    check_usable(pairs.batches([GENERATION_STATUS, "raw"]))
    yield describe(folder, "regenerate")
    second = ScoredPairs(pairs, stages.score("rescore", folder, settings, inputs, models, pairs))
    yield describe(folder, "rescore")
    checks = ImageChecks(settings.curation, inputs.images.dataset, inputs.benchmarks)
    curated = stages.curate(folder, settings, inputs, models, second, checks)
    yield describe(folder, "curate")
    yield stages.write(folder, settings, inputs, models, first, labels, trained, second, curated, checks)


def _needed(wanted: list[str]) -> tuple[str, ...]:
    """The stages up to the last wanted one: those before it are there, and are shown."""
    return STAGES[: 1 + max(STAGES.index(stage) for stage in wanted)]
