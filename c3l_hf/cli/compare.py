"""`c3l evaluate compare`: whether two evaluations differ by more than chance."""

from dataclasses import dataclass, field
from typing import ClassVar

from c3l_hf.cli.command import CallOptions, Command, is_left_to_the_first, set_up_process

__all__ = ["COMMAND", "CompareOptions"]


@dataclass
class CompareOptions:
    """What is compared."""

    _argument_group_name: ClassVar[str] = "What"
    folder_a: str = field(metadata={"help": "Folder of an evaluation (its output_dir)."})
    folder_b: str = field(metadata={"help": "Folder of another; differences are b - a."})


def compare_evaluations(options: CompareOptions, _: CallOptions) -> None:
    """Compares two evaluations; see `COMMAND`."""
    from c3l_hf.evaluation.run import compare

    if is_left_to_the_first():
        return
    set_up_process()
    print(compare(options.folder_a, options.folder_b))


COMMAND = Command(
    description="Paired tests of two evaluations on the same questions: each figure's difference, its 95 % interval "
    "and p value.",
    examples=("c3l evaluate compare runs/evaluation runs/evaluation-other",),
    groups=(CompareOptions, CallOptions),
    call=compare_evaluations,
    positionals=("folder_a", "folder_b"),
)
