"""Is a question/answer pair about a scene well-formed, of which type, and true?

Independent of `questions.py`'s generation: it reads the text and compares it with the scene's truth.
"""

import re
from collections import Counter
from dataclasses import dataclass

from c3l_hf.scenes.questions import NUMBERS, PLURAL, PLURAL_GROUP, RELATIONS, opposite, relation_holds
from c3l_hf.scenes.world import BACKGROUNDS, CATEGORIES, CORNERS, GROUP_OF, GROUPS, Scene

__all__ = ["Verdict", "check_pair", "described_objects", "question_type"]


@dataclass(frozen=True)
class Verdict:
    """The checker's finding about one pair.

    Attributes:
        well_formed: Whether question and answer belong to the language of the scenes and to each other.
        type: The question type, or None if the question is not understood.
        true: Whether the answer, and what the question takes for granted, hold in the scene; None if not well-formed.
        reason: What is wrong, in a few words; empty if the pair is true.
    """

    well_formed: bool
    type: str | None
    true: bool | None
    reason: str = ""


def _alternatives(words) -> str:
    return "(?:" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + ")"


_NAME = _alternatives(CATEGORIES)
_A_NAME = rf"(?:a|an) {_NAME}"
_COLOUR = _alternatives(BACKGROUNDS)
_CORNER = _alternatives(CORNERS)
_RELATION = _alternatives(RELATIONS)
_PLURALS = {plural: name for name, plural in PLURAL.items()}
_PLURAL = _alternatives(_PLURALS)
_GROUP_PLURALS = {plural: group for group, plural in PLURAL_GROUP.items()}
_GROUP_PLURAL = _alternatives(_GROUP_PLURALS)
_ITEM = rf"(?:{_A_NAME}) in the {_CORNER}"

_AXES = {"left or right of": ("left of", "right of"), "above or below": ("above", "below")}

_QUESTIONS = (
    ("presence", re.compile(rf"Is there an? (?P<name>{_NAME}) in the picture\?")),
    ("presence", re.compile(rf"Can you see an? (?P<name>{_NAME})\?")),
    ("count", re.compile(rf"How many (?P<plural>{_PLURAL}) (?:are there|can you see)\?")),
    ("colour", re.compile(r"What colour is the background\?|Which colour does the background have\?")),
    ("where", re.compile(rf"(?:Where|In which corner) is the (?P<name>{_NAME})\?")),
    (
        "relation",
        re.compile(rf"Is the (?P<first>{_NAME}) (?P<axis>{_alternatives(_AXES)}) the (?P<second>{_NAME})\?"),
    ),
    ("relation", re.compile(rf"What is (?P<relation>{_RELATION}) the (?P<second>{_NAME})\?")),
    ("group", re.compile(rf"Which (?P<group>{_GROUP_PLURAL}) (?:are there|can you see)\?")),
    ("description", re.compile(r"Describe the picture\.|What does the picture show\?")),
)
_ANSWERS = {
    "presence": re.compile(rf"(?:(?P<yes>Yes), there is an? (?P<name>{_NAME})|No, there is no (?P<no_name>{_NAME}))\."),
    "count": re.compile(
        rf"(?:There is one (?P<name>{_NAME})|There are (?P<number>no|two|three|four) (?P<plural>{_PLURAL}))\."
    ),
    "colour": re.compile(rf"The background is (?P<colour>{_COLOUR})\."),
    "where": re.compile(rf"The (?P<name>{_NAME}) is in the (?P<corner>{_CORNER})\."),
    "relation": re.compile(rf"The (?P<first>{_NAME}) is (?P<relation>{_RELATION}) the (?P<second>{_NAME})\."),
    "group": re.compile(
        rf"There (?:is (?P<names>{_A_NAME}(?:, {_A_NAME})*(?: and {_A_NAME})?)|are no (?P<group>{_GROUP_PLURAL}))\."
    ),
    "description": re.compile(
        rf"There is (?P<items>{_ITEM}(?:, {_ITEM})*(?: and {_ITEM})?)\. The background is (?P<colour>{_COLOUR})\."
    ),
}


def described_objects(answer: str) -> list[tuple[str, str]] | None:
    """(name, corner) of every object a description names, in its order; None if it is not a well-formed description."""
    match = _ANSWERS["description"].fullmatch(answer)
    if match is None:
        return None
    return re.findall(rf"an? ({_NAME}) in the ({_CORNER})", match["items"])


def question_type(question: str) -> str | None:
    """The type of a question; None if it is none of the scenes'."""
    return _asked(question)[0]


def _asked(question: str) -> tuple[str, re.Match] | tuple[None, None]:
    matches = ((type, pattern.fullmatch(question.strip())) for type, pattern in _QUESTIONS)
    return next(((type, match) for type, match in matches if match), (None, None))


