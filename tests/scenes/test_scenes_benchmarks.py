"""The four benchmarks on scenes: true by the checker, balanced, reproducible, in the published layouts."""

import json
from collections import Counter

import numpy as np
import pytest
import tiny_benchmarks

from c3l_hf.evaluation.questions import load_questions
from c3l_hf.metrics.choice import letter
from c3l_hf.scenes import Scene, check_pair, load_scenes
from c3l_hf.scenes.benchmarks import ABILITIES, SEED_TYPES, llava_bench, mmbench, pope, scene_of, seed_bench
from c3l_hf.scenes.options import make_options, prior_letters
from c3l_hf.scenes.priors import prior_driven
from c3l_hf.scenes.templates import QUESTION_TYPES
from c3l_hf.scenes.world import BACKGROUNDS, CORNERS, PARTNER, render, sample_scenes

N = 80
MAKERS = {"pope": pope, "seed": seed_bench, "mmbench": mmbench, "llava_w": llava_bench}
FEATURES = {
    "pope": tiny_benchmarks.POPE,
    "seed": tiny_benchmarks.SEED,
    "mmbench": tiny_benchmarks.MMBENCH,
    "llava_w": tiny_benchmarks.LLAVA_BENCH,
}
SCENE_COLUMN = {"pope": "image_source", "seed": "data_id", "mmbench": "source", "llava_w": "image_id"}
KINDS = pytest.mark.parametrize("shifted", [False, True], ids=["usual", "shifted"])
ALL = pytest.mark.parametrize("name", MAKERS)


@pytest.fixture(scope="module")
def made():
    """(benchmark, shifted) → its rows without pictures, about 80 scenes."""
    found = {}
    for name, make in MAKERS.items():
        for shifted in (False, True):
            found[name, shifted] = make(N, 3, shifted).remove_columns("image").to_list()
    return found


def scene_behind(name, row):
    return scene_of(row[SCENE_COLUMN[name]])


def options_of(row):
    if "choice_a" in row:
        return [row[f"choice_{letter}"] for letter in "abcd"]
    return [row[letter] for letter in "ABCD" if row[letter] != "nan"]


def asked_about(row):
    """The object of a presence question."""
    return row["question"].removesuffix(" in the picture?").removesuffix("?").split()[-1]


@ALL
@KINDS
def test_is_in_the_published_layout(name, shifted, tmp_path):
    rows = MAKERS[name](4, 1, shifted)
    assert rows.features == FEATURES[name]
    rows.save_to_disk(tmp_path / "benchmark")
    questions = load_questions(name, tmp_path / "benchmark", circular=False)
    assert set(questions["status"]) == {"ok"}
    assert len(questions) == len(rows) == len(set(questions["question_id"]))
    for row, question in zip(rows, questions):
        assert json.loads(question["meta"])["stem"] == row["question"]
        (picture,) = row["image"] if isinstance(row["image"], list) else [row["image"]]
        assert np.array_equal(np.asarray(picture), render(scene_behind(name, row)))
        if name != "mmbench":  # whose layout does not name the pictures
            assert question["cluster"] == row[SCENE_COLUMN[name]]


@KINDS
def test_pope_answers_are_true_and_balanced(made, shifted):
    rows = made["pope", shifted]
    for row in rows:
        verdicts = {
            said: check_pair(row["question"], text.format(asked_about(row)), scene_behind("pope", row))
            for said, text in {"yes": "Yes, there is a {}.", "no": "No, there is no {}."}.items()
        }
        assert verdicts["yes"].well_formed and verdicts["no"].well_formed
        assert verdicts[row["answer"]].true and not verdicts["yes" if row["answer"] == "no" else "no"].true
    found = Counter((row["category"], row["image_source"], row["answer"]) for row in rows)
    for category, image, _ in list(found):
        assert found[category, image, "yes"] == found[category, image, "no"]
    asked = Counter((row["category"], row["image_source"], asked_about(row)) for row in rows)
    assert set(asked.values()) == {1}
    forms = Counter(row["question"].split()[0] for row in rows)
    assert all(forms[form] > 0.4 * len(rows) for form in ("Is", "Can"))


