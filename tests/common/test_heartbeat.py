"""Signs of life: who is missed, who is not, and who of several tells it."""

import queue
import socket
import threading
from datetime import timedelta

import pytest
from torch.distributed import HashStore, TCPStore

from c3l_hf.common import heartbeat as module
from c3l_hf.common.errors import RunError
from c3l_hf.common.heartbeat import Heartbeat, heartbeat, patience

HOST = socket.gethostname()
NEVER = 1e6


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "_PERIOD", 0.01)
    monkeypatch.setattr(module, "_FIRST", 0.2)


@pytest.fixture
def process():
    """Makes processes of a launcher, here all in one, and what each was ended by."""
    made = []

    def make(rank, store, processes=3, limit=NEVER, begins=True):
        ended = queue.SimpleQueue()
        beats = Heartbeat(rank, processes, store if callable(store) else lambda: store, ended.put, limit)
        made.append(beats)
        if begins:
            beats.start()
        return beats, ended

    yield make
    for beats in made:
        beats.close()


def test_a_process_that_is_silent_is_named_and_the_others_end(process):
    store = HashStore()
    silent, _ = process(1, store, begins=False)
    store.set("beat-1", "7")
    store.set("host-1", "node7")
    _, first = process(0, store, limit=0.3)
    _, other = process(2, store)
    line = first.get()
    assert line.startswith("process 1 of 3, on node7, has died or cannot be reached, or hangs: no sign of life for ")
    assert other.get() == ""  # it is told


def test_a_process_that_fails_while_the_store_begins_waits_for_it(process):
    """It would be silent, and its reason lost: the first process says of it only that it has gone."""
    refused = []

    def connect():
        if len(refused) < 3:
            refused.append(1)
            raise ConnectionRefusedError
        return store

    store = HashStore()
    failing, _ = process(1, connect)
    assert failing.first_to_tell() and failing.met
    never, _ = process(1, lambda: module.socket.create_connection(("127.0.0.1", 1)))
    assert not never.first_to_tell() and not never.met


def test_one_that_never_began_is_missed_too(process):
    _, ended = process(0, HashStore(), processes=2, limit=0.1)
    assert ended.get().startswith("process 1 of 2, on an unknown host, has died")


def test_the_first_one_is_missed_by_one_of_the_others(process):
    store = HashStore()
    ended = [process(rank, store, limit=0.2)[1] for rank in (1, 2)]
    lines = sorted(one.get() for one in ended)
    assert lines[0] == "" and lines[1].startswith("process 0 of 3, on an unknown host, has died")


def test_neither_work_nor_a_good_end_is_a_silence(process):
    store = HashStore()
    first, ended = process(0, store, processes=2, limit=0.5)
    process(1, store, processes=2)
    while int(store.get("beat-1")) < 100:
        pass
    assert ended.empty()
    first.close()
    store.set("beat-1", "ended")
    first._seen[1] = (b"ended", -NEVER)
    assert first._fault(store) is None


def test_what_happens_to_all_is_told_by_the_first(process):
    store = HashStore()
    first, second = (process(rank, store)[0] for rank in (0, 1))
    while not (first.met and second.met):
        pass
    assert first.first_to_tell() and not second.first_to_tell() and not first.first_to_tell()


def test_what_happens_to_one_is_told_by_it_and_ends_the_others(process):
    store = HashStore()
    failing, own = process(1, store)
    _, ended = process(0, store)
    while not failing.met:
        pass
    assert failing.first_to_tell()
    failing.close()
    failing.fail()
    assert ended.get() == "" and own.empty()


def test_without_the_store_the_first_has_gone(process, monkeypatch):
    gone = []

    def connect():
        if gone:
            raise ConnectionRefusedError
        return Lost()

    class Lost(HashStore):
        def check(self, keys):
            gone.append(keys)
            raise RuntimeError("Broken pipe")

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    second, third = (process(rank, connect)[0] for rank in (1, 2))
    while not (second._refused and third._refused):
        pass
    assert second.first_to_tell() and second.name_lost() == "process 0 of 3 has died or cannot be reached"
    assert not third.first_to_tell()
    ended = [process(rank, connect, limit=0.1)[1].get() for rank in (1, 2)]
    assert ended[0].startswith("process 0 of 3 has died or cannot be reached, or hangs: ") and ended[1] == ""
    monkeypatch.setenv("LOCAL_RANK", "0")  # another machine
    assert process(2, connect, limit=0.1)[1].get() == ended[0]


