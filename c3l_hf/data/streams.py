"""Rows that are read piece by piece, again and again, and never have to be in memory together."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa
from datasets import Dataset, Features

__all__ = ["RowStream"]


@dataclass(frozen=True)
class RowStream:
    """Rows as Arrow tables, in their order.

    Attributes:
        features: The columns and their types.
        num_rows: How many rows there are.
        tables: Begins with the first row each time it is called.
    """

    features: Features
    num_rows: int
    tables: Callable[[], Iterable[pa.Table]]

    def __len__(self) -> int:
        return self.num_rows

    @property
    def column_names(self) -> list[str]:
        return list(self.features)

    @classmethod
    def of(cls, dataset: Dataset, size: int = 100) -> "RowStream":
        """The rows of a dataset, so many at a time; images as they are stored."""
        arrow = dataset.with_format("arrow")
        return cls(dataset.features, len(dataset), lambda: arrow.iter(size))
