"""What selection did, counted, and as text."""

from dataclasses import dataclass, field

from c3l_hf.common.tables import format_table

__all__ = ["QUANTILES", "CurationReport", "LengthCorrelation", "SelectionReport"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class LengthCorrelation:
    """Spearman's rank correlation of a score with the length of the answer in words, over `pairs` pairs.

    `spearman` is NaN where it does not exist: fewer than two pairs, or all scores or all lengths equal.
    """

    spearman: float
    pairs: int


@dataclass
class CurationReport:
    """What `curate` did; `print(report)` shows it as a table.

    Attributes:
        pairs: Rows of the input.
        dropped: Rows dropped, by rule, in the order in which the rules apply.
        kept: Rows of the result.
        target_size: Rows asked for.
        types_before: Pairs of the input that have a score, by type.
        types_available: Pairs left for the choice by score after all other rules, by type.
        types_after: Rows of the result, by type.
        balance_by: The columns whose groups share the places; none if all compete.
        groups_available: Pairs left for the choice by score, by group (of several columns the values, joined by " / ").
        groups_after: Rows of the result, by group.
        length_before: Correlation of the score with answer length over the scored pairs of the input.
        length_after: The same over the result.
        assumed: What was made up for columns that the input does not have, a line each.
        marks: What became of people's marks, a line; "" where there were none.
    """

    pairs: int
    dropped: dict[str, int]
    kept: int
    target_size: int
    types_before: dict[str, int]
    types_available: dict[str, int]
    types_after: dict[str, int]
    balance_by: list[str]
    groups_available: dict[str, int]
    groups_after: dict[str, int]
    length_before: LengthCorrelation
    length_after: LengthCorrelation
    assumed: list[str] = field(default_factory=list)
    marks: str = ""

    def __str__(self) -> str:
        counts = [
            ("curation", "count"),
            ("pairs", self.pairs),
            *((f"  dropped: {rule}", count) for rule, count in self.dropped.items()),
            ("  kept", self.kept),
        ]
        types = [
            ("type", "scored", "available", "kept"),
            *(
                (type, before, self.types_available.get(type, 0), self.types_after.get(type, 0))
                for type, before in self.types_before.items()
            ),
        ]
        lengths = [
            ("Spearman of score with answer length", "rho", "pairs"),
            ("scored", f"{self.length_before.spearman:+.2f}", self.length_before.pairs),
            ("kept", f"{self.length_after.spearman:+.2f}", self.length_after.pairs),
        ]
        tables = [format_table(counts), format_table(types), *self._groups(), format_table(lengths)]
        if not self.kept:
            tables.append("No pair was left.")
        elif self.kept < self.target_size:
            tables.append(f"All {self.kept:,} that were left are kept: target_size is {self.target_size:,}.")
        return "\n\n".join([*tables, *[self.marks] * bool(self.marks), *["\n".join(self.assumed)] * bool(self.assumed)])

    def _groups(self) -> list[str]:
        """How the rows spread over groups that are not simply the types, of which there may be very many."""
        if not set(self.balance_by) - {"type"}:
            return []
        rows: list[tuple[object, ...]] = [
            (f"groups by {' and '.join(self.balance_by)}", "groups", "smallest", "middle", "largest")
        ]
        for name, groups in (("available", self.groups_available), ("kept", self.groups_after)):
            sizes = sorted(groups.values()) or [0]
            rows.append((name, len(groups), sizes[0], sizes[len(sizes) // 2], sizes[-1]))
        return [format_table(rows)]


@dataclass
class SelectionReport:
    """What `select_pseudo_labels` did; `print(report)` shows it as a table.

    Attributes:
        images: Images seen.
        labels: Images with a pseudo-label, i.e. rows of the result.
        pairs: Pairs seen.
        pairs_left_out: Pairs that took no part because they have no score, by reason.
        rejected_left_out: Rejected pairs removed from images that were kept, by reason.
        images_dropped: Images without a pseudo-label, by rule.
        types: Pseudo-labels by question type.
        quantiles: 5, 25, 50, 75 and 95 % quantiles over the result, by quantity (scores and margin in the score's unit,
            answer lengths in words).
        assumed: What was made up for columns that the input does not have, a line each.
    """

    images: int
    labels: int
    pairs: int
    pairs_left_out: dict[str, int]
    rejected_left_out: dict[str, int]
    images_dropped: dict[str, int]
    types: dict[str, int]
    quantiles: dict[str, tuple[float, ...]] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = [
            ("pseudo-labels", "count"),
            ("images", self.images),
            *((f"  dropped: {rule}", count) for rule, count in self.images_dropped.items()),
            ("  kept", self.labels),
            *((f"    of type {type}", count) for type, count in self.types.items()),
            ("pairs", self.pairs),
            *((f"  left out: {reason}", count) for reason, count in self.pairs_left_out.items()),
            *((f"  rejected removed: {reason}", count) for reason, count in self.rejected_left_out.items()),
        ]
        parts = [format_table(counts)]
        if self.quantiles:
            quantiles = [
                ("quantile", *(f"{quantile:.0%}" for quantile in QUANTILES)),
                *((name, *(f"{value:.3f}" for value in values)) for name, values in self.quantiles.items()),
            ]
            parts.append(format_table(quantiles))
        return "\n\n".join([*parts, *["\n".join(self.assumed)] * bool(self.assumed)])
