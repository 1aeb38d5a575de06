"""Tables as text."""

from collections.abc import Iterable, Sequence

__all__ = ["format_table"]


def format_table(rows: Iterable[Sequence[object]]) -> str:
    """Rows of cells as aligned text: the first column to the left, numbers to the right, a rule under the first row."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
