"""`c3l push`: a finished run's results on the Hub."""

from dataclasses import dataclass, field
from typing import ClassVar

from c3l_hf.cli.command import CallOptions, Command, is_left_to_the_first
from c3l_hf.common.errors import RunError
from c3l_hf.pipeline.options import PublishingOptions

__all__ = ["COMMAND", "PushOptions"]


@dataclass
class PushOptions:
    """What is pushed."""

    _argument_group_name: ClassVar[str] = "What"
    run_folder: str = field(metadata={"help": "The folder of a finished run (its output_dir)."})


def push_run(what: PushOptions, publishing: PublishingOptions, _: CallOptions) -> None:
    """Pushes a run's results; see `COMMAND`."""
    if is_left_to_the_first():
        return
    from c3l_hf.pipeline.publication import push_command
    from c3l_hf.publishing.hub import LicenceError, Publication, push  # imports what cards are made with

    options = Publication(
        publishing.hub_namespace,
        publishing.hub_dataset_name,
        publishing.hub_generator_name,
        public=publishing.public,
        license=publishing.license,
        images_license=publishing.images_license,
        images_source=publishing.images_source,
        overwrite=publishing.overwrite,
        keep_metadata=publishing.keep_metadata,
    )
    try:
        for pushed in push(what.run_folder, options):
            print(pushed)
    except LicenceError as error:
        licences = [None if name in error.missing else "stated" for name in ("license", "images_license")]
        named = ("hub_namespace", "license", "images_license")
        typed = {name: value for name in named if (value := getattr(publishing, name))}
        raise RunError(f"{error}: {push_command(what.run_folder, licences[0], licences[1], typed)}") from None


COMMAND = Command(
    description="Pushes the dataset and the generator of a finished run to the Hub, privately unless --public, with "
    "their cards. Everything is checked before anything is uploaded; a push that ended half-way goes on with the next "
    "one. The token comes from HF_TOKEN or the saved login (hf auth login).",
    examples=(
        "c3l push runs/demo --license apache-2.0",
        "c3l push runs/mine --license apache-2.0 --images_license cc-by-4.0                    (of your own pictures)",
    ),
    groups=(PushOptions, PublishingOptions, CallOptions),
    call=push_run,
    positionals=("run_folder",),
    resumes=True,
)
