"""What stands where in the cache, and who sees it."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache, DynamicLayer

from c3l_hf.generation.prefix_cache import PrefixCache, Step

HEADS, SIZE = 2, 4


def read(*lengths: int) -> DynamicCache:
    """Prompts of two layers, padded on the left; a token's keys are 100 times its row plus its number, from 1."""
    longest = max(lengths)
    keys = torch.stack([100 * row + torch.arange(1.0, longest + 1) - longest + n for row, n in enumerate(lengths)])
    keys = keys[:, None, :, None].expand(-1, HEADS, -1, SIZE)
    cache = DynamicCache()
    for layer in range(2):
        cache.update(keys + layer, -keys, layer)
    return cache


def step_of(rows: list[int], texts: list[int], columns: list[int], indices: list[int]) -> Step:
    counts = np.bincount(rows)
    within = np.concatenate([np.arange(count) for count in counts])
    arrays = [np.array(values) for values in (rows, texts, columns, indices)]
    return Step(*arrays, shape=(len(counts), counts.max()), places=arrays[0] * counts.max() + within)


@pytest.fixture
def cache():
    """Prompts of 3 and 5 tokens, the first with two texts, and a step in which their keys are 1000, 1001, ..."""
    cache = PrefixCache(torch.device("cpu"), window=3)
    cache.reserve(2, 5, 4)
    cache.put(read(3, 5), [0, 1], [0, 1], [3, 5])
    return cache


def write(cache: PrefixCache, step: Step, longest: int, columns: int, first: int = 1000):
    masks = cache.begin(step, longest, columns)
    states = torch.arange(first, first + len(step.rows), dtype=torch.float32)[None, None, :, None]
    states = states.expand(1, HEADS, -1, SIZE)
    keys, values = cache.update(states, -states, 0)
    cache.update(states, -states, 1)
    assert torch.equal(values, -keys)
    return keys[:, 0, :, 0], {name: mask[:, 0] for name, mask in masks.items()}


def seen(keys: torch.Tensor, mask: torch.Tensor) -> list[int]:
    return keys[mask].int().tolist()


def test_a_text_sees_its_prompt_and_itself(cache):
    write(cache, step_of([0, 0, 1], [1, 2, 1], [0, 1, 0], [3, 3, 5]), 5, 2)
    keys, masks = write(cache, step_of([0, 0, 1], [1, 2, 1], [2, 3, 1], [4, 4, 6]), 5, 4, first=2000)
    full, near = masks["full_attention"], masks["sliding_attention"]
    assert seen(keys[0], full[0, 0]) == [1, 2, 3, 1000, 2000]
    assert seen(keys[0], full[0, 1]) == [1, 2, 3, 1001, 2001]
    assert seen(keys[1], full[1, 0]) == [101, 102, 103, 104, 105, 1002, 2002]
    assert seen(keys[1], full[1, 1]) == [101, 102, 103, 104, 105]  # no text
    # three tokens, with itself
    assert seen(keys[0], near[0, 0]) == [3, 1000, 2000] and seen(keys[0], near[0, 1]) == [3, 1001, 2001]
    assert seen(keys[1], near[1, 0]) == [105, 1002, 2002] and near[1, 1].any()


def test_buffers_grow_with_what_is_in_them(cache):
    step = [0, 0, 1], [1, 2, 1], [0, 1, 0], [3, 3, 5]
    keys, masks = write(cache, step_of(*step), 5, 2)
    before = [[seen(keys[row], masks[name][row, 0]) for row in (0, 1)] for name in masks]
    origin, room = cache.extent.origin, cache.extent.room
    cache.reserve(3, origin + 1, room + 1)
    assert cache.extent.rows == 3 and cache.extent.origin > origin and cache.extent.room > room
    keys, masks = write(cache, step_of(*step), 5, 2)
    assert [[seen(keys[row], masks[name][row, 0]) for row in (0, 1)] for name in masks] == before
    cache.put(read(cache.extent.origin), [0], [2], [cache.extent.origin])
    assert cache.layers[1].keys[2, 0, : cache.extent.origin, 0].tolist() == list(range(2, cache.extent.origin + 2))


def test_a_row_that_is_taken_over_shows_nothing_of_the_one_before(cache):
    write(cache, step_of([0, 0, 1], [1, 2, 1], [0, 1, 0], [3, 3, 5]), 5, 2)
    cache.put(read(2), [0], [0], [2])
    keys, masks = write(cache, step_of([0, 1], [1, 1], [2, 1], [2, 6]), 5, 3, first=2000)
    assert seen(keys[0], masks["full_attention"][0, 0]) == [1, 2, 2000]
    assert seen(keys[1], masks["full_attention"][1, 0]) == [101, 102, 103, 104, 105, 1002, 2001]


def test_rows_move_and_are_cleared(cache):
    write(cache, step_of([0, 0, 1], [1, 2, 1], [0, 1, 0], [3, 3, 5]), 5, 2)
    cache.layers[0].keys[0] = torch.nan
    cache.clear(0)
    assert cache.layers[0].keys[0].eq(0).all() and cache.layers[0].keys[1].ne(0).any()
    cache.move([1], [0])
    keys, masks = write(cache, step_of([0], [1], [1], [6]), 5, 2, first=2000)
    assert seen(keys[0], masks["full_attention"][0, 0]) == [101, 102, 103, 104, 105, 1002, 2000]


def test_only_what_somebody_sees_is_given_to_attention(cache):
    keys, _ = write(cache, step_of([0, 1], [1, 1], [0, 0], [3, 5]), 5, 1)
    assert keys.shape == (2, 16)  # the next multiples of 8 on both sides of the origin


def test_layers_of_another_kind():
    other = type("Other", (DynamicLayer,), {})
    prompts = read(3)
    prompts.layers[1].__class__ = other
    cache = PrefixCache(torch.device("cpu"))
    cache.reserve(1, 3, 4)
    with pytest.raises(RuntimeError, match="layer 1 keeps no keys and values of all tokens"):
        cache.put(prompts, [0], [0], [3])
