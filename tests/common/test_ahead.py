"""Work ahead of its user: in order, bounded, with its errors in their places, and no thread that stays."""

import contextlib
import gc
import threading
import weakref

import pytest

from c3l_hf.common.ahead import ahead

PATIENCE = 30  # seconds until an event that must come counts as missing


class Item:
    """Counts those that are alive."""

    alive: weakref.WeakSet = weakref.WeakSet()

    def __init__(self, number):
        self.number = number
        Item.alive.add(self)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "ahead"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    assert not threads()
    yield
    assert not threads()


@pytest.mark.parametrize("depth", [1, 2, 100])
def test_the_items_in_their_order(depth):
    assert list(ahead(range(50), depth)) == list(range(50))
    assert list(ahead([], depth)) == []


@pytest.mark.parametrize("depth", [1, 3])
def test_the_next_are_made_while_one_is_used_but_no_more(depth):
    made = [threading.Event() for _ in range(9)]
    begun = []

    def items():
        for number, event in enumerate(made):
            begun.append(number)
            yield number
            event.set()  # as the next one is asked for, this one is ready to be taken

    with contextlib.closing(ahead(items(), depth)) as taken:
        for number in taken:
            # Without work ahead these would not be there before this item is done.
            for following in range(number, min(number + depth, len(made) - 1)):
                assert made[following].wait(PATIENCE)
            # Nothing beyond, how long it may take: the maker waits for a place.
            assert not made[number + depth].wait(0.02) if number + depth < len(made) else True
            assert max(begun) <= number + depth


@pytest.mark.parametrize("depth", [1, 3])
def test_few_items_are_alive(depth):
    most, count = 0, 20
    made = [threading.Event() for _ in range(count)]

    def items():
        nonlocal most
        for number, event in enumerate(made):
            item = Item(number)
            most = max(most, len(Item.alive))
            event.set()
            yield item
            del item

    for number, item in enumerate(ahead(items(), depth)):
        assert item.number == number
        assert made[min(number + depth, count - 1)].wait(PATIENCE)  # used for so long that all places are taken
    del item
    assert most == depth + 1  # those ahead, and the one that is used
    gc.collect()
    assert not Item.alive


def test_an_error_comes_in_the_place_of_its_item():
    def items():
        yield from range(3)
        raise KeyError("what went wrong")

    taken = ahead(items(), 5)
    assert [next(taken) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="what went wrong"):
        next(taken)
    assert next(taken, "end") == "end"


def test_leaving_early_closes_the_maker():
    closed = []

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(threading.current_thread().name)

    with pytest.raises(ZeroDivisionError):
        with contextlib.closing(ahead(items(), 2)) as taken:
            for number in taken:
                1 / (3 - number)
    assert closed == ["ahead"] and not threads()


def test_an_iterator_that_was_never_asked_starts_nothing():
    taken = ahead(iter(range(3)))
    assert not threads()
    taken.close()


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match="depth is 0; it must be at least 1"):
        ahead([], 0)
