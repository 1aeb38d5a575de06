"""Where a run's results are to be published: checked before any work."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from c3l_hf.common.errors import RunError
from c3l_hf.common.processes import process_state
from c3l_hf.pipeline.options import PublishingOptions
from c3l_hf.publishing.hub import LicenceError, Publication, check_access, check_licences
from c3l_hf.training.config import C3LConfig

__all__ = ["check_publication", "push_command"]

# The trainer's own way to the Hub: a repository of checkpoints, and a token as an option.
_TRAINERS_HUB = ("hub_token", "hub_model_id", "hub_revision", "hub_private_repo")


def check_publication(
    options: PublishingOptions, images_license: str | None, training: C3LConfig, writes: bool
) -> Publication | None:
    """Where the results go; None if they are not published. Access is tried, nothing is changed there.

    Args:
        options: What was asked for.
        images_license: Licence of the images, stated or known.
        training: Its `push_to_hub` says whether the results are published.
        writes: Whether the run writes its results.

    Raises:
        RunError: If options contradict each other, or a licence is missing.
        HubError: If a push could not begin.
    """
    given = [name for name in _TRAINERS_HUB if getattr(training, name) is not None]
    if given:
        raise RunError(
            f"{given[0]} is not used here: see hub_namespace, hub_dataset_name, hub_generator_name and public; the "
            "token comes from HF_TOKEN or `hf auth login`"
        )
    if not training.push_to_hub:
        return None
    if training.trust_remote_code:
        raise RunError("push_to_hub publishes no code, which the generator would need with trust_remote_code")
    try:
        check_licences(options.license, images_license)
    except LicenceError as error:
        raise RunError(f"push_to_hub needs {' and '.join(error.missing)}: {error}") from None
    if not writes:
        raise RunError("push_to_hub needs the stage write among stages")
    publication = Publication(
        options.hub_namespace,
        options.hub_dataset_name,
        options.hub_generator_name,
        public=options.public,
        license=options.license,
        images_license=images_license,
        images_source=options.images_source,
        overwrite=options.overwrite,
        keep_metadata=options.keep_metadata,
    )
    if process_state().is_main_process:
        check_access(publication)
    return publication


def push_command(
    folder: str | Path, license: str | None, images_license: str | None, flags: Mapping[str, str] | None = None
) -> str:
    """How a finished run is published, as one types it: with the licences that its cards lack. What stands in their
    place is refused as it is.

    Args:
        folder: The run's folder.
        license: Licence of what is published, if the run stated it.
        images_license: Licence of the images, stated or known.
        flags: What was typed already, and has to be again.
    """
    lacking = [name for name, value in (("license", license), ("images_license", images_license)) if not value]
    typed = {**(flags or {}), **dict.fromkeys(lacking, "LICENCE")}
    words = [f"--{name} {shlex.quote(value)}" for name, value in typed.items()]
    return " ".join(["c3l push", shlex.quote(str(folder)), *words])
