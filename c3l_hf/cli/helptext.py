"""The help of a command: its options in groups, with their defaults, in a screen or two."""

import shutil
import textwrap
import typing
from typing import Any

from c3l_hf.cli.command import Command
from c3l_hf.cli.options import PREFIX, Option, options_of
from c3l_hf.common.files import shipped

__all__ = ["format_help"]

_COLUMN = 34
_WORDS = {int: "N", float: "X", str: "TEXT", dict: "JSON"}


def format_help(name: str, command: Command, everything: bool = False) -> str:
    """The help of a command.

    Args:
        name: The command's name.
        command: The command.
        everything: Show all options; else those of a trainer only that matter most.
    """
    width = min(max(shutil.get_terminal_size().columns, 120), 140)
    positionals = "".join(f" {option.upper()}" for option in command.positionals)
    lines = [f"c3l {name}{positionals} [--config NAME] [options]", ""]
    lines += textwrap.wrap(command.description, width) + ["", *(f"  {example}" for example in command.examples), ""]
    configs = ", ".join(file.stem for file in sorted(shipped("configs").glob("*.yaml")))
    lines += _option("--config NAME", f"YAML with any of these options: a file, or a shipped one ({configs}).", width)
    lines += _option("--traceback", "Show where an error came from, in place of one line.", width)
    lines.append(f"Flags count before the environment ({PREFIX}<OPTION>), that before the YAML.")
    for group in command.groups:
        shown, options = command.shown.get(group), options_of([group])
        needed_first = sorted(options, key=lambda name: not options[name].is_required)
        names = needed_first if everything or shown is None else list(shown)
        more = f" ({len(options) - len(names)} more with --help_all)" if len(names) < len(options) else ""
        title = "Training" if shown is not None else group.__name__.removesuffix("Options")
        lines += ["", f"{getattr(group, '_argument_group_name', title)}{more}"]
        for name in names:
            option, text = options[name], (shown or {}).get(name) or options[name].help
            lines += _option(f"--{name} {_value(option)}".strip(), f"{text}{_default(option, text)}", width)
    return "\n".join(lines)


def _option(flag: str, text: str, width: int) -> list[str]:
    indent = " " * _COLUMN
    wrapped = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False) or [
        ""
    ]
    if len(flag) + 4 > _COLUMN:
        return [f"  {flag}", *wrapped]
    return [f"  {flag}".ljust(_COLUMN) + wrapped[0][_COLUMN:], *wrapped[1:]]


def _value(option: Option) -> str:
    """What stands after the flag."""
    kinds = [kind for kind in option.kinds if kind is not type(None)]
    if kinds == [bool]:
        return "" if option.default is False else "true|false"
    if choices := [str(choice) for kind in kinds for choice in typing.get_args(kind) if kind is not bool]:
        if all(typing.get_origin(kind) is typing.Literal for kind in kinds) and len("|".join(choices)) < 50:
            return "|".join(choices)
    word = next((_WORDS[kind] for kind in kinds if kind in _WORDS), "TEXT")
    return f"{word} ..." if option.is_list else word


def _default(option: Option, text: str) -> str:
    if option.is_required:
        return " (needed)"
    if option.default is None or option.default is False or option.default in ("", []):
        return ""
    value: Any = getattr(option.default, "value", option.default)
    if isinstance(value, bool):
        value = str(value).lower()
    value = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "" if "default" in text.lower() else f" [{value}]"
