"""A run's folder: what is reused, what is refused, what survives an interruption."""

import gc
import json
import os
import re
import shutil
import socket

import pyarrow as pa
import pytest
from filelock import FileLock, Timeout

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import files_digest
from c3l_hf.common.records import read_record, write_record
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.common.shards import Shards

PLAN = {"first": {"k": 5}, "second": {"size": 3}}
SCHEMA = pa.schema({"y": pa.int64()})


def make_run(folder, plan=PLAN, wanted=("first", "second"), **inputs):
    run = RunFolder(folder, {"seed": 0, **inputs})
    run.plan(plan, wanted)
    run.claim()
    return run


def test_one_run_at_a_time(tmp_path):
    """What a second one would clear away as left over is what the first is making."""
    run = make_run(tmp_path)
    making = run.path("first").with_name("1_first.unfinished") / "half"
    other = FileLock(tmp_path / ".lock", timeout=0)  # as another process has it
    with pytest.raises(Timeout):
        other.acquire()
    make_run(tmp_path)  # in this process the folder is its own
    del run
    gc.collect()
    with other:
        making.parent.mkdir(parents=True)
        making.write_text("half")
        holder = f"process {os.getpid()} on {re.escape(socket.gethostname())}, since 20"
        with pytest.raises(RunError, match=f"another run is working in .* .{holder}.*; wait until it has ended"):
            make_run(tmp_path)
        assert making.is_file()
    make_run(tmp_path)
    assert not making.exists()


def numbers(n, calls):
    def make(folder):
        calls.append(n)
        (folder / "numbers").write_text(",".join(map(str, range(n))))
        return {"rows": n}

    return make


def test_a_result_is_made_once(tmp_path):
    calls = []
    for _ in range(2):
        run = make_run(tmp_path / "run")
        assert run.complete("first", numbers(4, calls)) == {"rows": 4} == run.report("first")
        assert (run.path("first") / "numbers").read_text() == "0,1,2,3"
    assert calls == [4]
    assert not list(tmp_path.glob("run/stages/*.unfinished"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"plan": {"first": {"k": 6}, "second": {"size": 3}}},
            "(k: 5 there, 6 asked for); stages concerned: first; give",
        ),
        ({"seed": 1}, "(seed: 0 there, 1 asked for)"),
        ({"seed": "a" * 64}, "(seed: 0 there, content of its own asked for)"),
        ({"plan": {"first": {"k": 6, "j": 1}, "second": {}}}, "(j: None there, 1 asked for; k: 5 there, 6 asked for)"),
    ],
)
def test_another_runs_result_is_refused_and_kept(tmp_path, change, says):
    folder = tmp_path / "run"
    make_run(folder).complete("first", numbers(4, []))
    before = sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file())
    with pytest.raises(
        RunError, match=f"1_first holds another run's result {re.escape(says)}.*output_dir, or restart_from first"
    ):
        make_run(folder, **change)
    assert before == sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file())


def test_a_later_stage_knows_the_options_of_the_earlier(tmp_path):
    make_run(tmp_path).complete("second", numbers(1, []))
    changed = {"first": {"k": 6}, "second": {"size": 3}}
    with pytest.raises(RunError, match="2_second holds another run's result .first.k: 5 there, 6 asked for"):
        make_run(tmp_path, changed)
    # an option of a stage that has no result yet is free
    make_run(tmp_path / "other").complete("first", numbers(1, []))
    make_run(tmp_path / "other", {"first": {"k": 5}, "second": {"size": 9}})


def test_old_results_are_set_aside_and_kept(tmp_path):
    run = make_run(tmp_path)
    for stage in PLAN:
        run.complete(stage, numbers(3, []))
    run.results, run.beside = ["dataset", "generator"], {"first": ["vectors-*"], "second": ["replies/second"]}
    for name in ("dataset", "vectors-1", "replies/first", "replies/second"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "rows").write_text("rows")
    changed = {**PLAN, "second": {"size": 9}}
    aside = run.set_aside("second")
    assert aside == tmp_path / "set_aside-1"
    assert (aside / "stages" / "2_second" / "numbers").is_file() and (aside / "dataset" / "rows").read_text() == "rows"
    assert (aside / "replies" / "second" / "rows").is_file() and not (tmp_path / "replies" / "second").exists()
    assert (tmp_path / "replies" / "first").exists() and (tmp_path / "vectors-1").exists()
    again = make_run(tmp_path, changed)
    assert again.is_done("first") and not again.is_done("second") and not (tmp_path / "dataset").exists()
    again.complete("second", numbers(5, []))
    (tmp_path / "set_aside-by-me").mkdir()
    assert again.set_aside("second") == tmp_path / "set_aside-2"
    assert again.set_aside("second") is None


def test_nothing_is_set_aside_under_another_run(tmp_path):
    make_run(tmp_path).complete("first", numbers(1, []))
    gc.collect()
    with FileLock(tmp_path / ".lock", timeout=0):
        run = RunFolder(tmp_path, {"seed": 0})
        run.plan(PLAN, PLAN)
        with pytest.raises(RunError, match="another run is working in"):
            run.set_aside("first")
    assert (tmp_path / "stages" / "1_first").is_dir()


