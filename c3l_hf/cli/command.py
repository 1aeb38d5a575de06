"""What a subcommand is: the options that it takes, and the function that is called with them."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from c3l_hf.common.errors import RunError

__all__ = ["CallOptions", "Command", "UsageError", "set_up_process"]


class UsageError(RunError):
    """Something about the words of a call: an option that does not exist, a value that cannot be read."""


@dataclass
class CallOptions:
    """What every command takes."""

    _argument_group_name: ClassVar[str] = "Call"
    dry_run: bool = field(default=False, metadata={"help": "Print the merged settings, and do nothing."})


@dataclass(frozen=True)
class Command:
    """A subcommand; the modules `c3l_hf.cli.<name>` have one each as `COMMAND`.

    Attributes:
        description: What it does, in some lines.
        examples: Calls, as one types them.
        groups: Dataclasses with the options, in the order of the help. `dry_run` is in one of them.
        call: Gets an instance of each of them, in this order. What it returns is the exit code; None is 0.
        positionals: Options that may stand without their names, first in the call.
        short: Short flags, and what they stand for.
        shown: Of groups with very many options (a trainer's), those that `--help` shows, with their help ("": the
            option's own); `--help_all` shows the others.
        plans: Whether `call` has something to say at a dry run, too.
        needs_config_name: Whether `call` also gets the name of the YAML file, or None.
        resumes: Whether the same command goes on after an interruption.
    """

    description: str
    examples: tuple[str, ...]
    groups: tuple[type, ...]
    call: Callable[..., int | None]
    positionals: tuple[str, ...] = ()
    short: Mapping[str, str] = field(default_factory=dict)
    shown: Mapping[type, Mapping[str, str]] = field(default_factory=dict)
    plans: bool = False
    needs_config_name: bool = False
    resumes: bool = False


def is_left_to_the_first() -> bool:
    """For a command whose work is not shared out: whether this is another process than the first of those that a
    launcher has started, and so has nothing to do. The first goes on as if it were alone: where it waits for the
    others, nobody would come. Called before anything asks for the state of the processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if os.environ.get("RANK", "0") != "0":
            return True
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK"):
            os.environ.pop(name, None)
    return False


def set_up_process() -> None:
    """Keep PyTorch's threads within limits, and the bars of other libraries out of what a command tells.

    Raises:
        RunError: If a launcher's machines do not have the same code and versions.
    """
    from c3l_hf.common.nodes import check_installation  # loads torch, for which no help should wait
    from c3l_hf.common.processes import limit_threads
    from c3l_hf.pipeline.progress import quiet_libraries

    check_installation()
    limit_threads()
    quiet_libraries()
