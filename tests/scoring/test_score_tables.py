"""Pair tables whose images are stored apart, and batches that are encoded ahead of the model with little memory."""

import gc
import threading
import weakref

import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from scored_rows import assert_same, picture, png

from c3l_hf.data import stored_images as stored
from c3l_hf.data.schema import PAIR_FEATURES, PAIR_TABLE_FEATURES, SCORE_FEATURES
from c3l_hf.data.stored_images import stored_images
from c3l_hf.scoring import blind, passes, scorer
from c3l_hf.scoring.dataset import score_dataset, score_stream, score_tables
from c3l_hf.scoring.scorer import I2CScorer

PATIENCE = 30  # seconds until what must come counts as missing


class Alive:
    """Counts objects that are alive, and the most there were at once."""

    def __init__(self):
        self.now = self.most = 0

    def add(self, one):
        self.now += 1
        self.most = max(self.most, self.now)
        weakref.finalize(one, self._less)
        return one

    def _less(self):
        self.now -= 1


@pytest.fixture(scope="module")
def llava_scorer(llava):
    return I2CScorer(*llava)


def images_of(contents, column="images"):
    values = [None if content is None else {"bytes": content, "path": None} for content in contents]
    if column == "image":
        return Dataset.from_dict({"image": values}, features=Features({"image": Image()}))
    return Dataset.from_dict({"images": [[value] for value in values]}, features=Features({"images": List(Image())}))


def pair(image_row, k, ok=True):
    messages = (
        [{"role": role, "content": text}] for role, text in (("user", f"What is {k}?"), ("assistant", "A dog."))
    )
    prompt, completion = messages if ok else (None, None)
    names = {"image_id": str(image_row), "pair_id": f"{image_row}/{k}", "template": "count-1", "type": "count"}
    status = "ok" if ok else "no answer"
    if ok and k == 2:  # a conversation, as generation writes it
        completion = [*completion, {"role": "user", "content": "Sure?"}, *completion]
    return {
        **dict.fromkeys(PAIR_TABLE_FEATURES),
        "image_row": image_row,
        **names,
        "prompt": prompt,
        "completion": completion,
        "raw": "",
        "generation_status": status,
    }


def table_of(pairs):
    return pa.Table.from_pylist(pairs, schema=PAIR_TABLE_FEATURES.arrow_schema)


def with_images(pairs, images):
    """The same rows as a dataset with the images in each."""
    lists = stored_images(images, [row["image_row"] for row in pairs])
    rows = [
        {"images": list_, **{name: row[name] for name in row if name != "image_row"}}
        for list_, row in zip(lists, pairs)
    ]
    return Dataset.from_list(rows, features=PAIR_FEATURES)


def scores_of(tables):
    tables = list(tables)
    assert all(table.schema.equals(SCORE_FEATURES.arrow_schema) for table in tables)
    return [row for table in tables for row in table.to_pylist()]


PAIRS = [pair(row, k, ok=(row, k) != (2, 1)) for row in range(4) for k in range(3)]


def test_pair_tables_have_the_columns_of_pairs_but_no_pixels():
    assert set(PAIR_TABLE_FEATURES) == {"image_row", *PAIR_FEATURES} - {"images"}
    assert PAIR_TABLE_FEATURES["image_row"] == Value("int64")
    assert all(PAIR_TABLE_FEATURES[name] == PAIR_FEATURES[name] for name in PAIR_TABLE_FEATURES if name != "image_row")


@pytest.mark.parametrize("column", ["images", "image"])
@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_scores_equal_those_of_rows_with_images(llava_scorer, column, batch_size):
    images = images_of([png(0), png(1)[:60], png(2), None], column)
    # However the rows are cut into tables and batches.
    tables = [table_of(PAIRS[:1]), *table_of(PAIRS[1:8]).to_batches(3), table_of([]), table_of(PAIRS[8:])]
    found = scores_of(score_tables(tables, images, llava_scorer, batch_size))
    expected = scores_of(score_stream(with_images(PAIRS, images), llava_scorer))
    assert_same(found, expected)
    assert [len(row["turns"] or ()) for row in found[:3]] == [1, 1, 2]
    statuses = [row["i2c_status"] for row in found]
    assert statuses[:3] == ["ok"] * 3
    assert all("cannot be read" in status for status in statuses[3:6])
    assert statuses[7] == "no answer" and statuses[6] == statuses[8] == "ok"
    nothing = {"images": "images[0] is null; the row has 1 images", "image": "the row has no image (column images)"}
    assert statuses[9:] == [nothing[column]] * 3


def test_a_row_number_means_a_row_of_all_images(llava_scorer):
    images = images_of([png(number) for number in range(4)])
    all_rows = scores_of(score_tables([table_of(PAIRS)], images, llava_scorer))
    part = scores_of(score_tables([table_of(PAIRS[6:])], images, llava_scorer))
    assert_same(part, all_rows[6:])
    again = [PAIRS[11], PAIRS[0], PAIRS[10]]
    assert_same(scores_of(score_tables([table_of(again)], images, llava_scorer)), [all_rows[n] for n in (11, 0, 10)])


def test_files_that_are_gone(llava_scorer, tmp_path):
    for number in range(2):
        picture(number).save(tmp_path / f"{number}.png")
    paths = [[str(tmp_path / f"{number}.png")] for number in range(2)]
    images = Dataset.from_dict({"images": paths}, features=Features({"images": List(Image())}))
    (tmp_path / "1.png").unlink()
    found = scores_of(score_tables([table_of(PAIRS[:6])], images, llava_scorer))
    statuses = [row["i2c_status"] for row in found]
    assert statuses[:3] == ["ok"] * 3
    assert all(
        status.startswith(f"the image {tmp_path / '1.png'} cannot be read: there is no such file")
        for status in statuses[3:]
    )


