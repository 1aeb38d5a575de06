"""Several processes of one command without a launcher: children of this process, in one group over the loopback."""

import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import PartialState


def in_ranks(
    count: int, work: Callable[[int], int | None], folder: Path, hosts: Sequence[str] | None = None
) -> list[int]:
    """Does work in so many processes, each of which is told its rank.

    Torch must not have worked with several threads before: they do not come along.

    Args:
        count: How many processes.
        work: What each does; gives its exit code.
        folder: Gets the output of each, `<rank>.txt`.
        hosts: What the machine of each is called, if not as it is.

    Returns:
        Their exit codes; 99 after an error that nobody caught.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads that pytest has
            child = os.fork()
        if child:
            children.append(child)
            continue
        code = 99
        try:
            _begin(rank, (hosts or [socket.gethostname()] * count)[:count], port, folder / f"{rank}.txt")
            code = work(rank) or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _begin(rank: int, hosts: Sequence[str], port: int, output: Path) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
    host = hosts[rank]
    socket.gethostname = lambda: host
    local = {"LOCAL_RANK": hosts[:rank].count(host), "LOCAL_WORLD_SIZE": hosts.count(host)}
    of_ranks = {"RANK": rank, "WORLD_SIZE": len(hosts), "MASTER_PORT": port, **local}
    os.environ |= {name: str(value) for name, value in of_ranks.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    PartialState._reset_state()
    signal.alarm(300)  # processes that wait for each other for ever
