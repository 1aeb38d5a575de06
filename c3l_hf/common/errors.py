"""What goes wrong in ways that users meet: a row that cannot be used, a call that cannot be carried out."""

__all__ = ["RowError", "RunError"]


_LONGEST = 200


class RowError(ValueError):
    """A row that cannot be used; `str(error)` is the reason that stands in its status column.

    Whatever is in the row, the reason is one printable line of at most 200 characters: a status never carries data.
    """

    def __init__(self, reason: str):
        line = " ".join("".join(letter if letter.isprintable() else " " for letter in reason).split())
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…")


class RunError(Exception):
    """Something about the call that ends the run before any work: what, where, and what to do."""
