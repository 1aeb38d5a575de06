"""Streams, scored as they are read."""

import itertools

import pytest
from datasets import Dataset, Features, Image, IterableDataset, IterableDatasetDict, Json, LargeList, List, Value
from scored_rows import assert_same, picture, png

from c3l_hf.data.schema import SCORE_COLUMNS, SCORE_FEATURES
from c3l_hf.scoring.dataset import score_dataset
from c3l_hf.scoring.scorer import I2CScorer

FEATURES = Features(
    {
        "images": LargeList(Image()),
        "question": Value("string"),
        "answer": Value("string"),
        "note": Json(),
        "thumb": Image(),
    }
)


@pytest.fixture(scope="module")
def scorer(llava):
    return I2CScorer(*llava)


@pytest.fixture(scope="module")
def dataset():
    images = [{"bytes": png(number) if number != 3 else png(3)[:60], "path": None} for number in range(5)]
    rows = [
        # A text that is JSON itself; a thumbnail that nobody can decode.
        {
            "images": [image],
            "question": "What?",
            "answer": f"{n} dogs",
            "note": '"1"',
            "thumb": {"bytes": b"x", "path": None},
        }
        for n, image in enumerate(images)
    ]
    rows[1]["answer"] = ""
    return Dataset.from_list(rows, features=FEATURES)


@pytest.fixture(scope="module")
def expected(scorer, dataset):
    rows = [{"image": picture(n), "question": "What?", "answer": f"{n} dogs"} for n in range(5)]
    return scorer.score(rows)


def of(rows):
    return [{name: row[name] for name in SCORE_COLUMNS} for row in rows]


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_score_columns_beside_the_others(scorer, dataset, expected, batch_size):
    stream = score_dataset(dataset.to_iterable_dataset(), scorer, batch_size=batch_size)
    assert isinstance(stream, IterableDataset)
    for _ in range(2):  # as often as it is iterated
        rows = list(stream)
        assert rows[1]["i2c_status"] == "the answer is empty" and "cannot be read" in rows[3]["i2c_status"]
        assert_same(of(rows[number] for number in (0, 2, 4)), [expected[number] for number in (0, 2, 4)])
        assert [row["note"] for row in rows] == dataset["note"][:] and rows[3]["thumb"]["bytes"] == b"x"
        assert rows[3]["images"][0]["bytes"] == png(3)[:60]
    assert {name: stream.features[name] for name in SCORE_FEATURES} == dict(SCORE_FEATURES)
    assert stream.features["thumb"] == Image(decode=False) and stream.features["note"] == Json()


def test_conversations_as_generation_writes_them(scorer):
    """Streamed, and by `map`: the same scores of each turn as of the messages in one column."""
    messages = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd")]
    rows = [{"images": [picture(0)], "prompt": messages[:1], "completion": messages[1:end]} for end in (4, 2)]
    kind = List({"role": Value("string"), "content": Value("string")})
    features = Features({"images": List(Image()), "prompt": kind, "completion": kind})
    dataset = Dataset.from_list(rows, features=features)
    expected = scorer.score([{"images": [picture(0)], "messages": messages[:end]} for end in (4, 2)])
    assert [len(row["turns"]) for row in expected] == [2, 1]
    assert_same(of(score_dataset(dataset.to_iterable_dataset(), scorer)), expected)
    mapped = dataset.map(scorer, batched=True, features=Features({**features, **SCORE_FEATURES}))
    assert_same(of(mapped), expected)


def test_nothing_is_read_before_it_is_needed(scorer, expected):
    read = []

    def endless():
        for number in itertools.count():
            read.append(number)
            yield {"image": picture(number % 5), "question": "What?", "answer": f"{number % 5} dogs", "id": number}

    stream = score_dataset(IterableDataset.from_generator(endless), scorer, batch_size=2)
    assert read == []
    rows = list(stream.take(3))
    assert [row["id"] for row in rows] == [0, 1, 2] and max(read) <= 4
    assert_same(of(rows), expected[:3])


def test_splits(scorer, dataset, expected):
    splits = IterableDatasetDict({"a": dataset.select([0]).to_iterable_dataset(), "b": dataset.to_iterable_dataset()})
    scored = score_dataset(splits, scorer)
    assert isinstance(scored, IterableDatasetDict) and list(scored) == ["a", "b"]
    assert_same(of(scored["a"]), expected[:1])


def test_a_format_is_left_behind(scorer, dataset, expected):
    stream = score_dataset(dataset.remove_columns("note").to_iterable_dataset().with_format("numpy"), scorer)
    assert_same(of(stream.take(1)), expected[:1])


def test_columns_that_cannot_be_scored(scorer, dataset):
    with pytest.raises(ValueError, match="cannot find pairs in the columns question"):
        score_dataset(dataset.select_columns(["question"]).to_iterable_dataset(), scorer)
    scored = score_dataset(dataset.to_iterable_dataset(), scorer)
    with pytest.raises(ValueError, match="the dataset has the columns i2c, .* already"):
        score_dataset(scored, scorer)
    unknown = IterableDataset.from_generator(lambda: iter([{"question": "What?"}]))
    with pytest.raises(ValueError, match="cannot find pairs in the columns question"):
        next(iter(score_dataset(unknown, scorer)))


def test_a_stream_from_files(scorer, dataset, expected, tmp_path):
    from datasets import load_dataset

    dataset.to_parquet(tmp_path / "rows.parquet")
    stream = load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train", streaming=True)
    assert_same(of(score_dataset(stream, scorer).take(1)), expected[:1])


def test_several_processes_are_told(scorer, dataset, monkeypatch, caplog):
    class State:
        num_processes, is_main_process = 2, True

    monkeypatch.setattr("c3l_hf.scoring.streams.process_state", State)
    score_dataset(dataset.to_iterable_dataset(), scorer)
    assert "split_dataset_by_node" in caplog.text
