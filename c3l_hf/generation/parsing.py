"""A generator's raw text → one instruction/answer pair, or the reason why there is none."""

import itertools
import json
import re
from collections.abc import Iterator

__all__ = ["IMAGE_MARKER", "PairParseError", "parse_pair"]

# The two parts of a pair as models label them. At the start of a line (after list numbers and markdown) a label may
# have any case, and a long one may stand alone as a heading. Within a line it needs a capital, and a single letter the
# end of a sentence before it, so that "what is the answer: yes or no?" and "vitamin A: good" are text.
# What could be matched in two ways is matched as far as it goes, once (`*+`), so that no text takes long.
_LABEL = re.compile(
    r"^[ \t>#*_•-]*+(?:\(?\d{1,3}[.):][ \t]*+)?[*_]*+"
    r"(?i:(?P<line>question|instruction|answer|response|output)[ \t]*+\d{0,3}[*_]*+(?:[ \t]*+[:：][*_]*+|[ \t]*+$)"
    r"|(?P<letter>[qa])[ \t]*+\d{0,3}[*_]*+[ \t]*+[:：][*_]*+)"
    r"|(?<=[\s*_(])(?P<within>Question|QUESTION|Instruction|INSTRUCTION|Answer|ANSWER|Response|RESPONSE)"
    r"[ \t]*+\d{0,3}[*_]*+[ \t]*+[:：][*_]*+"
    r"|(?<=[.?!。？！\"')*])\s++[*_]*+(?P<within_letter>[QA])\d{0,3}[*_]*+[ \t]*+[:：][*_]*+",
    re.MULTILINE,
)
_QUESTION_LABELS = ("question", "instruction", "q")
_ANSWER_LABELS = ("answer", "response", "output", "a")
# Image tokens of any model family, written out in the text.
IMAGE_MARKER = re.compile(r"<[^<>\s]{0,30}(?:image|img|vision)[^<>\s]{0,30}>|\[/?IMG\w*\]", re.IGNORECASE)
_RULE_LINE = re.compile(r"^[^\S\n]*+(?:```\w*+|-{3,}+|\*{3,}+|_{3,}+)[^\S\n]*+$", re.MULTILINE)
_WHITE = re.compile(r"\s*")
# The number of the next pair, if that stands at the end of an answer's last line.
_NEXT_NUMBER = re.compile(r"(?<=[.?!])\s++\(?\d{1,3}[.)]\s*+\Z")
# Letters that the reader of JSON may go through before it is given up, for each letter of the text: objects within
# objects are each tried, and a text of nothing else would take for ever.
_MOST_JSON = 20
# What a try counts for that ended by too many objects within objects.
_TOO_DEEP = 10_000
_CONTENT = re.compile(r"[^\s.…_*`~#?!,:;\"'“”()\[\]<>{}/\\|-]")


class PairParseError(ValueError):
    """A text in which no instruction/answer pair was found; `reason` is a short fixed string, fit for counting."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def parse_pair(raw: str) -> tuple[str, str]:
    """Find the first complete instruction/answer pair in a model's text.

    Understood are "Question: … Answer: …" on one line or several, "Q:/A:", "Instruction:/Response:", the same numbered,
    as headings or with markdown emphasis, and JSON objects with such keys, each with other text before it. What follows
    the first complete pair as a further pair is cut off. The time grows as the text does, whatever is in it: of a text
    with thousands of objects within objects that are never closed, the last may not be tried.

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
    reason = None
    for parts in itertools.chain(_json_pairs(raw), _labelled_pairs(raw)):
        question, answer = (part if part is None else _clean(part) for part in parts)
        if question is None or answer is None:
            failure = "no question" if question is None else "no answer"
        elif not _CONTENT.search(question):
            failure = "empty question"
        elif not _CONTENT.search(answer):
            failure = "empty answer"
        else:
            return " ".join(question.split()), answer
        reason = reason or failure
    raise PairParseError(reason or "no question")


def _json_pairs(raw: str) -> Iterator[tuple[str | None, str | None]]:
    decoder, left = json.JSONDecoder(), _MOST_JSON * len(raw) + 10 * _TOO_DEEP
    for brace in re.finditer(r'\{(?=\s*+")', raw):
        if left < 0:
            return
        try:
            content, end = decoder.raw_decode(raw, brace.start())
        except json.JSONDecodeError as error:
            left -= error.pos - brace.start() + error.pos // 32  # the error counts the lines before it
            continue
        except (ValueError, RecursionError):
            left -= _TOO_DEEP
            continue
        left -= end - brace.start()
        # Numbers are answers ("answer": 3); true, false, lists and objects are not text.
        values = {key.casefold(): str(value) for key, value in content.items() if type(value) in (str, int, float)}
        parts = [
            next((values[key] for key in keys if key in values), None) for keys in (_QUESTION_LABELS, _ANSWER_LABELS)
        ]
        if parts != [None, None]:
            yield parts[0], parts[1]


def _labelled_pairs(raw: str) -> Iterator[tuple[str | None, str | None]]:
    labels = [
        (next(filter(None, match.groups())).casefold(), match.start(), match.end()) for match in _LABEL.finditer(raw)
    ]
    questions = [number for number, label in enumerate(labels) if label[0] in _QUESTION_LABELS]
    for number, end in zip(questions, [*questions[1:], len(labels)]):
        name, _, start = labels[number]
        following = labels[number + 1 : end]
        # "A:" may be the first of several choices within a "Question:", whose "Answer:" follows.
        answers = [label for label in following if (len(label[0]) == 1) == (len(name) == 1)] or following
        if not answers:
            yield "", None
            continue
        stops = [label[1] for label in (*answers[1:2], *labels[end : end + 1])]
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
