"""Groups of pairs, of one type, one cluster or another value of a column, and how many places each of them gets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from c3l_hf.selection.columns import check_columns, encode, place_in_group

__all__ = ["BalanceBy", "Groups", "balanced_quotas", "columns_of", "group_rows"]

# One column, several (each combination of their values is a group), or none.
BalanceBy = str | Sequence[str] | None


@dataclass(frozen=True)
class Groups:
    """The groups of a table's rows.

    Attributes:
        number: Of each row's group, int64; -1 where a column is null.
        names: The groups' names by number: the value as text, of several columns joined by " / ".
    """

    number: np.ndarray
    names: list[str]

    def counts(self, rows: np.ndarray) -> dict[str, int]:
        """How many of these rows each group has, sorted by name, without groups that have none."""
        counts = np.bincount(self.number[rows], minlength=len(self.names)).tolist()
        return {name: count for name, count in sorted(zip(self.names, counts)) if count}

    def within(self, quotas: Mapping[str, int], rows: np.ndarray) -> np.ndarray:
        """Whether each of these rows is among the first of its group, as many as its quota has places; bool."""
        places = np.array([quotas.get(name, 0) for name in self.names], np.int64)
        number = self.number[rows]
        return place_in_group(number) < places[number]


def columns_of(balance_by: BalanceBy) -> tuple[str, ...]:
    """The columns whose values make the groups."""
    return (balance_by,) if isinstance(balance_by, str) else tuple(balance_by or ())


def group_rows(table: pa.Table, balance_by: BalanceBy) -> Groups:
    """The groups of all rows of a table.

    Raises:
        ValueError: If a column is missing, has values that are neither texts nor numbers, or two groups would have the
            same name.
    """
    columns = columns_of(balance_by)
    check_columns(table.column_names, columns)
    number, names = np.zeros(len(table), np.int64), [""]
    for column in columns:
        kind = table.schema.field(column).type
        if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
            raise ValueError(f"column {column!r} has values of type {kind}; groups are made of texts or numbers")
        code, values = encode(table[column])
        number = np.where((number < 0) | (code < 0), -1, number * len(values) + code)
        texts = [str(value) for value in values.to_pylist()]
        # Only combinations that there are, as there may be many clusters of many types.
        there, number = np.unique(number, return_inverse=True)
        if len(there) and there[0] < 0:
            there, number = there[1:], number - 1
        names = [_joined(names[one // len(texts)], texts[one % len(texts)]) for one in there.tolist()]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two groups of {', '.join(columns)} have the name {twice!r}; rename values")
    return Groups(number, names)


def _joined(first: str, second: str) -> str:
    return f"{first} / {second}" if first else second


def balanced_quotas(available: Mapping[str, int], target: int) -> dict[str, int]:
    """Share `target` places equally among groups; what a group cannot fill is shared by the others (water-filling).

    Places that cannot be shared equally go to the groups of which there is most.
    """
    quotas, left = {}, target
    scarce_first = sorted(available, key=lambda group: (available[group], group))
    for position, group in enumerate(scarce_first):
        quotas[group] = min(available[group], left // (len(scarce_first) - position))
        left -= quotas[group]
    return dict(sorted(quotas.items()))
