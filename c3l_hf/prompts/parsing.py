"""A raw text → instruction/answer pairs, found by their labels or as JSON objects, or the reason why there are none."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

__all__ = [
    "ENGLISH",
    "IMAGE_MARKER",
    "Labels",
    "PairParseError",
    "Piece",
    "as_pair",
    "has_content",
    "json_values",
    "labelled_pieces",
    "pair_in",
    "parse_pair",
    "parse_pairs",
]

# Question and answer as they stand in a text; None for what is not there.
Piece = tuple[str | None, str | None]


@dataclass(frozen=True)
class Labels:
    """The words before the two parts of a pair; the first of each is what is written, all are read."""

    question: tuple[str, ...]
    answer: tuple[str, ...]

    @property
    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Both as they are compared."""
        return tuple(map(str.casefold, self.question)), tuple(map(str.casefold, self.answer))


ENGLISH = Labels(("Question", "Instruction", "Q"), ("Answer", "Response", "Output", "A"))


@lru_cache(maxsize=64)
def _label_pattern(labels: Labels) -> re.Pattern[str]:
    """Finds the labels as models write them.

    At the start of a line (after list numbers and markdown) a label may have any case, and a long one may stand alone
    as a heading. Within a line it needs a capital, and a single letter the end of a sentence before it, so that "what
    is the answer: yes or no?" and "vitamin A: good" are text. What could be matched in two ways is matched as far as it
    goes, once (`*+`), so that no text takes long.
    """
    words = sorted({*labels.question, *labels.answer}, key=lambda word: (-len(word), word))
    letters = [word for word in words if len(word) == 1]
    # "Output:" is a word of programs, too. Labels of scripts without capitals need no blank before them.
    within = [word for word in words if len(word) > 1 and not (labels == ENGLISH and word == "Output")]
    cased = [form for word in within if word.upper() != word.lower() for form in (word, word.upper())]
    uncased = [word for word in words if word.upper() == word.lower()]
    ends = r"[ \t]*+\d{0,3}[*_]*+[ \t]*+[:：][*_]*+"
    return re.compile(
        r"^[ \t>#*_•-]*+(?:\(?\d{1,3}[.):][ \t]*+)?[*_]*+"
        rf"(?i:(?P<line>{_any_of(word for word in words if len(word) > 1)})"
        r"[ \t]*+\d{0,3}[*_]*+(?:[ \t]*+[:：][*_]*+|[ \t]*+$)"
        rf"|(?P<letter>{_any_of(letters)})[ \t]*+\d{{0,3}}[*_]*+[ \t]*+[:：][*_]*+)"
        rf"|(?<=[\s*_(])(?P<within>{_any_of(cased)}){ends}"
        rf"|(?<=[\s*_(.?!…。？！」』）)])(?P<uncased>{_any_of(uncased)}){ends}"
        r"|(?<=[.?!。？！\"')*])\s++[*_]*+(?P<within_letter>"
        rf"{_any_of(map(str.upper, letters))})\d{{0,3}}[*_]*+[ \t]*+[:：][*_]*+",
        re.MULTILINE,
    )


def _any_of(words: Iterable[str]) -> str:
    return "|".join(map(re.escape, words)) or r"(?!)"


# Image tokens of any model family, written out in the text.
IMAGE_MARKER = re.compile(r"<[^<>\s]{0,30}(?:image|img|vision)[^<>\s]{0,30}>|\[/?IMG\w*\]", re.IGNORECASE)
_RULE_LINE = re.compile(r"^[^\S\n]*+(?:```\w*+|-{3,}+|\*{3,}+|_{3,}+)[^\S\n]*+$", re.MULTILINE)
_WHITE = re.compile(r"\s*")
# The number of the next pair, if that stands at the end of an answer's last line.
_NEXT_NUMBER = re.compile(r"(?<=[.?!])\s++\(?\d{1,3}[.)]\s*+\Z")
# A line that counts what follows it: "Turn 2", "**Runde 2:**".
_HEADING = re.compile(r"(?:\A|\n)[ \t#*_>-]*+(?P<word>[^\W\d_]{1,15}+)[ \t]*+(?P<number>\d{1,3})[ \t.:)*_]*+\s*+\Z")
# Letters that the reader of JSON may go through before it is given up, for each letter of the text: objects within
# objects are each tried, and a text of nothing else would take for ever.
_MOST_JSON = 20
# What a try counts for that ended by too many objects within objects.
_TOO_DEEP = 10_000
_OBJECT = re.compile(r'\{(?=\s*+")')
# A letter or digit of any script, or a sign that says something.
_CONTENT = re.compile(r"[^\s.…_*`~#?!,:;\"'“”()\[\]<>{}/\\|-]")


