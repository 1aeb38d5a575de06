"""Whatever ends a run, and whenever: the same command goes on, and its results are those of one that nothing ended."""

import os
import signal
from collections import Counter

import killed_runs
import pytest

from c3l_hf.common.run_folder import RunFolder
from c3l_hf.pipeline.options import STAGES

OF_EACH_STAGE = {1: 3, 2: 1}  # 32 ends; many more: see `killed_runs`
LINE = "c3l run: interrupted; the same command goes on where it stopped\n"


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def chain(request, tmp_path_factory):
    """A run that nothing ends, and one that was ended again and again: their folders, the moments, how it ended."""
    processes, folder = request.param, tmp_path_factory.mktemp("kills")
    whole = killed_runs.run(folder / "whole", processes)
    assert not any(whole.codes), whole.errors
    steps = killed_runs.steps_of(folder / "whole", processes)
    moments = killed_runs.moments(steps, OF_EACH_STAGE[processes], seed=processes)
    return folder, moments, killed_runs.chain(folder / "ended", moments, processes)


@pytest.mark.slow
def test_a_run_that_was_ended_is_that_which_was_not(chain):
    folder, _, outcomes = chain
    assert not any(outcomes[-1].codes), outcomes[-1].errors
    assert killed_runs.differences(folder / "ended", folder / "whole") == []


@pytest.mark.slow
def test_it_was_ended_in_all_stages(chain):
    _, moments, outcomes = chain
    ends = Counter(outcome.stage for outcome in outcomes[:-1])
    assert set(ends) == set(STAGES) and sum(ends.values()) >= len(moments) - 2  # the last may come after its end


@pytest.mark.slow
def test_one_process_tells_how_to_go_on_in_one_line(chain):
    _, moments, outcomes = chain
    for moment, outcome in zip(moments, outcomes[:-1]):
        told = [line for text in outcome.errors for line in text.splitlines(True) if line.startswith("c3l run: ")]
        assert "Traceback" not in "".join(outcome.errors)
        code = outcome.codes[moment.rank]
        if moment.signal == killed_runs.FULL:
            assert code in (0, 1)  # 0: nothing more was to be written
            assert len(told) == code, outcome.errors
            continue
        others = [other for rank, other in enumerate(outcome.codes) if rank != moment.rank]
        if moment.signal == signal.SIGKILL:
            assert code == -signal.SIGKILL and len(told) == sum(map(bool, others))
        else:
            assert code == 128 + moment.signal and told == [LINE]
        # In the last stage the others may have had nothing more to do.
        assert all(others) or outcome.stage == STAGES[-1]


def test_nothing_is_left_over_of_a_stage_that_was_ended_as_it_got_its_name(tmp_path, monkeypatch):
    rename = os.rename

    def last(source, target):
        rename(source, target)
        raise KeyboardInterrupt

    def work():
        run = RunFolder(tmp_path / "run", {})
        run.plan({"score": {}}, ["score"])
        run.claim()
        run.complete("score", lambda path: (path / "made").write_text("") and None)
        return sorted(path.name for path in run.path("score").iterdir())

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "rename", last)
        work()
    assert not [name for name in work() if "begun" in name]
