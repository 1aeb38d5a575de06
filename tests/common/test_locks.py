"""One at a time in a folder, and who that is."""

import json
import os
import socket
import subprocess
import sys

import pytest
from filelock import FileLock

from c3l_hf.common import locks
from c3l_hf.common.locks import LOCK, alone_in, holder_of, lock_folder


def test_a_lock_says_who_holds_it(tmp_path):
    lock = lock_folder(tmp_path)
    assert holder_of(tmp_path).startswith(f"process {os.getpid()} on {socket.gethostname()}, since 2")
    assert lock_folder(tmp_path) is lock  # in this process it is its own
    lock.release()
    lock.release()
    with FileLock(tmp_path / LOCK):
        assert lock_folder(tmp_path) is None


def test_a_holder_on_another_machine_may_have_died(tmp_path):
    (tmp_path / ".lock.json").write_text(json.dumps({"host": "node7", "process": 12, "since": "2020-01-01"}))
    assert holder_of(tmp_path) == (
        f"process 12 on node7, since 2020-01-01; if that machine has died and the lock stays, remove {tmp_path}/.lock"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "a", "process": "x", "since": ""}'])
def test_a_holder_that_cannot_be_read_is_no_error(tmp_path, text):
    (tmp_path / ".lock.json").write_text(text)
    assert holder_of(tmp_path) == "it has not said which process it is"


def test_a_lock_ends_with_its_process(tmp_path):
    """However it ends, and whatever the clock says then."""
    code = "import os, sys; from filelock import FileLock; FileLock(sys.argv[1]).acquire(); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / LOCK)])
    assert done.returncode == -9 and (tmp_path / LOCK).exists()
    os.utime(tmp_path / LOCK, (4e9, 4e9))
    assert lock_folder(tmp_path) is not None


def test_whoever_comes_second_to_a_cache_waits(tmp_path, monkeypatch):
    folder, told = tmp_path / "cache", []
    folder.mkdir()
    first = FileLock(folder / LOCK)
    first.acquire()
    monkeypatch.setattr(locks.logger, "warning", lambda *text: (told.append(text[1]), first.release()))
    with alone_in(folder):
        assert told == [f"another command is working in {folder} (it has not said which process it is)"]
        with pytest.raises(TimeoutError):
            FileLock(folder / LOCK).acquire(timeout=0)
    first.acquire(timeout=0)


def test_a_cache_that_is_only_read_needs_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "lock_folder", lambda folder: (_ for _ in ()).throw(PermissionError(13, "no", folder)))
    with alone_in(tmp_path):
        pass
