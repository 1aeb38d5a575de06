"""Whether the machines of a run have the same code, options, folder and inputs; without several processes nothing."""

from typing import Any

from c3l_hf.common.files import file_sha256
from c3l_hf.common.nodes import check_installation, check_places, check_same, check_shared
from c3l_hf.pipeline.inputs import Inputs
from c3l_hf.pipeline.settings import Settings

__all__ = ["check_inputs", "check_start"]

# Options that may name a file or folder; what is in it is compared, not its name.
_MODELS = ("model", "base_model", "scorer_model")
_PLACES = ("images", *_MODELS, "pairs", "image_folder", "templates", "marks", "decontaminate")


def check_start(settings: Settings) -> None:
    """What can be compared before anything is opened: code and versions, options, where inputs are, the run's folder.

    Raises:
        RunError: On every process, if the machines differ.
    """
    check_installation()
    groups = (settings.images, settings.model, settings.run, settings.generation, settings.scoring, settings.curation)
    values = {name: value for group in groups for name, value in vars(group).items()}
    check_places({name: values[name] for name in _PLACES})
    options: dict[str, Any] = settings.configuration() | {"stages": settings.run.stages}
    options |= {"restart_from": settings.run.restart_from, "dry_run": settings.run.dry_run}
    check_same({name: value for name, value in options.items() if name not in _PLACES}, "give all the same options")
    if not settings.run.dry_run:  # which makes no folder
        check_shared(str(settings.training.output_dir), "output_dir")


def check_inputs(settings: Settings, inputs: Inputs) -> None:
    """That images, pairs, models, templates and marks have the same contents everywhere.

    Raises:
        RunError: On every process, if the machines differ.
    """
    marks = settings.curation.marks
    check_same(
        {
            "images": inputs.images.digest,
            "pairs": inputs.pairs.digest if inputs.pairs else None,
            "model": inputs.generator_identity,
            "scorer": inputs.scorer_identity,
            "decontaminate": {benchmark.name: benchmark.digest for benchmark in inputs.benchmarks},
            "templates": settings.generating(0).template_set.digest(),
            "marks": file_sha256(marks).hex() if marks else None,
        },
        "all need the same files: share them, or copy them anew; of the Hub give a revision",
    )
