"""A model's free text → the letter of the option that it chooses. What cannot be read, or in two ways, is None."""

import re
import string
from collections.abc import Sequence
from typing import NamedTuple

from c3l_hf.metrics.plain_text import answer_text, plain
from c3l_hf.metrics.reading import has_condition, left_open

__all__ = ["letter"]

_LETTER_ENDS = (
    r"(?=\s*(?:\Z|\n|[):\],;!?。])|\.|[\"”'’](?!\w)|\s+[-–—]\s|\s+(?:because|since|as|which)\b)"  # not "A dog"
)
_LETTER = rf"(?:[(\[{{]{{1,2}}\s*([A-Za-z])\s*[)\]}}]{{1,2}}|([A-Za-z]){_LETTER_ENDS})"
_SURELY = r"(?:\s+(?:therefore|thus|hence|then|clearly|probably|(?:most\s+)?likely))"
_IS = rf"(?:\s+(?:is|was|would\s+be|should\s+be){_SURELY}?,?)"
_CUE = (
    r"(?:\b(?:ans\.?|answer|option|choice|choose|select|pick|go(?:ing)?\s+with)[\"”]?" + _IS + r"?\s*:?\s*"
    r"|(?<![不别没非勿])(?:答案|选项|选择|应?选|答え|正解|정답)(?:应该|应)?(?:是|为|選|は|은|는)?\s*:?\s*"
    r"|^[^\w\n]*(?:la |die )?(?:respuesta|resposta|risposta|réponse|antwort|ответ)\s*:\s*)"
)
_LEADING = re.compile(
    rf"(?:^[ \t>•\"'“‘-]*|{_CUE}(?:(?:option|choice|letter)\s*:?\s*)?[\"'“‘]?){_LETTER}", re.IGNORECASE | re.MULTILINE
)
_WITHIN = re.compile(r"(?<!\w)\(([A-Za-z])\)|(?<![\w'’])([A-Z])(?=\s+is\s+(?:the\s+)?(?:correct|right|best|answer)\b)")
_LISTED = re.compile(r"(?<=\s)[(\[]?([A-Z])[.):\]]\s+\S")
_FURTHER = re.compile(rf"(?:[\s,;/&+.):\]]|\b(?:and|or|nor|to)\b)+[(\[]?([A-Za-z]){_LETTER_ENDS}", re.IGNORECASE)
# Before a letter; "the one that is not a fruit is (B)" denies nothing.
_DENIED = re.compile(
    r"(?:(?:\b(?:not|cannot|never)|n['’]t)(?:\s+(?:a|an|the|that|it|is|be|would|think|believe|say|choose|select|pick|go|with"
    r"|answer|option|choice|letter|correct|right|really|necessarily)\b)*"
    r"|\b(?:(?:most\s+)?(?:incorrect|wrong|false|worst|unlikely)|(?:least|less)(?:\s+\w+)?|second(?:[-\s]best)?)"
    r"(?:\s+(?:answer|option|choice)(?:\s+is)?)?"
    r"|\b(?:except(?:\s+for)?|(?:any|every)thing\s+but|all\s+but|rul(?:e|es|ed|ing)\s+out|eliminat(?:e|es|ed|ing)"
    r"|exclud(?:e|es|ed|ing)|none\s+of|other\s+than)(?:\s+the)?(?:\s+(?:answer|option|choice))?)\s+$"
    r"|(?:[不别没非勿]|排除|错误)[^\s,。.;:!?]{0,6}$",
    re.IGNORECASE,
)
_CALLED_WRONG = re.compile(
    r"\W*\b(?:is|are|was|can?|could|does|do|should|would)(?:\s*not|\s+never|n['’]t|\s+(?:incorrect|wrong|false))\b",
    re.IGNORECASE,
)
# "A?", "A. Wrong", "A ❌"; what is no option's text, see `letter`.
_QUESTIONED = re.compile(r"[\"'”’)\]}.:]*\s*\?|[\s\"'”’)\]}.:]*[❌✗✘☒]")
_JUDGED = re.compile(r"[\s)\]}.:,–—-]+(?:(?:is\s+)?(?:incorrect|wrong|false|impossible))\b", re.IGNORECASE)
# "solution A", "in figure (B)", "above (C)": a name in the picture.
_NAME_OF_A_THING = re.compile(
    r"\b(?:figure|fig\.?|image|picture|photo|panel|point|object|region|box|area|part|diagram|graph|map|sample|solution"
    r"|pair|magnet|species|population|group|container|beaker|step|copyright|above|below|beside|near|behind|under|of)\s+$",
    re.IGNORECASE,
)
_MODAL = re.compile(r"\b(?:you|one|someone|people|they)\s+(?:\w+\s+)?(?:would|might|could|may)?\s*$", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"\s*\d{1,3}[.)]\s*\S")  # "1. First, …" with an option "1"
_TAKEN_BACK_AFTER = re.compile(
    r"\s*(?:\?|(?:or|no|but|wait|actually|hmm|although)\b|(?:this|that|it)(?:['’]s|\s+is)\s+(?:not|false|wrong|incorrect)\b"
    r"|I\s*(?:['’]m|am)?\s*(?:not|cannot|can['’]?t|do(?:\s+not|n['’]t))\b)",
    re.IGNORECASE,
)
# "a dog (B)"
_TEXT_FIRST = re.compile(r"([^\n]{1,500}?)[ \t]*\(([A-Za-z])\)[.\s]*")
# After the text of an option: "A. a cat – this is not correct".
_SAID_WRONG = re.compile(
    r"[\s\"'”’).:,;–—-]*(?:(?:this|that|it|which)\s*)?(?:(?:is|was|['’]s)(?:n['’]t|\s+not)\s+(?:it|correct|right|true|the\s)"
    r"|(?:(?:is|was|['’]s)\s+)?(?:incorrect|wrong|false)\b)",
    re.IGNORECASE,
)
# "B (a dog)"; whether that is the text of B is asked later.
_WITH_TEXT = re.compile(r"(?<![\w'’])([A-Za-z])[ \t]+\(([^()\n]{1,500})\)")
_STATED = re.compile(r"\banswer(?:\s+(?:is|was)\s*:?|\s*:)\s*|^(?:it|this|that)(?:['’]s|\s+is)\s+", re.IGNORECASE)
_ANSWER = re.compile(
    r"ans|答|正解|정답|\W*(?:la |die )?(?:resp|resposta|risposta|réponse|antwort|ответ)", re.IGNORECASE
)
_AROUND = " \t\n.:,;!?)]-–—\"'”’"  # what may stand between a letter and its text
_PIECE = re.compile(r"\A[^\n]*?[.!?](?=\s|\Z)|\A[^\n]+")  # a first sentence, or line
_CORRECTED = re.compile(r"\W+(?:wait|actually|sorry|hmm|correction|or\s+rather|no\s*,)\b", re.IGNORECASE)
# "I, for one": no option.
_PRONOUN = re.compile(r"I,\s+(?!and\b|or\b)[a-z]{2}")


