"""Pairs beside their scores, without pixels: rows by number, columns from either, images as they are stored."""

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Image, List, Value

from c3l_hf.common.shards import Shards
from c3l_hf.data.schema import PAIR_TABLE_FEATURES, SCORE_FEATURES
from c3l_hf.data.stored_images import images_of_rows, stored_images
from c3l_hf.pipeline.pair_tables import ScoredPairs


def pair(number):
    message = [{"role": "user", "content": f"question {number}"}]
    return {name: None for name in PAIR_TABLE_FEATURES} | {
        "image_row": number // 2,
        "image_id": str(number // 2),
        "pair_id": f"{number // 2}/{number % 2}",
        "prompt": message,
        "completion": [{"role": "assistant", "content": f"answer {number}"}],
    }


def scores(number):
    return {name: None for name in SCORE_FEATURES} | {"i2c": float(number), "i2c_status": "ok"}


def table(make, features, numbers):
    return pa.Table.from_pylist([make(number) for number in numbers], schema=features.arrow_schema)


@pytest.fixture
def scored(tmp_path):
    """Nine rows in shards of five and four."""
    pairs, made = Shards(tmp_path / "pairs", 2), Shards(tmp_path / "scores", 2)
    for number, rows in enumerate((range(5), range(5, 9))):
        pairs.write(number, [table(pair, PAIR_TABLE_FEATURES, rows)], PAIR_TABLE_FEATURES.arrow_schema)
        # In other pieces than the pairs.
        parts = [table(scores, SCORE_FEATURES, [row]) for row in rows]
        made.write(number, parts, SCORE_FEATURES.arrow_schema)
    return ScoredPairs(pairs, made)


def test_columns_of_both(scored):
    assert len(scored) == 9
    columns = scored.table(["i2c", "pair_id"])
    assert columns["i2c"].to_pylist() == list(range(9)) and columns["pair_id"][3].as_py() == "1/1"
    assert scored.table(["pair_id"]).column_names == ["pair_id"]
    assert scored.table(("i2c",))["i2c"].to_pylist() == list(range(9))


def test_rows_in_the_order_asked_for(scored):
    rows = scored.rows([7, 0, 4, 5])
    assert rows["i2c"].to_pylist() == [7, 0, 4, 5]
    assert [prompt[0]["content"] for prompt in rows["prompt"].to_pylist()] == [f"question {n}" for n in (7, 0, 4, 5)]
    assert scored.rows([8])["image_row"].to_pylist() == [4]


def test_a_stream_without_what_has_no_meaning_outside(scored):
    stream = scored.stream()
    assert len(stream) == 9 and "image_row" not in stream.column_names and "images" not in stream.column_names
    for _ in range(2):  # as often as wanted
        rows = pa.concat_tables(stream.tables())
        assert rows.schema == stream.features.arrow_schema and rows["i2c"].to_pylist() == list(range(9))


def test_scores_of_other_rows_are_refused(scored):
    scored.scores.write(1, [table(scores, SCORE_FEATURES, range(3))], SCORE_FEATURES.arrow_schema)
    with pytest.raises(ValueError, match="has 3 rows for the 4 of"):
        list(scored.tables())


def test_images_as_they_are_stored():
    stored = [{"bytes": f"no picture {number}".encode(), "path": None} for number in range(4)]
    features = Features({"image": Image(), "caption": Value("string")})
    single = Dataset.from_dict({"image": stored, "caption": ["a"] * 4}, features=features)
    several = Dataset.from_dict({"images": [stored[:2], [], stored[2:]]}, features=Features({"images": List(Image())}))
    assert images_of_rows(single, [2, 0, 2]).to_pylist() == [[stored[2]], [stored[0]], [stored[2]]]
    assert images_of_rows(several, [2, 1]).to_pylist() == [stored[2:], []]
    assert images_of_rows(single.select([3, 1]), [1]).to_pylist() == [[stored[1]]]


def test_an_image_of_several_rows_is_read_once(monkeypatch):
    stored = [{"bytes": f"no picture {number}".encode(), "path": None} for number in range(80)]
    images = Dataset.from_dict({"image": stored}, features=Features({"image": Image()}))
    read = []

    def counted(images, rows):
        read.append(list(rows))
        return images_of_rows(images, rows)

    monkeypatch.setattr("c3l_hf.data.stored_images.images_of_rows", counted)
    rows = [number for number in reversed(range(80)) for _ in range(5)]
    assert stored_images(images, rows) == [[stored[number]] for number in rows]
    assert sum(map(len, read)) == 80 and max(map(len, read)) < 80  # an Arrow array holds 2 GB
