"""Rows at which our own reading fails: each becomes its row's reason, and none passes for a fault of the data."""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from c3l_hf.common.errors import RowError

__all__ = ["with_row_errors"]

logger = logging.getLogger(__name__)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# What looking at values of any kind raises: missing keys, other types, arrays that are neither true nor false, lists in
# lists in lists. Not what ends a process, as a lack of memory.
_UNFORESEEN = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError)
# The places that the log has already: a million rows may have the same.
_REPORTED: set[tuple[str, int]] = set()


def with_row_errors(read: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """A function that reads one row, with a `RowError` for what it does not foresee.

    A long run must not end at one odd row; an error of ours must not look like one of the row's. So the reason says
    that it is ours, and the log has the place.
    """

    @functools.wraps(read)
    def reading(*args: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        try:
            return read(*args, **options)
        except RowError:
            raise
        except _UNFORESEEN as error:
            kind = type(error).__name__
            if (place := (kind, _line(error))) not in _REPORTED:
                _REPORTED.add(place)
                logger.warning("c3l_hf fails at reading a row; please report it:", exc_info=True)
            raise RowError(f"c3l_hf fails at reading the row ({kind}); please report it, with the row") from error

    return reading


def _line(error: Exception) -> int:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return 0 if trace is None else trace.tb_lineno
