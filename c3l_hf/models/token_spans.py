"""Numbers of one tokenizer's tokens → those of another's, by the characters that both spell."""

import itertools
from collections.abc import Iterator, Sequence

from c3l_hf.common.errors import RowError

__all__ = ["carry_over"]


def carry_over(pieces: Sequence[str], values: Sequence[float], tokens: Sequence[str]) -> list[float]:
    """The values of a text's pieces for its tokens: of each token the mean over its characters.

    White space may differ, as tokenizers put a space before a text or take one away: a space that the pieces do not
    have counts for nothing. Pieces without characters, as the first bytes of a letter, share its value: the mean of
    theirs. Tokens without characters of their own have the value of the next that has some, at the end of the last.

    Args:
        pieces: Texts that spell the whole, as `token_texts` gives them.
        values: A number for each.
        tokens: The same text in other pieces.

    Raises:
        RowError: If the two are not the same text.
    """
    known = _values_of_characters(pieces, values, "".join(tokens))
    means: list[float | None] = []
    for text in tokens:
        own = [value for value in itertools.islice(known, len(text)) if value is not None]
        means.append(sum(own) / len(own) if own else None)
    following: float | None = next((mean for mean in reversed(means) if mean is not None), None)
    if following is None:
        raise RowError(_OTHER_TEXT)
    carried: list[float] = []
    for mean in reversed(means):
        following = following if mean is None else mean
        carried.append(following)
    return carried[::-1]


_OTHER_TEXT = "the stored tokens do not spell the answer"


def _values_of_characters(pieces: Sequence[str], values: Sequence[float], text: str) -> Iterator[float | None]:
    """The value of each character of a text; None of white space that the pieces lack."""
    spelled = list(_spelled(pieces, values))
    place = 0
    found: list[float | None] = []
    for letter in text:
        while place < len(spelled) and spelled[place][0] != letter and spelled[place][0].isspace():
            place += 1
        if place < len(spelled) and spelled[place][0] == letter:
            found.append(spelled[place][1])
            place += 1
        elif letter.isspace():
            found.append(None)
        else:
            raise RowError(_OTHER_TEXT)
    if any(not letter.isspace() for letter, _ in spelled[place:]):
        raise RowError(_OTHER_TEXT)
    return iter(found)


def _spelled(pieces: Sequence[str], values: Sequence[float]) -> Iterator[tuple[str, float]]:
    """Each character of the pieces with its value."""
    waiting: list[float] = []
    for text, value in zip(pieces, values, strict=True):
        waiting.append(value)
        if text:
            mean = sum(waiting) / len(waiting)
            yield from ((letter, mean) for letter in text)
            waiting = []
