"""A judge's reply → the two grades in it, or why they cannot be read."""

import json
import re
from collections.abc import Iterator
from typing import Any

from c3l_hf.common.endpoint import short
from c3l_hf.common.thoughts import without_thoughts
from c3l_hf.metrics.plain_text import without_marks

__all__ = ["read_scores"]

# "8/10" and "8 out of 10" are grades of 10; another whole ("4/5") is another scale. "8,5" may be one number or two.
_GRADE = r"(\d{1,3}(?:\.\d{1,4})?)(?:\s?/\s?10(?:\.0)?|\s+out\s+of\s+10)?(?![\d/%]|[.,]\d)"
# Not the first of several numbers, and of no other scale: "2, 3 and 4", "8 - 9", "4 (out of 5)".
_ENDS = (
    r"(?=\s*(?:[,;.]?\s*\Z|[,;.)\]]\s|\s[-–—(]|\n))"
    r"(?![ \t]*(?:[,;–—-]|or\b|and\b|to\b)[ \t]*\d)(?![ \t]*\(?(?:out[ \t]+of|of|/)[ \t]*(?!10\b)\w)"
)
# Behind such words are no grades, or those of another scale.
_OTHER_FIGURES = re.compile(
    r"\b(?:errors?|mistakes?|ranks?|rankings?|counts?|numbers?|lines?|points?\s+(?:lost|deducted)|percent(?:ages?)?|out\s+of|stars?"
    r"|scale|range|min|max|weights?)\b",
    re.IGNORECASE,
)
_TITLE = r"(?:(?:the\s+)?(?:final\s+|my\s+)?(?:scores?|grades?|ratings?)(?:\s+are)?\s*:?\s*)?"
_PAIR = re.compile(rf"{_TITLE}[(\[]?{_GRADE}(?:\s+|\s*[,;|]\s+){_GRADE}[)\]]?\.?", re.ASCII | re.IGNORECASE)
_ALONE = re.compile(rf"{_TITLE}{_GRADE}\.?", re.ASCII | re.IGNORECASE)
_SCALE = re.compile(
    r"\(?\b(?:on\s+)?(?:a\s+|the\s+)?(?:scale\s+(?:of|from)\s+|from\s+)?\d+\s*(?:to|[-–—])\s*10\b\)?", re.IGNORECASE
)

_WHO = r"(?:(?:ai\s+)?(?:assistant|answer|response|model|candidate|reply))"
_NUMBER = r"(1|2|A|B|one|two)"
_OF = r"(?:(?:the\s+)?(?:score|grade|rating)\s+(?:of|for)\s+)?"
_WHAT = r"(?:['’]s)?(?:\s+(?:score|grade|rating))?"
# At the start of a line, or after what ends the first of two.
_LABELLED = re.compile(
    rf"(?:^[ \t>•*-]*|(?<=[,;.|])\s+(?:and\s+)?){_OF}{_WHO}\s*#?\s*{_NUMBER}{_WHAT}\s*[:=–—-]\s*"
    rf"(?:(?:score|grade|rating)\s*[:=]?\s*)?{_GRADE}{_ENDS}",
    re.ASCII | re.IGNORECASE | re.MULTILINE,
)
_KEY = re.compile(rf"\W*{_OF}(?:{_WHO}|score|grade|rating)?[\s_#]*{_NUMBER}(?:[\s_](?:score|grade|rating))?\W*", re.I)
_FIRST_KEY = re.compile(r"(first|second)(?:[\s_](?:assistant|answer|score|grade|rating))*", re.IGNORECASE)
_PLACES = {"1": 0, "a": 0, "one": 0, "first": 0, "2": 1, "b": 1, "two": 1, "second": 1}
_SCORES_KEY = re.compile(
    r"(?:final[\s_]|assistant[\s_])?(?:scores?|grades?|ratings?|evaluations?|results?)", re.IGNORECASE
)
_SCORE_KEYS = ("score", "grade", "rating")
_LONGEST_JSON = 100_000
_FENCE = re.compile(r"^\s*```\w*[ \t]*$", re.MULTILINE)


