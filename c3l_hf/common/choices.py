"""Options that are one of a few values: arguments, and fields of the type `Literal`."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

__all__ = ["check_choice", "check_choices"]


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Does nothing if `value` is among `allowed`; for a `Literal` type `Scope`, that is `get_args(Scope)`.

    Raises:
        ValueError: If it is not; the message names the argument, its value and the allowed ones.
    """
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, allowed))}")


def check_choices(options: Any) -> None:
    """Raises a ValueError if a field of a dataclass has a value that its type, a `Literal`, does not have.

    A command line checks its own; but not what comes from a configuration file, or from Python.
    """
    hints = get_type_hints(type(options))
    for field in fields(options):
        if get_origin(hints[field.name]) is Literal:
            check_choice(field.name, getattr(options, field.name), get_args(hints[field.name]))
