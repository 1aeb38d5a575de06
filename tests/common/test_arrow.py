"""Rows of tables in parts: the same as of one table."""

import numpy as np
import pyarrow as pa
import pytest

from c3l_hf.common.arrow import take_rows


@pytest.mark.parametrize("numbers", [[], [4], [0, 1, 2], [6, 0, 3, 5], [2, 1, 0, 6, 5, 4, 3]])
def test_as_of_one_table(numbers):
    table = pa.table({"text": list("abcdefg"), "list": [[n] for n in range(7)]})
    parts = [table.slice(0, 3), table.slice(3, 0), table.slice(3, 2), table.slice(5)]
    assert (
        take_rows(iter(parts), np.array(numbers, int)).to_pydict()
        == table.take(pa.array(numbers, pa.int64())).to_pydict()
    )
