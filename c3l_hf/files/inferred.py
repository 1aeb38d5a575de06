"""The types of columns from all their values, so that nothing is changed to fit: texts stay texts, gaps are null.

What `datasets` infers from JSON looks at the first rows and at the look of texts: a date becomes a point in time, and
in a column of several kinds the text "1" becomes a number, "null" nothing.
"""

import json
from collections.abc import Mapping
from functools import reduce
from typing import Any

from datasets import Features, Json, List, Value

__all__ = ["DEEPEST", "Kind", "feature_of", "features_of", "is_deep", "kind_of", "merged", "stored"]

# Lists and objects in each other. What is deeper is no row, and ends whatever goes through it by recursion.
DEEPEST = 100

# None (only nulls), the name of a plain type, ["list", Kind], or {"key": Kind}. As JSON knows it, to be kept in a file.
Kind = Any

_PLAIN = {"bool": "bool", "int": "int64", "long": "int64", "float": "float64", "string": "string"}
_EXACT = 2**53  # whole numbers beyond are not exact as decimals
# More keys than these are content, as in a mapping from ids, and no struct.
_MOST_KEYS = 64
# Lists and structs in each other; of more, each doubles the time that `datasets` takes for a row.
_LEVELS = 8


def kind_of(value: Any, levels: int = _LEVELS) -> Kind:
    """The kind of one value as JSON has it, with so many levels of lists and structs."""
    if value is None:
        return None
    if isinstance(value, str):
        return "string"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) <= _EXACT else "long" if -(2**63) <= value < 2**63 else "json"
    if isinstance(value, float):
        return "float"
    if levels == 0:
        return "json"
    if isinstance(value, Mapping):
        # Parquet has no struct without fields, and Arrow ends a name at a character 0.
        if not 0 < len(value) <= _MOST_KEYS or "\0" in "".join(value):
            return "json"
        return {key: kind_of(item, levels - 1) for key, item in value.items()}
    return ["list", reduce(merged, (kind_of(item, levels - 1) for item in value), None)]


def is_deep(value: Any) -> bool:
    """Whether lists and objects are in each other, more than `DEEPEST` deep."""
    level = [value]
    for _ in range(DEEPEST + 1):
        within = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = [item for items in within for item in items]
    return bool(level)


def merged(first: Kind, second: Kind) -> Kind:
    """The kind of a column in which there are values of both."""
    if first == second or second is None:
        return first
    if first is None:
        return second
    if isinstance(first, list) and isinstance(second, list):
        return ["list", merged(first[1], second[1])]
    if isinstance(first, dict) and isinstance(second, dict):
        kinds = {key: merged(first.get(key), second.get(key)) for key in {**first, **second}}
        return kinds if len(kinds) <= _MOST_KEYS else "json"
    names = {first, second} if isinstance(first, str) and isinstance(second, str) else set()
    if names == {"int", "long"}:
        return "long"
    return "float" if names == {"int", "float"} else "json"


def features_of(kinds: Mapping[str, Kind]) -> Features:
    """The features of columns."""
    return Features({name: feature_of(kind) for name, kind in kinds.items()})


def feature_of(kind: Kind) -> Any:
    """The feature of a column; of several kinds, `Json`."""
    if isinstance(kind, dict):
        return {key: feature_of(item) for key, item in kind.items()}
    if isinstance(kind, list):
        return List(feature_of(kind[1]))
    return Value("null") if kind is None else Json() if kind == "json" else Value(_PLAIN[kind])


def stored(value: Any, kind: Kind) -> Any:
    """A value as a column of that kind stores it, which may be of more kinds than the value."""
    if value is None:
        return None
    if kind == "json":
        # Texts, too: `datasets` leaves those as they are that are JSON, and reads them as what they say.
        return json.dumps(value, ensure_ascii=False)
    if isinstance(kind, dict):
        return {key: stored(value.get(key), item) for key, item in kind.items()}
    if isinstance(kind, list):
        return [stored(item, kind[1]) for item in value]
    return float(value) if kind == "float" else value
