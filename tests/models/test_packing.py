"""Packs: what is shared stands once, and every token sees its own sequence only."""

import numpy as np
import pytest
import torch

from c3l_hf.models.packing import collate_packs, pack, plan_packs


def random_sequences(seed, count=6, length=12, words=3):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, words, rng.integers(1, length)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(20))
def test_pack_against_the_definition(seed):
    sequences = random_sequences(seed)
    one = pack(sequences)
    # one place for every distinct beginning, and nothing else
    beginnings = {tuple(s[: end + 1]) for s in sequences for end in range(len(s))}
    assert len(one) == len(beginnings) == len(one.positions)
    visible = one.visible()
    named = {}
    for sequence, places in zip(sequences, one.where, strict=True):
        assert one.ids[places].tolist() == sequence.tolist()
        assert one.positions[places].tolist() == list(range(len(sequence)))
        for end, place in enumerate(places):
            named[place] = tuple(sequence[: end + 1])
    assert len(named) == len(one)
    for i in range(len(one)):
        for j in range(len(one)):
            # a token sees exactly the tokens that end one of its own beginnings
            assert visible[i, j] == (named[j] == named[i][: len(named[j])])
            assert not visible[i, j] or j <= i  # causal in the pack too


def test_pack_of_one_is_the_sequence():
    (sequence,) = random_sequences(0, count=1)
    one = pack([sequence])
    assert one.ids.tolist() == sequence.tolist()
    assert (one.visible() == np.tri(len(sequence), dtype=bool)).all()


def plan(sequences, groups=None, needed=None, room=100):
    count = len(sequences)
    return plan_packs([np.array(s) for s in sequences], groups or ["a"] * count, needed or [0] * count, room)


def test_plan_puts_every_sequence_somewhere():
    for seed in range(20):
        sequences = random_sequences(seed, count=30)
        groups = [int(s[0]) for s in sequences]
        packs = plan(sequences, groups, room=8)
        assert sorted(number for numbers in packs for number in numbers) == list(range(30))
        for numbers in packs:
            assert len({groups[number] for number in numbers}) == 1
            together = [sequences[number] for number in numbers]
            assert len(pack(together)) <= max(map(len, together)) + 8


def test_plan_keeps_groups_apart_though_they_are_mixed():
    assert plan([[1, 2], [1, 3], [1, 2], [1, 3]], ["x", "y", "y", "x"]) == [[0, 3], [2, 1]]


def test_plan_without_room_joins_equal_sequences_only():
    assert plan([[1, 2], [1, 2, 3], [1, 2], [4]], room=0) == [[0, 2], [1], [3]]


def test_plan_wants_the_image_in_the_shared_beginning():
    # 9 is an image token: in the first two it stands in the shared beginning, in the last it comes later
    sequences = [[1, 9, 9, 2], [1, 9, 9, 3], [1, 4, 9, 9]]
    assert plan(sequences, needed=[3, 3, 4]) == [[2], [0, 1]]
    assert plan([[1, 4, 9, 9, 2], [1, 5, 9, 9, 2]], needed=[4, 4]) == [[0], [1]]


def test_collate():
    packs = [pack([np.array([5, 6, 7]), np.array([5, 8])]), pack([np.array([9])])]
    types = [
        [
            {"token_type_ids": torch.tensor([[1, 2, 3, 4]]), "input_ids": None},
            {"token_type_ids": torch.tensor([[1, 6]])},
        ]
    ]
    types.append([{"token_type_ids": torch.tensor([[7]])}])
    pixels = torch.arange(2.0)
    for rows, value in zip(types, pixels):
        for row in rows:
            row["pixel_values"] = value.reshape(1, 1)
    batch = collate_packs(packs, types, pad_id=3, dtype=torch.float32)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 3, 3, 3]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 1], [0, 0, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[1, 2, 3, 6], [7, 0, 0, 0]]
    assert batch["pixel_values"].tolist() == [[0.0], [1.0]]
    mask = batch["attention_mask"]
    assert mask.shape == (2, 1, 4, 4) and mask.dtype == torch.float32
    visible = (mask == 0)[:, 0].int().tolist()
    assert visible[0] == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]
    assert visible[1] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert mask.min() == torch.finfo(torch.float32).min