def test_over_a_dead_link_no_call_returns_and_the_process_ends(process, monkeypatch):
    """Whatever it is at: counting, failing, or at its end."""
    monkeypatch.setattr(module, "_ANSWER", timedelta(seconds=0.1))
    alive, dead, mended = threading.Event(), threading.Event(), threading.Event()

    class Cut(HashStore):
        def check(self, keys):
            alive.set()
            if dead.is_set():
                mended.wait()
            return super().check(keys)

        def add(self, key, amount):
            if dead.is_set():
                mended.wait()
            return super().add(key, amount)

    second, ended = process(1, Cut(), limit=0.5)
    cut, other_end = process(2, Cut())
    alive.wait()
    dead.set()
    assert ended.get().startswith("process 0 of 3 has died or cannot be reached, or hangs: no sign of life for ")
    assert not second.first_to_tell()  # again
    cut.fail()
    assert cut.name_lost() == "process 0 of 3 has died or cannot be reached" and not cut.first_to_tell()
    cut.close()
    assert other_end.empty()
    mended.set()


def test_where_all_are_stopped_for_a_while_none_is_lost(process, monkeypatch):
    """As by `scontrol suspend`: time that a process has not run counts for nothing."""
    clock = iter(range(0, 10**9, 10**5))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    store = HashStore()
    _, ended = process(0, store, processes=2, limit=1e4)
    counted = int(store.get("beat-0"))
    while int(store.get("beat-0")) < counted + 10:
        pass
    assert ended.empty()


def test_after_one_has_told_it_another_does_not_though_the_store_goes(process):
    """The first process fails, tells it and leaves with the store, while the second one fails for the same reason."""
    store = HashStore()
    second, ended = process(1, store)
    while not second.met:
        pass
    store.set("fault", "")
    assert ended.get() == ""
    second._store = None
    assert not second.first_to_tell()


def test_after_a_lost_connection_the_silent_one_is_named(process):
    store = HashStore()
    first, _ = process(0, store)
    process(2, store)
    store.set("beat-1", "3")
    store.set("host-1", "node7")
    while not (first.met and store.check(["beat-0"]) and store.check(["beat-2"])):
        pass
    assert first.name_lost() == "process 1 of 3, on node7, has died or cannot be reached"
    store.set("beat-1", "ended")
    assert first.name_lost() == ""


def test_processes_meet_where_their_launcher_has_said(monkeypatch):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    launched = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    with heartbeat(lambda line: None) as beats:
        store.wait(["c3l_hf/0/beat-1"])
        assert store.get("c3l_hf/0/host-1").decode() == HOST and beats.rank == 1
    assert store.get("c3l_hf/0/beat-1") == b"ended"


@pytest.mark.parametrize("without", ["WORLD_SIZE", "MASTER_ADDR"])
def test_alone_there_is_none(monkeypatch, without):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(without)
    with heartbeat(print) as beats:
        assert beats is None


def test_how_long_is_too_long(monkeypatch):
    monkeypatch.delenv("C3L_PATIENCE", raising=False)
    assert patience() == 600
    monkeypatch.setenv("C3L_PATIENCE", "90.5")
    assert patience() == 90.5
    for text in ("0", "-1", "soon", "nan"):
        monkeypatch.setenv("C3L_PATIENCE", text)
        with pytest.raises(RunError, match=f"C3L_PATIENCE is {text}; it must be a number of seconds above 0"):
            patience()


def test_an_end_is_not_counted_over():
    """By the thread, which may be in the middle of a count when its process has done its work."""
    counting, go_on = threading.Event(), threading.Event()

    class Slow(HashStore):
        def set(self, key, value):
            if key == "beat-1" and value == "1":
                counting.set()
                go_on.wait()
            super().set(key, value)

    store = Slow()
    beats = Heartbeat(1, 2, lambda: store, print, NEVER)
    beats.start()
    counting.wait()
    threading.Timer(0.2, go_on.set).start()
    beats.close()
    beats._thread.join()
    assert store.get("beat-1") == b"ended"
