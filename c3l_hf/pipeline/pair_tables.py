"""Pairs and their scores as the stages keep them: tables without pixels, in shards side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from c3l_hf.common.arrow import take_rows
from c3l_hf.common.shards import Shards
from c3l_hf.data.schema import PAIR_TABLE_FEATURES, SCORE_FEATURES
from c3l_hf.data.streams import RowStream

__all__ = ["REPEATED", "ScoredPairs"]

# Texts of pairs that are those of their template, by their paths in Parquet: millions of rows share some of them.
REPEATED = ("reply_form", *(f"generation_prompt.list.element.{name}" for name in ("role", "content")))


@dataclass(frozen=True)
class ScoredPairs:
    """The pairs of a round beside their scores: shards of both, with the same rows.

    Attributes:
        pairs: With the columns of `PAIR_TABLE_FEATURES`.
        scores: With those of `SCORE_FEATURES`.
    """

    pairs: Shards
    scores: Shards

    def __len__(self) -> int:
        return self.pairs.num_rows

    def table(self, columns: Sequence[str]) -> pa.Table:
        """All rows of some columns, in memory; the texts of `REPEATED` as dictionaries."""
        ours = [name for name in columns if name in PAIR_TABLE_FEATURES]
        theirs = [name for name in columns if name in SCORE_FEATURES]
        read = ((self.pairs, ours, REPEATED), (self.scores, theirs, ()))
        parts = [shards.table(names, repeated) for shards, names, repeated in read if names]
        return pa.table({name: part[name] for part in parts for name in part.column_names})

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows, a shard at a time.

        Args:
            columns: Those to read; by default all.

        Raises:
            ValueError: If a shard of scores has not the rows of its shard of pairs.
        """
        names = None if columns is None else list(columns)
        ours = names and [name for name in names if name in PAIR_TABLE_FEATURES]
        theirs = names and [name for name in names if name in SCORE_FEATURES]
        for pair_file, score_file in zip(self.pairs.files, self.scores.files, strict=True):
            table, scores = pq.read_table(pair_file, columns=ours), pq.read_table(score_file, columns=theirs)
            if len(table) != len(scores):
                raise ValueError(f"{score_file} has {len(scores):,} rows for the {len(table):,} of {pair_file}")
            for name in scores.column_names:
                table = table.append_column(name, scores[name])
            yield table

    def stream(self) -> RowStream:
        """The rows as they are published: without pixels, `image_id` tells the image."""
        names = [name for name in PAIR_TABLE_FEATURES if name != "image_row"]  # without meaning outside of the run
        features = Features({**{name: PAIR_TABLE_FEATURES[name] for name in names}, **SCORE_FEATURES})
        return RowStream(features, len(self), lambda: (table.select(list(features)) for table in self.tables()))

    def rows(self, numbers: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """Some rows, in memory.

        Args:
            numbers: Row numbers, in any order, each once.
            columns: Those to read; by default all.
        """
        return take_rows(self.tables(columns), numbers)
