"""Which false answers are what the biases of the usual scenes would have said, and which questions ask for nothing."""

import re
from collections import Counter
from collections.abc import Iterable

from c3l_hf.scenes.checker import check_pair, described_objects, question_type
from c3l_hf.scenes.questions import NUMBERS, PLURAL, RELATIONS
from c3l_hf.scenes.world import (
    BACKGROUND_OF,
    BACKGROUNDS,
    CATEGORIES,
    CORNERS,
    GROUP_OF,
    PARTNER,
    USUALLY_TWO,
    Scene,
    home_corner,
)

__all__ = ["absent_partners", "premise_absent", "prior_driven"]

_NAME_OF = {word: name for name in CATEGORIES for word in (name, PLURAL[name])}


def absent_partners(scene: Scene) -> set[str]:
    """The categories that are not in a scene although their usual partner is."""
    present = set(scene.counts())
    return {PARTNER[name] for name in present} - present


def prior_driven(question: str, answer: str, scene: Scene) -> bool | None:
    """Whether a pair is false and its answer is what a bias of the usual scenes would have said.

    The biases are those of `world.py`, also where the scene is a shifted one:

    - co-occurrence: of two partners (dog and ball, …) where one is, the other is;
    - number: of some categories there are two, of the others one (by `world.py`'s list of the former: there are several
      of them far more often, though one is the single most frequent number of each);
    - position: every category has its usual corner;
    - background: every group has its usual background colour.

    A false pair is prior-driven if, by the type of its question,

    - presence: the object is an absent partner (`absent_partners`; what is false about it is "Yes");
    - count: the number is the usual one, or the objects are an absent partner;
    - colour: it is the usual background of the group of something that is there;
    - where: it is the object's usual corner, or the object is an absent partner;
    - relation: the relation follows from the usual corners of the two, or one of them is an absent partner, or the
      question was what is there ("What is left of the dog?") and the answer is the usual partner of what was named;
    - group: it names an absent partner;
    - description: it names an absent partner; or something that is there in its usual corner, where it is not; or
      more of something that is there than there are, in the usual number; or the background, wrongly, in the usual
      colour of the group of something that is there.

    Number and position answer the question as it stands: that the object asked about is not there at all does not keep
    "two" or "in the top left" from being what is usual.

    Args:
        question: The instruction.
        answer: The answer.
        scene: The truth.

    Returns:
        False for true pairs and for false ones that no bias explains; None if the pair is not well-formed, see
        `checker.check_pair`.
    """
    verdict = check_pair(question, answer, scene)
    if not verdict.well_formed:
        return None
    return not verdict.true and _SAYS[verdict.type](question.strip(), answer.strip(), scene)


def premise_absent(question: str, scene: Scene) -> bool | None:
    """Whether a question takes something for granted that is not in the scene.

    "Where is the dog?" and "Is the dog left of the ball?" say that there is a dog; "Is there a dog?", "How many dogs
    are there?" and "Which animals are there?" leave it open. A false premise leaves no true answer, and an answer's
    score, given the question, need not see it.

    Args:
        question: The instruction.
        scene: The truth.

    Returns:
        None if the question is not one of the scenes', see `checker.question_type`.
    """
    if question_type(question) is None:
        return None
    granted = re.findall(rf"\bthe ({'|'.join(CATEGORIES)})\b", question)
    return not set(scene.counts()).issuperset(granted)


# Each says whether a well-formed answer, taken to be false, is what a bias says.
def _naming(question: str, answer: str, scene: Scene) -> bool:
    return _names_absent_partner(answer, scene)


def _count(question: str, answer: str, scene: Scene) -> bool:
    (name,) = _names(answer)
    number = next(number for number, word in enumerate(NUMBERS) if word in answer.split())
    return number == _usual_number(name) or _names_absent_partner(answer, scene)


def _colour(question: str, answer: str, scene: Scene) -> bool:
    return _one_of(BACKGROUNDS, answer) in _usual_backgrounds(scene)


def _where(question: str, answer: str, scene: Scene) -> bool:
    (name,) = _names(answer)
    return _one_of(CORNERS, answer) == CORNERS[home_corner(name)] or _names_absent_partner(answer, scene)


def _relation(question: str, answer: str, scene: Scene) -> bool:
    first, second = _names(answer)
    (row, column), (second_row, second_column) = (divmod(home_corner(name), 2) for name in (first, second))
    usual = {
        "left of": column < second_column,
        "right of": column > second_column,
        "above": row < second_row,
        "below": row > second_row,
    }
    named_partner = question.startswith("What") and first == PARTNER[second]
    return usual[_one_of(RELATIONS, answer)] or named_partner or _names_absent_partner(answer, scene)


def _description(question: str, answer: str, scene: Scene) -> bool:
    there, at = scene.counts(), {(item.name, item.corner) for item in scene.objects}
    items = described_objects(answer)
    said = Counter(name for name, _ in items)
    misplaced = any(
        there[name] and (name, corner) not in at and corner == CORNERS[home_corner(name)] for name, corner in items
    )
    too_many = any(0 < there[name] < said[name] == _usual_number(name) for name in said)
    colour = _one_of(BACKGROUNDS, answer)
    miscoloured = colour != scene.background and colour in _usual_backgrounds(scene)
    return _names_absent_partner(answer, scene) or misplaced or too_many or miscoloured


_SAYS = {
    "presence": _naming,
    "count": _count,
    "colour": _colour,
    "where": _where,
    "relation": _relation,
    "group": _naming,
    "description": _description,
}


def _names(answer: str) -> list[str]:
    """The categories an answer names, in its order, in the singular."""
    return [_NAME_OF[word] for word in re.findall(r"\w+", answer) if word in _NAME_OF]


def _names_absent_partner(answer: str, scene: Scene) -> bool:
    return not absent_partners(scene).isdisjoint(_names(answer))


def _one_of(phrases: Iterable[str], answer: str) -> str:
    return next(phrase for phrase in phrases if re.search(rf"\b{phrase}\b", answer))


def _usual_number(name: str) -> int:
    return 2 if name in USUALLY_TWO else 1


def _usual_backgrounds(scene: Scene) -> set[str]:
    return {BACKGROUND_OF[GROUP_OF[item.name]] for item in scene.objects}
