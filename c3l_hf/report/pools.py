"""Pools of pairs, as a report counts, draws and shows them: rows that are read when they are asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features

from c3l_hf.common.errors import RowError
from c3l_hf.data.schema import LANGUAGE, SCORES, STATUS
from c3l_hf.report.content import Picture

__all__ = ["Album", "Pictures", "Pool", "score_names"]

# Numbers of a row that are no score of its pair.
_NO_SCORES = ("weight", "attempt", "image_row", "row", "seed", "index", "id")


@dataclass(frozen=True)
class Pool:
    """The pairs of one stage.

    Attributes:
        stage: What it is called in the report.
        features: All columns but those of images.
        num_rows: How many rows it has.
        tables: Some columns (all of them for None) of the rows in their order, few at a time; each call begins anew.
        ids: `image_id`, `pair_id`, and `unread`: why a row cannot be used at all, where it is not null. A row for each;
            `image_id` is null of a row without an image.
        kept: The `pair_id` of those that the curated dataset has; None where that was not asked.
        labels: The pseudo-labels that were made of these pairs; None if there are none.
        vectors: Gives a vector of each row in lists, null of those without, in the order of the rows; None if there are
            none.
        are_true: (types, texts, image ids) of pairs → whether each is true; None where nobody knows.
    """

    stage: str
    features: Features
    num_rows: int
    tables: Callable[[Sequence[str] | None], Iterator[pa.Table]]
    ids: pa.Table
    kept: pa.Array | None = None
    labels: pa.Table | None = None
    vectors: Callable[[], Iterator[pa.Array]] | None = None
    are_true: Callable[[Sequence[str], Sequence[tuple[str, str]], Sequence[str]], Sequence[bool | None]] | None = None

    @property
    def scores(self) -> list[str]:
        """The names of its scores: the ranking one first."""
        return score_names(self.features)

    def column(self, name: str) -> pa.ChunkedArray:
        """All values of one column, in memory."""
        kind = self.features.arrow_schema.field(name).type
        return pa.chunked_array([c for table in self.tables([name]) for c in table[name].chunks], kind)

    def texts(self, name: str) -> pa.ChunkedArray:
        """All values of one column as the gallery shows them: others than texts as Python writes them."""
        column = self.column(name)
        if pa.types.is_string(column.type):
            return column
        values = column.to_pylist()
        return pa.chunked_array([[None if value is None else str(value) for value in values]], pa.string())

    def numbers(self, name: str) -> np.ndarray:
        """A score of all rows, float64; NaN where there is none."""
        return self.column(name).cast(pa.float64()).to_numpy()

    def is_kept(self) -> np.ndarray | None:
        """Whether the curated dataset has each row; None where that was not asked."""
        return None if self.kept is None else pc.is_in(self.ids["pair_id"], self.kept).to_numpy()

    def statuses(self) -> pa.ChunkedArray:
        """Of each row "ok", or why there is no pair or no score of it."""
        status = pa.chunked_array([pa.repeat(pa.scalar("ok"), self.num_rows)])
        for name in ("generation_status", STATUS):
            if name in self.features:
                column = self.texts(name).fill_null("ok")
                # What went wrong first is the reason of what comes later.
                status = pc.if_else(pc.equal(status, "ok"), column.combine_chunks(), status.combine_chunks())
                status = pa.chunked_array([status])
        return pc.coalesce(self.ids["unread"].combine_chunks(), status.combine_chunks())


@dataclass(frozen=True)
class Album:
    """Pictures by the ids of their images.

    Attributes:
        ids: Of the images, each once.
        open: Number of an id → the picture; raises a `RowError` with the reason if it cannot be read.
        missing: Why there is none of another id.
    """

    ids: pa.Array
    open: Callable[[int], PIL.Image.Image]
    missing: str = "there is no picture of this image"


@dataclass(frozen=True)
class Pictures(Sequence[Picture]):
    """The images of a report's pairs, by number: none is read before it is opened.

    Attributes:
        album: Where they are.
        image_ids: The id of each; null of a row without an image.
        places: Number of each in the album; null where it has none.
        reasons: Number → why there is no image.
    """

    album: Album
    image_ids: pa.Array
    places: pa.Array
    reasons: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        image_id = self.image_ids[number].as_py()
        return Picture(image_id or "", lambda: self._open(number, image_id))

    def _open(self, number: int, image_id: str | None) -> PIL.Image.Image:
        if image_id is None:
            raise RowError(self.reasons.get(number, "the row has no image"))
        place = self.places[number].as_py()
        if place is None:
            raise RowError(self.album.missing)
        return self.album.open(place)


def score_names(features: Features) -> list[str]:
    """The columns with a score of a pair: those of the scorer first, then whatever other numbers rows have."""

    def named(*kinds: str) -> list[str]:
        return [name for name, kind in features.items() if str(getattr(kind, "dtype", "")).startswith(kinds)]

    numbers = named("float", "int", "uint")  # of others' rows a column of that name may be anything
    known = [name for name in ("i2c", *SCORES) if name in numbers]
    return known + [name for name in named("float") if name not in (*known, *_NO_SCORES, LANGUAGE)]
