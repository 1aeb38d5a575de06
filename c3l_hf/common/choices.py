"""Arguments that take one of a few words."""

from collections.abc import Iterable

__all__ = ["check_choice"]


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Does nothing if `value` is among `allowed`; for a `Literal` type `Scope`, that is `get_args(Scope)`.

    Raises:
        ValueError: If it is not; the message names the argument, its value and the allowed ones.
    """
    allowed = list(allowed)
    if value not in allowed:
        *others, last = map(repr, allowed)
        raise ValueError(f"{name} must be {', '.join(others)}{' or ' if others else ''}{last}, not {value!r}")
