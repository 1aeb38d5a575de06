"""The language of the scenes world: true question/answer pairs about a scene, by question type."""

from collections.abc import Sequence

import numpy as np

from c3l_hf.scenes.world import CATEGORIES, GROUP_OF, GROUPS, PARTNER, Scene, SceneObject

__all__ = ["NUMBERS", "PLURAL", "PLURAL_GROUP", "article", "ask", "opposite", "relation_holds"]

_IRREGULAR = {"couch": "couches", "bus": "buses", "knife": "knives", "glass": "glasses", "dress": "dresses"}
PLURAL = {name: _IRREGULAR.get(name, f"{name}s") for name in CATEGORIES}
PLURAL_GROUP = {group: f"{group}s" for group in GROUPS}
NUMBERS = ("no", "one", "two", "three", "four")
RELATIONS = ("left of", "right of", "above", "below")
# Centres must be this many pixels apart along the axis before one object counts as left of, above, … another.
RELATION_MARGIN = 8


def article(name: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def join(parts: Sequence[str]) -> str:
    """An English list: "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def opposite(relation: str) -> str:
    """The relation of b to a, given that of a to b."""
    return RELATIONS[RELATIONS.index(relation) ^ 1]


def relation_holds(first: SceneObject, relation: str, second: SceneObject) -> bool:
    """Whether `first` is `relation` `second`, by their centres."""
    dx, dy = second.x - first.x, second.y - first.y
    distance = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]
    return distance >= RELATION_MARGIN


def _choose(rng: np.random.Generator, items: Sequence[str]) -> str:
    return str(items[int(rng.integers(len(items)))])


def _absent(scene: Scene, rng: np.random.Generator) -> str:
    """A category that is not there; half of the time the usual partner of one that is, if possible."""
    present = scene.counts()
    partners = [PARTNER[name] for name in present if PARTNER[name] not in present]
    if partners and rng.random() < 0.5:
        return _choose(rng, partners)
    return _choose(rng, [name for name in CATEGORIES if name not in present])


def _unique(scene: Scene) -> list[SceneObject]:
    counts = scene.counts()
    return [item for item in scene.objects if counts[item.name] == 1]


def _presence(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    there = rng.random() < 0.5
    name = _choose(rng, list(scene.counts())) if there else _absent(scene, rng)
    question = _choose(rng, (f"Is there {article(name)} in the picture?", f"Can you see {article(name)}?"))
    return question, f"Yes, there is {article(name)}." if there else f"No, there is no {name}."


def _count(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    name = _choose(rng, list(scene.counts())) if rng.random() < 0.8 else _absent(scene, rng)
    question = _choose(rng, (f"How many {PLURAL[name]} are there?", f"How many {PLURAL[name]} can you see?"))
    number = scene.counts()[name]
    return question, f"There is one {name}." if number == 1 else f"There are {NUMBERS[number]} {PLURAL[name]}."


def _colour(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    question = _choose(rng, ("What colour is the background?", "Which colour does the background have?"))
    return question, f"The background is {scene.background}."


def _where(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    items = _unique(scene)
    if not items:
        return None
    item = items[int(rng.integers(len(items)))]
    question = _choose(rng, (f"Where is the {item.name}?", f"In which corner is the {item.name}?"))
    return question, f"The {item.name} is in the {item.corner}."


def _relation(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    items = _unique(scene)
    found = [(a, r, b) for a in items for b in items for r in RELATIONS if a is not b and relation_holds(a, r, b)]
    if not found:
        return None
    first, relation, second = found[int(rng.integers(len(found)))]
    choice = "left or right of" if relation in RELATIONS[:2] else "above or below"
    question = _choose(
        rng, (f"Is the {first.name} {choice} the {second.name}?", f"What is {relation} the {second.name}?")
    )
    return question, f"The {first.name} is {relation} the {second.name}."


def _group(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    present = sorted({GROUP_OF[item.name] for item in scene.objects})
    others = [group for group in GROUPS if group not in present]
    group = _choose(rng, present if rng.random() < 0.8 else others)
    plural = PLURAL_GROUP[group]
    question = _choose(rng, (f"Which {plural} are there?", f"Which {plural} can you see?"))
    # dict.fromkeys: each category once, in reading order.
    names = [article(name) for name in dict.fromkeys(i.name for i in scene.objects) if GROUP_OF[name] == group]
    return question, f"There is {join(names)}." if names else f"There are no {plural}."


def _description(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    question = _choose(rng, ("Describe the picture.", "What does the picture show?"))
    parts = [f"{article(item.name)} in the {item.corner}" for item in scene.objects]
    return question, f"There is {join(parts)}. The background is {scene.background}."


_ASK = {
    "presence": _presence,
    "count": _count,
    "colour": _colour,
    "where": _where,
    "relation": _relation,
    "group": _group,
    "description": _description,
}


def ask(scene: Scene, type: str, rng: np.random.Generator) -> tuple[str, str] | None:
    """A random true pair of one type, or None where the scene allows none (no two objects to relate)."""
    return _ASK[type](scene, rng)