def read_scores(text: str) -> tuple[float, float]:
    """The two grades in a judge's reply: that of answer 1, that of answer 2, each from 1 to 10.

    A judge is asked for two numbers in the first line. What judges write instead is read too, where it can be read in
    one way only. Reasoning (up to `</think>`) and markdown go; then the grades are, in this order,

    1. a JSON object or list that the reply begins with: `[8, 7]`, `{"answer_1": 8, "answer_2": {"score": 7}}`;
    2. the first line, if it is two numbers, also "Scores: 8 7", "8/10, 7/10", "(8, 7)". A line before that has no
       digits and ends in a colon ("Here are my grades:") is passed over, as is one that names the scale;
    3. numbers behind the names of both answers, each at the start of a line or of a clause, the first in that line:
       "Answer 1: 8/10, Answer 2: 7/10", "Assistant B - 7". The names say which is which. If a pair of numbers is a line
       of its own further on, it is not known which of them are the grades.

    Nothing else is read: one number, three, other names, two grades of the same answer, "8,5", "80/100",
    what is named errors, ranks, percentages or "out of five".

    Raises:
        ValueError: If there are no such grades, or one is not from 1 to 10.
    """
    text = without_thoughts(text)
    fields = _json(_FENCE.sub("", text).strip())
    text = without_marks(text)
    if not text:
        raise ValueError("the judge's reply is empty")
    pair = _of_json(fields) if fields is not None else _of_lines(text)
    line = text.partition("\n")[0].strip()
    if pair is None:
        raise ValueError(f"the first line of the judge's reply is not two numbers: {short(line, 80)!r}")
    if not all(1 <= grade <= 10 for grade in pair):
        raise ValueError(f"the judge's scores are not within 1 and 10: {short(line, 80)!r}")
    return pair


def _of_lines(text: str) -> tuple[float, float] | None:
    start = 0
    for line in text.split("\n"):
        if found := _PAIR.fullmatch(line.strip()):
            return float(found[1]), float(found[2])
        without_scale = _SCALE.sub("", line).strip()
        if _OTHER_FIGURES.search(without_scale):
            break
        if without_scale and (not without_scale.endswith(":") or any(map(str.isdigit, without_scale))):
            break
        start += len(line) + 1
    if any(_PAIR.fullmatch(line.strip()) for line in text[start:].split("\n")):
        return None  # numbers behind the names, and a pair further on: which of both are the grades?
    grades: dict[int, set[float]] = {}
    # What only follows later may be what the answers say, as of how many things there are.
    for found in _LABELLED.finditer(text) if _LABELLED.match(text, start) else ():
        grades.setdefault(_PLACES[found[1].lower()], set()).add(float(found[2]))
    return _of_places(grades)


def _of_places(grades: dict[int, set[float]]) -> tuple[float, float] | None:
    """Of grades by their place, if both have one, and one only."""
    if set(grades) != {0, 1} or any(len(values) > 1 for values in grades.values()):
        return None
    return min(grades[0]), min(grades[1])


def _json(text: str) -> Any:
    """What the text begins with, if it is a JSON object or list; of an object its pairs."""
    if not text.startswith(("{", "[")) or len(text) > _LONGEST_JSON:
        return None
    try:
        return json.JSONDecoder(object_pairs_hook=tuple).raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def _of_json(fields: Any) -> tuple[float, float] | None:
    if isinstance(fields, list):
        values = [grade for grade in map(_grade, fields) if grade is not None]
        return (values[0], values[1]) if len(values) == len(fields) == 2 else None
    if len(fields) == 1 and isinstance(fields[0][1], list | tuple):  # {"scores": …}
        return _of_json(fields[0][1]) if _SCORES_KEY.fullmatch(fields[0][0]) else None
    grades: dict[int, set[float]] = {}
    for place, value in _placed(fields):
        grade = _grade(value)
        if grade is None or place in grades:
            return None
        grades[place] = {grade}
    return _of_places(grades)


def _placed(fields: tuple) -> Iterator[tuple[int, Any]]:
    for key, value in fields:
        found = _KEY.fullmatch(key) or _FIRST_KEY.fullmatch(key)
        if found:
            yield _PLACES[found[1].lower()], value


def _grade(value: Any) -> float | None:
    """A number, a text of one, or an object with one grade."""
    if isinstance(value, tuple):
        named = [item for key, item in value if key.lower() in _SCORE_KEYS]
        return _grade(named[0]) if len(named) == 1 and not isinstance(named[0], tuple) else None
    if isinstance(value, str):
        found = _ALONE.fullmatch(value.strip())
        return float(found[1]) if found else None
    # What is far too large for a grade may be too large for a float.
    return float(min(value, 99)) if isinstance(value, int | float) and not isinstance(value, bool) else None
