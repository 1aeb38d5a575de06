"""Commands in several processes of a launcher, which share the work out or leave it to the first of them."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from c3l_hf.cli.command import is_left_to_the_first

ROOT = Path(__file__).parents[2]
OF_RANKS = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}",
        "OMP_NUM_THREADS": "1",
    }
    script = ROOT / "tests" / "helpers" / "every_command.py"
    done = subprocess.run([sys.executable, script, folder], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def rows_of(folder):
    return pa.concat_tables(map(pq.read_table, sorted(folder.glob("*.parquet")))).to_pylist()


def same(one, two):
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[name], two[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == pytest.approx(two, rel=1e-4, abs=1e-4) if isinstance(one, float) else one == two


@pytest.mark.slow
def test_two_processes_give_the_same_rows_in_the_same_order_as_one(made):
    tables = sorted(file.relative_to(made / "1") for file in (made / "1").glob("*.parquet"))
    assert [str(file) for file in tables] == [
        f"{name}.parquet" for name in ("again", "curated", "labels", "pairs", "scored")
    ]
    for file in tables[1:]:
        one, two = (pq.read_table(made / count / file).to_pylist() for count in "12")
        assert one and same(one, two), file
    for stage in ("1_generate", "2_score"):
        one, two = (rows_of(made / count / "run" / "stages" / stage) for count in "12")
        assert len(one) == 8 and same(one, two), stage
    shards = {count: len(list((made / count / "run/stages/1_generate").glob("*.parquet"))) for count in "12"}
    assert shards == {"1": 1, "2": 2}  # each process had its part
    for kind in ("pair-texts", "scores"):
        assert len(list((made / "cache-2").glob(f"c3l_hf-{kind}-*/*/*.parquet"))) == 2, kind


@pytest.mark.slow
def test_one_process_goes_on_with_what_two_have_made(made):
    """The pairs of `c3l generate`, in shards of a size that one alone would not choose."""
    assert pq.read_table(made / "1" / "again.parquet").equals(pq.read_table(made / "1" / "pairs.parquet"))


def test_work_that_is_not_shared_is_done_by_the_first_as_if_it_were_alone(monkeypatch):
    for name in OF_RANKS:
        monkeypatch.delenv(name, raising=False)
    assert not is_left_to_the_first()
    for name, value in zip(OF_RANKS, ("2", "2", "1", "1")):
        monkeypatch.setenv(name, value)
    assert is_left_to_the_first()
    for name, value in zip(OF_RANKS, ("2", "2", "0", "0")):
        monkeypatch.setenv(name, value)
    assert not is_left_to_the_first() and not any(name in os.environ for name in OF_RANKS)
