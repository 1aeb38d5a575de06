"""A model's free text → the answer it gives to a question of yes or no. What cannot be read is None."""

import re

from c3l_hf.metrics.existence import names_object, says_whether
from c3l_hf.metrics.plain_text import answer_text

__all__ = ["has_condition", "left_open", "yes_no"]

_YES_NO = re.compile(r"(?<!\w)(?<!\w['’-])(yes|no)(?!\w|['’-]\w)", re.IGNORECASE)
_NEW_SENTENCE = re.compile(
    r"(?:[.!?:;。！？：\n]|\banswer(?: to (?:the|this|that|your) question)? (?:is|was|would be)"
    r"|\bI(?:['’]d| would| will)? (?:say|answer|guess|think|believe)(?: that)?|[,;—–-] ?(?:so|thus|hence|therefore),?"
    r")[ \t\"'“‘(]*$",
    re.IGNORECASE,
)
# What many models begin with, if that is all that stands before.
_INTRODUCED = re.compile(
    r"\W*(?:based on|looking at|according to|judging by|from|in|certainly|sure|well|of course)\b[^.,;:!?\n]{0,60},"
    r"[ \"'“‘(]*",
    re.IGNORECASE,
)
_NEW_CLAUSE = re.compile(r"(?:[,/()—–-]|\b(?:and|or|but|then|wait|actually|mean))[ \t\"'“‘(]*$", re.IGNORECASE)
_AFTER_YES = re.compile(r"\byes\W*$", re.IGNORECASE)
# After the answer "no" comes punctuation, the end, or a word that cannot stand in "no dog", "no idea", "No. 5".
_NO_ENDS = re.compile(
    r"(?!\.?\s*\d)(?:\s*(?:[^\w\s]|\n|$)|\s+(?:and|as|because|but|he|i|it|no|not|or|she|that|the|there|they|this|we|you)\b)",
    re.IGNORECASE,
)
# "Yes?" asks; "yes, if …" and "yes only if …" leave open; in {"yes": 0.2} it is the name of a figure.
_TAKEN_BACK = re.compile(
    r"[\"'”’)]*\s*\?|[\"']\s*:|[\W\d]{0,3}[❌✗✘☒]"
    r"|\W+(?:(?:or\W+)?(?:wait|actually|maybe|perhaps)|(?:is|was|would\W+be)\W+(?:not|wrong|incorrect|false|my)"
    r"|(?:but\W+)?(?:only\W+)?(?:if|unless|provided|assuming))\b",
    re.IGNORECASE,
)
_EMPTY_BOX = re.compile(r"(?:\[ \]|☐)[ \t]*$")
# The condition of "the answer would be", at the start of its sentence.
_CONDITION = re.compile(
    r"(?:^|[.!?;:\n])\W*(?:if|were|had|unless|suppose|supposing|assume|assuming|assumption)\w*\b[^.!?;:\n]*$",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"\b(?:I|we)\s*(?:am|['’]m|are|['’]re)?\s*(?:cannot|can\s?not|can['’]?t|could\s+not|couldn['’]t|unable\s+to|not\s+able\s+to)"
    r"\s+(?:help|assist|answer|determine|tell|say"
    r"|(?:see|view|access|open|process|analy[sz]e)\s+(?:(?:the|any|this|your|an)\s+)?(?:images?|pictures?|photos?))\b"
    r"|\b(?:can|happy\s+to|glad\s+to)\s+(?:help|assist)\b|\bI\s+can\s+see\s+(?:the|your)\s+(?:image|picture|photo)\b",
    re.IGNORECASE,
)
# What a word after a colon is said of, where the question asks for an object: "Answer: no", but not "cat: no".
_LABEL = re.compile(r"(?:^|[.!?;,{\n])([^.!?;,{}\n]{1,60}?)[\"'”’)\]]*\s*[:：][ \t\"'“‘(]*$")
_OF_THE_ANSWER = re.compile(
    r"\b(?:ans(?:wer)?s?|a|response|reply|result|conclusion|verdict|output|prediction|decision|summary|short|brief|final|say"
    r"|assistant|ai|ok(?:ay)?|sure|problem|so|thus|therefore|hence|overall|closely|yes|no)\b"
    r"|[答정]|antwort|resp(?:uesta|osta)|risposta|réponse|ответ",
    re.IGNORECASE,
)
_DENYING = re.compile(r"\b(?:absent|missing|not|no|without|lacks?)\b|n['’]t\b", re.IGNORECASE)
# Before "answer is", if that is left open or denied; "it is not there, so the answer is no" denies nothing.
_OPEN = re.compile(
    r"(?:\b(?:if|whether|unless|not|never|cannot|false|wrong|unsure|doubt)|n['’]t)"
    r"(?:\s+(?:a|certain|correct|if|it|know|right|say|sure|that|the|think|believe|true|whether)\b)*\s*$",
    re.IGNORECASE,
)


