"""A model's free text → the answer it gives: yes or no, or the letter of an option. What cannot be read is None."""

import re
import string
import unicodedata
from collections.abc import Sequence

__all__ = ["letter", "opened_thought", "yes_no"]

_THINK_END = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_THINK_START = re.compile(r"<(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_OPENED = re.compile(rf"(?:{_THINK_START.pattern})\s*$", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z|][^<>]{0,60}>")
_BOXED = re.compile(r"\\boxed\{(?:\\(?:text|mathrm|textbf)\{)?([^{}]{0,200})\}{1,2}")
_EMPHASIS = re.compile(r"(?<!\w)[*_`]+(?=\S)|(?<=\S)[*_`]+(?!\w)|^\s*#+\s+", re.MULTILINE)
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff]")

_YES_NO = re.compile(r"(?<!\w)(?<!\w['’-])(yes|no)(?!\w|['’-]\w)", re.IGNORECASE)
_NEW_SENTENCE = re.compile(r"(?:[.!?:;\n]|\banswer (?:is|was))[ \t\"'“‘(]*$", re.IGNORECASE)
_NEW_CLAUSE = re.compile(r"(?:[,/()—–-]|\b(?:and|or|but|then|wait|actually|mean))[ \t\"'“‘(]*$", re.IGNORECASE)
_AFTER_YES = re.compile(r"\byes\W*$", re.IGNORECASE)
# After the answer "no" comes punctuation, the end, or a word that cannot stand in "no dog", "no idea", "No. 5".
_NO_ENDS = re.compile(
    r"(?!\.?\s*\d)(?:\s*(?:[^\w\s]|\n|$)|\s+(?:and|as|because|but|he|i|it|not|or|she|that|the|there|they|this|we|you)\b)",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"\W+(?:(?:or\W+)?(?:wait|actually|maybe|perhaps)|is\W+(?:not|wrong|incorrect|false))\b", re.IGNORECASE
)
# Before "answer is", if that is left open or denied; "it is not there, so the answer is no" denies nothing.
_OPEN = re.compile(
    r"(?:\b(?:if|whether|unless|not|never|cannot|false|wrong|unsure|doubt)|n['’]t)"
    r"(?:\s+(?:a|certain|correct|if|it|know|right|say|sure|that|the|think|believe|true|whether)\b)*\s*$",
    re.IGNORECASE,
)

_LETTER_ENDS = (
    r"(?=\s*(?:\Z|\n|[):\],;!?。])|\.|[\"”'’](?!\w)|\s+[-–—]\s|\s+(?:because|since|as|which)\b)"  # not "A dog"
)
_LETTER = rf"(?:[(\[{{]\s*([A-Za-z])\s*[)\]}}]|([A-Za-z]){_LETTER_ENDS})"
_CUE = r"\b(?:answer|option|choice|choose|select|pick)(?:\s+(?:is|was|would\s+be|should\s+be))?\s*:?\s*"
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
    r"|\b(?:incorrect|wrong|false)"
    r"|\b(?:except(?:\s+for)?|(?:any|every)thing\s+but|all\s+but|rul(?:e|es|ed|ing)\s+out|eliminat(?:e|es|ed|ing)"
    r"|exclud(?:e|es|ed|ing)|none\s+of|other\s+than)(?:\s+the)?(?:\s+(?:answer|option|choice))?)\s+$",
    re.IGNORECASE,
)
_CALLED_WRONG = re.compile(
    r"\W*\b(?:is|are|was|can?|could|does|do|should|would)(?:\s*not|\s+never|n['’]t|\s+(?:incorrect|wrong|false))\b",
    re.IGNORECASE,
)
# "B (a dog)"; whether that is the text of B is asked later.
_WITH_TEXT = re.compile(r"(?<![\w'’])([A-Za-z])[ \t]+\(([^()\n]{1,500})\)")
_STATED = re.compile(r"\banswer(?:\s+(?:is|was)\s*:?|\s*:)\s*", re.IGNORECASE)


