"""A model's raw text → the text of its answer: without reasoning, later turns, tags and markdown."""

import re
import unicodedata

from c3l_hf.common.thoughts import without_thoughts

__all__ = ["answer_text", "plain", "without_marks"]

_WITHIN_WORDS = re.compile(r"</?(?:b|i|u|em|strong|code|span|sub|sup|mark|font|small|big|tt)(?:\s[^<>]{0,60})?>", re.I)
_TAG = re.compile(r"</?[a-zA-Z|][^<>]{0,60}>")
_STRUCK = re.compile(r"~~[^~\n]{1,200}~~|<(del|strike)>[^<>]{0,200}</\1>", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{(?:\\(?:text|mathrm|textbf)\{)?([^{}]{0,200})\}{1,2}")
_EMPHASIS = re.compile(r"(?<!\w)[*_`]+(?=\S)|(?<=\S)[*_`]+(?!\w)|^\s*#+\s+", re.MULTILINE)
_FORMULA = re.compile(r"^\$+([^$\n]{1,200})\$+(?=[ .]*$)", re.MULTILINE)
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff]")

# What ends a turn in the chat templates of common models, written out where special tokens are not skipped.
_TURN = re.compile(
    r"<\|(?:im_end|im_start|eot_id|eom_id|end|endoftext|end_of_text|start_header_id|user|assistant)\|>"
    r"|</?s>|<(?:end|start)_of_turn>|<eos>|<end_of_utterance>|\[/?INST\]"
)
_NAMED_ROLE = re.compile(r"\s*(?:assistant|ai)\s*:", re.IGNORECASE)
# Behind a special token a role needs no colon.
_OWN_ROLE = re.compile(r"\s*(?:assistant|model)\s*(?:<\|end_header_id\|>|:|\n)", re.IGNORECASE)
_OTHER_ROLE = re.compile(r"\s*(?:user|system|human)\s*(?:<\|end_header_id\|>|:|\n)", re.IGNORECASE)
# A further question that the model has asked itself; within a line only as templates write the role.
_NEXT_QUESTION = re.compile(
    r"^[ \t#*_>-]*(?:user|human|question|q)[ \t]*\d{0,3}[ \t*_]*[:：]|(?<!\S)(?-i:USER|HUMAN)[ ]?:",
    re.MULTILINE | re.IGNORECASE,
)


def plain(text: str) -> str:
    """A text without reasoning, tags, markdown emphasis, invisible characters and runs of spaces; in usual width."""
    return _plain(without_thoughts(text))


def answer_text(text: str) -> str:
    """As `plain`, of the model's first turn alone: a model that does not stop goes on with questions of its own.

    A turn ends at a special token that ends turns ("<|im_end|>", "</s>"), and at "USER:", or "Question:" at the start
    of a line. A question that the text begins with is its own question, repeated, and stays.
    """
    return _plain(_first_turn(without_thoughts(text)))


def without_marks(text: str) -> str:
    """A text without markdown emphasis, invisible characters and blanks around it; in usual width."""
    return _EMPHASIS.sub("", _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))).strip()


def _first_turn(text: str) -> str:
    for number, turn in enumerate(_TURN.split(text)):
        if number and _OTHER_ROLE.match(turn) or not any(map(str.isalnum, turn)):
            continue
        role = (_OWN_ROLE if number else _NAMED_ROLE).match(turn)
        turn = turn[role.end() if role else 0 :].lstrip()
        # What stands first is the question that was asked, repeated.
        following = next((found for found in _NEXT_QUESTION.finditer(turn) if found.start() > 0), None)
        return turn[: following.start()] if following else turn
    return text


def _plain(text: str) -> str:
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    text = _WITHIN_WORDS.sub("", _BOXED.sub(r"\n\1\n", _STRUCK.sub(" ", text)))
    text = _TAG.sub("\n", text)  # "<answer>Yes</answer>No" are two texts
    text = re.sub(r" ?\n[ \n]*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()
    return _EMPHASIS.sub("", _FORMULA.sub(r"\1", text))