@KINDS
def test_pope_categories(made, shifted):
    rows = made["pope", shifted]
    wrong = {
        category: [row for row in rows if row["category"] == category and row["answer"] == "no"]
        for category in ("random", "popular", "adversarial")
    }
    for category, part in wrong.items():
        partners = [PARTNER[asked_about(row)] in scene_behind("pope", row).counts() for row in part]
        assert all(partners) if category == "adversarial" else np.mean(partners) < 0.3
        driven = [
            prior_driven(row["question"], f"Yes, there is a {asked_about(row)}.", scene_behind("pope", row))
            for row in part
        ]
        assert driven == partners

    # the three that are there most often, counted in other scenes
    counts = Counter()
    for scene in sample_scenes(3000, 77, "train"):
        counts.update(scene.counts())
    most = {name for name, _ in counts.most_common(8)}
    assert {asked_about(row) for row in wrong["popular"]} <= most
    assert len({asked_about(row) for row in wrong["random"]}) > 30
    for image in {row["image_source"] for row in rows}:
        there = scene_of(image).counts()
        expected = min(3, len(there))
        absent = {PARTNER[name] for name in there if PARTNER[name] not in there}
        numbers = {category: sum(row["image_source"] == image for row in part) for category, part in wrong.items()}
        assert numbers == {"random": expected, "popular": expected, "adversarial": min(3, len(absent))}


@pytest.mark.parametrize("name", ["seed", "mmbench"])
@KINDS
def test_exactly_one_option_is_true_and_it_is_the_answer(made, name, shifted):
    for row in made[name, shifted]:
        options = options_of(row)
        verdicts = [check_pair(row["question"], option, scene_behind(name, row)) for option in options]
        assert all(verdict.well_formed for verdict in verdicts), row
        true = [letter for letter, verdict in zip("ABCD", verdicts) if verdict.true]
        assert true == [row["answer"]]
        # An answer in words is read as its letter, so the options must be told apart by their texts.
        assert [letter(option, options) for option in options] == list("ABCD"[: len(options)])


@KINDS
def test_seed_dimensions(made, shifted):
    rows = made["seed", shifted]
    for row in rows:
        verdict = check_pair(row["question"], options_of(row)[0], scene_behind("seed", row))
        assert verdict.type == SEED_TYPES[row["question_type_id"]]
    asked = Counter((row["data_id"], row["question_type_id"]) for row in rows)
    assert set(asked.values()) == {1}
    by_type = Counter(SEED_TYPES[row["question_type_id"]] for row in rows)
    assert all(by_type[type] == N for type in ("description", "group", "colour", "count"))
    for scene in {row["data_id"]: scene_behind("seed", row) for row in rows}.values():
        single = [item for item in scene.objects if scene.counts()[item.name] == 1]
        assert asked[scene.image_id, 4] == bool(single)
        assert asked[scene.image_id, 6] <= (len(single) > 1)
    assert by_type["relation"] > 0.4 * N


@KINDS
def test_mmbench_options_and_abilities(made, shifted):
    rows = made["mmbench", shifted]
    sizes = {type: set() for type in QUESTION_TYPES}
    for row in rows:
        options = options_of(row)
        verdict = check_pair(row["question"], options[0], scene_behind("mmbench", row))
        assert verdict.type == row["category"] and row["L2-category"] == ABILITIES[verdict.type]
        assert row["index"] < 1_000_000 and row["split"] == "dev" and row["hint"] == row["comment"] == "nan"
        sizes[verdict.type].add(len(options))
    assert sizes["presence"] == {2} and sizes["relation"] == {2, 3, 4}
    assert all(sizes[type] == {3, 4} for type in ("count", "colour", "where", "group", "description"))
    assert len({row["index"] for row in rows}) == len(rows)


def test_mmbench_can_be_asked_in_circles(tmp_path):
    mmbench(6, 2).save_to_disk(tmp_path / "benchmark")
    rows = {row["index"]: row for row in mmbench(6, 2)}
    questions = load_questions("mmbench", tmp_path / "benchmark")
    assert len(questions) == sum(len(options_of(row)) for row in rows.values())
    for question in questions:
        meta = json.loads(question["meta"])
        scene = scene_of(rows[meta["base"]]["source"])
        right = question["options"]["ABCD".index(question["answer"])]
        assert check_pair(meta["stem"], right, scene).true


@pytest.mark.parametrize("name", ["seed", "mmbench"])
@KINDS
def test_the_position_of_an_option_tells_nothing(made, name, shifted):
    rows = [row for row in made[name, shifted] if len(options_of(row)) == 4]
    for letters in (
        [row["answer"] for row in rows],
        [
            letters[0]
            for row in rows
            if (letters := prior_letters(row["question"], options_of(row), scene_behind(name, row)))
        ],
    ):
        share = Counter(letters)
        expected, bound = 0.25, 4 * np.sqrt(0.25 * 0.75 / len(letters))
        assert all(abs(share[letter] / len(letters) - expected) < bound for letter in "ABCD"), share


