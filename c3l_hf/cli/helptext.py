"""The help of a command: its options in groups, with their defaults, in a screen or two."""

import re
import shutil
import textwrap
import typing
from typing import Any

from c3l_hf.cli.command import Command
from c3l_hf.cli.settings import PREFIX, Option, options_of
from c3l_hf.common.files import shipped

__all__ = ["format_help"]

_COLUMN = 30
_WORDS = {int: "N", float: "X", str: "TEXT", dict: "JSON"}


def format_help(name: str, command: Command, everything: bool = False) -> str:
    """The help of a command.

    Args:
        name: The command's name.
        command: The command.
        everything: Show all options; else those of a trainer only that matter most.
    """
    width = min(max(shutil.get_terminal_size().columns, 100), 140)
    positionals = "".join(f" {option.upper()}" for option in command.positionals)
    lines = [f"c3l {name}{positionals} [--config NAME] [options]", ""]
    lines += textwrap.wrap(command.description, width) + ["", *(f"  {example}" for example in command.examples), ""]
    configs = ", ".join(file.stem for file in sorted(shipped("configs").glob("*.yaml")))
    lines += _option("--config NAME", f"YAML with any of these options: a file, or a shipped one ({configs}).", width)
    lines += textwrap.wrap(
        f"An option may also be a variable of the environment, {PREFIX}<OPTION>. Flags count before the environment, that "
        "before the YAML.",
        width,
    )
    hidden = 0
    for group in command.groups:
        shown = None if everything else command.shown_of(group)
        options = options_of([group])
        chosen = [option for option in options.values() if shown is None or option.name in shown]
        hidden += len(options) - len(chosen)
        more = f" ({len(options) - len(chosen)} more with --help_all)" if len(chosen) < len(options) else ""
        lines += ["", f"{getattr(group, '_argument_group_name', group.__name__)}{more}:"]
        for option in chosen:
            # The trainers' own texts have several sentences.
            text = option.help if shown is None else _first_sentence(option.help)
            lines += _option(f"--{option.name} {_value(option)}", f"{text}{_default(option)}", width)
    return "\n".join(lines)


def _option(flag: str, text: str, width: int) -> list[str]:
    indent = " " * _COLUMN
    wrapped = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent) or [""]
    if len(flag) + 4 > _COLUMN:
        return [f"  {flag}", *wrapped]
    return [f"  {flag}".ljust(_COLUMN) + wrapped[0][_COLUMN:], *wrapped[1:]]


def _value(option: Option) -> str:
    """What stands after the flag."""
    kinds = [kind for kind in option.kinds if kind is not type(None)]
    if kinds == [bool]:
        return "[true|false]"
    if choices := [str(choice) for kind in kinds for choice in typing.get_args(kind) if kind is not bool]:
        if all(typing.get_origin(kind) is typing.Literal for kind in kinds) and len("|".join(choices)) < 50:
            return "|".join(choices)
    word = next((_WORDS[kind] for kind in kinds if kind in _WORDS), "TEXT")
    return f"{word} ..." if option.is_list else word


def _default(option: Option) -> str:
    if option.is_required:
        return " (needed)"
    if option.default is None or option.default == [] or option.default == "":
        return ""
    value: Any = getattr(option.default, "value", option.default)
    if isinstance(value, bool):
        value = str(value).lower()
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "" if text in option.help else f" [{text}]"


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.;:])\s", text, maxsplit=1)[0].rstrip(".;:") + "."
