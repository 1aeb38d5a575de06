"""The option of MMBench and SEED-Bench that a model finds likeliest, also over blind; how ties are broken."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from c3l_hf.evaluation.benchmarks import LETTERS

__all__ = ["likeliest_letters"]


def likeliest_letters(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The letter of the option that a model chooses by likelihood, for each question; "" where there is no choice.

    In half precision options of one token are often equal. Of equal ones a digest of question_id and text chooses:
    a fair draw, whatever the order of the options, and in every run the same. Where this is the text of several options
    there is no choice.

    Args:
        rows: Predictions with likelihoods of their options, see `predictions.predict`.

    Returns:
        Two ways to choose:

        - "likelihood": the highest mean log-probability per token
        - "likelihood minus prior": the highest one less that of the blind pass, the option whose probability the image
          raises most (its pointwise mutual information)
    """
    scores = {
        "likelihood": [row["option_logprobs"] for row in rows],
        "likelihood minus prior": [np.subtract(row["option_logprobs"], row["option_logprobs_blind"]) for row in rows],
    }
    return {way: [_best(of, row) for of, row in zip(found, rows)] for way, found in scores.items()}


def _best(scores: Sequence[float], row: Mapping[str, Any]) -> str:
    def lot(text: str) -> bytes:
        # The draw that published figures rest on: not `files.digest`, which another need may change.
        return hashlib.blake2b(json.dumps([row["question_id"], text]).encode()).digest()

    texts = [option.strip() for option in row["options"]]
    chosen = min((texts[place] for place in np.flatnonzero(np.asarray(scores) == np.max(scores))), key=lot)
    return LETTERS[texts.index(chosen)] if texts.count(chosen) == 1 else ""