def yes_no(text: str) -> str | None:
    """Read a yes/no answer.

    The rules, in this order:

    1. Reasoning (all up to the last `</think>`, and what follows an unclosed `<think>`), tags and markdown go.
    2. Only the English words "yes" and "no", in any case, are answers. "No" must stand for itself: "There is no dog",
       "No idea" and "No. 5" contain none. ("There is no dog" is not read as no just as "There is a dog" is not read as
       yes: without the question neither says what was answered.)
    3. The answer is such a word at the start of the text, of a sentence, or after "answer is", unless that is left open
       or denied ("whether the answer is", "it is false that the answer is").
    4. It is none if the other word stands for itself anywhere too ("Yes and no", "No, wait, yes"), or "wait",
       "actually", "maybe" or "is wrong" follows. A "no" inside the rest is harmless: "Yes, there is no cat on it" is
       yes.

    This differs from POPE's own script, which reads the first sentence, "no" if it has one of the words No, no, not,
    and else "yes" (an empty text too); and from lmms-eval, which wants the whole text to be "yes" or "no".

    Returns:
        "yes", "no", or None if the text has no answer or more than one.
    """
    text = _plain(text)
    start = next(re.finditer(r"\w", text), None)
    answers, standing = set(), set()
    for found in _YES_NO.finditer(text):
        word, before = found[1].lower(), text[max(0, found.start() - 80) : found.start()]
        opening = _NEW_SENTENCE.search(before)
        left_open = opening and opening[0][0] in "aA" and _OPEN.search(before[: opening.start()])
        first = (start is not None and found.start() == start.start()) or bool(opening and not left_open)
        ends = word == "yes" or bool(_NO_ENDS.match(text, found.end()))
        if ends and first:
            answers.add(word)
            if _TAKEN_BACK.match(text, found.end()):
                return None
        if word == "yes" or (ends and (first or _NEW_CLAUSE.search(before))) or _AFTER_YES.search(before):
            standing.add(word)
    return answers.pop() if len(answers) == 1 and answers == standing else None


def letter(text: str, options: Sequence[str]) -> str | None:
    """Read which option an answer chooses.

    The rules, in this order:

    1. Reasoning (all up to the last `</think>`, and what follows an unclosed `<think>`), tags and markdown go;
       `\\boxed{…}` stands on a line of its own.
    2. The whole text is the text of one option (case, spaces and punctuation around words aside): that option. Where
       the text is also another option's letter ("B", with "B" the text of option A) it is none.
    3. A letter is named by standing alone, or first in a line and marked off ("B", "b.", "(B) …", "B: …"), after
       "answer", "option", "choice", "choose" and the like ("Answer: (c)", "The answer is B"), in brackets, or before
       "is correct". "A dog" names none. If what follows the letter is exactly the text of an option, the answer is this
       letter if it is its own text, and none if it is another's.
    4. Otherwise one letter must be named, and it must be the letter of an option. A second one ("B, C"; a list of all
       options) or a denied one ("not (B)", "I don't think it is (B)", "anything but (B)", "(B) does not fit") makes it
       none.
    5. Where no letter is named, "the answer is …" followed by the text of one option.

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

    text = _WITH_TEXT.sub(marked, _plain(text))
    same = with_text(text)
    leading = _LEADING.search(text)
    if same:
        if leading and leading.end() >= len(text.rstrip(" .:)]!?\"'”’")) and _named(leading) in allowed:
            same = [name for name in same if name == _named(leading)]
        return same[0] if len(same) == 1 else None
    if leading:
        same = with_text(text[leading.end() :].lstrip(" \t\n.:,;!?)]-–—\"'”’"))
        if same:
            return _named(leading) if _named(leading) in same else None
    named = set()
    for found in (*_LEADING.finditer(text), *_WITHIN.finditer(text)):
        if _DENIED.search(text[max(0, found.start() - 80) : found.start()]) or _CALLED_WRONG.match(text, found.end()):
            return None
        further = _FURTHER.match(text, found.end())
        named |= {_named(found)} | ({_named(further)} if further else set())
    if named:
        named |= {_named(found) for found in _LISTED.finditer(text)}
    else:
        for stated in _STATED.finditer(text):
            named |= set(with_text(text[stated.end() : stated.end() + longest + 1]))
    return named.pop() if len(named) == 1 and named <= set(allowed) else None


def opened_thought(prompt: str) -> str:
    """The tag that opens reasoning at the end of a prompt, with the blanks after it; "" if there is none.

    What a model writes after such a prompt is to be read with it: else reasoning that was cut off is no reasoning.
    """
    found = _OPENED.search(prompt)
    return found[0] if found else ""


def _named(found: re.Match) -> str:
    return next(filter(None, found.groups())).upper()


def _plain(text: str) -> str:
    """Without reasoning, tags, markdown emphasis, invisible characters and runs of spaces; in usual width."""
    text = _THINK_START.split(_THINK_END.split(text)[-1])[0]
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    text = _TAG.sub("", _BOXED.sub(r"\n\1\n", text))
    text = re.sub(r" ?\n[ \n]*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()
    return _EMPHASIS.sub("", text)


def _key(text: str) -> str:
    """What two texts must share to be the same; signs within words, and before numbers, are part of it."""
    plain = " ".join(_plain(text).casefold().split())
    key = re.sub(r"(?<=[^\W\d])[-‐–—](?=[^\W\d])", " ", plain)
    key = re.sub(r"[\"'“”‘’.,;:!?()\[\]]+(?=\s|$)|(?<!\S)[\"'“”‘’,;:!?()\[\]]+(?=\S)", "", key)
    return key.strip() or plain
