"""This process's place among those that a launcher started together, and how many threads it may use."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed.nn
from accelerate import PartialState

__all__ = ["first_on_each_machine", "gather_with_gradient", "limit_threads", "process_state"]


# Of one process for the others, while it judges, curates or writes its part; torch's 10 minutes on GPUs end the run.
_PATIENCE = timedelta(days=1)


def process_state() -> PartialState:
    """Rank, number of processes and device, and how to wait for the others.

    `PartialState()` alone finds no other processes on a machine without accelerator: it has to be told that the CPU is
    what they run on.
    """
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)


@contextlib.contextmanager
def first_on_each_machine() -> Iterator[None]:
    """The main process goes first, then the first one of every other machine, then the rest: what one has written on a
    disk that they share, those after it find there, and no two write it at once. Every process calls this."""
    with process_state().main_process_first(), process_state().local_main_process_first():
        yield


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """The tensors of all processes, along the first dimension in the order of the processes; backwards the gradients
    that all processes have for a tensor come together at its own.

    Args:
        tensor: Of the same shape on every process.
    """
    if process_state().num_processes == 1:
        return tensor
    return torch.cat(torch.distributed.nn.all_gather(tensor))


def limit_threads() -> None:
    """Keep PyTorch within the cores that this process may use.

    What the user or the launcher has set (`OMP_NUM_THREADS`) stays as it is. So does what PyTorch takes of itself, if
    it is not more than affinity and container allow, shared by the processes on this machine.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    allowed = max(1, int(_usable_cores()) // _processes_here())
    if torch.get_num_threads() > allowed:
        torch.set_num_threads(allowed)


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", process_state().num_processes))


def _usable_cores(groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores by affinity and by the quota of the container (cgroup v2 and v1), of which it may have a part of one."""
    cores = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(torch.get_num_threads())
    for quota_file, period_file in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            texts = (groups / quota_file).read_text().split()
            texts += (groups / period_file).read_text().split() if period_file else []
            quota, period = float(texts[0]), float(texts[1])  # "max" is no number: no limit
        except (OSError, ValueError, IndexError):
            continue
        if quota > 0 and period > 0:
            cores = min(cores, quota / period)
    return max(cores, 1.0)
