"""Items made ahead of the one who uses them: the next batch is read and encoded while the model works on this one."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

__all__ = ["ahead"]

_Item = TypeVar("_Item")


def ahead(items: Iterable[_Item], depth: int = 1) -> Generator[_Item, None, None]:
    """The items in their order, made in a thread of their own while the earlier ones are used.

    Memory is bounded: at most `depth` items have been made, or are being made, that were not taken. An error in making
    an item is raised in its place. When the iterator ends, fails or is closed, its thread has ended too; so close it
    where it may be left early (`contextlib.closing`).

    A thread, not a process: the decoding of pictures, numpy and torch let others run while they work, nothing has to be
    copied, and a process forked beside PyTorch's threads can hang. What `items` uses belongs to the thread as long as
    it runs. Of a tokenizer the user of the items may ask no more than what knows no settings (decoding, ids of tokens):
    padding and truncation are settings of the whole tokenizer, which another call would change under the thread's.

    Args:
        items: What to make; `next` is called in the thread.
        depth: Most items that are ready, or in the making.

    Raises:
        ValueError: If `depth` is less than 1.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be at least 1")
    return _taken(items, depth)


def _taken(items: Iterable[_Item], depth: int) -> Generator[_Item, None, None]:
    made: queue.SimpleQueue = queue.SimpleQueue()  # of (what it is, the item or the error)
    places, left = threading.Semaphore(depth), threading.Event()
    # A daemon, so that an iterator that nobody closed does not keep Python from ending.
    thread = threading.Thread(target=_make, args=(items, made, places, left), name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = made.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            places.release()
            yield item
            del item  # not kept beside the next one, while that is waited for
    finally:
        left.set()
        places.release()
        thread.join()


def _make(items: Iterable, made: queue.SimpleQueue, places: threading.Semaphore, left: threading.Event) -> None:
    try:
        iterator = iter(items)
        try:
            places.acquire()
            while not left.is_set():
                made.put(("item", next(iterator)))
                places.acquire()
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
    except StopIteration:
        made.put(("end", None))
    except BaseException as error:  # raised again where the item is taken
        made.put(("error", error))
