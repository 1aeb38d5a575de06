"""Which errors are told in one line, and what the line says."""

import errno
import os

import httpx2
import pyarrow.lib
import pytest
import torch
from safetensors import SafetensorError

from c3l_hf.cli.failures import expected_failure, is_of_peers
from c3l_hf.common.errors import RunError


def error_of(number, *names):
    return OSError(number, os.strerror(number), *names)


def caused_by(cause, error):
    error.__cause__ = cause
    return error


FULL = "No space left on device; make room there, and the same command goes on"
NO_MEMORY = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: 4000 bytes."
GLOO = (
    "[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:8626. Check the logs of the remote worker"
)
REQUEST = httpx2.Request("GET", "https://user:hf_secret@hub.example/api?token=hf_secret")
SMALLER = "give smaller batches (the options that end in batch_size), and the same command goes on"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (error_of(errno.ENOSPC, "runs/x/a.parquet"), f"runs/x/a.parquet: {FULL}"),
        (error_of(errno.ENOSPC), FULL),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), FULL),
        (OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"), FULL),
        # As `datasets` raises it.
        (caused_by(error_of(errno.ENOSPC, "place/x"), RuntimeError("An error occurred")), f"place/x: {FULL}"),
        (
            error_of(errno.EIO, b"runs/x"),
            "runs/x: Input/output error; look after the disk, and the same command goes on",
        ),
        (error_of(errno.EROFS, "x"), "x: Read-only file system; make it writable, and the same command goes on"),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
            "a file cannot be written ([enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534); "
            "make room on the disk, and the same command goes on",
        ),
        (MemoryError(), f"memory has run out (MemoryError); {SMALLER}"),
        (pyarrow.lib.ArrowMemoryError("malloc failed"), f"memory has run out (malloc failed); {SMALLER}"),
        (torch.OutOfMemoryError("CUDA out of memory."), f"memory has run out (CUDA out of memory.); {SMALLER}"),
        (RuntimeError(NO_MEMORY), f"memory has run out ({NO_MEMORY}); {SMALLER}"),
        (
            RuntimeError(GLOO),
            "the connection to another process was lost: it has died or cannot be reached; the same command goes on",
        ),
        (
            httpx2.ConnectError("refused", request=REQUEST),
            "the connection to hub.example was lost (refused); the same command goes on",
        ),
        (httpx2.ReadTimeout("timed out"), "the connection to a server was lost (timed out); the same command goes on"),
        (RunError("images is x; no"), "images is x; no"),
        (ValueError("a\nb"), "a\nb"),
        (FileNotFoundError(2, "No such file or directory", "x"), "[Errno 2] No such file or directory: 'x'"),
        (OSError(), "OSError"),
    ],
)
def test_what_users_can_meet(error, line):
    assert expected_failure(error, resumes=True) == line


@pytest.mark.parametrize(
    "error",
    [
        KeyError("a bug"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        caused_by(FileNotFoundError(2, "No such file"), RuntimeError("a bug")),
        # Of an error that a row may have told of, and not of the disk.
        TypeError("unexpected argument errno 28"),
    ],
)
def test_all_others_are_bugs(error):
    assert expected_failure(error, resumes=True) is None and not is_of_peers(error)


def test_of_a_command_that_begins_anew():
    assert expected_failure(MemoryError(), resumes=False).endswith("and give the same command again")


def test_a_circle_of_causes_ends():
    one, other = KeyError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one
    assert expected_failure(one, resumes=True) is None
