"""Values as Markdown, for cards: whatever a text has in it, it stays text."""

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from markupsafe import Markup

from c3l_hf.common.prices import cost_of

__all__ = [
    "as_code",
    "as_examples",
    "as_histogram",
    "as_number",
    "as_percent",
    "as_table",
    "as_text",
    "as_tokens",
    "as_yaml",
    "one_line",
]

_TEXT_LIMIT = 300
# As numeric references these are text wherever they stand: no table, emphasis, link, code, mathematics, html, mention.
# An underscore within a word is text anyhow.
_MARKDOWN = re.compile(r"[&<>|\\`*\[\]~#$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)")


def one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def as_number(value: numbers.Real) -> str:
    return f"{value:,}" if isinstance(value, numbers.Integral) else f"{value:.4g}"


def as_percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def as_text(value: object) -> str:
    """Any value as text on one line that Markdown and html leave alone; long texts end in "…"."""
    if isinstance(value, numbers.Real):
        return as_number(value)
    text = one_line(str(value))
    if len(text) > _TEXT_LIMIT:
        text = text[: _TEXT_LIMIT - 1] + "…"
    return _MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", text)


def as_code(value: object) -> Markup:
    return Markup("`" + one_line(str(value)).replace("`", "'") + "`")


def as_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """A Markdown table: the first column to the left, the others to the right where they hold numbers."""
    rules = ["---"] + [
        "---:" if all(isinstance(row[i], numbers.Real) for row in rows) else "---" for i in range(1, len(header))
    ]
    cells = [header, rules, *([cell if isinstance(cell, Markup) else as_text(cell) for cell in row] for row in rows)]
    return Markup("\n".join(f"| {' | '.join(row)} |" for row in cells))


def as_histogram(bins: Sequence[tuple[float, float, int, int]], width: int = 30) -> Markup:
    """The bins as a table with bars; the dark part of a bar is what was kept."""
    most = max(pool for *_, pool, _ in bins)
    rows = []
    for low, high, pool, kept in bins:
        full, dark = math.ceil(width * pool / most), math.ceil(width * min(kept, pool) / most)
        rows.append((f"{low:.3f} to {high:.3f}", pool, kept, "█" * dark + "░" * (full - dark)))
    return as_table(["i2c", "scored", "kept", ""], rows)


def as_examples(examples: Sequence[tuple[str, str, str, float, str]]) -> Markup:
    """Rows of a few pairs with their pictures; the turns of a conversation on lines of their own."""
    rows = [
        (Markup(f"![](examples/{number}.png)"), _lines(question), _lines(answer), *rest[:2])
        for number, (question, answer, *rest) in enumerate(examples)
    ]
    return as_table(["", "question", "answer", "type", "i2c"], rows)


def as_tokens(
    tokens: Sequence[tuple[str, str | None, int | None, int | None]], prices: Sequence[float | None] | None
) -> Markup:
    """Tokens by stage and model, with what they cost at servers, if prices are given."""
    header: list[str] = ["stage", "model", "tokens of prompts", "tokens of replies"]
    rows: list[list[object]] = []
    for stage, model, *counts in tokens:
        told = "in the run's own process" if model is None else model
        rows.append([stage, told, *("not reported" if count is None else count for count in counts)])
        if prices:
            cost = cost_of(counts, prices)
            told = "not reported" if cost is None else f"{cost:,.4f}"
            rows[-1].append("" if model is None else told)
    return as_table(header + ["cost"] * bool(prices), rows)


def _lines(text: str) -> Markup:
    cut = text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 1] + "…"
    return Markup("<br>".join(filter(None, map(as_text, cut.split("\n")))))


def as_yaml(values: Mapping[str, Any]) -> Markup:
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    fence = "```"
    while fence in text:
        fence += "`"
    return Markup(f"{fence}yaml\n{text}{fence}")
