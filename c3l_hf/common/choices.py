"""Options that are one of a few values: fields of the type `Literal`."""

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

__all__ = ["check_choices"]


def check_choices(options: Any) -> None:
    """Raises a ValueError if a field of a dataclass has a value that its type, a `Literal`, does not have.

    A command line checks its own; but not what comes from a configuration file, or from Python.
    """
    hints = get_type_hints(type(options))
    for name in (field.name for field in fields(options)):
        value = getattr(options, name)
        if get_origin(hints[name]) is Literal and value not in get_args(hints[name]):
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, get_args(hints[name])))}")
