"""Files that are whole or not there, and digests."""

import errno
import os
import subprocess
import time

import numpy as np
import pyarrow as pa
import pytest

from c3l_hf.common import files, tables
from c3l_hf.common.files import atomic_folder, atomic_write, code_digest, digest, read_json, shipped, write_json
from c3l_hf.common.run_folder import RunFolder


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"ä": [1]})
    assert read_json(path) == {"ä": [1]}
    with pytest.raises(RuntimeError):
        with atomic_write(path) as partial:
            partial.write_text("half")
            raise RuntimeError
    assert read_json(path) == {"ä": [1]} and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left on device: '.*a.json'"):
        with atomic_write(tmp_path / "a.json"):
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own with room for 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place]).returncode:
        pytest.skip("a disk may not be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_run_on_a_full_disk_goes_on_when_there_is_room(small_disk, tmp_path):
    """Wherever in a run the disk is full: one error with the file, and the rest is made later."""

    def make(first, last):
        yield pa.table({"y": np.random.default_rng(first).integers(0, 1 << 60, 3000)})  # 24 kB

    def run():
        folder = RunFolder(small_disk / "run", {})
        folder.plan({"first": {}}, ["first"])
        folder.claim()
        made = folder.in_shards("first", 4, make, pa.schema({"y": pa.int64()}), lambda shards: {"n": len(shards)}, 1)
        return made.table().num_rows

    ballast = small_disk / "ballast"
    for size in (180, 150, 120, 90, 60):
        ballast.write_bytes(bytes(size * 1000))
        with pytest.raises(OSError, match=r"No space left on device: '.*disk/run"):
            run()
        assert not list(small_disk.rglob("*.partial"))
    ballast.unlink()
    assert run() == 12_000


def test_a_folder_that_is_read_only_is_told(tmp_path, small_disk):
    RunFolder(small_disk / "run", {}).check_folder()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match=r"Read-only file system: '.*disk/run'"):
        run = RunFolder(small_disk / "run", {})
        run.plan({"first": {}}, ["first"])
        run.claim()


def test_digests_keep_parts_apart():
    assert digest("a", "bc") != digest("ab", "c") and digest("a", 1) == digest("a", "1") == digest(b"a", "1")
    assert digest("\ud800") and len(digest("a")) == 32 and len(digest("a", size=8)) == 16
    assert code_digest(files) != code_digest(tables) and code_digest(files) == code_digest(files)


def test_what_is_shipped():
    assert (shipped("configs") / "scenes.yaml").is_file() and (shipped("hub_cards") / "dataset_card.md").is_file()


def test_a_folder_is_whole_or_not_there(tmp_path):
    target = tmp_path / "result"
    (tmp_path / ".result.partial").mkdir()
    (tmp_path / ".result.partial" / "left").write_text("by a run that was killed")
    with pytest.raises(KeyboardInterrupt):
        with atomic_folder(target) as partial:
            assert not list(partial.iterdir())
            (partial / "a").write_text("half")
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    for text in ("first", "second"):
        with atomic_folder(target) as partial:
            (partial / text).write_text(text)
            assert text == "first" or (target / "first").is_file()  # until the new one is complete
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_a_file_that_several_write_at_once(tmp_path):
    """Also if their processes have the same number, as in two containers."""
    with atomic_write(tmp_path / "cache", shared=True) as first:
        with atomic_write(tmp_path / "cache", shared=True) as second:
            first.write_text("first")
            second.write_text("second")
        assert (tmp_path / "cache").read_text() == "second"
    assert (tmp_path / "cache").read_text() == "first" and len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_has_left_beside_a_shared_file_is_removed_later(tmp_path):
    cache = tmp_path / "cache"
    names = {".cache.shared-0.partial": 4000, ".cache.shared-1.partial": 5, ".other.partial": 4000}
    for name, age in names.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    with atomic_write(cache, shared=True) as partial:
        partial.write_text("whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".cache.shared-1.partial", ".other.partial", "cache"]
