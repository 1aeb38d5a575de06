"""Near-duplicates among all pairs of a dataset, in little memory: MinHash (Broder 1997) with bands, then exactly.

Shingles (see `near_duplicates`) are 64-bit hashes here. Of each pair 128 minima of permuted hashes are taken, cut into
bands of r; pairs that are equal in a band are candidates, whose shingles are then compared one by one. Two pairs of
similarity s are no candidates with probability (1 - s^r)^(128 // r).

A pair takes 4 bytes for each band (25 bands at the usual threshold of 0.8), its shingles 8 bytes each in a temporary
file; pairs that share a band with another take 4 bytes more for each such band. Python objects are made of 65,536 pairs
or 16 MB of text at a time.
"""

import tempfile
from collections.abc import Iterable, Sequence
from typing import IO

import numpy as np
import xxhash

from c3l_hf.common.words import normal_text
from c3l_hf.selection.columns import pieces
from c3l_hf.selection.pair_texts import PairTexts
from c3l_hf.selection.scored_pairs import hash_of

__all__ = ["MOST_MISSED", "repeated_pairs", "rows_of_a_band", "shingle_hashes"]

# Probability that two pairs exactly as similar as the threshold are no candidates, at most; less above it.
MOST_MISSED = 1e-3
_PERMUTATIONS = 128
# Words whose hashes are kept: those of some 10^6 distinct words take 100 MB.
_KNOWN_WORDS = 1_000_000
_MIX = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)  # of SplitMix64 (Steele et al. 2014)


def repeated_pairs(texts: PairTexts, rows: np.ndarray, threshold: float, seed: int) -> np.ndarray:
    """Which pairs are near-duplicates of a better one that is none itself, over the whole dataset.

    Args:
        texts: Of the table.
        rows: Rows of the pairs, best first.
        threshold: Jaccard similarity of near-duplicates, in (0, 1].
        seed: Of the permutations: it decides which of the rare misses there are.

    Returns:
        bool for each pair. A near-duplicate is missed with a probability of at most `MOST_MISSED`.
    """
    repeated = np.zeros(len(rows), bool)
    if len(rows) < 2:
        return repeated
    band = rows_of_a_band(threshold)
    permutations = np.random.default_rng(int.from_bytes(hash_of("minhash", seed), "big"))
    factors = permutations.integers(0, 2**63, _PERMUTATIONS, np.uint64) * np.uint64(2) + np.uint64(1)
    shifts = permutations.integers(0, 2**64, _PERMUTATIONS, np.uint64)
    words = WordHashes()
    with tempfile.TemporaryFile() as file:
        sets, keys, ends = [], [], [np.zeros(1, np.int64)]
        for piece in texts.pieces(rows):
            hashes, bounds = shingle_hashes(texts.questions(rows[piece]), texts.answers(rows[piece]), words)
            hashes.tofile(file)
            ends.append(ends[-1][-1] + bounds[1:])
            sets.append(np.add.reduceat(_mixed(hashes), bounds[:-1]))
            keys.append(_band_keys(hashes, bounds[:-1], factors, shifts, band))
        # Equal sets have the same fate but for the best of them: only that one is compared.
        _, firsts = np.unique(np.concatenate(sets), return_index=True)
        repeated[:] = True
        repeated[firsts] = False
        _compare(np.sort(firsts), np.concatenate(keys), _Shingles(file, np.concatenate(ends)), threshold, repeated)
    return repeated


