"""Where a run's results are to be published: checked before any work."""

from c3l_hf.common.errors import RunError
from c3l_hf.common.processes import process_state
from c3l_hf.pipeline.options import PublishingOptions
from c3l_hf.publishing.hub import Publication, check_access
from c3l_hf.training.config import C3LConfig

__all__ = ["check_publication"]

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
    for name, value in (("images_license", images_license), ("license", options.license)):
        if not value:
            raise RunError(f"push_to_hub needs {name}: what is published says so on its cards")
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
    )
    if process_state().is_main_process:
        check_access(publication)
    return publication
