"""Near-duplicates in the dataset: what all with all finds, but for rare misses; and in bounded memory."""

import random

import numpy as np
import pyarrow as pa
import pytest

from c3l_hf.common.words import normal_text
from c3l_hf.selection import columns, minhash
from c3l_hf.selection.minhash import repeated_pairs, rows_of_a_band, shingle_hashes
from c3l_hf.selection.near_duplicates import jaccard, shingles
from c3l_hf.selection.pair_texts import PairTexts

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def texts_of(pairs):
    return PairTexts(
        pa.table(
            {
                name: pa.array([[{"role": role, "content": pair[side]}] for pair in pairs], MESSAGES)
                for side, (name, role) in enumerate((("prompt", "user"), ("completion", "assistant")))
            }
        )
    )


def families(count, seed, words=400, longest=25):
    """Pairs, most of which are another one with some words changed."""
    generator = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(words)]
    pairs = []
    for _ in range(count):
        if pairs and generator.random() < 0.6:
            question, answer = (text.split() for text in generator.choice(pairs))
            for _ in range(generator.randint(0, 3)):
                answer[generator.randrange(len(answer))] = generator.choice(vocabulary)
        else:
            question = generator.choices(vocabulary, k=generator.randint(3, 8))
            answer = generator.choices(vocabulary, k=generator.randint(1, longest))
        pairs.append((" ".join(question), " ".join(answer)))
    return pairs


def all_with_all(pairs, threshold):
    kept, repeated = [], []
    for question, answer in pairs:
        mine = shingles(normal_text(question), normal_text(answer))
        repeated.append(any(jaccard(mine, other) >= threshold for other in kept))
        if not repeated[-1]:
            kept.append(mine)
    return repeated


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.8, 0.95, 1.0])
def test_as_all_with_all(threshold, monkeypatch):
    monkeypatch.setattr(columns, "_BLOCK", 100)
    pairs = families(600, seed=1)
    expected = all_with_all(pairs, threshold)
    found = repeated_pairs(texts_of(pairs), np.arange(len(pairs)), threshold, seed=0).tolist()
    assert 50 < sum(expected) < 500 and found == expected


def test_similar_as_the_threshold_to_the_last_digit():
    """14 shingles of 25 are .56; but .56 · 25 is rounded to more than 14."""
    question = " ".join(f"w{number}" for number in range(10))
    longer = " ".join(["a b", *(f"x{number}" for number in range(10)), "a b"])
    pairs = [(question, "a b"), (question, longer)]
    assert np.diff(shingle_hashes(*zip(*pairs))[1]).tolist() == [14, 25]
    assert all_with_all(pairs, 0.56) == [False, True]
    assert repeated_pairs(texts_of(pairs), np.arange(2), 0.56, seed=0).tolist() == [False, True]


def test_the_order_of_the_rows_is_that_of_the_comparison():
    pairs = families(200, seed=2)
    order = np.random.default_rng(0).permutation(200)
    found = repeated_pairs(texts_of(pairs), order, 0.7, seed=0).tolist()
    assert found == all_with_all([pairs[number] for number in order], 0.7)


def test_hashes_are_shingles():
    pairs = [
        ("Is it red?", "Yes"),
        ("is it RED", "yes."),
        ("?", "…"),
        ("", "a a a a"),
        ("Yes", "is it red"),
        ("犬 は", "b"),
    ]
    hashes, bounds = shingle_hashes(*zip(*pairs))
    sets = [set(hashes[start:end].tolist()) for start, end in zip(bounds[:-1], bounds[1:])]
    cut = [shingles(*map(normal_text, pair)) for pair in pairs]
    assert [len(one) for one in sets] == [len(one) + len(other) for one, other in cut]
    for i in range(len(pairs)):
        for j in range(len(pairs)):
            common = len(sets[i] & sets[j])
            assert common / (len(sets[i]) + len(sets[j]) - common) == jaccard(cut[i], cut[j]), (i, j)
    assert sets[0] == sets[1] and not sets[0] & sets[4]


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 0.9, 0.95])
def test_misses_are_as_rare_as_stated(threshold):
    r = rows_of_a_band(threshold)
    assert (1 - threshold**r) ** (128 // r) <= minhash.MOST_MISSED
    # Bands are no shorter than they need be: each false candidate costs a comparison.
    assert threshold < 0.5 or (1 - threshold ** (r + 1)) ** (128 // (r + 1)) > minhash.MOST_MISSED


def test_pairs_about_as_similar_as_the_threshold_are_found_as_often_as_stated(monkeypatch):
    """One band of four minima finds a pair of similarity s with probability s⁴."""
    monkeypatch.setattr(minhash, "_PERMUTATIONS", 4)
    monkeypatch.setattr(minhash, "rows_of_a_band", lambda threshold: 4)
    pairs, expected = [], []
    generator = random.Random(5)
    for number in range(1500):
        words = [f"n{number}w{place}" for place in range(20)]
        other = [*words]
        other[generator.randrange(20)] = "other"
        pairs += [("what", " ".join(words)), ("what", " ".join(other))]
        cut = [shingles(*pair) for pair in pairs[-2:]]
        expected.append(jaccard(*cut) ** 4)
    found = repeated_pairs(texts_of(pairs), np.arange(len(pairs)), 0.5, seed=3).sum()
    deviation = np.sqrt(sum(p * (1 - p) for p in expected))
    assert abs(found - sum(expected)) < 4 * deviation


def test_words_that_are_known_are_forgotten_in_time(monkeypatch):
    monkeypatch.setattr(minhash, "_KNOWN_WORDS", 10)
    words = minhash.WordHashes()
    first = words(f"w{number}" for number in range(50))
    assert words(f"w{number}" for number in range(50)) == first and len(words._known) == 50
    words(["a"])
    assert len(words._known) == 1


def test_no_pairs_and_one():
    texts = texts_of([("a", "b")])
    assert repeated_pairs(texts, np.arange(0), 0.8, 0).tolist() == []
    assert repeated_pairs(texts, np.arange(1), 0.8, 0).tolist() == [False]
