"""`c3l verify`: whether what is published is what was written."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from c3l_hf.cli.command import CallOptions, Command, is_left_to_the_first

__all__ = ["COMMAND", "VerifyOptions"]


@dataclass
class VerifyOptions:
    """What is checked, and how far."""

    _argument_group_name: ClassVar[str] = "What"
    name: str = field(metadata={"help": "A repository on the Hub; or the folder of a dataset, a generator, or a run."})
    revision: str | None = field(default=None, metadata={"help": "Its branch, tag or commit."})
    repo_type: Literal["dataset", "model"] | None = field(
        default=None, metadata={"help": "Which, if there are both of that name: dataset or model."}
    )
    rescore: int = field(default=0, metadata={"help": "Score so many rows of a dataset again."})
    model: str | None = field(
        default=None, metadata={"help": "The model for that; by default the one that the manifest names."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of that model."})


def verify_name(options: VerifyOptions, _: CallOptions) -> int:
    """Checks a repository or folder; see `COMMAND`."""
    if is_left_to_the_first():
        return 0
    from c3l_hf.publishing.hub import verify  # imports what cards are made with

    values = vars(options)
    return 0 if verify(values["name"], **{name: value for name, value in values.items() if name != "name"}) else 1


COMMAND = Command(
    description="Checks a published dataset or generator (or a folder) against its manifest and card, prints every "
    "check with its result, and ends with 1 if one fails.",
    examples=("c3l verify user/c3l-5k", "c3l verify runs/demo --rescore 20 --model scenes"),
    groups=(VerifyOptions, CallOptions),
    call=verify_name,
    positionals=("name",),
)