@KINDS
def test_what_the_prior_says_is_among_the_options(made, shifted):
    """Wherever it is false: the usual corner, the usual background, an absent partner in a description."""
    seen = Counter()
    for row in made["seed", shifted]:
        scene, type = scene_behind("seed", row), SEED_TYPES[row["question_type_id"]]
        driven = prior_letters(row["question"], options_of(row), scene)
        assert row["answer"] not in driven
        if type == "where":
            candidates = [f"{options_of(row)[0].rpartition(' in the ')[0]} in the {corner}." for corner in CORNERS]
        elif type == "colour":
            candidates = [f"The background is {colour}." for colour in BACKGROUNDS]
        elif type == "description" and any(PARTNER[item] not in scene.counts() for item in scene.counts()):
            seen[type, len(driven)] += 1
            continue
        else:
            continue
        possible = any(prior_driven(row["question"], text, scene) for text in candidates)
        seen[type, len(driven)] += 1
        # one, and the others are not
        assert len(driven) == possible
    assert seen["where", 1] > 5 and seen["colour", 1] > 20
    assert {number for type, number in seen if type == "description"} == {1}


def test_where_the_prior_is_right_differs_between_usual_and_shifted_scenes(made):
    """The usual corner is the true one two times out of three in usual scenes, one out of four in shifted ones."""

    def right(shifted):
        empty = Scene("empty", (), "grey", "plain", 0)
        return np.mean(
            [
                row["answer"] in prior_letters(row["question"], options_of(row), empty)
                for row in made["seed", shifted]
                if row["question_type_id"] == 4
            ]
        )

    assert right(False) > 0.5 > 0.4 > right(True)


def test_options_need_a_true_answer():
    scene = next(sample_scenes(1, 0, "test"))
    rng = np.random.default_rng(0)
    colour = next(colour for colour in BACKGROUNDS if colour != scene.background)
    for answer in (f"The background is {colour}.", "Blue."):
        with pytest.raises(ValueError, match="options need a true answer"):
            make_options("What colour is the background?", answer, scene, 4, rng)


@KINDS
def test_llava_bench_is_true(made, shifted):
    rows = made["llava_w", shifted]
    types = {"conv": Counter(), "detail": Counter(), "complex": Counter()}
    for row in rows:
        scene = scene_behind("llava_w", row)
        verdict = check_pair(row["question"], row["gpt_answer"], scene)
        assert verdict.true
        types[row["category"]][verdict.type] += 1
        assert check_pair("Describe the picture.", row["caption"], scene).true
    assert set(types["conv"]) == {"presence", "count", "colour", "where"}
    assert set(types["detail"]) == {"description"} and set(types["complex"]) == {"relation", "group"}
    assert all(part.total() == N for part in types.values())


@ALL
def test_depends_on_seed_kind_and_the_image_only(name):
    def rows(n, seed=5, shifted=False):
        return MAKERS[name](n, seed, shifted).remove_columns("image").to_list()

    def texts(found):
        # POPE's ids count through all images.
        return {json.dumps({k: v for k, v in row.items() if k not in ("id", "question_id")}) for row in found}

    assert rows(4) == rows(4)
    images = {row[SCENE_COLUMN[name]] for row in rows(4)}
    assert len(images) == 4
    assert texts(rows(4)) == texts([row for row in rows(7) if row[SCENE_COLUMN[name]] in images])
    for other in (rows(4, seed=6), rows(4, shifted=True)):
        assert not images & {row[SCENE_COLUMN[name]] for row in other}
        assert Counter(row["question"] for row in other) != Counter(row["question"] for row in rows(4))


@ALL
def test_the_scenes_are_those_of_the_test_split(name):
    for shifted in (False, True):
        expected = load_scenes(3, 9, "test", shifted)["image_id"][:]
        assert sorted({row[SCENE_COLUMN[name]] for row in MAKERS[name](3, 9, shifted)}) == expected
    assert len(MAKERS[name](0)) == 0
    with pytest.raises(ValueError, match="negative"):
        MAKERS[name](-1)


def test_mmbench_has_room_for_so_many_images():
    with pytest.raises(ValueError, match="up to 100,000 images, got 100,001"):
        mmbench(100_001)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@KINDS
def test_a_scene_is_found_by_its_id(split, shifted):
    (scene,) = sample_scenes(1, 12, split, shifted, start=345)
    assert scene_of(scene.image_id) == scene


@pytest.mark.parametrize("id", ["", "000000123.jpg", "scene-test-0", "scene-dev-0-000001", "scene-test-0-000001.png"])
def test_what_is_not_the_id_of_a_scene(id):
    with pytest.raises(ValueError, match="not the id of a scene|no split 'dev'"):
        scene_of(id)
