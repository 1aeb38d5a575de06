"""What goes wrong in ways that users meet: a row that cannot be used, a call that cannot be carried out."""

from c3l_hf.common.words import in_one_line

__all__ = ["RowError", "RunError", "said_by"]


_LONGEST = 200


class RowError(ValueError):
    """A row that cannot be used; `str(error)` is the reason that stands in its status column.

    Whatever is in the row, the reason is one printable line of at most 200 characters: a status never carries data.
    """

    def __init__(self, reason: str):
        line = " ".join("".join(letter if letter.isprintable() else " " for letter in reason).split())
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…")


def said_by(error: BaseException, most: int = 300) -> str:
    """What an error says, in one printable line of at most so many characters; its type where it says nothing."""
    return in_one_line(str(error), most) or type(error).__name__


class RunError(Exception):
    """Something about the call that ends the run before any work: what, where, and what to do."""
