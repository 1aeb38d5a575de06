"""What a launcher's machines must have in common, between real processes; what differs is named on all of them."""

import os
import socket
from pathlib import Path

import pytest
from ranks import in_ranks

from c3l_hf.common import nodes
from c3l_hf.common.errors import RunError
from c3l_hf.common.nodes import check_installation, check_places, check_same, check_shared, wait_for_files


def messages(folder, work, count=2, hosts=("gpu-1", "gpu-2", "gpu-3")):
    """The RunError of each process, "" if there was none."""

    def told(rank):
        try:
            work(rank)
        except RunError as error:
            with open(folder / f"error-{rank}", "w") as file:
                file.write(str(error))

    codes = in_ranks(count, told, folder / "ranks", hosts)
    assert codes == [0] * count, [(folder / "ranks" / f"{rank}.txt").read_text() for rank in range(count)]
    files = [folder / f"error-{rank}" for rank in range(count)]
    return [file.read_text() if file.exists() else "" for file in files]


def test_all_processes_hear_what_differs_and_where(tmp_path):
    def work(rank):
        check_same({"seed": 0, "model": {"revision": "abc"}}, "never needed")
        check_same({"seed": 0, "dtype": "float32", "model": {"revision": "abc" if rank < 2 else "def"}}, "give one")

    assert (
        messages(tmp_path, work, 3)
        == ["the machines differ (model.revision: abc on gpu-1 and gpu-2, def on gpu-3); give one"] * 3
    )


def test_what_some_do_not_have_and_long_lists(tmp_path):
    def work(rank):
        check_same({f"option {number}": "x" * 200 for number in range(6 * rank)} | {"none": None}, "")

    first, second = messages(tmp_path, work)
    assert first == second and first.count("nothing on gpu-1, xxx") == 4 and "; and 2 more)" in first
    assert len(first) < 800


def test_processes_of_one_machine_are_numbered(tmp_path):
    told = messages(tmp_path, lambda rank: check_same({"seed": rank}, "."), hosts=("gpu-1", "gpu-1"))
    assert told == ["the machines differ (seed: 0 on gpu-1 (process 0), 1 on gpu-1 (process 1)); ."] * 2


def test_other_versions_and_other_code(tmp_path, monkeypatch):
    package = tmp_path / "c3l_hf"
    package.mkdir()
    (package / "__init__.py").write_text("")

    def work(rank):
        if rank:
            versions = nodes.versions() | {"transformers": "4.0.0"}
            monkeypatch.setattr(nodes, "versions", lambda: versions)
            monkeypatch.setattr(nodes.c3l_hf, "__file__", str(package / "__init__.py"))
        check_installation()

    first, second = messages(tmp_path, work)
    assert first == second and "transformers: " in first and "4.0.0 on gpu-2" in first
    assert "the code of c3l_hf: " in first and "install the same versions on all machines" in first
    assert messages(tmp_path / "package", lambda _: check_installation()) == ["", ""]


def test_a_place_that_one_machine_does_not_see(tmp_path, monkeypatch):
    def work(rank):
        there = os.path.exists
        monkeypatch.setattr("os.path.exists", lambda path: there(path) and not (rank and "pictures" in str(path)))
        check_places({"model": "user/model", "marks": None, "decontaminate": ["pope"], "images": tmp_path})
        check_places({"images": str(tmp_path / "pictures")})

    (tmp_path / "pictures").mkdir()
    first, second = messages(tmp_path, work)
    assert first == second and f"images {tmp_path}/pictures: there on gpu-1, nothing on gpu-2" in first


def test_a_shared_folder_is_left_as_it_was(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    left = tmp_path / "run" / ".node-0.partial"  # of a process that was killed long ago
    left.touch()
    os.utime(left, (0, 0))
    assert messages(tmp_path, lambda _: check_shared(tmp_path / "run", "output_dir"), 3) == ["", "", ""]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]
    assert messages(tmp_path, lambda _: check_shared(tmp_path / "new" / "run", "output_dir")) == ["", ""]
    assert not any((tmp_path / "new" / "run").iterdir())


def test_folders_of_one_name_that_are_not_the_same(tmp_path, monkeypatch):
    """As on local disks; what was made for the question is gone."""
    monkeypatch.setattr(nodes, "_PATIENCE", 0.0)

    def work(rank):
        (tmp_path / str(rank)).mkdir()
        os.chdir(tmp_path / str(rank))
        check_shared("runs/mine", "output_dir")

    told = messages(tmp_path, work, 3)
    says = "output_dir runs/mine is not the same folder on gpu-1, gpu-2, gpu-3; give one on a disk that all share"
    assert told == [says] * 3
    assert not any((tmp_path / str(rank) / "runs" / "mine").exists() for rank in range(3))


def test_a_folder_that_one_machine_cannot_write(tmp_path, monkeypatch):
    def work(rank):
        if rank:
            monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(OSError(30, os.strerror(30))))
        check_shared(tmp_path / "run", "output_dir")

    says = "cannot be written on gpu-2 (Read-only file system); give one that all machines share"
    assert messages(tmp_path, work) == [f"output_dir {tmp_path}/run {says}"] * 2


def test_files_that_a_disk_tells_of_late(tmp_path, monkeypatch):
    """A listing shows them before a look at their names does."""
    (tmp_path / "shard").touch()
    looks = []
    monkeypatch.setattr(Path, "exists", lambda path: False)
    monkeypatch.setattr(os, "listdir", lambda folder: looks.append(folder) or ["shard"] * (len(looks) > 2))
    monkeypatch.setattr(nodes.time, "sleep", lambda seconds: None)
    wait_for_files([tmp_path / "shard"])
    assert len(looks) == 3
    monkeypatch.setattr(nodes, "_PATIENCE", 0.0)
    with pytest.raises(RunError, match=f"other, which another process has made, is not seen on {socket.gethostname()}"):
        wait_for_files([tmp_path / "other"])


def test_one_process_alone_asks_nothing(tmp_path):
    check_installation()
    check_same({"anything": object()}, "")
    check_shared(tmp_path / "run", "output_dir")
    assert not (tmp_path / "run").exists()