def check_pair(question: str, answer: str, scene: Scene) -> Verdict:
    """Judges a question/answer pair about a scene.

    A question's premise counts: "Where is the dog?" has no true answer where there is no dog, or where there are
    several in different corners and the answer names a corner without one.

    Args:
        question: The instruction, as generated.
        answer: The answer, as generated.
        scene: The truth.
    """
    answer = answer.strip()
    type, asked = _asked(question)
    if type is None:
        return Verdict(False, None, None, "question not understood")
    said = _ANSWERS[type].fullmatch(answer)
    if said is None:
        return Verdict(False, type, None, "answer not understood")
    mismatch, falsehood = _JUDGES[type](asked.groupdict(), said.groupdict(), scene, answer)
    if mismatch:
        return Verdict(False, type, None, mismatch)
    return Verdict(True, type, not falsehood, falsehood)


# Each judge returns (why the answer does not belong to the question, why it is false); empty strings where all is well.
_Finding = tuple[str, str]


def _judge_presence(asked: dict, said: dict, scene: Scene, answer: str) -> _Finding:
    if asked["name"] not in (said["name"], said["no_name"]):
        return "answer is about another object", ""
    present = scene.counts()[asked["name"]] > 0
    return "", "" if present == bool(said["yes"]) else f"{asked['name']} is {'' if present else 'not '}there"


def _judge_count(asked: dict, said: dict, scene: Scene, answer: str) -> _Finding:
    name = _PLURALS[asked["plural"]]
    if name != (said["name"] or _PLURALS[said["plural"]]):
        return "answer is about another object", ""
    number = 1 if said["name"] else NUMBERS.index(said["number"])
    actual = scene.counts()[name]
    return "", "" if number == actual else f"{actual} of {name}, not {number}"


def _judge_colour(asked: dict, said: dict, scene: Scene, answer: str) -> _Finding:
    return "", "" if said["colour"] == scene.background else f"background is {scene.background}"


def _judge_where(asked: dict, said: dict, scene: Scene, answer: str) -> _Finding:
    if asked["name"] != said["name"]:
        return "answer is about another object", ""
    corners = {item.corner for item in scene.of(asked["name"])}
    if not corners:
        return "", f"{asked['name']} is not there"
    return "", "" if said["corner"] in corners else f"{asked['name']} is elsewhere"


def _judge_relation(asked: dict, said: dict, scene: Scene, answer: str) -> _Finding:
    first, relation, second = said["first"], said["relation"], said["second"]
    if "axis" in asked:
        # "a is left of b" and "b is right of a" say the same: read the answer from the side the question took.
        if (first, second) == (asked["second"], asked["first"]):
            first, relation, second = second, opposite(relation), first
        if (first, second) != (asked["first"], asked["second"]):
            return "answer is about other objects", ""
        if relation not in _AXES[asked["axis"]]:
            return "answer is about another direction", ""
    elif (relation, second) != (asked["relation"], asked["second"]):
        return "answer is about another place", ""
    if first == second:
        return "", "an object is not related to itself"
    missing = [name for name in (first, second) if not scene.of(name)]
    if missing:
        return "", f"{missing[0]} is not there"
    holds = any(relation_holds(a, relation, b) for a in scene.of(first) for b in scene.of(second))
    return "", "" if holds else "the relation does not hold"


def _judge_group(asked: dict, said: dict, scene: Scene, answer: str) -> _Finding:
    group = _GROUP_PLURALS[asked["group"]]
    if said["group"] and _GROUP_PLURALS[said["group"]] != group:
        return "answer is about another group", ""
    named = re.findall(rf"an? ({_NAME})", said["names"] or "")
    if any(name not in GROUPS[group] for name in named):
        return "", f"names something that is not in the group {group}"
    actual = {item.name for item in scene.objects if GROUP_OF[item.name] == group}
    if len(named) != len(set(named)):
        return "", "names an object twice"
    return "", "" if set(named) == actual else f"the {asked['group']} are: {', '.join(sorted(actual)) or 'none'}"


def _judge_description(asked: dict, said: dict, scene: Scene, answer: str) -> _Finding:
    if said["colour"] != scene.background:
        return "", f"background is {scene.background}"
    named = Counter(described_objects(answer))
    actual = Counter((item.name, item.corner) for item in scene.objects)
    if named - actual:
        return "", "names an object that is not there"
    return "", "leaves out an object" if actual - named else ""


_JUDGES = {
    "presence": _judge_presence,
    "count": _judge_count,
    "colour": _judge_colour,
    "where": _judge_where,
    "relation": _judge_relation,
    "group": _judge_group,
    "description": _judge_description,
}
