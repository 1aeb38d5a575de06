"""Columns of pairs of any dataset: what is stored stays as it is, what is read stands in its place."""

import random

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Image, LargeList, List, Value
from scored_layouts import PNG, assistant, llava, stored, user

from c3l_hf.data import pair_columns, row_texts
from c3l_hf.data.pair_columns import UNREAD, is_plain, read_pair_columns

COLUMNS = ("image_id", "pair_id", "type", "template", "prompt", "completion")
MESSAGES = List({"role": Value("string"), "content": Value("string")})
IDS = Features({name: Value("string") for name in COLUMNS[:4]})


@pytest.fixture
def small_blocks(monkeypatch):
    for module in (pair_columns, row_texts):
        monkeypatch.setattr(module, "_BLOCK", 3)
    monkeypatch.setattr(pair_columns, "_BATCH", 2)


def plain_row(number, prompt, completion):
    ids = {"image_id": f"i{number // 3}", "pair_id": f"p{number}", "type": "a", "template": "general-1"}
    return {**ids, "prompt": prompt, "completion": completion}


def test_our_own_pairs_are_not_copied():
    rows = [plain_row(n, user(f"What {n}?"), assistant(f"It is {n}.")) for n in range(5)]
    dataset = Dataset.from_list(rows, features=Features({**IDS, "prompt": MESSAGES, "completion": MESSAGES}))
    columns = read_pair_columns(dataset, COLUMNS)
    assert columns.assumed == [] and columns.table.column_names == list(COLUMNS)
    for name in COLUMNS:
        (chunk,), (source,) = columns.table[name].chunks, dataset.data.table[name].chunks
        assert [buffer and buffer.address for buffer in chunk.buffers()] == [
            buffer and buffer.address for buffer in source.buffers()
        ]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("message", [MESSAGES, LargeList(MESSAGES.feature)])
def test_odd_rows_are_replaced_in_their_places(seed, message, small_blocks):
    generator = random.Random(seed)
    odd = {
        "marker": (lambda n: (user(f"<image>\nWhat {n}?"), assistant(f"{n}.")), lambda n: (f"What {n}?", f"{n}.")),
        "several": (
            lambda n: (user(f"What {n}?"), assistant("A") + user("And?") + assistant(f"B{n}")),
            lambda n: (f"What {n}?\nAnd?", f"A\nB{n}"),
        ),
        "null content": (lambda n: (user("What?"), assistant(None)), lambda n: None),
        "no pair": (lambda n: (None, None), lambda n: None),
        "plain": (lambda n: (user(f"What {n}?"), assistant(f"{n}.")), lambda n: (f"What {n}?", f"{n}.")),
    }
    kinds = [generator.choice([*odd, "plain", "plain"]) for _ in range(generator.randint(1, 20))]
    rows = [{**plain_row(n, *odd[kind][0](n)), "images": [stored(0)]} for n, kind in enumerate(kinds)]
    features = Features({**IDS, "prompt": message, "completion": message, "images": List(Image())})
    dataset = Dataset.from_list(rows, features=features)
    order = generator.sample(range(len(rows)), generator.randint(1, len(rows)))
    assert is_plain(dataset)
    for conversations in (False, True):
        table = read_pair_columns(dataset.select(order), COLUMNS, conversations=conversations).table.to_pydict()
        assert table["pair_id"] == [f"p{n}" for n in order]
        reasons = table.get(UNREAD, [None] * len(order))
        for n, prompt, completion, reason in zip(order, table["prompt"], table["completion"], reasons):
            if conversations and kinds[n] == "several":
                assert (prompt, completion) == odd["several"][0](n) and reason is None
                continue
            expected = odd[kinds[n]][1](n)
            assert (prompt and prompt[-1]["content"], completion and completion[-1]["content"]) == (
                expected or (None, None)
            )
            assert bool(reason) == (kinds[n] == "null content")


@pytest.mark.parametrize("seed", range(10))
def test_ids_are_numbers_in_the_order_of_the_images(seed, small_blocks):
    generator = random.Random(seed)
    images = [generator.randint(0, 2) for _ in range(generator.randint(1, 12))]
    texts = {"question": Value("string"), "answer": Value("string"), "image": Image()}
    rows = [{"image": stored(image), "question": f"{n}?", "answer": "yes"} for n, image in enumerate(images)]
    columns = read_pair_columns(Dataset.from_list(rows, features=Features(texts)), COLUMNS)
    first = list(dict.fromkeys(images))
    ids = [f"{first.index(image):06d}" for image in images]
    table = columns.table.to_pydict()
    assert table["image_id"] == ids and len(columns.assumed) == 2
    assert table["pair_id"] == [f"{name}/{ids[:n].count(name)}" for n, name in enumerate(ids)]
    assert [prompt[0]["content"] for prompt in table["prompt"]] == [f"{n}?" for n in range(len(images))]
    assert set(table["type"]) == {"general"} and set(table["template"]) == {None}


def test_a_picture_is_the_same_in_any_place():
    rows = [
        {"image": None, "images": [stored(1)], "conversations": llava("What?", "A dog.")},
        {"image": stored(1), "images": None, "conversations": llava("What?", "A dog.")},
        {"image": stored(1), "images": [], "conversations": [{"from": "gpt", "value": "no question"}]},
        {"image": None, "images": None, "conversations": llava("What?", "A dog.")},
    ]
    features = Features(
        {
            "image": Image(),
            "images": List(Image()),
            "conversations": List({k: Value("string") for k in ("from", "value")}),
        }
    )
    table = read_pair_columns(Dataset.from_list(rows, features=features), COLUMNS).table.to_pydict()
    assert table["image_id"] == ["000000"] * 3 + [None] and table["pair_id"] == [
        "000000/0",
        "000000/1",
        "000000/2",
        None,
    ]
    assert table[UNREAD][:2] == [None, None]
    assert table[UNREAD][2] == "there is no user message before the answer" and "image" in table[UNREAD][3]
    assert table["prompt"][2:] == [None, None]


def test_ids_may_be_numbers_and_kinds_become_texts():
    texts = {
        "image_id": [7, 7, 3],
        "type": [1, 2, 1],
        "question": ["a?"] * 3,
        "answer": ["b"] * 3,
        "image": [PNG[0]] * 3,
    }
    table = read_pair_columns(Dataset.from_dict(texts), COLUMNS).table
    assert table["image_id"].to_pylist() == [7, 7, 3] and table["pair_id"].to_pylist() == ["7/0", "7/1", "3/0"]
    assert table["type"].to_pylist() == ["1", "2", "1"]
    assert table["prompt"].type == pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
