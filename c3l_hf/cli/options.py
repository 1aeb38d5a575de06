"""The options of a command, read from its dataclasses."""

import dataclasses
import types
import typing
from collections.abc import Iterable
from typing import Any

__all__ = ["PREFIX", "Option", "options_of"]

# Of variables of the environment.
PREFIX = "C3L_"


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: Its name.
        type: The type that it was declared with.
        default: Its default; `dataclasses.MISSING` if it is required.
        help: What it does.
        pairs: Whether it is a list of NAME=VALUE, which may be a mapping in YAML.
    """

    name: str
    type: Any
    default: Any
    help: str
    pairs: bool = False

    @property
    def is_required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that its value may have, of a union each of them."""
        is_union = typing.get_origin(self.type) in (typing.Union, types.UnionType)
        return typing.get_args(self.type) if is_union else (self.type,)

    @property
    def is_list(self) -> bool:
        """Whether its flag takes several words."""
        return self.takes(list) and str not in self.kinds

    @property
    def is_switch(self) -> bool:
        return bool in self.kinds and set(self.kinds) <= {bool, type(None)}

    def takes(self, kind: type) -> bool:
        return any((typing.get_origin(one) or one) is kind for one in self.kinds)


def options_of(groups: Iterable[type]) -> dict[str, Option]:
    """The options of dataclasses by their names."""
    options: dict[str, Option] = {}
    for group in groups:
        hints = typing.get_type_hints(group)
        for field in dataclasses.fields(group):
            if not field.init:
                continue
            if field.name in options:
                raise TypeError(f"two groups of options have {field.name}")
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            help_text = " ".join(str(field.metadata.get("help", "")).split())
            pairs = "=" in field.metadata.get("metavar", "")
            options[field.name] = Option(field.name, hints[field.name], default, help_text, pairs)
    return options
