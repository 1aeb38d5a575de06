"""Pairs as selection reads them: columns without images, in the order of the table."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import rankdata

from c3l_hf.data.pair_columns import UNREAD
from c3l_hf.data.schema import STATUS, STATUS_OK
from c3l_hf.selection.columns import ChunkedColumn, check_columns, encode, pieces, text_order

__all__ = [
    "PAIR_COLUMNS",
    "SCORED_PAIR_COLUMNS",
    "Pairs",
    "ScoredPairs",
    "hash_of",
    "numbers_of",
    "quantile_ranks",
    "read_pairs",
    "read_scored_pairs",
    "tie_breaks",
    "unread_rows",
]

PAIR_COLUMNS = ("image_id", "pair_id", "type", "prompt", "completion")
# The score column comes on top.
SCORED_PAIR_COLUMNS = (*PAIR_COLUMNS, STATUS)
# Reasons that are counted by themselves; the rows of others are counted together.
_MOST_REASONS = 10


@dataclass(frozen=True)
class Pairs:
    """Some rows of a table of pairs, by column. A *position* is a place here, a *row* one in the table.

    Attributes:
        row: Row in the table, int64, ascending.
        image: Number of the image, in the order in which images first appear in the table.
        type: Number of the question type.
        pair_id: The column of the whole table, read by row.
        image_ids: `image_id` by number, those of the whole table.
        types: Question types by number, those of the whole table.
    """

    row: np.ndarray
    image: np.ndarray
    type: np.ndarray
    pair_id: ChunkedColumn
    image_ids: pa.Array
    types: list[str]

    def __len__(self) -> int:
        return len(self.row)

    def ids(self, positions: np.ndarray | slice) -> pa.Array:
        """`pair_id` at these positions, few enough for one Arrow array."""
        return self.pair_id.take(self.row[positions])

    def type_counts(self, positions: np.ndarray | slice = slice(None)) -> dict[str, int]:
        """How many of these positions have each type, sorted by type, without types that none has."""
        counts = np.bincount(self.type[positions], minlength=len(self.types)).tolist()
        return {self.types[code]: counts[code] for code in _sorted_codes(self.types) if counts[code]}

    def sorted_by_id(self, positions: np.ndarray) -> np.ndarray:
        """These positions in the order (image_id, pair_id, row)."""
        if not len(positions):
            return positions
        image_place = text_order(self.image_ids)[self.image[positions]]
        # The ids of many rows together may pass what one Arrow array holds.
        ids = pa.chunked_array([self.ids(positions[piece]) for piece in pieces(len(positions))])
        keys = pa.table({"image": image_place, "pair": ids, "row": self.row[positions]})
        order = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])
        return positions[order.to_numpy()]


@dataclass(frozen=True)
class ScoredPairs:
    """The pairs that have a finite score.

    Attributes:
        pairs: The pairs.
        score: The score of each, float64.
        tie_break: A hash of (seed, pair_id) of each, uint64: among equals the lower one comes first.
        left_out: How many rows were left out by reason: "no pair", "not scored", "score not finite", and of rows with a
            score why their texts cannot be used.
    """

    pairs: Pairs
    score: np.ndarray
    tie_break: np.ndarray
    left_out: dict[str, int]


def read_pairs(table: pa.Table) -> Pairs:
    """The rows that have a pair whose texts can be used, whether it has a score or not.

    Raises:
        ValueError: If columns are missing, or `image_id`, `pair_id` or `type` of a pair is null.
    """
    check_columns(table.column_names, PAIR_COLUMNS)
    return _read(table, ~_without_pair(table) & ~unread_rows(table))


def read_scored_pairs(table: pa.Table, score: str, seed: int = 0) -> ScoredPairs:
    """The pairs that have a finite score.

    Args:
        table: Pairs with the columns `image_id`, `pair_id`, `type`, `prompt`, `completion`, `i2c_status` and `score`,
            as `data.pair_columns` reads them: perhaps with `UNREAD`, why the texts of a row cannot be used.
        score: Name of the score column.
        seed: For `tie_break`.

    Raises:
        ValueError: If columns are missing (the message names them), the score is not a number, a `pair_id` occurs twice
            among these pairs, or `image_id`, `pair_id` or `type` of one is null.
    """
    check_columns(table.column_names, (*SCORED_PAIR_COLUMNS, score))
    scores = numbers_of(table, score)
    unread = unread_rows(table)
    no_pair = _without_pair(table) & ~unread
    scored = _mask(pc.equal(table[STATUS].cast(pa.string()), STATUS_OK)) & _mask(pc.is_valid(table[score]))
    finite = np.isfinite(scores)
    left_out = {
        "no pair": int(no_pair.sum()),
        "not scored": int((~no_pair & ~scored).sum()),
        "score not finite": int((~no_pair & ~unread & scored & ~finite).sum()),
    }
    if (left := unread & scored).any():
        left_out |= _reasons(table[UNREAD].filter(pa.array(left)).to_pylist())
    pairs = _read(table, ~no_pair & ~unread & scored & finite)
    ties = tie_breaks(pairs, seed)
    _check_unique(pairs, ties)
    return ScoredPairs(pairs, scores[pairs.row], ties, left_out)


def numbers_of(table: pa.Table, column: str) -> np.ndarray:
    """A column of numbers, float64; NaN where it is null.

    Raises:
        ValueError: If it is not there, or its values are not numbers.
    """
    check_columns(table.column_names, [column])
    kind = table.schema.field(column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise ValueError(f"column {column!r} has values of type {kind}; a score must be a number")
    return table[column].cast(pa.float64()).to_numpy()


def quantile_ranks(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Where each score stands among those of its group, in (0, 1): ties share the mean rank.

    Args:
        scores: float64.
        groups: The number of the group (question type) of each.
    """
    ranks = np.empty(len(scores), np.float64)
    order = np.argsort(groups, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        ranks[members] = (rankdata(scores[members]) - 0.5) / max(len(members), 1)
    return ranks


def tie_breaks(pairs: Pairs, seed: int) -> np.ndarray:
    """64 bits of a hash of (seed, pair_id) for each pair, so that no image is favoured by its name."""
    hashes = [np.empty(0, np.uint64)]
    for piece in pieces(len(pairs)):
        digests = [hash_of(seed, pair_id) for pair_id in pairs.ids(piece).to_pylist()]
        hashes.append(np.frombuffer(b"".join(digests), ">u8").astype(np.uint64))
    return np.concatenate(hashes)


def hash_of(*parts: object) -> bytes:
    """Eight bytes that depend on these values and their order."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()


def unread_rows(table: pa.Table) -> np.ndarray:
    """Whether the texts of each row cannot be used, or it has no image; bool."""
    if UNREAD not in table.column_names:
        return np.zeros(len(table), bool)
    return _mask(pc.is_valid(table[UNREAD]))


def _read(table: pa.Table, rows: np.ndarray) -> Pairs:
    row = np.flatnonzero(rows)
    image, image_ids = encode(table["image_id"])
    type, types = encode(table["type"])
    pairs = Pairs(row, image[row], type[row], ChunkedColumn(table["pair_id"]), image_ids, types.to_pylist())
    without_id = _mask(pc.is_null(table["pair_id"]))[row]
    for name, null in (("image_id", pairs.image < 0), ("pair_id", without_id), ("type", pairs.type < 0)):
        if null.any():
            raise ValueError(f"column {name!r} is null in row {row[null.argmax()]}; every pair needs a value there")
    return pairs


def _without_pair(table: pa.Table) -> np.ndarray:
    return _mask(pc.is_null(table["prompt"])) | _mask(pc.is_null(table["completion"]))


def _reasons(reasons: Sequence[str]) -> dict[str, int]:
    """Reasons, without the numbers that differ from row to row, counted, most frequent first."""
    counts = Counter(re.sub(r"\d+", "N", reason) for reason in reasons)
    first = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_REASONS])
    others = counts.total() - sum(first.values())
    return {**first, "other reasons": others} if others else first


def _mask(values: pa.ChunkedArray) -> np.ndarray:
    return values.fill_null(False).to_numpy()


def _check_unique(pairs: Pairs, hashes: np.ndarray) -> None:
    order = np.argsort(hashes, kind="stable")
    same = hashes[order][1:] == hashes[order][:-1]
    suspects = order[np.r_[same, False] | np.r_[False, same]] if len(order) else order
    # Equal hashes are equal ids but for a collision, of which there is one in 10^6 among 5 M pairs.
    counts = pc.value_counts(pairs.ids(suspects))
    repeated = [str(entry["values"]) for entry in counts.to_pylist() if entry["counts"] > 1]
    if repeated:
        raise ValueError(f"column 'pair_id' must be unique; more than once: {', '.join(sorted(repeated)[:5])}")


def _sorted_codes(types: list[str]) -> list[int]:
    return sorted(range(len(types)), key=types.__getitem__)