class _Mention(NamedTuple):
    """A place where letters are named: whether it says that they are not the answer, or that one of them is."""

    start: int
    letters: set[str]
    denied: bool
    stated: bool


def letter(text: str, options: Sequence[str]) -> str | None:
    """Read which option an answer chooses.

    The rules, in this order:

    1. Reasoning (all up to the last `</think>`, and what follows an unclosed `<think>`), tags and markdown go, and what
       follows the model's first turn ("B\nQuestion: … Answer: C", see `plain_text.answer_text`); `\\boxed{…}` stands
       on a line of its own.
    2. The whole text is the text of one option (case, spaces and punctuation around words aside): that option. Where
       the text is also another option's letter ("B" or "Answer: B", with "B" the text of option A) it is none.
    3. A letter is named by standing alone, or first in a line and marked off ("B", "b.", "(B) …", "B: …"), after
       "answer", "option", "choice", "choose" and the like ("Answer: (c)", "The answer is B", "答案：B"), in brackets,
       or before "is correct". "A dog" names none. If what follows the letter, or its line, is exactly the text of an
       option, the answer is this letter if it is its own text, and none if it is another's.
    4. Letters that are denied ("not (B)", "I don't think it is (B)", "anything but (B)", "(B) does not fit",
       "B. Wrong", "the worst answer is B"), asked ("B?") or conditional ("if it barked, it would be B") are none, and
       "B. Wait, A" is none. Otherwise one letter must be named, and it must be the letter of an option; a second one
       ("B, C"; a list of all options) makes it none. But what stands before "the answer is B" does not count if it
       names several: it is a list of the options ("A. red B. blue … Final answer: B").
    5. Where no letter is named, the first line, or what follows "the answer is" or "it is", up to the end of its
       sentence, if that is the text of one option.

    This differs from lmms-eval: for SEED-Bench it takes the first character, whatever it is (so "A dog" is A), and for
    MMBench a letter that is one of the words, then an option whose text is contained in the answer, then a language
    model's opinion, then chance.

    Args:
        text: What the model wrote.
        options: The texts of the options; their letters are A, B, … by position.

    Returns:
        A letter, or None if no option or more than one is chosen.

    Raises:
        ValueError: If there are no options, or more than 26.
    """
    if not 0 < len(options) <= 26:
        raise ValueError(f"needs 1 to 26 options, got {len(options)}")
    allowed = string.ascii_uppercase[: len(options)]
    keys = [_key(option) for option in options]
    longest = 2 * max(map(len, options)) + 100  # what is longer than that is no option's text

    def with_text(text: str) -> list[str]:
        key = _key(text) if len(text) <= longest else ""
        return [name for name, option in zip(allowed, keys) if key and option == key]

    def marked(found: re.Match) -> str:
        name = found[1].upper()
        return f"{name}. {found[2]}" if name in with_text(found[2]) else found[0]

    text = _WITH_TEXT.sub(marked, answer_text(text))
    same = with_text(text)
    leading = _LEADING.search(text)
    if same:
        if text.rstrip("\"'”’) ").endswith("?") and not any("?" in options[allowed.index(name)] for name in same):
            return None
        if leading and leading.end() >= len(text.rstrip(" .:)]!?\"'”’")) and _named(leading) in allowed:
            same = [name for name in same if name == _named(leading)]
        return same[0] if len(same) == 1 else None
    if marked_after := _TEXT_FIRST.fullmatch(text):
        if same := with_text(marked_after[1]):
            return marked_after[2].upper() if marked_after[2].upper() in same else None
    if leading:
        rest = text[leading.end() :].lstrip(_AROUND)
        if same := with_text(rest):
            return _named(leading) if _named(leading) in same else None
        same = with_text(rest.partition("\n")[0])
        if same and _named(leading) not in same:
            return None
        own = options[allowed.index(_named(leading))].rstrip(" .") if _named(leading) in allowed else ""
        if own and rest.casefold().startswith(own.casefold()) and _SAID_WRONG.match(rest, len(own)):
            return None
        confirmed = bool(same)
    else:
        confirmed = False
    judged = not any(_JUDGED.match(f" {key}") for key in keys)
    named = _chosen(text, judged)
    if not named:
        starts = [0, *(stated.end() for stated in _STATED.finditer(text) if not _denied(text, stated.start()))]
        for start in starts:
            part = text[start : start + 2 * longest + 1]
            named |= set(with_text(part))
            for piece in _stated_texts(part, opens=start == 0):
                further = _PIECE.match(part[len(piece) :].lstrip())
                named |= {*with_text(piece), *(with_text(further[0]) if further and with_text(piece) else ())}
        return named.pop() if len(named) == 1 else None
    if len(named) != 1 or not named <= set(allowed):
        return None
    (chosen,) = named
    # "Answer: B" where "B" is the text of option A.
    other = any(key == chosen.casefold() and name != chosen for name, key in zip(allowed, keys))
    return None if other and not confirmed else chosen


