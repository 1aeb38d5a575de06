"""What was begun goes on with its own size, whatever the number of processes."""

from types import SimpleNamespace

import pytest

from c3l_hf.common import shard_sizes
from c3l_hf.common.shard_sizes import sized_folder


@pytest.fixture
def processes(monkeypatch):
    state = SimpleNamespace(num_processes=1, wait_for_everyone=lambda: None)
    monkeypatch.setattr(shard_sizes, "process_state", lambda: state)
    return state


@pytest.mark.parametrize(
    ("rows", "most", "count", "size"),
    [(1000, 300, 1, 300), (1000, 300, 8, 125), (9, 300, 4, 3), (2, 5, 8, 1), (0, 5, 2, 1)],
)
def test_every_process_gets_a_shard_if_there_are_rows_for_it(processes, tmp_path, rows, most, count, size):
    processes.num_processes = count
    assert sized_folder(tmp_path, rows, most) == (tmp_path / str(size), size)


def test_the_size_with_most_rows_is_kept(processes, tmp_path):
    for size, shards in {"300": 1, "125": 3, "50": 0, "other": 9}.items():
        (tmp_path / size).mkdir()
        for number in range(shards):
            (tmp_path / size / f"{number:05d}-of-00009.parquet").touch()
    (tmp_path / "50" / ".00000-of-00009.parquet.partial").touch()  # was not written to its end
    for processes.num_processes in (1, 2, 64):
        assert sized_folder(tmp_path, 1000, 300) == (tmp_path / "125", 125)
