"""What a piece of work takes: its seconds, and the most memory that a process had meanwhile."""

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import psutil
import torch
from accelerate.utils import gather_object

__all__ = ["UsageMeter", "format_bytes", "format_seconds", "most_of_processes", "one_after_the_other"]

# Often enough for what lasts: a batch, a model's weights. What lives for less is not seen.
_SECONDS_BETWEEN_LOOKS = 0.2


class UsageMeter:
    """Measures seconds and memory from here until `stop`.

    The memory of the process is its resident set, looked at five times a second by a thread; that of an accelerator is
    PyTorch's own count of the most that its tensors took, the largest of the devices that this process uses.
    """

    def __init__(self) -> None:
        self._began, self._process = time.monotonic(), psutil.Process()
        self._most = self._process.memory_info().rss
        self._ended = threading.Event()
        self._accelerated = torch.accelerator.is_available()
        if self._accelerated:
            for device in range(torch.accelerator.device_count()):
                torch.accelerator.reset_peak_memory_stats(device)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def so_far(self) -> dict[str, Any]:
        """`seconds`; `peak_memory_bytes`; with an accelerator, `peak_accelerator_bytes`."""
        self._most = max(self._most, self._process.memory_info().rss)
        usage: dict[str, Any] = {"seconds": round(time.monotonic() - self._began, 3), "peak_memory_bytes": self._most}
        if self._accelerated:
            devices = range(torch.accelerator.device_count())
            usage["peak_accelerator_bytes"] = max(map(torch.accelerator.max_memory_allocated, devices))
        return usage

    def stop(self) -> dict[str, Any]:
        """The same, at the end."""
        usage = self.so_far()
        self._ended.set()
        self._thread.join()
        return usage

    def _look(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            self._most = max(self._most, self._process.memory_info().rss)


def one_after_the_other(usages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What pieces of work took that came one after the other: all their seconds, the most of their memory."""
    together: dict[str, Any] = {}
    for usage in usages:
        for name, value in usage.items():
            before = together.get(name, 0)
            together[name] = round(before + value, 3) if name == "seconds" else max(before, value)
    return together


def most_of_processes(usage: Mapping[str, Any]) -> dict[str, Any]:
    """What the process took that took most. Every process calls this."""
    usages = gather_object([dict(usage)])
    return {name: max(one[name] for one in usages if name in one) for name in usage}


def format_seconds(seconds: float) -> str:
    """A time in the units in which one thinks of it: 4.1 s, 12 min, 3 h 05 min."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def format_bytes(size: float) -> str:
    """A size in MB, from 1000 on in GB."""
    return f"{size / 1e6:,.0f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"
