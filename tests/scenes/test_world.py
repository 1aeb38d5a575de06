"""The scenes world: pictures, truth, and the checker tried both ways."""

import numpy as np
import pytest

from c3l_hf.scenes import Scene, check_pair, load_scenes
from c3l_hf.scenes.checker import described_objects
from c3l_hf.scenes.questions import NUMBERS, PLURAL, ask, opposite, relation_holds
from c3l_hf.scenes.templates import QUESTION_TYPES
from c3l_hf.scenes.world import (
    BACKGROUNDS,
    CATEGORIES,
    CORNERS,
    GROUP_OF,
    PARTNER,
    SceneObject,
    render,
    sample_scenes,
)


def pairs(type, n=300, shifted=False):
    rng = np.random.default_rng(5)
    scenes = sample_scenes(n, 3, "train", shifted)
    return [(scene, *pair) for scene in scenes if (pair := ask(scene, type, rng))]


def other(options, value, rng):
    return str(rng.choice([option for option in options if option != value]))


def falsify(type, question, answer, scene, rng):
    """The same question with an answer that is certainly false, made without the checker."""
    if type == "presence":
        name = question.rstrip("?").replace(" in the picture", "").split()[-1]
        return f"No, there is no {name}." if answer.startswith("Yes") else f"Yes, there is a {name}."
    if type == "count":
        plural = question.split()[2]
        name = next(name for name in CATEGORIES if PLURAL[name] == plural)
        number = int(rng.choice([n for n in range(5) if n != sum(item.name == name for item in scene.objects)]))
        return f"There is one {name}." if number == 1 else f"There are {NUMBERS[number]} {plural}."
    if type == "colour":
        return answer.replace(scene.background, other(BACKGROUNDS, scene.background, rng))
    if type == "where":
        name = answer.split()[1]
        corner = next(item.corner for item in scene.objects if item.name == name)
        return answer.replace(corner, other(CORNERS, corner, rng))
    if type == "relation":
        words = ("left of", "right of", "above", "below")
        relation = next(word for word in words if f" {word} " in answer)
        if question.startswith("Is"):
            return answer.replace(relation, opposite(relation))
        absent = [name for name in CATEGORIES if name not in {item.name for item in scene.objects}]
        return f"The {rng.choice(absent)}" + answer[answer.index(" is ") :]
    if type == "group":
        absent = [name for name in CATEGORIES if name not in {item.name for item in scene.objects}]
        return f"There is a {rng.choice(absent)}."
    items = described_objects(answer)
    name, corner = items[int(rng.integers(len(items)))]
    return answer.replace(f"{name} in the {corner}", f"{other(CATEGORIES, name, rng)} in the {corner}")


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("type", QUESTION_TYPES)
def test_true_pairs_pass_and_falsified_ones_fail(type, shifted):
    rng = np.random.default_rng(1)
    found = pairs(type, shifted=shifted)
    assert len(found) > 100
    for scene, question, answer in found:
        verdict = check_pair(question, answer, scene)
        assert (verdict.well_formed, verdict.type, verdict.true) == (True, type, True), (question, answer, scene)
        false = falsify(type, question, answer, scene, rng)
        verdict = check_pair(question, false, scene)
        assert verdict.well_formed and verdict.type == type and verdict.true is False, (question, false, scene)
        assert verdict.reason


SCENE = Scene(
    "x",
    (
        SceneObject("dog", 16, 16, 26),
        SceneObject("ball", 48, 17, 26),
        SceneObject("ball", 47, 49, 26),
    ),
    "blue",
    "plain",
    0,
)


