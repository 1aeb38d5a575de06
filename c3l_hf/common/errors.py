"""What goes wrong in ways that users meet: a row that cannot be used, a call that cannot be carried out."""

__all__ = ["RowError", "RunError"]


class RowError(ValueError):
    """A row that cannot be used; `str(error)` is the reason that stands in its status column."""


class RunError(Exception):
    """Something about the call that ends the run before any work: what, where, and what to do."""
