"""The rows of what a run publishes."""

import pyarrow as pa
from datasets import Features, Value

from c3l_hf.common.progress import ProgressLine
from c3l_hf.data.streams import RowStream
from c3l_hf.pipeline.published_rows import counted


def test_rows_are_counted_as_they_are_read(monkeypatch):
    told = []
    monkeypatch.setattr(ProgressLine, "advance", lambda line, rows: told.append(rows))
    tables = {"a": [pa.table({"x": [1, 2]}), pa.table({"x": [3]})], "b": [pa.table({"x": [4] * 5})]}
    features = Features({"x": Value("int64")})
    streams = {name: RowStream(features, 0, lambda name=name: tables[name]) for name in tables}
    with ProgressLine("write", 8, "rows") as line:
        read = {name: list(stream.tables()) for name, stream in counted(streams, line).items()}
    assert read == tables and told == [2, 1, 5]
