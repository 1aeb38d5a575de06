"""Values as YAML and JSON know them, for files that others will read."""

import numbers
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """A configuration value as YAML knows it; of absolute paths, which name user and machine, the last part only."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Real):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    value = str(value)
    name, equals, path = value.partition("=")  # as in benchmark=path
    name, path = (name + equals, path) if name.isidentifier() and equals else ("", value)
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(path).is_absolute() or path.startswith("~"):
            return name + kind(path).name
    return value