def test_somebody_elses_folder_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty and was not made by c3l_hf"):
        make_run(tmp_path)
    with pytest.raises(RunError, match="is a file"):
        make_run(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_an_interrupted_stage_leaves_no_result(tmp_path):
    def fails(folder):
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    run = make_run(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.complete("first", fails)
    assert not run.is_done("first")
    run = make_run(tmp_path)
    assert run.complete("first", numbers(2, [])) == {"rows": 2}
    assert not (run.path("first") / "half").exists()


def test_a_stage_alone_needs_what_comes_before(tmp_path):
    with pytest.raises(RunError, match="no result of first yet; add it to stages"):
        make_run(tmp_path / "run", wanted=["second"])
    assert not (tmp_path / "run").exists()
    make_run(tmp_path / "run", wanted=["first"]).complete("first", numbers(2, []))
    make_run(tmp_path / "run", wanted=["second"])


def doubled(calls, stop_at=None):
    def make(first, last):
        if stop_at in range(first, last):
            raise KeyboardInterrupt
        calls.append(list(range(first, last)))
        yield pa.table({"y": [2 * x for x in range(first, last)]})

    return make


def in_shards(run, calls, stage="first", size=2, stop_at=None):
    def report(shards):
        return {"rows": shards.num_rows}

    return run.in_shards(stage, 7, doubled(calls, stop_at), SCHEMA, report, size).table()["y"].to_pylist()


def test_a_stage_in_shards_goes_on_with_the_next_one(tmp_path):
    calls = []
    with pytest.raises(KeyboardInterrupt):
        in_shards(make_run(tmp_path), calls, stop_at=4)
    assert calls == [[0, 1], [2, 3]] and not make_run(tmp_path).is_done("first")
    run = make_run(tmp_path)
    # Another size of shards does not lose what was begun.
    assert in_shards(run, calls, size=3) == [2 * x for x in range(7)]
    assert calls == [[0, 1], [2, 3], [4, 5], [6]] and run.report("first") == {"rows": 7}
    names = sorted(path.name for path in run.path("first").iterdir())
    assert names == [f"0000{number}-of-00004.parquet" for number in range(4)] + ["stage.json", "stage.json.bak"]
    assert in_shards(run, calls) == [2 * x for x in range(7)] and len(calls) == 4


def test_shards_of_other_options_are_not_lost(tmp_path):
    """A mistyped option must not cost what an interrupted stage has made."""
    calls = []
    with pytest.raises(KeyboardInterrupt):
        in_shards(make_run(tmp_path), calls, stop_at=6)
    changed = {**PLAN, "first": {"k": 6}}
    with pytest.raises(RunError, match="k: 5 there, 6 asked for.; stages concerned: first; .* restart_from first"):
        make_run(tmp_path, changed)
    other = RunFolder(tmp_path, {"seed": 0})
    other.plan(changed, PLAN, restart_from="first")
    aside = other.set_aside("first")
    assert len(list(aside.glob("stages/1_first.unfinished/*.parquet"))) == 3
    assert len(in_shards(make_run(tmp_path, changed), calls)) == 7 and len(calls) == 3 + 4


def test_shards_that_were_made_of_something_else_are_set_aside(tmp_path, caplog):
    """The stage before was made again, and came out otherwise: in other shards."""
    calls, run = [], make_run(tmp_path)
    in_shards(run, calls)
    with pytest.raises(KeyboardInterrupt):
        in_shards(run, calls, "second", stop_at=6)
    shutil.rmtree(run.path("first"))
    again = make_run(tmp_path)
    in_shards(again, calls, size=7)
    assert "second was made of another result of first than is there now; it is made again" in caplog.text
    assert len(list(tmp_path.glob("set_aside-1/stages/2_second.unfinished/*.parquet"))) == 3
    in_shards(again, calls, "second")
    assert calls[-5:] == [list(range(7)), [0, 1], [2, 3], [4, 5], [6]]


def test_a_shard_that_was_cut_short_is_made_again(tmp_path):
    calls = []
    with pytest.raises(KeyboardInterrupt):
        in_shards(make_run(tmp_path), calls, stop_at=2)
    (folder,) = tmp_path.glob("stages/1_first.unfinished")
    (folder / ".00001-of-00004.parquet.partial").write_text("half")
    assert in_shards(make_run(tmp_path), calls) == [2 * x for x in range(7)]
    assert calls == [[0, 1], [2, 3], [4, 5], [6]] and not list(tmp_path.rglob("*.partial"))


def test_shards_are_not_merged(tmp_path):
    """What a stage has written once stays where it is."""
    run, written = make_run(tmp_path), []
    plain = Shards.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shards, "write", lambda shards, *args: written.append(args[0]) or plain(shards, *args))
        in_shards(run, [])
    assert written == [0, 1, 2, 3] and len(list(tmp_path.rglob("*.parquet"))) == 4


def test_the_digest_follows_names_and_contents(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"1")
    (tmp_path / "notes.txt").write_text("not part of it")
    first = files_digest(tmp_path, "*.safetensors")
    (tmp_path / "notes.txt").write_text("changed")
    assert files_digest(tmp_path, "*.safetensors") == first
    (tmp_path / "a.safetensors").write_bytes(b"2")
    second = files_digest(tmp_path, "*.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    assert len({first, second, files_digest(tmp_path, "*.safetensors")}) == 3


def test_the_folder_says_what_made_it(tmp_path):
    make_run(tmp_path, images="abc").complete("first", numbers(1, []))
    made_by = json.loads((tmp_path / "run.json").read_text())
    assert made_by["inputs"] == {"seed": 0, "images": "abc"} and made_by["stages"] == PLAN
    assert "torch" in made_by["versions"]


def test_a_result_that_only_lacks_its_place_is_kept(tmp_path, monkeypatch):
    """Killed between the last shard and the end of the stage: what took hours is not cleared away."""
    calls = []
    rename = os.rename

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("c3l_hf.common.files.os.rename", killed)
    with pytest.raises(KeyboardInterrupt):
        in_shards(make_run(tmp_path), calls)
    monkeypatch.setattr("c3l_hf.common.files.os.rename", rename)
    assert in_shards(make_run(tmp_path), calls) == [2 * x for x in range(7)] and len(calls) == 4
    assert {path.suffix for path in (tmp_path / "stages" / "1_first").iterdir()} == {".parquet", ".json", ".bak"}
    assert not list(tmp_path.glob("stages/1_first/begun.json*"))


def test_a_run_killed_at_its_very_start_goes_on(tmp_path):
    (tmp_path / ".run.json.partial").write_text("{")
    (tmp_path / ".images.parquet.partial").write_bytes(b"PAR1")
    assert make_run(tmp_path).complete("first", numbers(2, [])) == {"rows": 2}


def test_what_is_set_aside_goes_from_the_end(tmp_path, monkeypatch):
    """Whatever stops it: no stage stays that was made from one that has gone."""
    run = make_run(tmp_path)
    for stage in PLAN:
        run.complete(stage, numbers(3, []))
    (tmp_path / "dataset").mkdir()
    run.results = ["dataset"]
    moved, rename = [], os.rename

    def once(source, target):
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(source.name)
        rename(source, target)

    monkeypatch.setattr("c3l_hf.common.files.os.rename", once)
    with pytest.raises(KeyboardInterrupt):
        run.set_aside("first")
    assert moved == ["dataset", "2_second"] and run.is_done("first")


def test_a_restart_is_planned_before_anything_is_moved(tmp_path):
    run = make_run(tmp_path)
    for stage in PLAN:
        run.complete(stage, numbers(3, []))
    restarted = RunFolder(tmp_path, {"seed": 0})
    restarted.plan({**PLAN, "second": {"size": 9}}, ["first", "second"], restart_from="second")
    # A change in a stage before is found all the same, and a stage that would be missing.
    with pytest.raises(RunError, match="1_first holds another run's result"):
        restarted.plan({**PLAN, "first": {"k": 6}}, ["first", "second"], restart_from="second")
    with pytest.raises(RunError, match="no result of first yet"):
        restarted.plan(PLAN, ["second"], restart_from="first")
    assert run.is_done("first") and run.is_done("second")


class Meter:
    """A meter that says: 10 seconds for each look."""

    def __init__(self):
        self.looks = 0

    def so_far(self):
        self.looks += 1
        return {"seconds": 10.0 * self.looks, "peak_memory_bytes": 100 - self.looks}

    stop = so_far


def test_what_a_stage_took_is_in_its_record_and_no_part_of_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("c3l_hf.common.run_folder.UsageMeter", Meter)
    run = make_run(tmp_path)
    run.complete("first", numbers(1, []))
    assert run.usage("first") == {"seconds": 10.0, "peak_memory_bytes": 99}
    record = read_record(run.path("first") / "stage.json")
    assert record["seconds"] == 10.0 and record["report"] == {"rows": 1}
    record["seconds"] = 7.0
    write_record(run.path("first") / "stage.json", record)
    again = make_run(tmp_path)
    assert again.is_done("first") and again.digest("first") == run.digest("first")
    for name in ("seconds", "peak_memory_bytes"):  # made by an older version
        del record[name]
    write_record(run.path("first") / "stage.json", record)
    assert make_run(tmp_path).usage("first") == {}


def test_shards_from_before_an_interruption_count_in_what_a_stage_took(tmp_path, monkeypatch):
    monkeypatch.setattr("c3l_hf.common.run_folder.UsageMeter", Meter)
    calls = []
    with pytest.raises(KeyboardInterrupt):
        in_shards(make_run(tmp_path), calls, stop_at=4)  # three looks: before each shard
    run = make_run(tmp_path)
    assert sorted(part.start for part in run.begun_parts("first")) == [0, 2]
    in_shards(run, calls)  # two more shards, and the end
    assert run.usage("first") == {"seconds": 30.0 + 30.0, "peak_memory_bytes": 97}
    assert run.begun_parts("first") == [] == run.begun_parts("second")
