"""This process's place among those that a launcher started together."""

import torch
from accelerate import PartialState

__all__ = ["process_state"]


def process_state() -> PartialState:
    """Rank, number of processes and device, and how to wait for the others.

    `PartialState()` alone finds no other processes on a machine without accelerator: it has to be told that the CPU is
    what they run on.
    """
    return PartialState(cpu=not torch.accelerator.is_available())