def _stated_texts(part: str, opens: bool) -> list[str]:
    """The first sentence or line of a part, if it is no number of a list and what follows does not take it back."""
    piece = _PIECE.match(part)
    if not piece or opens and _LIST_NUMBER.match(part) and piece[0].strip()[:-1].isdigit():
        return []
    return [] if piece[0].endswith("?") or _TAKEN_BACK_AFTER.match(part, piece.end()) else [piece[0]]


def _chosen(text: str, judged: bool) -> set[str]:
    """The letters that are named as answers; all that there are, which is no choice, if one is denied or corrected.

    Args:
        text: The text, plain.
        judged: Whether "A. Wrong" denies A, which it does not if that may be the text of an option.
    """
    mentions = []
    for found in (*_LEADING.finditer(text), *_WITHIN.finditer(text)):
        place = next(number for number in range(1, found.re.groups + 1) if found[number])
        if _PRONOUN.match(text, found.start(place)):
            continue
        if _CORRECTED.match(text, found.end()):
            return set(string.ascii_uppercase)
        further = _FURTHER.match(text, found.end())
        letters = {_named(found)} | ({_named(further)} if further else set())
        lead, end = text[max(0, found.start() - 200) : found.start()], found.end()
        if found.re is _WITHIN and _NAME_OF_A_THING.search(lead):
            continue
        is_denied = _denied(text, found.start()) or bool(_CALLED_WRONG.match(text, end))
        is_denied = is_denied or bool(_QUESTIONED.match(text, end) or judged and _JUDGED.match(text, end))
        is_denied = is_denied or bool(_MODAL.search(lead) or "would be" in found[0].lower() and has_condition(lead))
        is_stated = len(letters) == 1 and not is_denied and bool(_ANSWER.match(found[0]))
        mentions.append(_Mention(found.start(), letters, is_denied, is_stated))
    listed = [(found.start(), _named(found)) for found in _LISTED.finditer(text)] if mentions else []

    statements = [mention for mention in mentions if mention.stated]
    if statements:
        last = max(statements, key=lambda mention: mention.start)
        before = {name for mention in mentions if mention.start < last.start for name in mention.letters}
        before |= {name for start, name in listed if start < last.start}
        earlier = {name for mention in statements for name in mention.letters}
        if len(before) > 1 and len(earlier) == 1:
            mentions = [mention for mention in mentions if mention.start >= last.start]
            listed = [(start, name) for start, name in listed if start >= last.start]
    named = {name for mention in mentions if not mention.denied for name in mention.letters}
    denied = {name for mention in mentions if mention.denied for name in mention.letters}
    named |= {name for _, name in listed} if named else set()
    return named if not named & denied else set(string.ascii_uppercase)


def _denied(text: str, start: int) -> bool:
    before = text[max(0, start - 80) : start]
    return bool(_DENIED.search(before) or left_open(before))


def _named(found: re.Match) -> str:
    return next(filter(None, found.groups())).upper()


def _key(text: str) -> str:
    """What two texts must share to be the same; signs within words, and before numbers, are part of it."""
    whole = " ".join(plain(text).casefold().split())
    key = re.sub(r"(?<=[^\W\d])[-‐–—](?=[^\W\d])", " ", whole)
    key = re.sub(r"[\"'“”‘’.,;:!?()\[\]]+(?=\s|$)|(?<!\S)[\"'“”‘’,;:!?()\[\]]+(?=\S)", "", key)
    return key.strip() or whole
