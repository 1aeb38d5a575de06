"""Pairs that repeat others: the same instruction, or near-duplicates, whose sets of neighbouring words are similar.

Two pairs are near-duplicates if the Jaccard similarity of their shingles, |A ∩ B| / |A ∪ B|, is at least a threshold.
A shingle is a pair of neighbouring words, of instruction and answer apart, with their ends marked: the marks give a
one-word answer two shingles, so that "yes" and "no" to a short question are no near-duplicates.
"""

from itertools import pairwise

import numpy as np

from c3l_hf.common.words import normal_text
from c3l_hf.selection.columns import blocks
from c3l_hf.selection.pair_texts import PairTexts

__all__ = [
    "NEAR_DUPLICATE",
    "NEW",
    "SAME_INSTRUCTION",
    "Shingles",
    "compare_within_images",
    "jaccard",
    "shingles",
]

# What a pair is to those about the same image that are better.
NEW, SAME_INSTRUCTION, NEAR_DUPLICATE = range(3)

# Pairs of neighbouring words of the instruction, and of the answer.
Shingles = tuple[set[tuple[str, str]], set[tuple[str, str]]]


def shingles(question: str, answer: str) -> Shingles:
    """The shingles of a pair.

    Args:
        question: As `normal_text` returns it.
        answer: The same.
    """
    return _neighbours(question), _neighbours(answer)


def jaccard(first: Shingles, second: Shingles) -> float:
    """Similarity of two pairs, in [0, 1]."""
    common = len(first[0] & second[0]) + len(first[1] & second[1])
    return common / (len(first[0]) + len(first[1]) + len(second[0]) + len(second[1]) - common)


def compare_within_images(
    texts: PairTexts, rows: np.ndarray, images: np.ndarray, threshold: float | None
) -> np.ndarray:
    """Compares the pairs about the same image, exactly; only the texts of some images are in memory at a time.

    Args:
        texts: Of the table.
        rows: Rows of the pairs, best first.
        images: The number of the image of each.
        threshold: Jaccard similarity of near-duplicates, in (0, 1]; None to compare instructions only.

    Returns:
        For each pair `SAME_INSTRUCTION` if a better one about its image has the same words as instruction, else
        `NEAR_DUPLICATE` if a better one that is `NEW` is similar, else `NEW`; int8.
    """
    verdicts = np.zeros(len(rows), np.int8)
    by_image = np.argsort(images, kind="stable")
    for block, bounds in blocks(images[by_image], texts.sizes[rows[by_image]]):
        positions = by_image[block]
        questions = [normal_text(question) for question in texts.questions(rows[positions])]
        answers = texts.answers(rows[positions])
        verdicts[positions] = [
            verdict
            for first, end in pairwise(bounds.tolist())
            for verdict in _compare(questions[first:end], answers[first:end], threshold)
        ]
    return verdicts


def _compare(questions: list[str], answers: list[str], threshold: float | None) -> list[int]:
    if len(questions) == 1:
        return [NEW]
    instructions: set[str] = set()
    kept: list[Shingles] = []
    verdicts = []
    for question, answer in zip(questions, answers):
        if question in instructions:
            verdicts.append(SAME_INSTRUCTION)
            continue
        instructions.add(question)
        if threshold is not None:
            pair = shingles(question, normal_text(answer))
            if any(jaccard(pair, other) >= threshold for other in kept):
                verdicts.append(NEAR_DUPLICATE)
                continue
            kept.append(pair)
        verdicts.append(NEW)
    return verdicts


def _neighbours(text: str) -> set[tuple[str, str]]:
    words = text.split()
    return set(zip(["", *words], [*words, ""]))
