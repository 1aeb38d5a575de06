"""Options of a multiple-choice question about a scene: the true answer, and plausible false ones."""

import numpy as np

from c3l_hf.scenes.checker import check_pair, described_objects
from c3l_hf.scenes.priors import prior_driven
from c3l_hf.scenes.questions import NUMBERS, PLURAL, PLURAL_GROUP, RELATIONS, article, join, opposite
from c3l_hf.scenes.world import BACKGROUNDS, CATEGORIES, CORNERS, GROUP_OF, GROUPS, PARTNER, Scene

__all__ = ["make_options", "prior_letters"]


def make_options(question: str, answer: str, scene: Scene, n: int, rng: np.random.Generator) -> list[str]:
    """The true answer among false ones, as whole sentences, in random order.

    Exactly one is true by the checker. One of the false ones is prior-driven (see `priors.prior_driven`) wherever
    there is such an answer, which there is not where the prior is right; the others are not, where enough are left.

    Args:
        question: A question.
        answer: A true answer to it.
        scene: The scene both are about.
        n: Number of options. Questions with two possible answers (presence, "left or right") have two nevertheless.
        rng: What all choices are made with.

    Raises:
        ValueError: If the pair is not true.
    """
    verdict = check_pair(question, answer, scene)
    if not verdict.true:
        raise ValueError(f"options need a true answer; {question!r}, {answer!r}: {verdict.reason}")
    driven: list[str] = []
    other: list[str] = []
    for text in map(str, rng.permutation(list(dict.fromkeys(_CANDIDATES[verdict.type](question, answer, scene))))):
        if check_pair(question, text, scene).true is False:
            (driven if prior_driven(question, text, scene) else other).append(text)
        if driven and len(other) >= n - 2:
            break
    picked = [*driven[:1], *other, *driven[1:]][: n - 1]
    return [str(text) for text in rng.permutation([answer, *picked])]


def prior_letters(question: str, options: list[str], scene: Scene) -> list[str]:
    """The letters of the options that are false and what a bias would have said, see `priors.prior_driven`."""
    return [letter for letter, text in zip("ABCD", options) if prior_driven(question, text, scene)]


# Each returns well-formed answers to the question, among them false ones.
def _presence(question: str, answer: str, scene: Scene) -> list[str]:
    name = answer.removesuffix(".").split()[-1]
    return [f"Yes, there is {article(name)}.", f"No, there is no {name}."]


def _count(question: str, answer: str, scene: Scene) -> list[str]:
    name = next(name for name in CATEGORIES if PLURAL[name] == question.split()[2])
    several = [f"There are {number} {PLURAL[name]}." for number in NUMBERS if number != "one"]
    return [f"There is one {name}.", *several]


def _colour(question: str, answer: str, scene: Scene) -> list[str]:
    return [f"The background is {colour}." for colour in BACKGROUNDS]


def _where(question: str, answer: str, scene: Scene) -> list[str]:
    return [answer.replace(scene.of(answer.split()[1])[0].corner, corner) for corner in CORNERS]


def _relation(question: str, answer: str, scene: Scene) -> list[str]:
    first, said = answer.removeprefix("The ").split(" ", 1)
    if question.startswith("Is"):
        relation = next(relation for relation in RELATIONS if relation in said)
        return [f"The {first} {said.replace(relation, opposite(relation))}"]
    # What is there, what goes with it, and what is like it.
    present = list(scene.counts())
    alike = [name for item in present for name in (PARTNER[item], *GROUPS[GROUP_OF[item]])]
    return [f"The {name} {said}" for name in [*present, *alike] if f"the {name}." not in said]


def _group(question: str, answer: str, scene: Scene) -> list[str]:
    group = next(group for group in GROUPS if PLURAL_GROUP[group] == question.split()[1])
    there = [name for name in scene.counts() if GROUP_OF[name] == group]
    absent = [name for name in GROUPS[group] if name not in there]
    # One more, one less, one for another.
    sets = [[*there, name] for name in absent]
    sets += [[name for name in there if name != left_out] for left_out in there]
    sets += [[new if name == old else name for name in there] for old in there for new in absent]
    nothing = f"There are no {PLURAL_GROUP[group]}."
    return [f"There is {join([article(name) for name in names])}." if names else nothing for names in sets]


def _description(question: str, answer: str, scene: Scene) -> list[str]:
    items = {corner: name for name, corner in described_objects(answer)}
    free = [corner for corner in CORNERS if corner not in items]
    alike = {name: [PARTNER[name], *GROUPS[GROUP_OF[name]]] for name in items.values()}
    others = list(dict.fromkeys(name for names in alike.values() for name in names))
    # One thing for another, elsewhere, too many, or left out; or another background.
    changed = [items | {corner: name} for corner in items for name in others]
    changed += [items | {corner: name} for corner in free for name in others]
    for corner, name in items.items():
        rest = {place: thing for place, thing in items.items() if place != corner}
        changed += [rest | {place: name} for place in free] + ([rest] if rest else [])
    told = [_told(objects, scene.background) for objects in changed]
    return told + [_told(items, colour) for colour in BACKGROUNDS]


def _told(objects: dict[str, str], background: str) -> str:
    """A description, from corner → name."""
    parts = [f"{article(objects[corner])} in the {corner}" for corner in CORNERS if corner in objects]
    return f"There is {join(parts)}. The background is {background}."


_CANDIDATES = {
    "presence": _presence,
    "count": _count,
    "colour": _colour,
    "where": _where,
    "relation": _relation,
    "group": _group,
    "description": _description,
}
