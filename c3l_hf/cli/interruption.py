"""How a command ends before its time: by a signal, or by another process of its launcher; in seconds, in one line.

Results on the disk outlast any end, so what matters is that nothing keeps a process from ending, and that nothing of it
stays. A signal is an exception in the main thread, which cleans up on its way out. Where that thread does not come out
in a few seconds (it waits for other processes, or for an import), a second thread ends the process.
"""

import atexit
import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from c3l_hf.common.words import printable

__all__ = ["Interruption", "rank"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# For the main thread to come out, and for children to end.
_GRACE, _GRACE_OF_CHILDREN = 5.0, 1.0
# A second signal ends at once, unless it is the first one handed on: a launcher gets Ctrl-C beside its processes.
_HANDED_ON = 1.0
_LOOK = 0.5
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
# Set by `accelerate launch`, and by what it uses for several processes.
_OF_LAUNCHERS = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")


def rank() -> int:
    """This process's number among those of a launcher; 0 without one. Known before torch is loaded."""
    numbers = (os.environ.get(name, "") for name in _RANKS)
    return next((int(number) for number in numbers if number.isdigit()), 0)


class Interruption:
    """What ends a command before its time. Without `install` it does nothing, as from Python.

    Attributes:
        installed: Whether it takes signals.
        number: The signal that came, if one did.
        line: What is told of it.
        working: Whether there is something to clean up: until then a signal ends the process at once, which an
            exception among the imports would not (extensions print it, or turn it into others).
        speaks: Whether this process tells it; asked once.
        leaves: Called before the process ends without its main thread.
    """

    def __init__(self) -> None:
        self.installed = False
        self.number: int | None = None
        self.line = "c3l: interrupted; nothing has been done yet"
        self.working = False
        self.speaks: Callable[[], bool] = lambda: rank() == 0
        self.leaves: Callable[[], object] = lambda: None
        self._code: int | None = None
        self._raises = True
        self._told = threading.Lock()
        self._handled: set[int] = set()
        self._masks = threading.local()  # of signals, before a fork
        self._launcher = os.getppid() if any(name in os.environ for name in _OF_LAUNCHERS) else None

    def install(self) -> None:
        """Begin to take signals; in the main thread of the process of a command, once."""
        self.installed = True
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup, and of a shell's background jobs
                signal.signal(number, self._on_signal)
                self._handled.add(number)
        # The main thread may be in a long call, in which Python's handlers wait; the number is written at once.
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        sys.unraisablehook = self._unraisable
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child)
        atexit.register(self._last)  # the first that is registered is called last
        threading.Thread(target=self._watch, name="interruption", daemon=True).start()

    @property
    def code(self) -> int:
        """The exit code after a signal, as shells have it."""
        return self._code if self._code is not None else 128 + (self.number or signal.SIGINT)

    def end(self, line: str, code: int) -> None:
        """End the process as by a signal, from any thread, but with this code.

        Args:
            line: What is told, if this process is the one that tells it; else "".
            code: Of the end.
        """
        if self.number is not None:
            return
        self._code = code
        if line:
            self.tell(line)
        else:
            self._told.acquire(blocking=False)
        os.kill(os.getpid(), signal.SIGTERM)

    def tell(self, line: str | None = None) -> None:
        """Say why it ends, once."""
        if self._told.acquire(blocking=False) and (line or self.speaks()):
            text = "\n".join(map(printable, (line or self.line).splitlines()))
            if threading.current_thread() is threading.main_thread():
                print(text, file=sys.stderr, flush=True)
            else:  # beneath a progress bar, and past a lock that the main thread may have
                with contextlib.suppress(OSError):
                    os.write(2, f"{chr(10) if os.isatty(2) else ''}{text}\n".encode("utf-8", "replace"))

    def finish(self) -> None:
        """The command has ended, or is about to: from here on a signal raises nothing."""
        self._raises = False

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.number = self.number or number
        if self._raises and self.working:
            self._raises = False
            raise KeyboardInterrupt

    def _watch(self) -> None:
        import psutil  # here: the main thread may be in the middle of its imports when it is needed

        self._psutil = psutil
        begun: float | None = None
        while True:
            left = _LOOK if begun is None else max(0.0, min(_LOOK, begun + _GRACE - time.monotonic()))
            ready, _, _ = select.select([self._reader], [], [], left)
            came = [number for number in (self._reader.recv(4096) if ready else b"") if number in self._handled]
            now = time.monotonic()
            if came and begun is None:
                begun, first = now, came.pop(0)
                self.number = self.number or first
                if not self.working:
                    self._end()
            # On a busy machine a second one may be read with the first.
            if begun is not None and (now - begun >= _GRACE or (came and now - begun >= _HANDED_ON)):
                self._end()
            if begun is None and self._launcher is not None and os.getppid() != self._launcher:
                # `accelerate launch` has ended, and hands no signal on to a single process.
                self._launcher = None
                os.kill(os.getpid(), signal.SIGTERM)

    def _end(self) -> None:
        self.tell()
        if self.working:
            for step in (self.leaves, self._stop_children):
                with contextlib.suppress(Exception):
                    step()
        os._exit(self.code)

    def _stop_children(self) -> None:
        """End what would outlive the process: servers, and workers that read data."""
        # multiprocessing's tracker ends by itself, and has to: it removes shared memory.
        children = [
            child
            for child in self._psutil.Process().children(recursive=True)
            if not any("resource_tracker" in word for word in child.cmdline())
        ]
        for child in children:
            child.terminate()
        for child in self._psutil.wait_procs(children, _GRACE_OF_CHILDREN)[1]:
            child.kill()

    def _before_fork(self) -> None:
        """Until the new process has its signals for itself, what is sent to it would be told here."""
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, self._handled)

    def _after_fork(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _in_child(self) -> None:
        """A forked process is none of ours to tell about: it has its signals for itself, and no line."""
        signal.set_wakeup_fd(-1)
        for number in self._handled:
            signal.signal(number, signal.SIG_DFL)
        self.number, self._launcher = None, None
        self._after_fork()

    def _unraisable(self, unraisable: Any) -> None:
        if not (self.number and isinstance(unraisable.exc_value, KeyboardInterrupt)):
            sys.__unraisablehook__(unraisable)

    def _last(self) -> None:
        if self.number is None:
            for number in self._handled:
                signal.signal(number, signal.SIG_DFL)
        else:
            # What Python and libraries would still do has no purpose, and may wait for other processes.
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(self.code)
