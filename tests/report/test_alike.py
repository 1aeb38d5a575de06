"""Pictures that look alike, by the vectors of their pairs."""

import numpy as np
from datasets import Dataset, Image
from report_runs import write_stages
from scored_rows import png

from c3l_hf.common.shards import Shards
from c3l_hf.report import alike
from c3l_hf.report.making import content_of
from c3l_hf.report.run_source import run_source
from c3l_hf.report.sources import rows_source

ANGLES = [0.0, 90.0, 10.0, 100.0]


def rows():
    data = []
    for number, angle in enumerate(np.radians(ANGLES)):
        # Two pairs about each picture, of which one has a vector: longer ones count no more.
        vector = [float(np.cos(angle)) * (number + 1), float(np.sin(angle)) * (number + 1)]
        for embedding in (vector, None):
            data.append({"image": png(number), "question": "q?", "answer": f"a{number}", "embedding": embedding})
    return Dataset.from_list(data).cast_column("image", Image())


def test_the_nearest_first():
    content = content_of(rows_source(rows(), "mine"))
    assert content.alike == {0: [2, 1, 3], 1: [3, 2, 0], 2: [0, 1, 3], 3: [1, 2, 0]}


def test_none_without_vectors_or_with_too_many_pictures(monkeypatch):
    assert not content_of(rows_source(rows().remove_columns("embedding"), "mine")).alike
    monkeypatch.setattr(alike, "MOST_PICTURES", 3)
    assert not content_of(rows_source(rows(), "mine")).alike


def test_those_of_a_run(tmp_path):
    folder = write_stages(tmp_path / "run")
    vectors = [[1.0, float(number // 2)] for number in range(12)] + [None]
    table = Dataset.from_dict({"embedding": vectors}).data.table
    Shards(folder / "embeddings" / "rescore" / "hidden-0", 1).write(0, [table], table.schema)
    found = content_of(run_source(folder)).alike
    assert found[0][0] == 1 and found[5][0] == 4 and 6 not in found
