"""This process's place among those that a launcher started together."""

from datetime import timedelta

import torch
import torch.distributed.nn
from accelerate import PartialState

__all__ = ["gather_with_gradient", "process_state"]


# Of one process for the others, while it judges, curates or writes its part; torch's 10 minutes on GPUs end the run.
_PATIENCE = timedelta(days=1)


def process_state() -> PartialState:
    """Rank, number of processes and device, and how to wait for the others.

    `PartialState()` alone finds no other processes on a machine without accelerator: it has to be told that the CPU is
    what they run on.
    """
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """The tensors of all processes, along the first dimension in the order of the processes; backwards the gradients
    that all processes have for a tensor come together at its own.

    Args:
        tensor: Of the same shape on every process.
    """
    if process_state().num_processes == 1:
        return tensor
    return torch.cat(torch.distributed.nn.all_gather(tensor))
