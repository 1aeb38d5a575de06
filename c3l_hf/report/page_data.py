"""What the page's script reads: columns of all pairs, and texts and pictures in pieces that are read when needed."""

import base64
import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from c3l_hf.common.files import digest
from c3l_hf.data.status import reason_kind, without_folders
from c3l_hf.report.content import Content, Picture, ShownPair, ShownTurn
from c3l_hf.report.thumbnails import Thumbnail, thumbnails

__all__ = ["PageData", "Piece", "script_json", "write_pieces"]

# Pairs and pictures of a piece: so many that there are few files, so few that one is read in some milliseconds.
_PAIRS, _PICTURES = 100, 40
_COLOURED = 0.5  # the scale of colours ends where so many answers have their strongest token

# What HTML or JavaScript would read as something else than text, and halves of characters, which UTF-8 does not have.
_ESCAPED = re.compile("[<\u2028\u2029\ud800-\udfff]")

# The facets of the gallery's filters: what a pair has, as one of a few words.
_FACETS: Mapping[str, Callable[[ShownPair], str | None]] = {
    "stage": lambda pair: pair.stage,
    "type": lambda pair: pair.type,
    "language": lambda pair: pair.language,
    "template": lambda pair: pair.template,
    "status": lambda pair: reason_kind(pair.status),
    "role": lambda pair: pair.role,
    "kept": lambda pair: _either(pair.kept, "kept", "not kept"),
    "truth": lambda pair: _either(pair.true, "true", "not true"),
}


@dataclass(frozen=True)
class Piece:
    """A part of the data as JSON in a file.

    Attributes:
        name: "columns-0", "texts-<number>" or "pictures-<number>".
        path: The file; of ASCII and UTF-8 text that may stand in a script element.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class PageData:
    """All that the script reads.

    Attributes:
        head: What is needed at once: counts, the facets' values, scales.
        pieces: The rest.
        size: Of the pieces, in bytes.
        unreadable: Why pictures cannot be shown → how many, the most frequent first; names of files are not in it.
    """

    head: Mapping[str, Any]
    pieces: Sequence[Piece]
    size: int
    unreadable: Mapping[str, int]


@dataclass
class _Columns:
    """What filters and orders need of all pairs."""

    keys: list[str] = field(default_factory=list)
    pictures: array = field(default_factory=lambda: array("l"))
    lengths: array = field(default_factory=lambda: array("l"))
    facets: dict[str, array] = field(default_factory=lambda: {name: array("l") for name in _FACETS})
    values: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in _FACETS})
    scores: dict[str, list[float | None]] = field(default_factory=dict)
    # The largest number of each answer, by which the scale of colours is chosen.
    gains: array = field(default_factory=lambda: array("d"))
    divergences: array = field(default_factory=lambda: array("d"))

    def add(self, pair: ShownPair) -> None:
        before = len(self.keys)
        self.keys.append(pair.key)
        self.pictures.append(pair.picture)
        self.lengths.append(sum(len(turn.answer) for turn in pair.turns))
        for name, of in _FACETS.items():
            value, values = of(pair), self.values[name]
            value = "(empty)" if value == "" else value  # of a filter "" is no choice
            self.facets[name].append(-1 if value is None else values.setdefault(value, len(values)))
        for name in pair.scores:
            self.scores.setdefault(name, [None] * before)
        for name, scores in self.scores.items():
            scores.append(_rounded(pair.scores.get(name), 7))
        for turn in pair.turns:
            for largest, numbers in ((self.gains, turn.gain), (self.divergences, turn.divergence)):
                if (finite := [abs(n) for n in numbers if n is not None and math.isfinite(n)]) != []:
                    largest.append(max(finite))

    def as_lists(self) -> dict[str, Any]:
        return {
            "key": self.keys,
            "picture": self.pictures.tolist(),
            "length": self.lengths.tolist(),
            "facets": [column.tolist() for column in self.facets.values()],
            "scores": list(self.scores.values()),
        }


def script_json(value: Any) -> str:
    """A value as JSON that may stand in a script element of a UTF-8 page, and as JavaScript."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def write_pieces(content: Content, folder: Path) -> PageData:
    """Write the data of a report's gallery, piece by piece.

    Args:
        content: The report's content.
        folder: An empty folder for the pieces.

    Raises:
        ValueError: If two pairs have the same key, a pair's picture is not among the pictures, or an answer has not as
            many numbers as tokens.
    """
    columns, pieces, known, identity = _Columns(), [], set(), []
    unreadable: Counter[str] = Counter()

    def write(name: str, value: Any) -> None:
        path = folder / f"{name}.json"
        path.write_text(script_json(value), "utf-8")
        pieces.append(Piece(name, path))

    for number, pairs in enumerate(_chunks(content.pairs.rows(), _PAIRS)):
        for pair in pairs:
            _check(pair, content.pictures, known)
            known.add(pair.key)
            columns.add(pair)
            identity.append(digest(pair.key, pair.digest, size=8))
        write(f"texts-{number}", [_texts(pair) for pair in pairs])
    used = set(columns.pictures)
    for number, start in enumerate(range(0, len(content.pictures), _PICTURES)):
        numbers = range(start, min(start + _PICTURES, len(content.pictures)))
        made = list(thumbnails([content.pictures[n] for n in numbers if n in used], len(used)))
        unreadable.update(reason_kind(one) for one in made if isinstance(one, str))
        left = iter(made)
        write(f"pictures-{number}", [_picture(content.pictures[n], next(left)) if n in used else None for n in numbers])
    alike = [[other for other in content.alike.get(n, ()) if other in used] for n in range(len(content.pictures))]
    write("columns-0", {**columns.as_lists(), "alike": alike if any(alike) else []})
    head = {
        "id": digest(content.title, *identity),
        "title": content.title,
        "count": len(columns.keys),
        "facets": [[name, list(values)] for name, values in columns.values.items()],
        "scores": list(columns.scores),
        "ranking": content.ranking if content.ranking in columns.scores else None,
        "threshold": _rounded(content.threshold, 7),
        "threshold_score": content.threshold_score if content.threshold_score in columns.scores else None,
        "pairs_of_piece": _PAIRS,
        "pictures_of_piece": _PICTURES,
        "gain_scale": _scale(columns.gains),
        "divergence_scale": _scale(columns.divergences),
        "charts": {
            chart.id: {
                "score": chart.filter.score,
                "stage": chart.filter.stage,
                "edges": [_rounded(edge, 7) for edge in chart.filter.edges],  # as the scores, so that equal ones are
            }
            for chart in content.charts
            if chart.filter is not None
        },
    }
    size = sum(piece.path.stat().st_size for piece in pieces)
    return PageData(head, pieces, size, dict(unreadable.most_common()))


