"""A run's folder: what is reused, what is refused, what survives an interruption."""

import gc
import json
import shutil

import pytest
from datasets import Dataset
from filelock import FileLock, Timeout

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import files_digest
from c3l_hf.common.run_folder import Run

PLAN = {"first": {"k": 5}, "second": {"size": 3}}


def make_run(folder, plan=PLAN, wanted=("first", "second"), **inputs):
    run = Run(folder, {"seed": 0, **inputs})
    run.plan(plan, wanted)
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
        with pytest.raises(RunError, match="another run is working in .*; wait until it has ended"):
            make_run(tmp_path)
        assert making.is_file()
    make_run(tmp_path)
    assert not making.exists()


def numbers(n, calls):
    def make():
        calls.append(n)
        return Dataset.from_dict({"x": list(range(n))}), {"rows": n}

    return make


def test_a_result_is_made_once(tmp_path):
    calls = []
    for _ in range(2):
        run = make_run(tmp_path / "run")
        dataset, report = run.dataset("first", numbers(4, calls))
        assert dataset["x"][:] == [0, 1, 2, 3] and report == {"rows": 4} == run.report("first")
    assert calls == [4]
    assert not list(tmp_path.glob("run/stages/*.unfinished"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"plan": {"first": {"k": 6}, "second": {"size": 3}}}, "options.k: 5 there, 6 asked for"),
        ({"seed": 1}, "from.seed: 0 there, 1 asked for"),
    ],
)
def test_another_runs_result_is_refused_and_kept(tmp_path, change, says):
    folder = tmp_path / "run"
    make_run(folder).dataset("first", numbers(4, []))
    before = sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file())
    with pytest.raises(RunError, match=f"1_first holds another run's result .{says}.*--output_dir"):
        make_run(folder, **change)
    assert before == sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file())


def test_a_later_stage_knows_the_options_of_the_earlier(tmp_path):
    make_run(tmp_path).dataset("second", numbers(1, []))
    changed = {"first": {"k": 6}, "second": {"size": 3}}
    with pytest.raises(RunError, match="2_second holds another run's result .from.first.k"):
        make_run(tmp_path, changed)
    # an option of a stage that has no result yet is free
    make_run(tmp_path / "other").dataset("first", numbers(1, []))
    make_run(tmp_path / "other", {"first": {"k": 5}, "second": {"size": 9}})


def test_somebody_elses_folder_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty and was not made by this recipe"):
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
    assert run.dataset("first", numbers(2, []))[1] == {"rows": 2}
    assert not (run.path("first") / "half").exists()


def test_a_stage_alone_needs_what_comes_before(tmp_path):
    with pytest.raises(RunError, match="no result of first yet; add it to --stages"):
        make_run(tmp_path / "run", wanted=["second"])
    assert not (tmp_path / "run").exists()
    make_run(tmp_path / "run", wanted=["first"]).dataset("first", numbers(2, []))
    make_run(tmp_path / "run", wanted=["second"])


SEVEN = Dataset.from_dict({"x": list(range(7))})


def doubled(calls, stop_at=None):
    def make(part):
        if stop_at in part["x"][:]:
            raise KeyboardInterrupt
        calls.append(part["x"][:])
        return Dataset.from_dict({"y": [2 * x for x in part["x"]]})

    return make


def test_a_stage_in_pieces_goes_on_with_the_next_one(tmp_path):
    calls = []
    with pytest.raises(KeyboardInterrupt):
        make_run(tmp_path).in_pieces("first", SEVEN, doubled(calls, stop_at=4), piece_size=2)
    assert calls == [[0, 1], [2, 3]] and not make_run(tmp_path).is_done("first")
    run = make_run(tmp_path)
    assert run.in_pieces("first", SEVEN, doubled(calls), piece_size=2)["y"][:] == [2 * x for x in range(7)]
    assert calls == [[0, 1], [2, 3], [4, 5], [6]]
    assert sorted(path.name for path in run.path("first").iterdir()) == ["data", "stage.json"]
    assert run.in_pieces("first", SEVEN, doubled(calls))["y"][:] == [2 * x for x in range(7)] and len(calls) == 4


def test_pieces_of_other_options_or_of_another_input_are_made_anew(tmp_path):
    calls = []
    with pytest.raises(KeyboardInterrupt):
        make_run(tmp_path).in_pieces("first", SEVEN, doubled(calls, stop_at=6), piece_size=2)
    other = make_run(tmp_path, {**PLAN, "first": {"k": 6}})
    assert len(other.in_pieces("first", SEVEN, doubled(calls), piece_size=2)) == 7 and len(calls) == 3 + 4
    # The stage before was made again: what comes after it is of something else.
    with pytest.raises(KeyboardInterrupt):
        other.in_pieces("second", SEVEN, doubled(calls, stop_at=6), piece_size=2)
    shutil.rmtree(other.path("first"))
    again = make_run(tmp_path, {**PLAN, "first": {"k": 6}})
    again.in_pieces("first", SEVEN, doubled(calls), piece_size=7)
    again.in_pieces("second", SEVEN, doubled(calls), piece_size=2)
    assert calls[-5:] == [list(range(7)), [0, 1], [2, 3], [4, 5], [6]]


def test_a_piece_that_was_cut_short_is_made_again(tmp_path):
    calls = []
    with pytest.raises(KeyboardInterrupt):
        make_run(tmp_path).in_pieces("first", SEVEN, doubled(calls, stop_at=2), piece_size=2)
    (pieces,) = tmp_path.glob("stages/1_first.unfinished/pieces-2")
    (pieces / "000000002.partial").mkdir()
    (pieces / "000000002.partial" / "half").write_text("half")
    made = make_run(tmp_path).in_pieces("first", SEVEN, doubled(calls), piece_size=2)
    assert made["y"][:] == [2 * x for x in range(7)] and calls == [[0, 1], [2, 3], [4, 5], [6]]


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
    make_run(tmp_path, images="abc").dataset("first", numbers(1, []))
    made_by = json.loads((tmp_path / "run.json").read_text())
    assert made_by["inputs"] == {"seed": 0, "images": "abc"} and made_by["stages"] == PLAN
    assert "torch" in made_by["versions"]
