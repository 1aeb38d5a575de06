"""Values for files that others read: what YAML knows, and no path of this machine."""

from pathlib import Path

import numpy as np
import pytest

from c3l_hf.common.plain import plain


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/somebody/data/model", "model"),
        (Path("/home/somebody/data"), "data"),
        ("C:\\Users\\somebody\\model", "model"),
        ("~/model", "model"),
        ("user/model", "user/model"),
        ("pope=/home/somebody/bench", "pope=bench"),
        ("https://host/?next=/home", "https://host/?next=/home"),
        ("runs/model", "runs/model"),
        (True, True),
        (None, None),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (("a", 1), ["a", 1]),
        ({"b", "a"}, ["a", "b"]),
        ({1: {"path": "/tmp/x"}}, {"1": {"path": "x"}}),
    ],
)
def test_plain(value, expected):
    found = plain(value)
    assert found == expected and type(found) is type(expected)
