"""What is wrong with a conversation that could be read: refusals, repetition, control characters, another language."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import regex

from c3l_hf.prompts.refusals import is_refusal

__all__ = ["LANGUAGES", "REFUSAL", "problem_of", "repeats_to_its_end", "unfit_characters"]

REFUSAL = "a refusal"
REPETITION = "endless repetition"
SAME_TURN = "a turn is there twice"
CONTROL_CHARACTERS = "control characters"
OTHER_LANGUAGE = "another language than the template's"

# C0 and C1 but for tabs and line breaks; what turns the direction of other text; halves of letters, and what decoders
# put in place of bytes that are none.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffd\ufffe\uffff\ud800-\udfff]")

# Of a repetition: where it is looked for, from how many letters on, and how often a phrase is there. Long ones, as
# sentences, are none that anybody would say three times.
_TAIL, _SHORTEST, _TIMES = 3_000, 60, 5
_LONG, _LONG_TIMES = 40, 3

# Letters from which on a language is told, so that short answers and names are never accused; a character of scripts
# that write words with few stands for several.
_ENOUGH_LETTERS = 40
_DENSE = re.compile("[\u0e00-\u0e7f\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_WORTH = 4
_SURE = 0.95
_UNLIKELY = 0.01
# What is in quotation marks is what a sign says, or a name.
_QUOTED = re.compile(
    "\"[^\"]{0,500}\"|“[^”]{0,500}”|„[^“”]{0,500}[“”]|«[^»]{0,500}»|「[^」]{0,500}」|'[^'\\n]{0,200}'(?!\\w)"
)
# Names, brands and places are of any language; what tells it are the small words.
_CAPITALISED = regex.compile(r"\b\p{Lu}\w*")
# The languages that can be told (ISO 639).
LANGUAGES = frozenset(
    (
        "ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr "
        "fuv fy ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko "
        "ku ky la lb lg lij ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru "
        "rw sa sdh se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa wuu xh yo yue "
        "zh zu "
    ).split()
)
# Languages of which short texts are taken for each other.
_ALIKE = (
    {"no", "nn", "da", "sv", "fo"},
    {"hr", "bs", "sr", "sl", "mk"},
    {"cs", "sk"},
    {"id", "ms", "jv"},
    {"es", "gl", "pt", "ca", "an", "ext", "oc"},
    {"it", "lij", "vec", "la"},
    {"fr", "oc", "wa", "gcr", "gcf"},
    {"de", "lb"},
    {"nl", "af", "fy"},
    {"ru", "uk", "be", "bg", "mk", "sr"},
    {"zh", "yue", "wuu"},
    {"ar", "arz", "ary"},
    {"hi", "mr", "ne", "sa", "gom"},
    {"tr", "az", "crh", "tk"},
    {"uz", "uzs", "tt", "kk", "ky", "ba"},
    {"xh", "zu"},
    {"st", "nso"},
    {"en", "pcm"},
)


def problem_of(conversation: Sequence[tuple[str, str]], language: str | None = None) -> str | None:
    """Why a conversation is no good, as a short fixed text; None if nothing was found.

    Args:
        conversation: Questions and answers.
        language: The language that it should be in (ISO 639-1). Texts that are too short to tell are taken as they are.
    """
    texts = [text for turn in conversation for text in turn]
    if any(map(unfit_characters, texts)):
        return CONTROL_CHARACTERS
    if any(map(is_refusal, texts)):
        return REFUSAL
    if any(map(repeats_to_its_end, texts)):
        return REPETITION
    if len({tuple(text.casefold() for text in turn) for turn in conversation}) < len(conversation):
        return SAME_TURN
    if language is not None and any(_is_foreign(text, language) for text in {" ".join(texts), *texts}):
        return OTHER_LANGUAGE
    return None


def unfit_characters(text: str) -> str | None:
    """A character of a text that no text should have, as "U+202E"; None if there is none."""
    found = _UNFIT.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def repeats_to_its_end(text: str) -> bool:
    """Whether a text ends in one phrase again and again: a short one five times, one of 40 letters three times."""
    tail = " ".join(text[-_TAIL:].casefold().split())[::-1]
    if len(tail) < _SHORTEST or tail.count(tail[:8]) < 3:
        return False
    # For each length the longest border (Knuth, Morris and Pratt): what is left of the length is the shortest period.
    border = [0] * (len(tail) + 1)
    matched = 0
    for length in range(2, len(tail) + 1):
        letter = tail[length - 1]
        while matched and tail[matched] != letter:
            matched = border[matched]
        matched += tail[matched] == letter
        border[length] = matched
        period = length - matched
        # The blank behind the last one is gone.
        times = _LONG_TIMES if period >= _LONG else _TIMES
        if length >= max(_SHORTEST, times * period - 1) and any(map(str.isalnum, tail[:period])):
            return True
    return False


def _is_foreign(text: str, language: str) -> bool:
    text = _CAPITALISED.sub(" ", _QUOTED.sub(" ", text[:4000]))
    if sum(map(str.isalpha, text)) + (_WORTH - 1) * len(_DENSE.findall(text)) < _ENOUGH_LETTERS:
        return False
    likely = dict(_identifier().rank(text))
    other = max(likely, key=likely.__getitem__)
    return _probability(other, likely) >= _SURE and _probability(language, likely) < _UNLIKELY


def _probability(language: str, likely: Mapping[str, float]) -> float:
    """Of a language or one that is taken for it."""
    alike = {language}.union(*(group for group in _ALIKE if language in group))
    return sum(likely.get(name, 0.0) for name in alike)


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid import langid  # loads a model of some megabytes, for half a second

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