@pytest.mark.parametrize(
    ("question", "answer", "true"),
    [
        ("Is there a dog in the picture?", "Yes, there is a dog.", True),
        ("Can you see a cat?", "Yes, there is a cat.", False),
        ("How many balls are there?", "There are two balls.", True),
        ("How many balls are there?", "There is one ball.", False),
        # a false premise has no true answer
        ("Where is the cat?", "The cat is in the top left.", False),
        # one of several
        ("Where is the ball?", "The ball is in the bottom right.", True),
        ("Where is the ball?", "The ball is in the bottom left.", False),
        ("Is the dog left or right of the ball?", "The dog is left of the ball.", True),
        # the same fact, said from the other side
        ("Is the dog left or right of the ball?", "The ball is right of the dog.", True),
        ("Is the dog left or right of the ball?", "The dog is right of the ball.", False),
        ("What is below the dog?", "The ball is below the dog.", True),
        ("What is above the dog?", "The ball is above the dog.", False),
        ("What is above the ball?", "The ball is above the ball.", False),
        ("Which toys are there?", "There is a ball.", True),
        ("Which animals can you see?", "There are no animals.", False),
        ("Which devices can you see?", "There are no devices.", True),
        ("Which animals can you see?", "There is a dog and a ball.", False),
        ("Which animals can you see?", "There is a dog and a dog.", False),
        (
            "Describe the picture.",
            "There is a ball in the bottom right, a dog in the top left and a ball in the top right. "
            "The background is blue.",
            True,
        ),
        ("Describe the picture.", "There is a dog in the top left. The background is blue.", False),
        ("Describe the picture.", "There is a dog in the top left. The background is red.", False),
    ],
)
def test_judgements_on_one_scene(question, answer, true):
    verdict = check_pair(question, answer, SCENE)
    assert verdict.well_formed and verdict.true is true, verdict


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("", ""),
        ("Who is there?", "The dog."),
        ("Is there a dog in the picture?", "There is one dog."),
        ("Is there a dog in the picture?", "Yes, there is a cat."),
        ("How many balls are there?", "There are two dogs."),
        ("Where is the dog?", "The ball is in the top right."),
        ("Is the dog left or right of the ball?", "The dog is above the ball."),
        ("Is the dog left or right of the ball?", "The dog is left of the cat."),
        ("What is above the dog?", "The ball is below the dog."),
        ("Which toys are there?", "There are no animals."),
        ("Is there a dog in the picture? Yes", "Yes, there is a dog."),
        ("Is there a dog in the picture?", "Yes, there is a dog.\nQuestion: Can you see a cat?"),
    ],
)
def test_what_does_not_belong_together_is_not_well_formed(question, answer):
    verdict = check_pair(question, answer, SCENE)
    assert not verdict.well_formed and verdict.true is None and verdict.reason


def test_scenes_depend_on_seed_split_and_distribution_only():
    scenes = list(sample_scenes(6, 1, "test"))
    assert scenes[4:] == list(sample_scenes(2, 1, "test", start=4))
    for different in (sample_scenes(6, 2, "test"), sample_scenes(6, 1, "train"), sample_scenes(6, 1, "test", True)):
        assert all(a.objects != b.objects for a, b in zip(scenes, different))
    with pytest.raises(ValueError, match="no split 'dev'.*train, validation, test"):
        next(sample_scenes(1, 0, "dev"))


def test_a_dataset_has_its_pictures_and_their_truth():
    rows = load_scenes(5, seed=1, split="test", shifted=True)
    assert len(set(rows["image_id"])) == 5
    for row in rows:
        scene = Scene.from_row(row)
        (picture,) = row["images"]
        assert np.array_equal(np.asarray(picture), render(scene))
    assert len(load_scenes(0)) == 0
    with pytest.raises(ValueError, match="negative"):
        load_scenes(-1)


def test_every_object_is_where_the_truth_says_and_covers_its_pixels():
    for scene in sample_scenes(50, 2, "train"):
        picture = render(scene).astype(int)
        without = render(Scene(scene.image_id, (), scene.background, scene.fill, scene.texture_seed)).astype(int)
        changed = np.abs(picture - without).sum(axis=-1) > 20
        for item in scene.objects:
            assert 0 <= item.x < 64 and 0 <= item.y < 64
            half = item.size // 2
            box = changed[max(item.y - half, 0) : item.y + half, max(item.x - half, 0) : item.x + half]
            assert box.mean() > 0.2, item
        assert len({item.corner for item in scene.objects}) == len(scene.objects)


def test_the_usual_distribution_is_biased_and_the_shifted_one_is_not():
    def rate(shifted, holds):
        return np.mean([holds(scene) for scene in sample_scenes(1500, 9, "train", shifted) if len(scene.objects) > 1])

    def with_partner(scene):
        return any(PARTNER[name] in scene.counts() for name in scene.counts())

    def green_animals(scene):
        return scene.background == "red" and GROUP_OF[scene.objects[0].name] == "animal"

    assert rate(False, with_partner) > 0.4 > 0.1 > rate(True, with_partner)
    assert rate(False, green_animals) > 2 * rate(True, green_animals)
    assert all(PARTNER[PARTNER[name]] == name != PARTNER[name] for name in CATEGORIES)


def test_a_relation_is_the_opposite_of_its_opposite():
    dog, ball = SCENE.objects[:2]
    for relation in ("left of", "right of", "above", "below"):
        assert relation_holds(dog, relation, ball) == relation_holds(ball, opposite(relation), dog)
    # one pixel apart in height: neither above nor below
    assert not relation_holds(dog, "above", ball) and not relation_holds(dog, "below", ball)