def test_a_null_among_pictures(llava_scorer):
    stored = [{"bytes": png(number), "path": None} for number in range(2)]
    images = Dataset.from_dict(
        {"images": [[stored[0], None, stored[1]], None, [stored[0]]]}, features=Features({"images": List(Image())})
    )
    statuses = [row["i2c_status"] for row in scores_of(score_tables([table_of(PAIRS[:9:3])], images, llava_scorer))]
    assert statuses == ["images[1] is null; the row has 3 images", "the row has no image (column images)", "ok"]


def test_each_image_is_read_once_for_a_batch(llava_scorer, monkeypatch):
    read, opened = [], []
    real, real_open = stored.images_of_rows, blind.open_image
    monkeypatch.setattr(stored, "images_of_rows", lambda images, rows: read.append(list(rows)) or real(images, rows))
    monkeypatch.setattr(blind, "open_image", lambda value: opened.append(1) or real_open(value))
    images = images_of([png(number) for number in range(4)])
    # Pairs that do not follow each other, too.
    mixed = [PAIRS[n] for n in (0, 3, 1, 4, 2, 5)]
    assert len(scores_of(score_tables([table_of(mixed + PAIRS[6:])], images, llava_scorer, 6))) == 12
    assert read == [[0, 1], [2, 3]] and len(opened) == 4


def test_no_rows(llava_scorer):
    images = images_of([png(0)])
    assert scores_of(score_tables([], images, llava_scorer)) == []
    assert scores_of(score_tables([table_of([])], images, llava_scorer)) == []
    assert scores_of(score_stream(with_images(PAIRS[:1], images).select([]), llava_scorer)) == []
    scored = score_dataset(with_images(PAIRS[:1], images).select([]), llava_scorer)
    assert len(scored) == 0 and SCORE_FEATURES.items() <= scored.features.items()


def test_the_next_batch_is_encoded_while_the_model_works(llava_scorer, monkeypatch):
    """By events, not by the clock: each pass of the model waits until the next batch has been encoded."""
    encoded = [threading.Event() for _ in range(4)]
    calls, alive = [], Alive()
    real_encode, real_logprobs = scorer.encode_batch, passes.answer_logprobs

    def encode(*args):
        batch = alive.add(real_encode(*args))
        encoded[int(batch.turns[0].seen.images[0][1])].set()
        return batch

    def logprobs(*args, **options):
        number = len(calls)
        if number + 1 < len(encoded):
            assert encoded[number + 1].wait(PATIENCE), "nothing was encoded ahead"
        calls.append(number)
        return real_logprobs(*args, **options)

    monkeypatch.setattr(scorer, "encode_batch", encode)
    monkeypatch.setattr(passes, "answer_logprobs", logprobs)
    monkeypatch.setattr(blind, "image_key", lambda value: ("image", int(value)))
    monkeypatch.setattr(blind, "open_image", lambda value: picture(int(value)))
    rows = [
        [{"image": str(number), "question": f"What is {k}?", "answer": "A dog."} for k in range(3)]
        for number in range(4)
    ]
    assert [len(scores) for scores in llava_scorer.score_batches(rows)] == [3] * 4
    assert calls == [0, 1, 2, 3] and alive.most == 2


def test_no_thread_is_left(llava_scorer, monkeypatch):
    images = images_of([png(number) for number in range(4)])
    before = threading.active_count()
    tables = score_tables([table_of(PAIRS)], images, llava_scorer, 3)
    next(tables)
    tables.close()
    assert threading.active_count() == before

    def fails(*_, **__):
        raise ZeroDivisionError("in the model")

    monkeypatch.setattr(passes, "answer_logprobs", fails)
    with pytest.raises(ZeroDivisionError, match="in the model"):
        list(score_tables([table_of(PAIRS)], images, llava_scorer, 3))
    assert threading.active_count() == before
    monkeypatch.setattr(scorer, "encode_batch", fails)
    with pytest.raises(ZeroDivisionError):
        list(score_tables([table_of(PAIRS)], images, llava_scorer, 3))
    assert threading.active_count() == before


@pytest.mark.parametrize("baseline", ["drop", "noise"])
def test_decoded_pictures_do_not_stay_beside_what_the_model_takes(llava, monkeypatch, baseline):
    """A photograph is 46 MB when it is decoded, what the model takes of it 1 MB."""
    i2c, decoded, real = I2CScorer(*llava, blind=baseline), Alive(), blind.open_image
    monkeypatch.setattr(blind, "open_image", lambda value: decoded.add(real(value)))
    rows = [
        {"image": {"bytes": png(number), "path": None}, "question": f"What is {k}?", "answer": "A dog."}
        for k in range(2)
        for number in range(8)
    ]
    batch = i2c._encoded(rows)
    gc.collect()
    assert decoded.most == 1 and decoded.now == 0
    assert len(batch.turns) == 16
    pixels = {turn.seen.inputs["pixel_values"].data_ptr() for turn in batch.turns}
    assert len(pixels) == 8  # each image once, for both of its questions
    assert [turn.row for turn in batch.turns] == list(range(16))
    assert torch.equal(batch.turns[0].seen.inputs["pixel_values"], batch.turns[8].seen.inputs["pixel_values"])