def _check(pair: ShownPair, pictures: Sequence[Picture], known: set[str]) -> None:
    if pair.key in known:
        raise ValueError(f"two pairs have the key {pair.key!r}; it must be unique in the report")
    if not 0 <= pair.picture < len(pictures):
        raise ValueError(f"pair {pair.key!r} is about picture {pair.picture}, and there are {len(pictures)}")
    for turn in pair.turns:
        for numbers in (turn.gain, turn.divergence):
            if len(numbers) not in (0, len(turn.tokens)):
                raise ValueError(f"pair {pair.key!r} has {len(turn.tokens)} tokens and {len(numbers)} numbers of them")


def _texts(pair: ShownPair) -> list:
    status = without_folders(pair.status)
    whole = [status] * (reason_kind(status) != status)  # the filter has the kind
    return [pair.pair_id, pair.digest, [_turn(turn) for turn in pair.turns], pair.raw, *whole]


def _turn(turn: ShownTurn) -> list:
    numbers = [[_rounded(number, 3) for number in numbers] for numbers in (turn.gain, turn.divergence)]
    return [turn.question, turn.answer, list(turn.tokens), *numbers] if turn.tokens else [turn.question, turn.answer]


def _picture(picture: Picture, made: Thumbnail | str) -> list:
    if isinstance(made, str):
        return [picture.image_id, made]
    return [picture.image_id, made.width, made.height, base64.b64encode(made.webp).decode()]


def _rounded(number: float | None, digits: int) -> float | None:
    """A number with so many digits, as short as JSON has it; None if it is no finite number."""
    if number is None or not math.isfinite(number):
        return None
    rounded = float(f"{number:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _scale(largest: array) -> float | None:
    """Where the scale of colours ends: a number of one digit; None where there are no numbers."""
    if not largest:
        return None
    end = sorted(largest)[int(_COLOURED * (len(largest) - 1))]
    if end <= 0:
        return 1
    unit = 10.0 ** math.floor(math.log10(end))
    return float(f"{math.ceil(end / unit) * unit:.3g}")


def _either(value: bool | None, yes: str, no: str) -> str | None:
    return None if value is None else yes if value else no


def _chunks(rows: Iterator[ShownPair], size: int) -> Iterator[list[ShownPair]]:
    chunk: list[ShownPair] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
