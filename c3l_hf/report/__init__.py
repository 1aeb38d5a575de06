"""The report: what is shown, charts, and one page to look at."""

import importlib
from typing import Any

__all__ = ["show"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(".notebook", __name__).show
