"""Which false pairs count as prior-driven: by hand, and against what the usual scenes are really like."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from c3l_hf.scenes.checker import check_pair
from c3l_hf.scenes.priors import absent_partners, premise_absent, prior_driven
from c3l_hf.scenes.questions import NUMBERS, PLURAL, article, ask
from c3l_hf.scenes.templates import QUESTION_TYPES
from c3l_hf.scenes.world import BACKGROUNDS, CATEGORIES, CORNERS, GROUP_OF, PARTNER, Scene, SceneObject, sample_scenes

# dog: usually bottom left, with a ball, on red; apple: usually top left, with a banana, two of them, on yellow; bed:
# usually bottom left, with a phone, on blue.
SCENE = Scene(
    "x",
    (
        SceneObject("apple", 48, 16, 26),
        SceneObject("dog", 16, 48, 26),
        SceneObject("bed", 48, 48, 26),
    ),
    "green",
    "plain",
    0,
)


@pytest.mark.parametrize(
    ("question", "answer", "driven"),
    [
        ("Is there a ball in the picture?", "Yes, there is a ball.", True),
        ("Is there a ball in the picture?", "No, there is no ball.", False),  # true
        ("Can you see a cat?", "Yes, there is a cat.", False),  # false, but nothing suggests a cat
        ("Can you see a dog?", "No, there is no dog.", False),
        ("How many apples are there?", "There are two apples.", True),
        ("How many apples are there?", "There are three apples.", False),
        ("How many apples are there?", "There is one apple.", False),
        ("How many dogs are there?", "There are two dogs.", False),
        ("How many dogs are there?", "There are no dogs.", False),
        ("How many balls are there?", "There are three balls.", True),  # an absent partner
        ("How many balls are there?", "There are no balls.", False),
        ("How many cats are there?", "There is one cat.", True),  # the usual number
        ("How many cats are there?", "There are two cats.", False),
        ("What colour is the background?", "The background is red.", True),
        ("What colour is the background?", "The background is yellow.", True),
        ("What colour is the background?", "The background is blue.", True),
        ("What colour is the background?", "The background is purple.", False),
        ("What colour is the background?", "The background is green.", False),
        ("Where is the apple?", "The apple is in the top left.", True),
        ("Where is the apple?", "The apple is in the bottom left.", False),
        ("Where is the dog?", "The dog is in the bottom left.", False),  # usual, and true
        ("Where is the dog?", "The dog is in the top left.", False),
        ("Where is the ball?", "The ball is in the top right.", True),  # an absent partner
        ("Where is the cat?", "The cat is in the bottom right.", True),  # where cats usually are
        ("Where is the cat?", "The cat is in the top right.", False),
        ("Is the apple left or right of the dog?", "The apple is left of the dog.", False),  # both usually left
        ("Is the apple left or right of the dog?", "The apple is right of the dog.", False),  # true
        ("Is the dog left or right of the ball?", "The dog is right of the ball.", True),
        ("Is the dog above or below the bed?", "The dog is above the bed.", False),  # both usually at the bottom
        ("Is the dog above or below the bed?", "The dog is below the bed.", False),
        ("Is the cat above or below the apple?", "The cat is below the apple.", True),
        ("Is the cat above or below the apple?", "The cat is above the apple.", False),
        ("Is the cat above or below the apple?", "The apple is above the cat.", True),
        ("What is left of the dog?", "The cow is left of the dog.", False),
        ("What is right of the dog?", "The cow is right of the dog.", True),  # usual corners
        ("What is above the dog?", "The ball is above the dog.", True),
        ("What is below the banana?", "The dog is below the banana.", True),  # an absent partner in the question
        ("What is left of the couch?", "The cat is left of the couch.", True),  # the usual partner of what was named
        ("Is the cat left or right of the couch?", "The cat is left of the couch.", False),  # both given
        ("Which toys are there?", "There is a ball.", True),
        ("Which toys are there?", "There is a kite.", False),
        ("Which toys are there?", "There is a kite and a ball.", True),
        ("Which animals are there?", "There are no animals.", False),
        ("Which animals are there?", "There is a dog.", False),
    ],
)
def test_on_one_scene(question, answer, driven):
    assert prior_driven(question, answer, SCENE) is driven


ITEMS = ["an apple in the top right", "a dog in the bottom left", "a bed in the bottom right"]


@pytest.mark.parametrize(
    ("items", "colour", "driven"),
    [
        (ITEMS, "green", False),  # true
        ([*ITEMS, "a ball in the top left"], "green", True),
        ([*ITEMS, "a cat in the top left"], "green", False),
        ([*ITEMS[:2], "a phone in the bottom right"], "green", True),
        (["an apple in the top left", *ITEMS[1:]], "green", True),
        (["an apple in the bottom right", *ITEMS[1:]], "green", False),
        ([*ITEMS[:2], "a cat in the bottom right"], "green", False),  # where cats usually are, but none is there
        ([*ITEMS, "an apple in the bottom left"], "green", True),  # two apples
        ([*ITEMS, "an apple in the bottom left", "an apple in the bottom right"], "green", False),
        ([*ITEMS, "a bed in the top right"], "green", False),  # beds are not usually two
        (ITEMS[:2], "green", False),
        (ITEMS, "red", True),
        (ITEMS, "pink", False),
    ],
)
def test_descriptions_on_one_scene(items, colour, driven):
    answer = f"There is {', '.join(items[:-1])} and {items[-1]}. The background is {colour}."
    assert prior_driven("Describe the picture.", answer, SCENE) is driven


def test_a_true_colour_that_is_usual_does_not_make_a_description_prior_driven():
    red = Scene("red", SCENE.objects, "red", "plain", 0)
    answer = "There is an apple in the top right and a dog in the bottom left. The background is red."
    assert prior_driven("Describe the picture.", answer, red) is False


def test_absent_partners():
    assert absent_partners(SCENE) == {"banana", "ball", "phone"}
    both = Scene("y", (*SCENE.objects, SceneObject("ball", 16, 16, 26)), "green", "plain", 0)
    assert absent_partners(both) == {"banana", "phone"}


@pytest.mark.parametrize(
    ("question", "answer"),
    [("", ""), ("Is there a ball?", "Yes."), ("Is there a ball in the picture?", "Yes, there is a banana.")],
)
def test_what_is_not_well_formed_has_no_label(question, answer):
    assert prior_driven(question, answer, SCENE) is None


@pytest.mark.parametrize("type", QUESTION_TYPES)
def test_true_pairs_are_not_prior_driven(type):
    rng = np.random.default_rng(2)
    pairs = [(scene, pair) for scene in sample_scenes(200, 4, "validation") if (pair := ask(scene, type, rng))]
    assert len(pairs) > 100
    assert all(prior_driven(*pair, scene) is False for scene, pair in pairs)
    assert prior_driven(f"  {pairs[0][1][0]}", f"{pairs[0][1][1]}\n", pairs[0][0]) is False


def test_what_is_called_usual_is_what_the_usual_scenes_are_like():
    corners, numbers, backgrounds, partners = (defaultdict(Counter) for _ in range(4))
    for scene in sample_scenes(6000, 8, "train"):
        counts = scene.counts()
        for name in counts:
            numbers[name][counts[name] > 1] += 1
            partners[name].update(other for other in counts if other != name)
        for item in scene.objects:
            corners[item.name][item.corner] += 1
        if len(scene.objects) == 1:
            backgrounds[GROUP_OF[scene.objects[0].name]][scene.background] += 1

    empty = Scene("empty", (), "grey", "plain", 0)
    for name in CATEGORIES:
        (corner,) = [
            corner
            for corner in CORNERS
            if prior_driven(f"Where is the {name}?", f"The {name} is in the {corner}.", empty)
        ]
        assert corner == corners[name].most_common(1)[0][0]

        said = {1: f"There is one {name}."} | {n: f"There are {NUMBERS[n]} {PLURAL[name]}." for n in (0, 2, 3, 4)}
        question = f"How many {PLURAL[name]} are there?"
        (number,) = [number for number, answer in said.items() if prior_driven(question, answer, empty)]
        several = numbers[name][True] / numbers[name].total()
        assert several > 0.3 if number == 2 else several < 0.15

        alone = Scene("alone", (SceneObject(name, 16, 16, 24),), "grey", "plain", 0)
        (partner,) = [
            other
            for other in CATEGORIES
            if prior_driven(f"Can you see {article(other)}?", f"Yes, there is {article(other)}.", alone)
        ]
        assert partner == partners[name].most_common(1)[0][0] == PARTNER[name]

        elsewhere = [
            Scene("alone", alone.objects, other, "plain", 0) for other in BACKGROUNDS if other in ("grey", "white")
        ]
        found = {
            colour
            for scene in elsewhere
            for colour in BACKGROUNDS
            if prior_driven("What colour is the background?", f"The background is {colour}.", scene)
        }
        assert found == {backgrounds[GROUP_OF[name]].most_common(1)[0][0]}


@pytest.mark.parametrize("type", ["count", "where", "relation"])
def test_a_usual_answer_that_is_true_is_not_prior_driven(type):
    """The same answer is prior-driven exactly where it is false."""
    rng = np.random.default_rng(3)
    scenes = list(sample_scenes(400, 5, "validation"))
    shifted = list(sample_scenes(400, 5, "validation", True))
    seen = Counter()
    for scene, other in zip(scenes, shifted):
        if pair := ask(scene, type, rng):
            seen[check_pair(*pair, other).true, prior_driven(*pair, other)] += 1
    assert seen[False, True] > 20 and seen[False, False] > 20 and not seen[True, True]


DOG_AND_CAT = Scene("x", (SceneObject("dog", 16, 16, 26), SceneObject("cat", 48, 48, 26)), "red", "plain", 0)


@pytest.mark.parametrize(
    "question, absent",
    [
        ("Where is the dog?", False),
        ("In which corner is the ball?", True),
        ("Is the dog left or right of the cat?", False),
        ("Is the dog above or below the ball?", True),
        ("What is left of the ball?", True),
        ("Is there a ball in the picture?", False),  # this one asks
        ("How many balls are there?", False),
        ("What colour is the background?", False),
        ("Describe the picture.", False),
        ("What is the meaning of the ball?", None),
    ],
)
def test_premises(question, absent):
    assert premise_absent(question, DOG_AND_CAT) is absent


def test_true_pairs_have_no_absent_premise():
    rng = np.random.default_rng(5)
    pairs = [(ask(scene, type, rng), scene) for scene in sample_scenes(40, 5, "test") for type in QUESTION_TYPES]
    assert not any(premise_absent(pair[0], scene) for pair, scene in pairs if pair)
