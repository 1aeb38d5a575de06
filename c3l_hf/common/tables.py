"""Tables as text."""

from collections.abc import Iterable, Sequence

from tabulate import tabulate

__all__ = ["format_table"]


def format_table(rows: Iterable[Sequence[object]]) -> str:
    """Rows of cells as aligned text: the first column to the left, the others to the right, a rule under the first row.

    Args:
        rows: The first one has the names of the columns. Whole numbers get commas between thousands.
    """
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    header, *body = cells
    align = ["left", *["right"] * (len(header) - 1)]
    # `colalign` may not name columns of a table without rows.
    options = {"colalign": align} if body else {}
    return tabulate(body, header, "simple", disable_numparse=True, preserve_whitespace=True, **options)
