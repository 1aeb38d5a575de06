"""Marks that people give to pairs in the report, keep or reject: read from their file, and found among other rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from c3l_hf.common.errors import said_by
from c3l_hf.common.files import digest
from c3l_hf.common.names import listed
from c3l_hf.data.row_texts import as_one
from c3l_hf.selection.pair_texts import PairTexts

__all__ = ["MARKED_REJECT", "FoundMarks", "Marks", "find_marks", "read_marks", "texts_digest"]

# The reason of pairs that are dropped by a mark.
MARKED_REJECT = "marked reject"
_FORMAT = 1
_SHOWN = 5

Mark = Literal["keep", "reject"]


@dataclass(frozen=True)
class Marks:
    """Marks of pairs.

    Attributes:
        by_pair: (`pair_id`, digest of its texts) → its mark.
    """

    by_pair: Mapping[tuple[str, str], Mark]


@dataclass(frozen=True)
class FoundMarks:
    """Which rows of a table marks are about.

    Attributes:
        keep, reject: Of each row whether it is marked so; bool.
        unknown: Ids that no row has.
        changed: Ids of rows whose texts are others than those that were marked.
    """

    keep: np.ndarray
    reject: np.ndarray
    unknown: Sequence[str] = field(default_factory=list)
    changed: Sequence[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"marks: {int(self.keep.sum()):,} keep, {int(self.reject.sum()):,} reject"]
        for reason, ids in (("no pair of that id", self.unknown), ("its texts are others", self.changed)):
            if ids:
                parts.append(f"not applied, {reason}: {len(ids):,} ({listed(ids, _SHOWN)})")
        return "; ".join(parts)


def texts_digest(question: str, answer: str) -> str:
    """What identifies the texts of a pair for marks: questions and answers, a line each, whatever the spaces."""
    return digest(" ".join(question.split()), " ".join(answer.split()), size=8)


def read_marks(path: str | Path) -> Marks:
    """The marks of a file that a report exported.

    Raises:
        ValueError: If it is no such file, has no marks, or contradicts itself; the message says where.
        OSError: If it cannot be read.
    """
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"marks {path}: it is not JSON ({said_by(error, 100)})") from None
    if not isinstance(content, dict) or "c3l_marks" not in content:
        raise ValueError(f"marks {path}: it is not a file of marks; export one from a report (c3l report)")
    if content["c3l_marks"] != _FORMAT or not isinstance(content.get("marks"), list):
        raise ValueError(f"marks {path}: its format is {content['c3l_marks']!r:.40}, which this version does not read")
    by_pair: dict[tuple[str, str], Mark] = {}
    for number, mark in enumerate(content["marks"]):
        values = [mark.get(name) for name in ("pair_id", "digest", "mark")] if isinstance(mark, dict) else [None]
        if not all(isinstance(value, str) for value in values) or values[2] not in ("keep", "reject"):
            raise ValueError(f"marks {path}: mark {number} must have pair_id, digest, and mark: keep or reject")
        pair = (str(values[0]), str(values[1]))
        if by_pair.setdefault(pair, values[2]) != values[2]:
            raise ValueError(f"marks {path}: mark {number}: the pair {values[0]!r:.60} is marked keep and reject")
    if not by_pair:
        raise ValueError(f"marks {path}: there are no marks in it")
    return Marks(by_pair)


def find_marks(table: pa.Table, marks: Marks | None) -> FoundMarks:
    """The rows that marks are about: those of the same `pair_id` and the same texts.

    Args:
        table: With `pair_id`, and `prompt` and `completion` as `PairTexts` reads them.
        marks: The marks; None is none.

    Raises:
        ValueError: If none of them is about a row: they are of other pairs.
    """
    keep, reject = np.zeros(len(table), bool), np.zeros(len(table), bool)
    if marks is None:
        return FoundMarks(keep, reject)
    ids = table["pair_id"].cast(pa.string())
    named = list(dict.fromkeys(pair_id for pair_id, _ in marks.by_pair))
    has_pair = pc.and_(pc.is_valid(table["prompt"]), pc.is_valid(table["completion"]))
    rows = np.flatnonzero(pc.and_(pc.is_in(ids, pa.array(named, pa.string())), has_pair).to_numpy())
    found, there = set[str](), set[str]()
    conversations = PairTexts(table).conversations(rows)
    for row, pair_id, turns in zip(rows.tolist(), ids.take(pa.array(rows)).to_pylist(), conversations):
        there.add(pair_id)
        if (mark := marks.by_pair.get((pair_id, texts_digest(*as_one(turns))))) is not None:
            found.add(pair_id)
            (keep if mark == "keep" else reject)[row] = True
    if not found:
        raise ValueError(
            f"marks: none of the {len(named):,} pairs that are marked is among these rows "
            f"({listed(named, _SHOWN)}); they are of another dataset"
        )
    unknown, changed = ([name for name in named if name not in one] for one in (there, found))
    return FoundMarks(keep, reject, unknown, [name for name in changed if name in there])