class PairParseError(ValueError):
    """A text in which no instruction/answer pair was found; `reason` is a short fixed string, fit for counting."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def parse_pair(raw: str, labels: Labels = ENGLISH) -> tuple[str, str]:
    """Find the first complete instruction/answer pair in a model's text.

    Understood are "Question: … Answer: …" on one line or several, "Q:/A:", "Instruction:/Response:", the same numbered,
    as headings or with markdown emphasis, and JSON objects with such keys, each with other text before it. What follows
    the first complete pair as a further pair is cut off. The time grows as the text does, whatever is in it: of a text
    with thousands of objects within objects that are never closed, the last may not be tried.

    Args:
        raw: The text.
        labels: The words to read by.

    Returns:
        The question, on one line, and the answer.

    Raises:
        PairParseError: With one of the reasons "empty output", "image token in the text", "no question", "no answer",
            "empty question", "empty answer".
    """
    if not raw.strip():
        raise PairParseError("empty output")
    if IMAGE_MARKER.search(raw):
        raise PairParseError("image token in the text")
    objects = (content for content, _ in json_values(raw, _OBJECT) if isinstance(content, dict))
    found = (pair_in(content, *labels.names) for content in objects)
    reason = None
    for piece in itertools.chain(filter(None, found), labelled_pieces(raw, labels)):
        pair = as_pair(piece)
        if not isinstance(pair, str):
            return pair
        reason = reason or pair
    raise PairParseError(reason or "no question")


def parse_pairs(raw: str, labels: Labels = ENGLISH) -> list[tuple[str, str] | str]:
    """All labelled pairs of a text, in their order, each as `parse_pair` reads it; or the reason why one is none.

    The form that is asked for ("Question: ... Answer: ..."), repeated before the first pair, is none of them. Lines as
    "Turn 1", "Turn 2" before each pair belong to none.
    """
    pieces = list(labelled_pieces(raw, labels))
    first = _label_pattern(labels).search(raw)
    before = [raw[: first.start()] if first else "", *(answer or "" for _, answer in pieces[:-1])]
    headings = [_HEADING.search(text) for text in before]
    counted = {
        (heading["word"].casefold(), int(heading["number"]) - n) for n, heading in enumerate(headings) if heading
    }
    if all(headings) and len(counted) == 1:
        ends = [heading.start() for heading in headings[1:] if heading]
        pieces[:-1] = [(question, (answer or "")[:end]) for (question, answer), end in zip(pieces, ends)]
    without_form = itertools.dropwhile(lambda piece: not any(_CONTENT.search(part or "") for part in piece), pieces)
    return list(map(as_pair, without_form))


def as_pair(piece: Piece) -> tuple[str, str] | str:
    """Question, on one line, and answer of a labelled text, without the marks around them; or why it is no pair."""
    question, answer = (part if part is None else _clean(part) for part in piece)
    if question is None:
        return "no question"
    if answer is None:
        return "no answer"
    if not _CONTENT.search(question):
        return "empty question"
    return (" ".join(question.split()), answer) if _CONTENT.search(answer) else "empty answer"


def has_content(text: str) -> bool:
    """Whether a text has more than dots and marks."""
    return _CONTENT.search(text) is not None


def json_values(raw: str, opening: re.Pattern[str], strict: bool = True) -> Iterator[tuple[Any, bool]]:
    """The JSON values in a text that begin where a pattern is found, the outer ones first; those within them, too.

    Args:
        raw: The text.
        opening: Finds where a value may begin.
        strict: Whether a line break within a text makes it none.

    Yields:
        The value, and False; or None, and True where the text ends within one.
    """
    decoder, left = json.JSONDecoder(strict=strict), _MOST_JSON * len(raw) + 10 * _TOO_DEEP
    end_of_text = len(raw.rstrip())
    for bracket in opening.finditer(raw):
        if left < 0:
            return
        try:
            content, end = decoder.raw_decode(raw, bracket.start())
        except json.JSONDecodeError as error:
            left -= error.pos - bracket.start() + error.pos // 32  # the error counts the lines before it
            if error.pos >= end_of_text or error.msg.startswith("Unterminated string"):
                yield None, True
            continue
        except (ValueError, RecursionError):
            left -= _TOO_DEEP
            continue
        left -= end - bracket.start()
        yield content, False


def pair_in(content: dict[str, Any], question: tuple[str, ...], answer: tuple[str, ...]) -> Piece | None:
    """The texts of a JSON object under the first of these keys (in any case); None if it has neither."""
    # Numbers are answers ("answer": 3); true, false, lists and objects are not text.
    values = {key.casefold(): str(value) for key, value in content.items() if type(value) in (str, int, float)}
    found = [next((values[key] for key in keys if key in values), None) for keys in (question, answer)]
    return None if found == [None, None] else (found[0], found[1])


def labelled_pieces(raw: str, labels: Labels = ENGLISH) -> Iterator[Piece]:
    """What stands behind each label of a question, and behind the label of its answer; as it is written."""
    question_names, _ = labels.names
    found = [
        (next(filter(None, match.groups())).casefold(), match.start(), match.end())
        for match in _label_pattern(labels).finditer(raw)
    ]
    questions = [number for number, label in enumerate(found) if label[0] in question_names]
    for number, end in zip(questions, [*questions[1:], len(found)]):
        name, _, start = found[number]
        following = found[number + 1 : end]
        # "A:" may be the first of several choices within a "Question:", whose "Answer:" follows.
        answers = [label for label in following if (len(label[0]) == 1) == (len(name) == 1)] or following
        if not answers:
            yield "", None
            continue
        stops = [label[1] for label in (*answers[1:2], *found[end : end + 1])]
        answer = raw[answers[0][2] : stops[0] if stops else len(raw)]
        if stops:  # the number of the next pair, if that stands on the same line
            answer = _NEXT_NUMBER.sub("", answer)
        yield raw[start : answers[0][1]], answer


def _without_rules(text: str) -> str:
    """Without the lines that are code fences or rules, and the blank lines around them."""
    kept, done = [], 0
    for rule in _RULE_LINE.finditer(text):
        before = text[done : rule.start()]
        content = len(before.rstrip())
        if content or (done and text[done - 1] != "\n"):  # else the blank lines go with this rule
            kept.append(before[: before.find("\n", content) + 1])
        white = _WHITE.match(text, rule.end())
        done = len(text)
        if white and white.end() < len(text):
            done = text.rindex("\n", rule.end(), white.end())
    return "".join([*kept, text[done:]])


def _clean(text: str) -> str:
    """Without code fences, rules, and quotes or emphasis around the whole."""
    text = _without_rules(text).strip()
    for mark in ("**", "*", "__", "`", '"'):
        opens = text.startswith(mark) and not text[len(mark) : len(mark) + 1].isspace()  # "* …" is a list
        if text.count(mark) % 2:  # its partner stood before the label
            text = text.removesuffix(mark) if text.endswith(mark) else text[len(mark) if opens else 0 :]
        elif text.count(mark) == 2 and opens and text.endswith(mark):
            text = text[len(mark) : -len(mark)]
        text = text.strip()
    return "\n".join(line.rstrip() for line in text.splitlines())