def rows_of_a_band(threshold: float) -> int:
    """r: as many minima as a band may have for at most `MOST_MISSED` of the pairs at the threshold to be missed."""
    fitting = (r for r in range(1, _PERMUTATIONS + 1) if (1 - threshold**r) ** (_PERMUTATIONS // r) <= MOST_MISSED)
    return max(fitting, default=1)


def shingle_hashes(
    questions: Sequence[str], answers: Sequence[str], words: "WordHashes | None" = None
) -> tuple[np.ndarray, np.ndarray]:
    """The shingles of some pairs as 64-bit hashes.

    Args:
        questions: As they are written.
        answers: Likewise.
        words: Hashes of words, kept between calls.

    Returns:
        The hashes of all pairs, distinct and ascending within each, and the bounds of each pair in them (one more than
        there are pairs).
    """
    words = WordHashes() if words is None else words
    parts = [_neighbours(texts, words, side) for side, texts in enumerate((questions, answers), 1)]
    pair = np.concatenate([np.repeat(np.arange(len(counts)), counts) for _, counts in parts])
    hashes = np.concatenate([values for values, _ in parts])
    order = np.lexsort((hashes, pair))
    pair, hashes = pair[order], hashes[order]
    new = np.r_[True, (pair[1:] != pair[:-1]) | (hashes[1:] != hashes[:-1])][: len(pair)]
    return hashes[new], np.r_[0, np.cumsum(np.bincount(pair[new], minlength=len(questions)))]


class WordHashes:
    """The hash of each word, kept for the next time."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __call__(self, words: Iterable[str]) -> list[int]:
        known, hashes = self._known, []
        if len(known) > _KNOWN_WORDS:
            known.clear()
        for word in words:
            value = known.get(word)
            if value is None:
                value = known[word] = xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))
            hashes.append(value)
        return hashes


class _Shingles:
    """Shingles of pairs in a file, by the pair's number."""

    def __init__(self, file: IO[bytes], ends: np.ndarray):
        file.flush()
        self._hashes = np.memmap(file, np.uint64, "r", shape=(int(ends[-1]),))
        self._ends = ends
        self.sizes = np.diff(ends)

    def common(self, one: int, others: np.ndarray) -> np.ndarray:
        """How many shingles each of the others has in common with one pair."""
        counts = [self._in_common(one, others[piece]) for piece in pieces(len(others), 8 * self.sizes[others])]
        return np.concatenate(counts)

    def _in_common(self, one: int, others: np.ndarray) -> np.ndarray:
        mine = self._hashes[self._ends[one] : self._ends[one + 1]]
        sizes = self.sizes[others]
        starts = np.cumsum(sizes) - sizes
        places = np.repeat(self._ends[others] - starts, sizes) + np.arange(sizes.sum())
        theirs = self._hashes[places]
        found = np.searchsorted(mine, theirs)
        return np.add.reduceat(mine[np.minimum(found, len(mine) - 1)] == theirs, starts, dtype=np.int64)


def _neighbours(texts: Sequence[str], words: WordHashes, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the pairs of neighbouring words, with ends marked, and how many each text has."""
    cut = [["", *normal_text(text).split(), ""] for text in texts]
    hashes = np.array(words(word for one in cut for word in one), np.uint64)
    counts = np.array([len(one) for one in cut], np.int64)
    hashes = _mixed(_mixed(hashes[:-1] + np.uint64(side)) + hashes[1:])
    last = np.cumsum(counts)[:-1] - 1  # from the end of a text to the beginning of the next
    return np.delete(hashes, last), counts - 1


def _mixed(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))


def _band_keys(
    hashes: np.ndarray, starts: np.ndarray, factors: np.ndarray, shifts: np.ndarray, band: int
) -> np.ndarray:
    """32 bits of each band of each pair; (pairs, bands)."""
    bands = _PERMUTATIONS // band
    keys = np.empty((len(starts), bands), np.uint32)
    for number in range(bands):
        key = np.zeros(len(starts), np.uint64)
        for place in range(number * band, (number + 1) * band):
            key = _mixed(key + np.minimum.reduceat(hashes * factors[place] + shifts[place], starts))
        keys[:, number] = key >> np.uint64(32)
    return keys


def _compare(pairs: np.ndarray, keys: np.ndarray, shingles: _Shingles, threshold: float, repeated: np.ndarray) -> None:
    """Marks those of the pairs, in their order, that are similar to an earlier one that is not marked."""
    buckets, starts, members = _buckets(keys[pairs])
    filled = np.zeros(len(starts), np.int32)
    for number in np.flatnonzero((buckets >= 0).any(axis=1)).tolist():
        own = buckets[number]
        own = own[own >= 0]
        first, count = starts[own], filled[own]
        there = [members[place : place + size] for place, size in zip(first.tolist(), count.tolist()) if size]
        pair = int(pairs[number])
        if there:
            others = np.unique(np.concatenate(there))
            size, sizes = shingles.sizes[pair], shingles.sizes[others]
            # A quotient, as the similarity itself: 0.56 · 25 is rounded to more than 14.
            others = others[np.minimum(size, sizes) / np.maximum(size, sizes) >= threshold]
            if len(others):
                common = shingles.common(pair, others)
                if (common / (size + shingles.sizes[others] - common) >= threshold).any():
                    repeated[pair] = True
                    continue
        members[first + count] = pair
        filled[own] += 1


def _buckets(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pairs are equal in a band.

    Returns:
        For each pair and band the number of its bucket, -1 where it has it alone; where the places of each bucket
        begin; and these places, as many as the bucket has pairs, to be filled.
    """
    buckets = np.full(keys.shape, -1, np.int32)
    sizes, count = [np.zeros(0, np.int64)], 0
    for band in range(keys.shape[1]):
        _, numbers, counts = np.unique(keys[:, band], return_inverse=True, return_counts=True)
        shared = counts > 1
        names = np.where(shared, count + np.cumsum(shared) - 1, -1)
        buckets[:, band] = names[numbers]
        sizes.append(counts[shared])
        count += int(shared.sum())
    lengths = np.concatenate(sizes)
    return buckets, np.cumsum(lengths) - lengths, np.empty(int(lengths.sum()), np.int32)
