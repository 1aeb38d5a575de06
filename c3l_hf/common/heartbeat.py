"""Signs of life among the processes of a launcher: one that has died, hangs or fails is named, and ends them all.

Processes wait for each other for hours where one works for all (it judges, curates, writes), so no limit on the time
that they wait can tell whether the one that is waited for is still there. Instead a thread of each process counts up a
number, in the store by which PyTorch has brought the processes together, and looks at those of others. It counts as
long as its process runs, whatever that works on; a process that is stopped, or on a machine that has gone, does not.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

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
# For the first process to find, and tell, what all of them find.
_FIRST = 3.0
_LOST = 30.0  # how long the store may be gone: at the end of a run the process that has it may be the first to leave


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
        self._met = False  # whether there has been one
        self._left = threading.Event()
        # The first process looks at all others, and these at it: each asks the store for little.
        others = range(1, processes) if rank == 0 else [0]
        self._seen = {other: (b"", time.monotonic()) for other in others}
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def first_to_tell(self) -> bool:
        """Whether this process is to tell why the run ends: of several only one is, and if it finds it in time the
        first. For what happens to all of them is told once, and without a process's name."""
        if (store := self._store) is not None:
            with contextlib.suppress(RuntimeError):
                ends = time.monotonic() + _FIRST
                while self.rank and time.monotonic() < ends and not store.check([_TOLD]):
                    time.sleep(0.05)
                return store.add(_TOLD, 1) == 1
        # Nobody can be asked. With the store the first one has gone, and the next one tells it.
        return self.rank == int(self._met)

    def fail(self) -> None:
        """This process ends, and what the others wait for will not come. `first_to_tell` has been asked before."""
        if (store := self._store) is not None:
            with contextlib.suppress(RuntimeError):
                store.set(_FAULT, b"")
                # With the first process the store may go, in which the others have to find it.
                ends = time.monotonic() + 2 * self._period
                while self.rank == 0 and store.add(_SEEN, 0) < self.processes - 1 and time.monotonic() < ends:
                    time.sleep(0.05)

    def name_lost(self) -> str:
        """After a connection to another process has broken: which of them gives no sign of life; "" if all do."""
        if not self._met:
            return ""
        if (store := self._store) is not None:
            with contextlib.suppress(RuntimeError):
                before = self._beats(store)
                time.sleep(3 * self._period)
                after = self._beats(store)
                for other, beat in enumerate(after):
                    if other != self.rank and beat == before[other] != _ENDED:
                        return f"{self._named(store, other)} {_GONE}"
                return ""
        return f"process 0 of {self.processes} {_GONE}"

    def close(self) -> None:
        """This process has done its work, and will give no further signs of life."""
        self._left.set()
        if self._thread.ident is not None:
            self._thread.join(_ANSWER.total_seconds())  # it may be about to count, which would not look like an end
        if (store := self._store) is not None:
            with contextlib.suppress(RuntimeError):
                store.set(_beat(self.rank), _ENDED)

    def _run(self) -> None:
        beats, lost_since = 0, time.monotonic()
        while True:
            try:
                store = self._store or self._connect()
                if self._store is None:
                    store.set(_host(self.rank), socket.gethostname())
                    self._store, self._met = store, True
                beats += 1
                store.set(_beat(self.rank), str(beats))
                fault = self._fault(store)
                lost_since = time.monotonic()
            except (OSError, RuntimeError):  # also torch's DistStoreError and DistNetworkError
                self._store = None  # PyTorch's does not connect again by itself
                waited = time.monotonic() - lost_since
                lost = waited >= (min(_LOST, self._patience) if beats else self._patience)
                fault = self._without_store(waited) if lost else None
            if fault is not None and not self._left.is_set():
                self._ended_by(fault)
            if fault is not None or self._left.wait(self._period):
                return

    def _fault(self, store: Store) -> str | None:
        """Why the run has to end, if it has to."""
        if store.check([_FAULT]):
            store.add(_SEEN, 1)
            return ""  # told by who found it
        now = time.monotonic()
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

    def _without_store(self, waited: float) -> str:
        """For who cannot ask whether it is told already."""
        return f"process 0 of {self.processes} {_silent(waited)}" if self.rank == 1 else ""


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
