"""What a piece of work takes."""

import numpy as np
import pytest

from c3l_hf.common.usage import UsageMeter, format_bytes, format_seconds, most_of_processes, one_after_the_other


def test_memory_that_is_held_is_seen():
    meter = UsageMeter()
    before = meter.so_far()["peak_memory_bytes"]
    held = np.ones(30_000_000)  # 240 MB, written to
    during = meter.so_far()["peak_memory_bytes"]
    del held
    usage = meter.stop()
    assert during - before > 200e6
    assert usage["peak_memory_bytes"] >= during and usage["seconds"] >= 0


def test_a_meter_leaves_no_thread():
    meter = UsageMeter()
    meter.stop()
    assert not meter._thread.is_alive()


@pytest.mark.parametrize(
    ("usages", "together"),
    [
        ([{}, {"seconds": 2.0, "peak_memory_bytes": 5}], {"seconds": 2.0, "peak_memory_bytes": 5}),
        (
            [{"seconds": 1.5, "peak_memory_bytes": 9}, {"seconds": 2.0, "peak_memory_bytes": 5}],
            {"seconds": 3.5, "peak_memory_bytes": 9},
        ),
    ],
)
def test_two_calls_of_a_stage(usages, together):
    assert one_after_the_other(usages) == together


def test_one_process_is_all_of_them():
    assert most_of_processes({"seconds": 1.0, "peak_memory_bytes": 3}) == {"seconds": 1.0, "peak_memory_bytes": 3}


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.04, "0.0 s"), (9.96, "10.0 s"), (42, "42 s"), (150, "2 min"), (11_100, "3 h 05 min")]
)
def test_times(seconds, told):
    assert format_seconds(seconds) == told


@pytest.mark.parametrize(("size", "told"), [(900_000, "1 MB"), (999e6, "999 MB"), (14.14e9, "14.1 GB")])
def test_sizes(size, told):
    assert format_bytes(size) == told
