"""Out of memory in its forms, each as one line; other errors pass."""

import numpy
import pytest
import torch

from c3l_hf.common.errors import RunError
from c3l_hf.common.memory_errors import is_out_of_memory, made_in_batches, told_of_memory

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 12.00 MiB is free"
)


def of_torch():
    torch.empty(1 << 50)  # more than any machine has


def of_numpy():
    numpy.empty(1 << 50)


def of_python():
    bytearray(1 << 60)


@pytest.mark.parametrize("allocate", [of_torch, of_numpy, of_python], ids=lambda function: function.__name__)
def test_memory_that_no_machine_has(allocate):
    with pytest.raises(RunError, match="^memory has run out.*: lower batch_size, which is 8$") as told:
        with told_of_memory("lower batch_size, which is 8"):
            allocate()
    assert "\n" not in str(told.value) and len(str(told.value)) < 250


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(CUDA),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    ],
)
def test_memory_of_accelerators(error):
    with pytest.raises(RunError, match="memory has run out") as told, told_of_memory("do less"):
        raise error
    assert str(told.value).endswith(": do less") and "\n" not in str(told.value) and "79.15" not in str(told.value)


def test_others_pass():
    for error in (RuntimeError("shapes do not fit"), ValueError("out of memory")):
        assert not is_out_of_memory(error)
        with pytest.raises(type(error)) as raised, told_of_memory("do less"):
            raise error
        assert raised.value is error


def test_what_is_made_in_batches_names_their_size():
    def made():
        yield 1
        raise RuntimeError(CUDA)

    items = made_in_batches(made(), "scoring_batch_size", 256)
    assert next(items) == 1
    with pytest.raises(RunError, match=r"^memory has run out \(.*\): lower scoring_batch_size, which is 256; what is"):
        next(items)
