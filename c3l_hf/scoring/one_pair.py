"""One pair by itself, as one tries it in a notebook: its row, and its scores in a form to look at."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from c3l_hf.data.schema import SCORES, STATUS, STATUS_OK

__all__ = ["PairScores", "check_rows", "row_of", "scored_pair"]

_WIDTH = 100


class PairScores(dict[str, Any]):
    """The score columns of one pair (`data.schema.SCORE_COLUMNS`), as a dict that shows itself: the scores, and what
    the image adds to the log-probability of each token of the answer, in nats."""

    @property
    def gains(self) -> list[tuple[str, float]]:
        """(token, ln p with the image - ln p without it) of each token of the answer."""
        differences = (
            seen - blind for seen, blind in zip(self["logprob_per_token"], self["logprob_blind_per_token"], strict=True)
        )
        return list(zip(self["answer_tokens"], differences, strict=True))

    def __repr__(self) -> str:
        scores = "   ".join(f"{name} {self[name]:.3f}" for name in SCORES)
        # As Python writes them: a text of others must not reach the terminal as a command to it.
        tokens = "   ".join(f"{text!r}\xa0{gain:+.2f}" for text, gain in self.gains)
        lines = textwrap.wrap(
            tokens, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        what = "what the image adds to each token of the answer:"
        return "\n".join([f"i2c {self['i2c']:.3f}", f"  {scores}", what, *lines]).replace("\xa0", " ")


def row_of(image: Any, question: Any, answer: Any) -> dict[str, Any]:
    """A pair as a row.

    Args:
        image: An image as `files.image.open_image` takes it, or a list of them.
        question: The text of the instruction.
        answer: The text of the answer.

    Raises:
        TypeError: If one of them is missing.
        ValueError: If a text is none, or there is no image.
    """
    given = {"image": image, "question": question, "answer": answer}
    if missing := [name for name, value in given.items() if value is None]:
        raise TypeError(
            f"score(image=…, question=…, answer=…) lacks {' and '.join(missing)}; of many pairs score([row, …]) takes "
            "a list of rows"
        )
    for name in ("question", "answer"):
        if not isinstance(given[name], str):
            raise ValueError(
                f"{name} is {type(given[name]).__name__}, not a text; conversations are scored as rows: "
                'score([{"images": …, "messages": …}])'
            )
    images = list(image) if isinstance(image, list | tuple) else [image]
    if not images:
        raise ValueError("image is an empty list; the pair needs at least one image")
    return {"images": images, "question": question, "answer": answer}


def check_rows(rows: Any) -> Sequence[Mapping[str, Any]]:
    """That rows are rows.

    Raises:
        TypeError: If they are something else that users pass by mistake.
    """
    if isinstance(rows, Mapping):
        raise TypeError(
            "score takes a list of rows, and this is one mapping: scorer(row) scores a row, or a batch as map has it; "
            "score(image=…, question=…, answer=…) a pair"
        )
    if isinstance(rows, str | bytes) or not hasattr(rows, "__iter__"):
        raise TypeError(
            f"score takes a list of rows, or image=…, question=… and answer=…; this is {type(rows).__name__}"
        )
    return rows


def scored_pair(columns: Mapping[str, Any]) -> PairScores:
    """The scores of one pair.

    Raises:
        ValueError: If it has none; the message is the reason.
    """
    if columns[STATUS] != STATUS_OK:
        raise ValueError(f"the pair cannot be scored: {columns[STATUS]}")
    return PairScores(columns)
