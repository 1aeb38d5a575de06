"""Pairs that show or say what a benchmark asks: its pictures, and its texts.

A pair leaves if its image is a picture of the benchmark or a near-duplicate of one, whatever the pair asks: a model is
not to know the pictures that it is tested on. Short questions are no evidence by themselves ("Is there a dog?" is asked
about pictures everywhere). A text counts alone if it shares 13 words in a row with a text of the benchmark, but for
case and punctuation, as in GPT-3's decontamination (Brown et al. 2020, appendix C). Runs of words that a benchmark has
with more than 10 of its pictures are its way of asking, and do not count. In scripts without spaces a run of letters is
one word, so that only long texts are found there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from c3l_hf.common.words import normal_text
from c3l_hf.selection.image_duplicates import SketchedImages, sketched
from c3l_hf.selection.image_sketches import DISTANCE, look_alikes, same_contents
from c3l_hf.selection.minhash import WordHashes
from c3l_hf.selection.pair_texts import PairTexts

__all__ = ["RUN_OF_WORDS", "BenchmarkContents", "Contamination", "benchmark_contents", "find_contamination"]

RUN_OF_WORDS = 13
_MOST_PICTURES = 10  # with the same run of words, beyond which it is a phrase
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class BenchmarkContents:
    """What a benchmark shows and says.

    Attributes:
        name: What counts and cards call it.
        images: Its pictures.
        runs: Hashes of its runs of 13 words, distinct and ascending; uint64.
    """

    name: str
    images: SketchedImages
    runs: np.ndarray


@dataclass(frozen=True)
class Contamination:
    """Which pairs of a dataset are contaminated.

    Attributes:
        benchmarks: All that were compared.
        images: `image_id` → the place in `benchmarks` of the first that has the image.
        notes: What could not be compared, a line each.
    """

    benchmarks: Sequence[BenchmarkContents]
    images: Mapping[str, int]
    notes: Sequence[str] = ()

    @property
    def rules(self) -> list[str]:
        """What `of_pairs` finds, by number."""
        return [
            *(f"about an image of {benchmark.name}" for benchmark in self.benchmarks),
            *(f"with a text of {benchmark.name}" for benchmark in self.benchmarks),
        ]

    def of_pairs(self, texts: PairTexts, rows: np.ndarray, image_ids: pa.Array, images: np.ndarray) -> np.ndarray:
        """The rule by which each pair leaves.

        Args:
            texts: Of the table.
            rows: Rows of the pairs.
            image_ids: By number.
            images: The number of each pair's image.

        Returns:
            The number of the first rule in `rules` that says so, -1 for pairs that stay.
        """
        of_image = np.array([self.images.get(image_id, -1) for image_id in image_ids.to_pylist()], np.int64)
        found = of_image[images] if len(of_image) else np.full(len(rows), -1)
        words = WordHashes()
        for piece in texts.pieces(rows):
            some = rows[piece]
            runs, pair = _runs([*texts.questions(some), *texts.answers(some)], words)
            for number in reversed(range(len(self.benchmarks))):
                with_run = pair[_among(runs, self.benchmarks[number].runs)] % len(some)
                left = piece.start + with_run
                left = left[(found[left] < 0) | (found[left] >= len(self.benchmarks))]
                found[left] = len(self.benchmarks) + number
        return found


def benchmark_contents(
    name: str, images: Iterable[tuple[str, Sequence[Any]]], texts: Iterable[tuple[str, str]] = ()
) -> BenchmarkContents:
    """Read a benchmark's pictures and texts.

    Args:
        name: What counts and cards call it.
        images: The name of each picture (or set of pictures), and the pictures as `open_image` takes them.
        texts: Questions, and what else it has to say, each with the name of its picture.
    """
    words = WordHashes()
    pictures, lines = [], []
    for picture, line in texts:
        pictures.append(picture)
        lines.append(line)
    runs, owner = _runs(lines, words)
    _, picture_of = np.unique(np.array(pictures, object).astype(str), return_inverse=True) if pictures else ([], [])
    both = np.unique(np.stack([runs, np.asarray(picture_of, np.uint64)[owner]], axis=1), axis=0)
    distinct, counts = np.unique(both[:, 0], return_counts=True)
    return BenchmarkContents(name, sketched(images), distinct[counts <= _MOST_PICTURES])


def find_contamination(
    images: SketchedImages, benchmarks: Sequence[BenchmarkContents], distance: int = DISTANCE
) -> Contamination:
    """Compare images with those of benchmarks.

    Args:
        images: Those of the pairs, from `sketched`.
        benchmarks: From `benchmark_contents`.
        distance: See `image_sketches.look_alikes`.
    """
    found: dict[str, int] = {}
    notes = list(images.notes)
    for number, benchmark in enumerate(benchmarks):
        theirs = benchmark.images.sketches
        contents = [same_contents(images.sketches, theirs)[0]]
        contents += [ours for ours, _ in look_alikes(images.sketches, theirs, distance)]
        hit = np.isin(images.sketches.content, np.concatenate(contents))
        for owner in np.unique(images.sketches.owner[hit]).tolist():
            found.setdefault(images.ids[owner], number)
        notes += [f"{benchmark.name}: {note}" for note in benchmark.images.notes]
    return Contamination(benchmarks, found, notes)


def _runs(texts: Sequence[str], words: WordHashes) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the runs of words of texts, and the number of the text of each."""
    cut = [normal_text(text).split() for text in texts]
    counts = np.array([len(one) for one in cut], np.int64)
    hashes = np.array(words(word for one in cut for word in one), np.uint64)
    of_text = np.repeat(np.arange(len(cut)), counts)
    if len(hashes) < RUN_OF_WORDS:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    starts = len(hashes) - RUN_OF_WORDS + 1
    runs = np.zeros(starts, np.uint64)
    for place in range(RUN_OF_WORDS):
        runs = runs * _FACTOR + hashes[place : place + starts]
    whole = of_text[:starts] == of_text[RUN_OF_WORDS - 1 :]
    return runs[whole], of_text[:starts][whole]


def _among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether values are among those known, which ascend."""
    if not len(known):
        return np.zeros(len(values), bool)
    return known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
