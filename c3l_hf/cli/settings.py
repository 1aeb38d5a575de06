"""The settings of a call: from flags, before the environment, before a YAML file, before the defaults."""

import argparse
import dataclasses
import logging
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import TrlParser

from c3l_hf.cli.command import Command, UsageError
from c3l_hf.cli.names import nearest
from c3l_hf.cli.options import PREFIX, Option, options_of
from c3l_hf.common.files import shipped
from c3l_hf.common.names import nearest_path

__all__ = ["Settings", "find_config", "format_settings", "read_settings"]

logger = logging.getLogger(__name__)

_NOT_GIVEN = object()
# The configuration, which is read before; and the key of servers, which stands in no file and no list of settings.
_NO_OPTIONS = (f"{PREFIX}CONFIG", f"{PREFIX}API_KEY", f"{PREFIX}PATIENCE")
# What can stand after --model, with the size of its weights in bfloat16.
_MODELS = (
    "A model is a folder or a name on the Hub, as Qwen/Qwen2.5-VL-7B-Instruct (17 GB), Qwen/Qwen2.5-VL-3B-Instruct "
    "(8 GB) or llava-hf/llava-interleave-qwen-0.5b-hf (2 GB); scenes is a toy that is shipped"
)
# What says how long a training takes.
_LENGTHS = ("num_train_epochs", "max_steps", "max_epochs")
_SWITCH_WORDS = {"yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a command is called with.

    Attributes:
        values: Option → value, of those that were given.
        sources: Option → where it was given: a flag, a variable of the environment, or the name of the YAML file.
        groups: The command's dataclasses, filled in.
        config: The YAML file.
    """

    values: dict[str, Any]
    sources: dict[str, str]
    groups: tuple[Any, ...]
    config: Path | None


class _Parser(TrlParser):
    """Raises what is wrong instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        # The other spelling of an option, with hyphens, says nothing more.
        raise UsageError(re.sub(r"^argument (--\w+)[^:]*: ", r"\1: ", message))


def read_settings(
    command: Command,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    all_options: Callable[[], Iterable[str]],
) -> Settings:
    """The merged settings of a call.

    Args:
        command: Which options there are.
        arguments: The words after the command's name.
        environment: Variables C3L_<OPTION> are read.
        all_options: The options of all commands: variables for others than this one may be there.

    Raises:
        UsageError: If an option does not exist, is missing, or has a value that cannot be read.
    """
    arguments, config = _take_config(arguments)
    config = config or environment.get(f"{PREFIX}CONFIG")
    file = find_config(config) if config else None
    options = options_of(command.groups)
    parser = _parser(command.groups, options)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    ranks: dict[str, int] = {}

    def take(new: Mapping[str, Any], rank: int, source: Callable[[str], str]) -> None:
        values.update(new)
        sources.update({name: source(name) for name in new})
        ranks.update(dict.fromkeys(new, rank))

    if file is not None:
        for name, value in _read_yaml(file).items():
            if name not in options:
                raise UsageError(f"{file.name}: there is no option {name}{nearest(str(name), options)}")
            take({name: _parsed(parser, options[name], value, file.name)}, 0, lambda _: file.name)
    for variable, text in sorted(environment.items()):
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or variable in _NO_OPTIONS:
            continue
        if name in options:
            # A list stands in one text.
            value = text.split(",") if options[name].is_list else text
            take({name: _parsed(parser, options[name], value, variable)}, 1, lambda name: f"{PREFIX}{name.upper()}")
        elif name not in set(all_options()):
            variables = [f"{PREFIX}{option.upper()}" for option in options]
            raise UsageError(
                f"the environment has {variable}, and no command has that option{nearest(variable, variables)}"
            )
    take(_flags(parser, command, options, arguments), 2, lambda name: f"--{name}")
    for name in _overruled(values, ranks):
        del values[name], sources[name]

    missing = [name for name, option in options.items() if name not in values and option.is_required]
    if missing:
        # Of what may stand without its name only the value is asked for, as in NAME.
        words = [name.upper() if name in command.positionals else f"--{name}" for name in missing]
        ways = f"give {words[0]}, a YAML file with it (--config), or {PREFIX}{missing[0].upper()}"
        hint = f". {_MODELS}" if "model" in missing else ""
        raise UsageError(f"{' and '.join(words)} {'is' if len(missing) == 1 else 'are'} missing: {ways}{hint}")
    try:
        groups = parser.parse_dict(dict(values))
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Settings(values, sources, groups, file)


def _overruled(values: Mapping[str, Any], ranks: Mapping[str, int]) -> list[str]:
    """What says how long training takes and does not count, as something nearer to the user says it too. A trainer by
    itself would go by max_steps, wherever that is from.

    Args:
        values: Option → value, of those that were given.
        ranks: How near to the user each was given.
    """
    given = [name for name in _LENGTHS if name in values]
    nearest_rank = max((ranks[name] for name in given), default=0)
    kept = {name for name in given if ranks[name] == nearest_rank}
    if kept == {"max_epochs"}:
        kept.add("max_steps")  # which it limits
    if {"num_train_epochs", "max_steps"} <= kept and (values["max_steps"] or 0) > 0:
        logger.warning("num_train_epochs does not count beside max_steps; leave one of them out")
    # num_train_epochs beside max_steps changes nothing, and is what counts where that is -1.
    return [name for name in given if name not in kept and name != "num_train_epochs"]


def find_config(name: str) -> Path:
    """A YAML file, or the shipped one of that name.

    Raises:
        UsageError: If there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    files = {file.stem: file for file in sorted(shipped("configs").glob("*.yaml"))}
    if (stem := name.removesuffix(".yaml")) in files:
        return files[stem]
    raise UsageError(
        f"config {name}: there is no such file, and those that are shipped are {', '.join(files)}"
        f"{nearest(Path(stem).name, files) or nearest_path(name)}"
    )


def format_settings(command: Command, settings: Settings) -> str:
    """All settings as YAML, with where those come from that were given. Of very long groups, only these and those that
    the help shows."""
    lines = []
    for group, filled in zip(command.groups, settings.groups):
        shown = command.shown.get(group)
        for name in options_of([group]):
            given = name in settings.values
            if not given and shown is not None and name not in shown:
                continue
            value = settings.values[name] if given else getattr(filled, name)
            value = "(not shown)" if name.endswith("_token") and value else getattr(value, "value", value)
            # In a list, as a value by itself would be a document with an end of its own.
            text = yaml.safe_dump([value], default_flow_style=True, width=10**6, allow_unicode=True).strip()[1:-1]
            lines.append(f"{name}: {text}" + (f"  # {settings.sources[name]}" if given else ""))
    return "\n".join(lines)


def _take_config(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    rest, config, words = [], None, iter(arguments)
    for word in words:
        if word == "--config":
            config = next(words, None)
            if config is None:
                raise UsageError("--config needs a name: a YAML file, or a shipped one")
        elif word.startswith("--config="):
            config = word.partition("=")[2]
        else:
            rest.append(word)
    return rest, config


def _parser(groups: Iterable[type], options: Mapping[str, Option]) -> _Parser:
    parser = _Parser(tuple(groups), add_help=False, allow_abbrev=False)
    # What is required may also come from elsewhere.
    parser.set_defaults_with_config(**{name: None for name, option in options.items() if option.is_required})
    return parser


class _OneMapping(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error: the first would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        repeated = [key for key in keys if keys.count(key) > 1]
        if repeated:
            raise yaml.MarkedYAMLError(problem=f"{repeated[0]} is there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_text("utf-8"), _OneMapping)
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is not YAML that can be read: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not text in UTF-8: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{file} must have lines like `num_images: 20`; it has {type(content).__name__}")
    return content


def _parsed(parser: _Parser, option: Option, value: Any, source: str) -> Any:
    """A value from YAML or the environment, read as the flag's would be."""
    name = option.name
    if value is None:
        if not option.takes(type(None)):
            raise UsageError(f"{source}: {name} has no value")
        return None
    if isinstance(value, dict) and option.pairs:
        value = [f"{key}={'' if own is None else own}" for key, own in value.items()]
    if isinstance(value, dict | list):
        if not option.takes(type(value)):
            raise UsageError(f"{source}: {name} is {value!r}, but takes one value")
        if not value or not option.is_list:
            return value  # no flag says this
        words = [f"--{name}", *map(_text, value)]
    else:
        words = [f"--{name}={_text(value)}"]
    try:
        parsed, rest = parser.parse_known_args(words, argparse.Namespace(**{name: _NOT_GIVEN}))
    except UsageError as error:
        raise UsageError(f"{source}: {str(error).removeprefix('--')}") from None
    if rest:
        raise UsageError(f"{source}: {name} is {value!r}, which cannot be read")
    return getattr(parsed, name)


def _flags(
    parser: _Parser, command: Command, options: Mapping[str, Option], arguments: Sequence[str]
) -> dict[str, Any]:
    """What the flags say, without what they leave open."""
    words, positionals = list(arguments), list(command.positionals)
    leading: list[str] = []
    while positionals and words and not words[0].startswith("-"):
        leading.append(f"--{positionals.pop(0)}={words.pop(0)}")
    words = _whole_switches([*leading, *words], options)
    namespace, rest = parser.parse_known_args(words, argparse.Namespace(**dict.fromkeys(options, _NOT_GIVEN)))
    given = {name: value for name, value in vars(namespace).items() if value is not _NOT_GIVEN}
    for word in rest:
        if word.startswith("-") and len(word) > 1:
            name = word.partition("=")[0].lstrip("-").replace("-", "_")
            flags = [f"--{option}" for option in [*options, "config", "help", "help_all", "traceback"]]
            raise UsageError(f"there is no option --{name}{nearest(f'--{name}', flags)}")
        open_names = [name for name in command.positionals if name not in given]
        if not open_names:
            meant = next((name for name in ("images", "dataset") if name in options and name not in given), None)
            hint = f"; did you mean --{meant} {shlex.quote(word)}?" if meant and Path(word).exists() else ""
            raise UsageError(f"{word!r} belongs to no option{hint}")
        given[open_names[0]] = word
    return given


def _whole_switches(words: list[str], options: Mapping[str, Option]) -> list[str]:
    """`--public runs/demo` has two parts: what follows a switch is its value only if it is a word like "false"."""
    whole = []
    for word, following in zip(words, [*words[1:], "-"]):
        option = options.get(word.removeprefix("--").replace("-", "_")) if word.startswith("--") else None
        if option is not None and option.is_switch and following.lower() not in _SWITCH_WORDS:
            word = f"{word}=true"
        whole.append(word)
    return whole


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
