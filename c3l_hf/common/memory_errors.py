"""Out of memory: how it shows itself, and one line with what to make smaller."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

from c3l_hf.common.errors import RunError
from c3l_hf.common.words import in_one_line

__all__ = ["is_out_of_memory", "made_in_batches", "told_of_memory"]

_Item = TypeVar("_Item")

# Of accelerators, of torch's allocator on CPUs, and of the libraries below both. All raise RuntimeErrors, of which
# torch.OutOfMemoryError is one: whoever asks before torch is loaded need not load it.
_PHRASES = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, of the accelerator or of the machine."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _PHRASES)


@contextlib.contextmanager
def told_of_memory(remedy: str) -> Iterator[None]:
    """A context that turns an error for want of memory into a RunError of one line; others pass.

    Args:
        remedy: What to do, naming the option and its value: "lower scoring_batch_size, which is 250".
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = in_one_line(str(error).partition(". ")[0], 160)
        raise RunError(f"memory has run out{f' ({said})' if said else ''}: {remedy}") from error


def made_in_batches(items: Iterable[_Item], option: str, size: int) -> Iterator[_Item]:
    """The items as they are; an error for want of memory at making one names the option of the size of a batch."""
    with told_of_memory(f"lower {option}, which is {size}; what is finished stays"):
        yield from items
