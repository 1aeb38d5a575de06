"""The form of a reply: how pairs are read from a generator's text, and how they are written in the same form."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import regex

from c3l_hf.common.choices import check_choice
from c3l_hf.common.errors import RowError
from c3l_hf.common.thoughts import without_thoughts
from c3l_hf.prompts.json_replies import (
    NO_JSON,
    PATTERN_SECONDS,
    built_in_schema,
    check_schema,
    json_pairs,
    list_key_of,
)
from c3l_hf.prompts.parsing import (
    ENGLISH,
    IMAGE_MARKER,
    Labels,
    PairParseError,
    has_content,
    parse_pair,
    parse_pairs,
)

__all__ = ["LONGEST_REPLY", "UNREADABLE", "Conversation", "ReplyForm", "Turn", "sample_conversation"]

Turn = tuple[str, str]  # question, answer
Conversation = list[Turn]

# In characters. No pair is so long; what is has gone on and on, or is somebody's attempt.
LONGEST_REPLY = 50_000

EMPTY = "empty output"
ONLY_THOUGHTS = "nothing but thoughts"
TOO_LONG = f"longer than {LONGEST_REPLY:,} characters"
IMAGE_TOKEN = "image token in the text"
OTHER_TURNS = "another number of turns than asked for"
FEWER_PAIRS = "fewer pairs than asked for"
NO_MATCH = "the pattern does not match"
SLOW_PATTERN = "the pattern takes too long"

# The reasons of a text that is in no form at all, as that of a refusal.
UNREADABLE = ("no question", "no answer", NO_JSON, NO_MATCH)

_LONGEST_WORD = 40
_PLACE = "\uf8ff\ue000\uf8ff"  # for private use, and so in no text: where an answer goes
# What a text of a regular expression has that the engines behind servers do not know, or read otherwise.
_NOT_FOR_SERVERS = re.compile(r"\(\?(?!P<|:)|\\[1-9AbBGKpPRXzZ]|[*+?}]\+|(?<!\[)\^|\$")
_GROUP = re.compile(r"\(\?P<\w+>")
# On these a pattern that can match in ever more ways is found out; short, so that merely slow ones are not.
_PROBES = ("a" * 3000, " " * 3000, "\n" * 3000, "a " * 1500, '"a": ' * 600, "{" * 3000, "Question: a\n" * 250)

# A text in which nothing can be a label, a mark or an image's token: it is read back as it is, without trying.
_PLAIN = re.compile(r"[^\W_](?:[^:：\n{}\[\]<>*_`\"#~•◁]*[^:：\n{}\[\]<>*_`\"#~•◁\s])?")


@dataclass(frozen=True)
class ReplyForm:
    """The form of a reply.

    Attributes:
        form: "labelled": "Question: … Answer: …". "json": JSON with keys for both. "regex": what a regular expression
            finds.
        question: Labels or keys of a question: the first is written, all are read. By default those of
            `parsing.ENGLISH`; the same in lower case as keys.
        answer: The same of an answer.
        expression: Of "regex": an expression of the package `regex` with the groups `question` and `answer`. Each
            match is a pair.
        written: Of "regex": how a pair is written, with "{question}" and "{answer}" in it.
        list_key: Of "json": the key of the list of pairs; "" if the value itself is the list; None if it is one pair.
        json_schema: Of "json": a JSON schema that the value has to fit, as text.

    Raises:
        ValueError: If these do not go together; the message begins with the key of a template file.
    """

    form: Literal["labelled", "json", "regex"] = "labelled"
    question: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()
    expression: str | None = None
    written: str | None = None
    list_key: str | None = None
    json_schema: str | None = None

    def __post_init__(self) -> None:
        check_choice("form", self.form, get_args(ReplyForm.__annotations__["form"]))
        for key, value, form in (
            ("pattern", self.expression, "regex"),
            ("write", self.written, "regex"),
            ("list", self.list_key, "json"),
            ("schema", self.json_schema, "json"),
        ):
            if value is not None and form != self.form:
                raise ValueError(f"{key} is for replies of the form {form}, and this is {self.form}")
        if self.form == "regex":
            _check_expression(self.expression, self.written)
            if self.question or self.answer:
                raise ValueError("question and answer are groups of the pattern; leave the keys out")
        for key, words in (("question", self.question), ("answer", self.answer)):
            _check_words(key, words, self.form)
        if both := set(self.labels.names[0]) & set(self.labels.names[1]):
            raise ValueError(f"question and answer both have {min(both)!r}")
        if self.json_schema is not None:
            check_schema(self.json_schema)

    @property
    def labels(self) -> Labels:
        """The labels that are read, of a labelled reply."""
        return Labels(self.question or ENGLISH.question, self.answer or ENGLISH.answer)

    @property
    def keys(self) -> tuple[str, str]:
        """The keys that are written, of a reply in JSON."""
        return (self.question or ("question",))[0], (self.answer or ("answer",))[0]

    def read(self, raw: str, turns: tuple[int, int] = (1, 1), pairs: int = 1) -> list[Conversation | str]:
        """The conversations of a reply.

        Thoughts are taken off first. The time grows as the text does, whatever is in it; that of a pattern is limited.

        Args:
            raw: The reply.
            turns: Fewest and most turns of a conversation.
            pairs: How many pairs of one turn were asked for.

        Returns:
            One conversation, or as many as `pairs`; in place of one that cannot be read the reason, a short fixed text.
            If one pair was asked for, it is the first whole one; what follows, or goes beyond `pairs`, is cut off.
        """
        text = without_thoughts(raw)
        if not text.strip():
            found: list[Turn | str] | str = ONLY_THOUGHTS if raw.strip() else EMPTY
        elif len(text) > LONGEST_REPLY:
            found = TOO_LONG
        elif IMAGE_MARKER.search(text):
            found = IMAGE_TOKEN
        else:
            found = self._pairs(text, one=turns == (1, 1) and pairs == 1)
        if isinstance(found, str):
            return [found] * pairs
        if pairs > 1:
            read = [pair if isinstance(pair, str) else [pair] for pair in found[:pairs]]
            return [*read, *[FEWER_PAIRS] * (pairs - len(read))]
        whole = [pair for pair in found if not isinstance(pair, str)]
        if turns == (1, 1) and whole:
            return [whole[:1]]
        if reasons := [pair for pair in found if isinstance(pair, str)]:
            return [reasons[0]]
        return [whole if turns[0] <= len(whole) <= turns[1] else OTHER_TURNS]

    def write(self, conversation: Sequence[Turn]) -> str:
        """A conversation as a reply in this form, which `read` reads back, but for white space.

        Raises:
            RowError: If it would be read back as something else, as where an answer contains the next label.
        """
        text = self.compose(conversation)
        if (
            len(conversation) == 1
            and self.form == "labelled"
            and self.labels == ENGLISH
            and all(_is_plain(one) for turn in conversation for one in turn)
        ):
            return text
        read = self.read(text, (len(conversation), len(conversation)))[0]
        if isinstance(read, str) or _words(read) != _words(conversation):
            how = f": {read}" if isinstance(read, str) else ""
            raise RowError(f"in the form of the reply ({self.form}) the conversation would be read otherwise{how}")
        return text

    def compose(self, conversation: Sequence[Turn]) -> str:
        """As `write`, whatever would be read back."""
        if self.form == "json":
            return self._as_json(conversation)
        if self.form == "labelled":
            question, answer = self.labels.question[0], self.labels.answer[0]
            return "\n".join(f"{question}: {turn[0]}\n{answer}: {turn[1]}" for turn in conversation)
        return "\n".join(_filled(self.written or "", turn) for turn in conversation)

    def around_answers(self, conversation: Sequence[Turn]) -> list[str]:
        """What stands in `write(conversation)` before its first answer, between answers, and after the last.

        Raises:
            RowError: If the form writes an answer more than once.
        """
        between = self.compose([(question, _PLACE) for question, _ in conversation]).split(_PLACE)
        if len(between) != len(conversation) + 1:
            raise RowError("the places of the answers in the reply are not known")
        return between

    def in_reply(self, text: str) -> str:
        """A question, an answer or a piece of it as it is written in a reply: JSON escapes some letters."""
        return json.dumps(text, ensure_ascii=False)[1:-1] if self.form == "json" else text

    def schema(self, turns: tuple[int, int] = (1, 1), pairs: int = 1) -> dict[str, Any] | None:
        """A JSON schema of the replies in this form, for servers that constrain what is written; None for other forms
        than "json"."""
        if self.form != "json":
            return None
        if self.json_schema is not None:
            return json.loads(self.json_schema)
        fewest, most = (pairs, pairs) if pairs > 1 else turns
        return built_in_schema(*self.keys, self.for_several(turns, pairs).list_key, fewest, most)

    def pattern(self, turns: tuple[int, int] = (1, 1), pairs: int = 1) -> str | None:
        """A regular expression that a whole reply in the form "regex" matches, in the syntax that constraining servers
        share; None for other forms, if several turns or pairs are asked for, or if it has what they do not share."""
        if self.form != "regex" or pairs > 1 or turns != (1, 1) or _NOT_FOR_SERVERS.search(self.expression or ""):
            return None
        return _GROUP.sub("(", self.expression or "")

    def for_several(self, turns: tuple[int, int], pairs: int) -> "ReplyForm":
        """The same with the place of the list of pairs, if there are several in JSON and it was left open."""
        if self.form != "json" or self.list_key is not None:
            return self
        if self.json_schema is not None:
            return replace(self, list_key=list_key_of(self.json_schema, self.keys[0]))
        several = "pairs" if pairs > 1 else "turns" if turns != (1, 1) else None
        return replace(self, list_key=several)

    def check(self, turns: tuple[int, int] = (1, 1), pairs: int = 1) -> None:
        """Raises a ValueError if what is written in this form is not what is read, or a pattern takes too long."""
        _check(self, turns, pairs)

    def to_json(self) -> str:
        """All of it, in one line."""
        return json.dumps(
            {name: value for name, value in asdict(self).items() if value not in (None, ())}, ensure_ascii=False
        )

    @staticmethod
    def from_json(text: str) -> "ReplyForm":
        """What `to_json` was called of.

        Raises:
            ValueError: If the text is something else.
        """
        return _from_json(text)

    def _pairs(self, text: str, one: bool) -> list[Turn | str] | str:
        if self.form == "json":
            question, answer = self.labels.names
            return json_pairs(text, question, answer, self.json_schema, whole=not one)
        if self.form == "regex":
            return _matches(self.expression or "", text)
        if one:
            try:
                return [parse_pair(text, self.labels)]
            except PairParseError as error:
                return error.reason
        # Models that like JSON write it where labels were asked for, too.
        found = parse_pairs(text, self.labels) or json_pairs(text, *self.labels.names, None, whole=True)
        return found if not isinstance(found, str) else "no question"

    def _as_json(self, conversation: Sequence[Turn]) -> str:
        question, answer = self.keys
        pairs = [{question: turn[0], answer: turn[1]} for turn in conversation]
        content: Any = pairs
        if self.list_key:
            content = {self.list_key: pairs}
        elif self.list_key is None and len(pairs) == 1:
            content = pairs[0]
        return json.dumps(content, ensure_ascii=False)


def _matches(expression: str, text: str) -> list[Turn | str] | str:
    pairs: list[Turn | str] = []
    try:
        for match in _compiled(expression).finditer(text, timeout=PATTERN_SECONDS):
            question, answer = match["question"], match["answer"]
            if question is None or answer is None:
                pairs.append("no question" if question is None else "no answer")
            elif not has_content(question) or not has_content(answer):
                pairs.append("empty answer" if has_content(question) else "empty question")
            else:
                pairs.append((question.strip(), answer.strip()))
    except TimeoutError:
        return SLOW_PATTERN
    return pairs or NO_MATCH


@lru_cache(maxsize=64)
def _compiled(expression: str) -> Any:
    return regex.compile(expression)


def _filled(written: str, turn: Turn) -> str:
    return re.sub(r"\{(question|answer)\}", lambda hit: turn[hit[1] == "answer"], written)


def _check_expression(expression: str | None, written: str | None) -> None:
    if expression is None:
        raise ValueError("pattern is missing: replies of the form regex need one")
    try:
        groups = _compiled(expression).groupindex
    except regex.error as error:
        raise ValueError(f"pattern cannot be read: {error}") from None
    if missing := [name for name in ("question", "answer") if name not in groups]:
        raise ValueError(f"pattern has no group (?P<{missing[0]}>...)")
    if written is None:
        raise ValueError("write is missing: how a pair is written that the pattern finds, with {question} and {answer}")
    if missing := [name for name in ("question", "answer") if f"{{{name}}}" not in written]:
        raise ValueError(f"write has no {{{missing[0]}}}")


def _check_words(key: str, words: Sequence[str], form: str) -> None:
    for word in words:
        if not has_content(word) or len(word) > _LONGEST_WORD or word != word.strip() or not word.isprintable():
            raise ValueError(
                f"{key} is {word!r}; a label or key is a printable word of at most {_LONGEST_WORD} letters"
            )
        if form == "labelled" and set(word) & set(":：") or word[-1].isdigit():
            raise ValueError(f"{key} is {word!r}; a label has no colon, and no number at its end: both are read anyway")


def sample_conversation(turns: int) -> list[Turn]:
    """A conversation that every form can write: whoever tries a form takes this one."""
    return [(f"What is this, {number}?", f"It is a cat, {number}.") for number in range(1, turns + 1)]


@lru_cache(maxsize=256)
def _check(form: ReplyForm, turns: tuple[int, int], pairs: int) -> None:
    for count in {1} if pairs > 1 else set(turns):
        try:
            form.write(sample_conversation(count))
        except RowError as error:
            key = {"regex": "write", "json": "schema"}.get(form.form, "question")
            what = "one pair" if count == 1 else f"a conversation of {count} turns"
            raise ValueError(f"{key}: {what} cannot be written so that it is read back; {error}") from None
    if form.form == "regex":
        for probe in _PROBES:
            # With the pattern's own letters behind it: a text that lacks one of them is given up at once.
            if _matches(form.expression or "", f"{probe}{form.expression}") == SLOW_PATTERN:
                raise ValueError(
                    f"pattern takes too long on a text like {probe[:12]!r}: write it so that each letter can be "
                    "matched in one way only (no repetition within a repetition)"
                )


@lru_cache(maxsize=256)
def _from_json(text: str) -> ReplyForm:
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    known = {field.name for field in fields(ReplyForm)}
    if not isinstance(content, dict) or not content.keys() <= known:
        raise ValueError(f"the form of a reply is {text[:60]!r}, which no form is written as")
    for name in ("question", "answer"):
        words = content.get(name, [])
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"the form of a reply has {name} {words!r}")
        content[name] = tuple(words)
    if wrong := [key for key in known - {"question", "answer"} if not isinstance(content.get(key, ""), str)]:
        raise ValueError(f"the form of a reply has {min(wrong)} {content[min(wrong)]!r}, which is no text")
    return ReplyForm(**content)


def _is_plain(text: str) -> bool:
    return _PLAIN.fullmatch(text) is not None


def _words(conversation: Sequence[Turn]) -> list[tuple[str, ...]]:
    return [tuple(" ".join(text.split()) for text in turn) for turn in conversation]
