"""Rows of tables in parts: the same as of one table."""

import numpy as np
import pyarrow as pa
import pytest

from c3l_hf.common.arrow import in_tables_of, take_rows


@pytest.mark.parametrize("numbers", [[], [4], [0, 1, 2], [6, 0, 3, 5], [2, 1, 0, 6, 5, 4, 3]])
def test_as_of_one_table(numbers):
    table = pa.table({"text": list("abcdefg"), "list": [[n] for n in range(7)]})
    parts = [table.slice(0, 3), table.slice(3, 0), table.slice(3, 2), table.slice(5)]
    assert (
        take_rows(iter(parts), np.array(numbers, int)).to_pydict()
        == table.take(pa.array(numbers, pa.int64())).to_pydict()
    )


@pytest.mark.parametrize("size", [1, 3, 7, 10])
def test_tables_of_a_size(size):
    table = pa.table({"n": range(7)})
    parts = [table.slice(0, 3), *table.slice(3, 2).to_batches(), table.slice(5, 0), table.slice(5)]
    sizes = [len(part) for part in in_tables_of(size, parts)]
    assert sum(sizes) == 7 and set(sizes[:-1]) <= {size} and 0 < sizes[-1] <= size
    assert pa.concat_tables(in_tables_of(size, iter(parts))).equals(table)
    assert not list(in_tables_of(size, [table.slice(7)])) and not list(in_tables_of(size, []))
