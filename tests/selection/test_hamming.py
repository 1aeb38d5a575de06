"""The search for similar bit strings finds exactly what a comparison of all with all finds."""

import numpy as np
import pytest

from c3l_hf.selection import hamming
from c3l_hf.selection.hamming import pairs_within


def codes(count, words, seed, families=20, flips=40):
    """Strings around some centres, so that there are distances of all kinds."""
    generator = np.random.default_rng(seed)
    centres = generator.integers(0, 2, (families, 64 * words), np.uint8)
    strings = centres[generator.integers(0, families, count)]
    for string in strings:
        changes = generator.integers(0, flips if generator.random() < 0.6 else 3)
        places = generator.integers(0, 64 * words, changes)
        string[places] ^= 1
    return np.packbits(strings, axis=1).view(np.uint64)


def distances(first, second):
    return np.bitwise_count(first[:, None] ^ second[None]).sum(axis=2, dtype=np.int64)


def found(first, second, distance):
    pairs = [pair for one, other in pairs_within(first, second, distance) for pair in zip(one.tolist(), other.tolist())]
    assert len(pairs) == len(set(pairs)), "a pair comes twice"
    return set(pairs)


@pytest.mark.parametrize("changed", [0, 1, 2])
@pytest.mark.parametrize("words, distance", [(4, 0), (4, 5), (4, 32), (4, 40), (1, 6), (2, 11)])
def test_the_same_pairs_as_all_with_all(words, distance, changed, monkeypatch):
    monkeypatch.setattr(hamming, "_AT_ONCE", 1000)
    monkeypatch.setattr(hamming, "_cut", lambda *arguments: cut(changed, *arguments))
    strings = codes(150, words, seed=distance)
    near = distances(strings, strings) <= distance
    expected = {(i, j) for i, j in np.argwhere(near).tolist() if i < j}
    assert expected and found(strings, strings, distance) == expected
    others = np.concatenate([codes(40, words, seed=99), strings[:30]])
    expected = set(map(tuple, np.argwhere(distances(strings, others) <= distance).tolist()))
    assert expected and found(strings, others, distance) == expected


def cut(changed, bits, distance, *_):
    """Bands for this ρ, whatever is least work; narrow enough that there are not too many masks."""
    bands = max(distance // (changed + 1) + 1, bits // 16)
    return changed, [bits * number // bands for number in range(bands + 1)]


def test_work_grows_more_slowly_than_the_square():
    work = []
    for count in (10_000, 1_000_000):
        changed, bounds = hamming._cut(256, 32, count, count)
        width, bands = min(np.diff(bounds)), len(bounds) - 1
        assert bands * (changed + 1) > 32
        masks = sum(hamming.comb(int(width), flips) for flips in range(changed + 1))
        work.append(bands * masks * (count + count**2 / 2.0**width))
    assert work[1] < 100**1.6 * work[0] and work[1] < 1e12 / 100


def test_nothing_to_compare_and_impossible_distances():
    empty = np.empty((0, 4), np.uint64)
    assert found(empty, codes(3, 4, 0), 5) == found(empty, empty, 5) == set()
    with pytest.raises(ValueError, match="distance is 256; it must be from 0 to 255"):
        list(pairs_within(codes(2, 4, 0), codes(2, 4, 1), 256))
