"""One at a time in a folder: a lock that the system frees when its holder dies, and who holds it."""

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from c3l_hf.common.files import read_json, write_json
from c3l_hf.common.processes import process_state

__all__ = ["LOCK", "LOCK_FILES", "alone_in", "holder_of", "lock_folder"]

logger = logging.getLogger(__name__)

LOCK = ".lock"
_HOLDER = ".lock.json"
# What a lock leaves in a folder; it is not removed, as whoever waits would hold another file.
LOCK_FILES = (LOCK, _HOLDER)


def lock_folder(folder: str | Path, wait: bool = False) -> FileLock | None:
    """Lock a folder until what is returned is released, or this process ends, however it ends.

    The system keeps the lock (`flock`), also over the network between machines; no time is compared, so it does not
    matter what the clocks say. A process may lock a folder more than once.

    Args:
        folder: It must exist.
        wait: Whether to wait for whoever holds it.

    Returns:
        The lock; None if somebody else holds it, see `holder_of`.
    """
    lock = FileLock(Path(folder, LOCK), timeout=-1 if wait else 0, thread_local=False, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        return None
    since = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    write_json(Path(folder, _HOLDER), {"host": socket.gethostname(), "process": os.getpid(), "since": since})
    return lock


def holder_of(folder: str | Path) -> str:
    """Who holds the lock of a folder, in words; of one on another machine also what to do if that has died."""
    try:
        holder = read_json(Path(folder, _HOLDER))
        told = f"process {int(holder['process'])} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has not said which process it is"
    if holder["host"] != socket.gethostname():
        told += f"; if that machine has died and the lock stays, remove {Path(folder, LOCK)}"
    return told


@contextlib.contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Keep other commands out of a cache's folder, once they have left it: what they make there need not be made again.
    Every process calls this, and the main one waits, which a warning says.

    Args:
        folder: It is made if it does not exist. Where nothing may be written, as in a cache that is shared, there is
            nothing to keep others out of.
    """
    lock = None
    if process_state().is_main_process:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            lock = lock_folder(folder)
            if lock is None:
                told = f"another command is working in {folder} ({holder_of(folder)})"
                logger.warning("%s; this one goes on with what it has made, when it has ended", told)
                lock = lock_folder(folder, wait=True)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
    process_state().wait_for_everyone()
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
