"""Tables as text."""

from collections.abc import Iterable, Mapping, Sequence

from tabulate import tabulate

__all__ = ["fill_marks", "format_table", "markdown_table"]


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


def markdown_table(rows: Iterable[Sequence[object]]) -> str:
    """Rows of cells as a table of Markdown; the first row has the names of the columns. Cells are not escaped."""
    header, *body = rows
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (header, ["---"] * len(header), *body))


def fill_marks(text: str, parts: Mapping[str, str]) -> str:
    """A text with what stands between `<!-- evidence: name -->` and `<!-- end -->` replaced.

    Args:
        text: The text. A part that it has no mark for is left out.
        parts: Name → what is to stand there.

    Raises:
        ValueError: If a mark has no end.
    """
    for name, part in parts.items():
        begin, end = f"<!-- evidence: {name} -->", "<!-- end -->"
        if begin in text:
            before, _, rest = text.partition(begin)
            if end not in rest:
                raise ValueError(f"no {end} after {begin}")
            text = f"{before}{begin}\n{part}\n{end}{rest.partition(end)[2]}"
    return text