def yes_no(text: str, question: str | None = None) -> str | None:
    """Read a yes/no answer.

    The rules, in this order:

    1. Reasoning (all up to the last `</think>`, and what follows an unclosed `<think>`), tags and markdown go, and what
       follows the model's first turn ("Yes USER: What …", see `plain_text.answer_text`).
    2. Only the English words "yes" and "no", in any case, are answers. "No" must stand for itself: "There is no dog",
       "No idea" and "No. 5" contain none. ("There is no dog" is not read as no just as "There is a dog" is not read as
       yes: without the question neither says what was answered.)
    3. The answer is such a word at the start of the text, of a sentence, or after "answer is", "I would say", "so" or
       "Based on the image,", unless that is left open or denied ("whether the answer is", "it is false that the answer
       is").
    4. It is none if the other word stands for itself anywhere too ("Yes and no", "No, wait, yes"), or "?", "if",
       "wait", "actually", "maybe" or "is wrong" follows, or the text refuses ("No, I can't help with that"). A "no"
       inside the rest is harmless: "Yes, there is no cat on it" is yes.
    5. With POPE's `question`, "Is there a … in the image?", a word is no answer to it behind another question or
       another label ("Is there an animal? Yes. It is a cat.", "cat: yes"), and none if its sentence goes on with the
       opposite ("Yes, there is no dog in the image"). Where neither word stands for itself it is what the first
       sentence says of the very object, see `existence.says_whether` ("There is no dog in it, but a cat": no).

    This differs from POPE's own script, which reads the first sentence, "no" if it has one of the words No, no, not,
    and else "yes" (an empty text too), which is `metrics.pope.pope.official_yes_no`; from lmms-eval, which wants the
    whole text to be "yes" or "no"; and from VLMEvalKit, where the answer is the one of both that is among the words.

    Args:
        text: What the model wrote.
        question: The question that it answers, if it is to be read too.

    Returns:
        "yes", "no", or None if the text has no answer or more than one.
    """
    text = answer_text(text)
    start = next(re.finditer(r"\w", text), None)
    answers, standing = set(), set()
    for found in _YES_NO.finditer(text):
        word, before = found[1].lower(), text[max(0, found.start() - 200) : found.start()]
        if question is not None and _of_something_else(before, question):
            continue
        opening = _NEW_SENTENCE.search(before)
        left_open = opening and opening[0][0] in "aAI" and _undecided(opening[0], before[: opening.start()])
        first = (start is not None and found.start() == start.start()) or bool(opening and not left_open)
        first = first or bool(found.start() <= len(before) and _INTRODUCED.fullmatch(before))
        ends = word == "yes" or bool(_NO_ENDS.match(text, found.end()))
        if ends and first:
            answers.add(word)
            if _TAKEN_BACK.match(text, found.end()) or _EMPTY_BOX.search(before):
                return None
            rest = text[found.end() : found.end() + 500].lstrip(" ,.;:!–—-")
            if question is not None and says_whether(rest, question) not in (None, word):
                return None
        if word == "yes" or (ends and (first or _NEW_CLAUSE.search(before))) or _AFTER_YES.search(before):
            standing.add(word)
    if not standing and question is not None:
        return says_whether(text, question)
    return answers.pop() if len(answers) == 1 and answers == standing and not _REFUSED.search(text) else None


def left_open(before: str) -> bool:
    """Whether what stands before "the answer is" denies it or leaves it open ("whether", "I am not sure that")."""
    return bool(_OPEN.search(before))


def has_condition(before: str) -> bool:
    """Whether the sentence before "the answer would be" begins with a condition ("If there were a dog, …")."""
    return bool(_CONDITION.search(before))


def _undecided(opening: str, before: str) -> bool:
    return left_open(before) or " would " in opening.lower() and has_condition(before)


def _of_something_else(before: str, question: str) -> bool:
    """Whether what stands before a word makes it the answer to another question, or a note on another thing."""
    if before.rstrip(" \t\n\"'“‘(").endswith("?"):
        asked = re.split(r"[.!?\n]", before.rstrip(" \t\n\"'“‘(")[:-1])[-1]
        return names_object(asked, question) is False
    label = _LABEL.search(before)
    if not label or len(label[1].split()) > 3 or _OF_THE_ANSWER.search(label[1]):
        return False
    named = names_object(label[1], question)
    return named is False or bool(named and _DENYING.search(label[1]))
