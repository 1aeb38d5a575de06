"""Records of a run: JSON that knows whether it is whole and has a copy, and how two of them differ, in words."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import xxhash

from c3l_hf.common.files import read_json, write_json

__all__ = ["COPY", "differences", "flattened", "is_whole", "read_record", "write_record"]

COPY = ".bak"  # behind the name of a record
_CHECKSUM = "checksum"
_DIGEST = re.compile("[0-9a-f]{16,64}")
_SHOWN = 4


def write_record(path: str | Path, content: Mapping[str, Any], shared: bool = False) -> None:
    """Write a record with its own checksum, and a copy beside it: hours of work may hang on its few lines. See
    `files.atomic_write` for `shared`."""
    content = json.loads(json.dumps(content))  # as it is read back
    record = {**content, _CHECKSUM: _checksum(content)}
    for file in (Path(f"{path}{COPY}"), Path(path)):
        write_json(file, record, shared)


def read_record(path: str | Path) -> dict[str, Any] | None:
    """A record, or its copy where it is not whole; None if neither is. One of an older version has no checksum."""
    for file in (Path(path), Path(f"{path}{COPY}")):
        try:
            record = read_json(file)
        except (OSError, ValueError):
            continue
        if isinstance(record, dict):
            checksum = record.pop(_CHECKSUM, None)
            if checksum is None or checksum == _checksum(record):
                return record
    return None


def is_whole(path: str | Path) -> bool:
    """Whether the record itself is what was written, and not its copy alone."""
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.pop(_CHECKSUM, None) in (None, _checksum(record))


def _checksum(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode("utf-8", "surrogatepass"))


def differences(
    there: Mapping[str, Any], wanted: Mapping[str, Any], called: Mapping[str, str] = MappingProxyType({})
) -> str:
    """The settings in which two records of a stage differ, in words; of many the first.

    Args:
        there: The record that is there.
        wanted: The one that is asked for.
        called: Name of a setting in a record → what a user calls it, where that differs.
    """
    flat_there, flat_wanted = flattened(there), flattened(wanted)
    differing = sorted(
        key for key in flat_wanted.keys() | flat_there.keys() if flat_there.get(key) != flat_wanted.get(key)
    )
    parts = []
    for key in differing[:_SHOWN]:
        # A record has the stage's own settings under "options", those of others under "from".
        *before, name = key.removeprefix("options.").removeprefix("from.").split(".")
        setting = ".".join([*before, called.get(name, name)])
        parts.append(f"{setting}: {_compared(flat_there.get(key), flat_wanted.get(key))}")
    return "; ".join(parts) + (f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else "")


def _compared(there: Any, wanted: Any) -> str:
    """Two values; of digests, which say nothing to anybody, only that they differ."""
    digests = [isinstance(value, str) and _DIGEST.fullmatch(value) is not None for value in (there, wanted)]
    if all(digests):
        return "other content there than asked for"
    there, wanted = (
        "content of its own" if is_digest else repr(value) for value, is_digest in zip((there, wanted), digests)
    )
    return f"{there} there, {wanted} asked for"


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """The values of mappings in mappings, by their names from the outermost on: "options.seed"."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        path: item
        for name, inner in value.items()
        for path, item in flattened(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }
