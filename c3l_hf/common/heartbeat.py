"""Signs of life among the processes of a launcher: one that has died, hangs or fails is named, and ends them all.

Processes wait for each other for hours where one works for all (it judges, curates, writes), so no limit on the time
that they wait can tell whether the one that is waited for is still there. Instead a thread of each process counts up a
number, in the store by which PyTorch has brought the processes together, and looks at those of others. It counts as
long as its process runs, whatever that works on; a process that is stopped, or on a machine that has gone, does not.

Where the link to the store is dead, a call to it may never return. So a second thread watches when the store has last
answered, and nobody else waits for it without an end.
"""

import contextlib
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

from torch.distributed import PrefixStore, Store, TCPStore

from c3l_hf.common.errors import RunError

__all__ = ["Heartbeat", "heartbeat", "patience"]

_VARIABLE = "C3L_PATIENCE"
_PATIENCE = 600.0  # longer than a stall of a disk or a machine that moves, shorter than what anybody wants to wait
_PERIOD = 2.0
_ANSWER = timedelta(seconds=5)  # of the store
# That a process has failed, who tells it, and how many others have seen it.
_FAULT, _TOLD, _SEEN = "fault", "told", "seen"
_GONE = "has died or cannot be reached"
_ENDED = b"ended"
_Answer = TypeVar("_Answer")
# For the first process to find, and tell, what all of them find.
_FIRST = 3.0
# How long nobody may listen where the store was: at the end of a run the process that has it may be the first to leave.
_LOST = 30.0


def patience() -> float:
    """Seconds that a process may give no sign of life: the environment variable C3L_PATIENCE, by default 600.

    Raises:
        RunError: If it is no number above 0.
    """
    text = os.environ.get(_VARIABLE, "")
    with contextlib.suppress(ValueError):
        if (seconds := float(text or _PATIENCE)) > 0:
            return seconds
    raise RunError(f"{_VARIABLE} is {text}; it must be a number of seconds above 0")


class Heartbeat:
    """The signs of life of one process, and its look at those of the others.

    Attributes:
        met: Whether this process has found the store. Until then it knows nothing of others, nor they of it.

    Args:
        rank: Of this process.
        processes: How many there are.
        connect: Gives the store that all of them have.
        ended_by: Called once, from a thread, when the run has to end: with a line that tells why if this process is to
            tell it, else with "".
        patience: Seconds without a sign of life after which a process counts as lost.
    """

    def __init__(
        self,
        rank: int,
        processes: int,
        connect: Callable[[], Store],
        ended_by: Callable[[str], None],
        patience: float,
    ) -> None:
        self.rank, self.processes = rank, processes
        self._connect, self._ended_by, self._patience = connect, ended_by, patience
        self._period = min(_PERIOD, patience / 4)
        self._store: Store | None = None
        self.met = False
        self._told = False  # whether another process tells, or has told, why the run ends
        self._left, self._over = threading.Event(), threading.Lock()
        # Seconds that this process has run: where all are stopped for a night, as by `scontrol suspend`, none is lost.
        self._now = 0.0
        self._answered, self._refused = 0.0, False  # when the store last did, and whether nobody listens there
        # The first process looks at all others, and these at it: each asks the store for little.
        others = range(1, processes) if rank == 0 else [0]
        self._seen = {other: (b"", self._now) for other in others}
        self._thread = threading.Thread(target=self._count, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()
        threading.Thread(target=self._watch, name="heartbeat's watch", daemon=True).start()

    def first_to_tell(self) -> bool:
        """Whether this process is to tell why the run ends: of several only one is, and if it finds it in time the
        first. For what happens to all of them is told once, and without a process's name."""

        def first(store: Store) -> bool:
            ends = time.monotonic() + _FIRST
            while self.rank and time.monotonic() < ends and not store.check([_TOLD]):
                time.sleep(0.05)
            return store.add(_TOLD, 1) == 1

        ends = time.monotonic() + _FIRST
        while self.rank and not self.met and time.monotonic() < ends:
            time.sleep(0.05)  # the store may have begun a moment ago
        if self._told:
            return False
        tells = self._ask(first, _FIRST)
        if tells is not None:
            return tells
        # Nobody can be asked. With the store the first one has gone.
        return not self._told and (self._speaks_without_store() if self.met else self.rank == 0)

    def fail(self) -> None:
        """This process ends, and what the others wait for will not come. `first_to_tell` has been asked before."""

        def tell(store: Store) -> None:
            store.set(_FAULT, b"")
            # With the first process the store may go, in which the others have to find it.
            ends = time.monotonic() + 2 * self._period
            while self.rank == 0 and store.add(_SEEN, 0) < self.processes - 1 and time.monotonic() < ends:
                time.sleep(0.05)

        self._ask(tell, 2 * self._period)

    def name_lost(self) -> str:
        """After a connection to another process has broken: which of them gives no sign of life; "" if all do."""

        def silent(store: Store) -> str:
            before = self._beats(store)
            time.sleep(3 * self._period)
            after = self._beats(store)
            for other, beat in enumerate(after):
                if other != self.rank and beat == before[other] != _ENDED:
                    return f"{self._named(store, other)} {_GONE}"
            return ""

        if not self.met:
            return ""
        lost = self._ask(silent, 3 * self._period)
        return f"process 0 of {self.processes} {_GONE}" if lost is None else lost

    def close(self) -> None:
        """This process has done its work, and will give no further signs of life."""
        self._left.set()
        if self._thread.ident is not None:
            self._thread.join(_ANSWER.total_seconds())  # it may be about to count, which would not look like an end
        self._ask(lambda store: store.set(_beat(self.rank), _ENDED))

    def _ask(self, question: Callable[[Store], _Answer], seconds: float = 0.0) -> _Answer | None:
        """What the store answers; None if there is none, or no answer in time.

        Args:
            question: Asks it.
            seconds: How long the question takes if each call is answered at once.
        """
        answers = queue.SimpleQueue[_Answer | None]()

        def ask(store: Store) -> None:
            try:
                answers.put(question(store))
            except RuntimeError:
                answers.put(None)

        if (store := self._store) is None:
            return None
        try:
            threading.Thread(target=ask, args=[store], name="heartbeat's question", daemon=True).start()
            return answers.get(timeout=seconds + _ANSWER.total_seconds())
        except (queue.Empty, RuntimeError):  # the second at the end of Python, when no thread can begin
            return None

    def _count(self) -> None:
        """Give signs of life, and look at those of the others."""
        beats = 0
        while not self._left.is_set():
            try:
                store = self._store or self._connect()
                if self._store is None:
                    store.set(_host(self.rank), socket.gethostname())
                    self._store, self.met = store, True
                beats += 1
                store.set(_beat(self.rank), str(beats))
                fault = self._fault(store)
                self._answered, self._refused = self._now, False
            except (OSError, RuntimeError) as error:  # also torch's DistStoreError and DistNetworkError
                self._store = None  # PyTorch's does not connect again by itself
                self._refused, fault = isinstance(error, ConnectionRefusedError), None
            if fault is not None:
                return self._end(fault)
            self._left.wait(self._period)

    def _watch(self) -> None:
        """See when the store has last answered."""
        looked = time.monotonic()
        while not self._left.wait(self._period):
            looked, passed = time.monotonic(), time.monotonic() - looked
            self._now += min(passed, 2 * self._period)
            waited = self._now - self._answered
            if waited >= (min(_LOST, self._patience) if self._refused and self.met else self._patience):
                self._store = None
                told = self._told or not self._speaks_without_store()
                return self._end("" if told else f"process 0 of {self.processes} {_silent(waited)}")

    def _end(self, line: str) -> None:
        if self._over.acquire(blocking=False) and not self._left.is_set():
            self._told = True
            self._ended_by(line)

    def _speaks_without_store(self) -> bool:
        """Of those who cannot ask whether it is told already: the first one that is left, and one of each machine."""
        return self.rank == 1 or (self.rank > 1 and os.environ.get("LOCAL_RANK") == "0")

    def _fault(self, store: Store) -> str | None:
        """Why the run has to end, if it has to."""
        if store.check([_FAULT]):
            self._told = True  # by who found it, and before that one knows: with it the store may go
            store.add(_SEEN, 1)
            return ""
        now = self._now
        for other, (before, since) in self._seen.items():
            beat = store.get(_beat(other)) if store.check([_beat(other)]) else b""
            if beat != before:
                self._seen[other] = beat, now
            elif beat != _ENDED and now - since > self._patience:
                line = f"{self._named(store, other)} {_silent(now - since)}" if store.add(_TOLD, 1) == 1 else ""
                store.set(_FAULT, b"")
                return line
        return None

    def _beats(self, store: Store) -> list[bytes]:
        keys = map(_beat, range(self.processes))
        return [store.get(key) if store.check([key]) else b"" for key in keys]

    def _named(self, store: Store, other: int) -> str:
        known = store.check([_host(other)])
        host = store.get(_host(other)).decode("utf-8", "replace") if known else "an unknown host"
        return f"process {other} of {self.processes}, on {host},"


def _beat(rank: int) -> str:
    return f"beat-{rank}"


def _host(rank: int) -> str:
    return f"host-{rank}"


def _silent(seconds: float) -> str:
    return f"{_GONE}, or hangs: no sign of life for {seconds:.0f} s ({_VARIABLE} says how long is too long)"


@contextlib.contextmanager
def heartbeat(ended_by: Callable[[str], None]) -> Iterator[Heartbeat | None]:
    """Within, this process gives signs of life, and looks at those of the others; None where a launcher has started no
    others, or has not said where they meet.

    Args:
        ended_by: See `Heartbeat`.

    Raises:
        RunError: If C3L_PATIENCE is no number above 0.
    """
    limit = patience()
    rank, processes, address, port = (
        os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    )
    if not (rank.isdigit() and processes.isdigit() and int(processes) > 1 and address and port.isdigit()):
        yield None
        return

    def connect() -> Store:
        # First a plain connection: where nobody listens, PyTorch's prints pages.
        socket.create_connection((address, int(port)), _ANSWER.total_seconds()).close()
        store = TCPStore(address, int(port), timeout=_ANSWER, wait_for_workers=False)
        # A launcher that starts all again may have kept its store.
        return PrefixStore(f"c3l_hf/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)

    beats = Heartbeat(int(rank), int(processes), connect, ended_by, limit)
    beats.start()
    try:
        yield beats
    finally:
        beats.close()
