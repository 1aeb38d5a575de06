"""`c3l run`: the whole method."""

from c3l_hf.cli.command import Command
from c3l_hf.cli.training_help import SHOWN_RUN
from c3l_hf.pipeline.curation_options import CurationOptions
from c3l_hf.pipeline.options import (
    BackendOptions,
    GenerationOptions,
    ImageOptions,
    ModelOptions,
    PublishingOptions,
    RunOptions,
    ScoringOptions,
    SelectionOptions,
)
from c3l_hf.training.config import C3LConfig

__all__ = ["COMMAND"]


def run(
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
    config_name: str | None,
) -> None:
    """Runs the method; see `COMMAND`."""
    from c3l_hf.pipeline.method import run_c3l  # after the help, which does not need it

    run_c3l(
        run,
        images,
        model,
        generation,
        backend,
        scoring,
        selection,
        curation,
        publishing,
        training,
        config_name=config_name,
    )


COMMAND = Command(
    description="The whole of C3L: images → pairs → scores → pseudo-labels → training → new pairs → scores → the "
    "compact dataset. Results: <output_dir>/dataset (load_dataset) and <output_dir>/generator (from_pretrained), with "
    "their cards; --push_to_hub publishes them. The same command again goes on after an interruption and makes nothing "
    "twice.",
    examples=(
        "c3l run --config scenes --num_images 200 --output_dir runs/try",
        "c3l run --images my_pictures/ --model llava-hf/llava-1.5-7b-hf --output_dir runs/mine",
        "accelerate launch -m c3l_hf run --config llava15_7b …                                (several processes)",
    ),
    groups=(
        RunOptions,
        ImageOptions,
        ModelOptions,
        GenerationOptions,
        BackendOptions,
        ScoringOptions,
        SelectionOptions,
        CurationOptions,
        PublishingOptions,
        C3LConfig,
    ),
    call=run,
    shown={
        RunOptions: dict.fromkeys(("stages", "pairs", "restart_from", "dry_run"), ""),
        GenerationOptions: dict.fromkeys(("templates", "types", "pairs_per_image", "sampling_temperature"), ""),
        BackendOptions: dict.fromkeys(("backend", "base_url", "serve"), ""),
        ScoringOptions: dict.fromkeys(("ranking", "scorer_model"), ""),
        CurationOptions: dict.fromkeys(("target_size", "max_per_image"), ""),
        C3LConfig: SHOWN_RUN,
    },
    plans=True,
    needs_config_name=True,
    resumes=True,
)
