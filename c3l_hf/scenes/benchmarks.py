"""POPE, SEED-Bench, MMBench and LLaVA-Bench on scenes: the same protocols, in the published layouts, with known truth.

Every function makes a dataset in memory, from scenes of the split `test`, with the columns of the dataset that
lmms-lab publishes on the Hub: `evaluation.questions.read_questions` takes it, and `load_questions` the folder that
`save_to_disk` makes of it. Every random choice depends on (seed, benchmark, shifted, number of the image) only.

Questions and answers are in the language of `questions.py`, without lists of options or letters: a small model that
knows no other language can be asked the bare question, and the likelihood of an option is that of a sentence. Told to
answer with a letter it cannot; such answers are unparsable, not wrong.

The scene behind a row is `scene_of` its image id: `image_source` (POPE), `data_id` (SEED-Bench), `source` (MMBench),
`image_id` (LLaVA-Bench).
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, List, Value

from c3l_hf.scenes.options import make_options
from c3l_hf.scenes.priors import absent_partners
from c3l_hf.scenes.questions import article, ask
from c3l_hf.scenes.templates import QUESTION_TYPES
from c3l_hf.scenes.world import CATEGORIES, Scene, load_scenes, sample_scenes

__all__ = ["ABILITIES", "SEED_TYPES", "llava_bench", "mmbench", "pope", "scene_of", "seed_bench"]

# question_type_id → question type. The ids are those of SEED-Bench's own dimensions: 1 Scene Understanding, 2 Instance
# Identity, 3 Instance Attributes, 4 Instance Location, 5 Instances Counting, 6 Spatial Relation.
SEED_TYPES = {1: "description", 2: "group", 3: "colour", 4: "where", 5: "count", 6: "relation"}

# MMBench: question type → L2-category; the column category has the type.
ABILITIES = {
    "presence": "object_recognition",
    "count": "object_counting",
    "colour": "attribute_recognition",
    "where": "object_localization",
    "relation": "spatial_relationship",
    "group": "object_recognition",
    "description": "image_scene",
}

_TEXT = Value("string")
_POPE = Features(
    {
        **dict.fromkeys(("id", "question_id", "question", "answer", "image_source"), _TEXT),
        "image": Image(),
        "category": _TEXT,
    }
)
_SEED = Features(
    {
        **dict.fromkeys(("answer", "choice_a", "choice_b", "choice_c", "choice_d", "data_id", "data_type"), _TEXT),
        **dict.fromkeys(("question", "question_id"), _TEXT),
        "question_type_id": Value("int16"),
        "image": List(Image()),
        "segment": List(Value("int64")),
    }
)
_MMBENCH = Features(
    {
        "index": Value("int64"),
        **dict.fromkeys(("question", "hint", "answer", "A", "B", "C", "D", "category"), _TEXT),
        "image": Image(),
        **dict.fromkeys(("source", "L2-category", "comment", "split"), _TEXT),
    }
)
_LLAVA_BENCH = Features(
    {
        **dict.fromkeys(("question_id", "question", "caption", "gpt_answer", "category", "image_id"), _TEXT),
        "image": Image(),
    }
)
_BENCHMARKS = ("pope", "seed", "mmbench", "llava_w")
_MISSING = "nan"  # as published where there is no hint, option or comment
_INDEX_STEP = 10
_MOST_IMAGES = 100_000  # MMBench keeps indices of 1,000,000 and above for rotated copies
_MOST_OBJECTS = 3
_POPULARITY_SCENES = 4000
_IMAGE_ID = re.compile(r"scene-(?P<shifted>shifted-)?(?P<split>[a-z]+)-(?P<seed>\d+)-(?P<index>\d{6,})")


def scene_of(image_id: str) -> Scene:
    """The scene with this id (`Scene.image_id`, the column `image_id` of `load_scenes`).

    Raises:
        ValueError: If it is not the id of a scene.
    """
    match = _IMAGE_ID.fullmatch(image_id)
    if match is None:
        raise ValueError(f"{image_id!r} is not the id of a scene, such as 'scene-test-0-000001'")
    return next(sample_scenes(1, int(match["seed"]), match["split"], bool(match["shifted"]), start=int(match["index"])))


def pope(n_images: int, seed: int = 0, shifted: bool = False) -> Dataset:
    """POPE (Li et al. 2023, arXiv:2305.10355): is an object there? By category, how the absent ones are chosen.

    random: any absent object; popular: the absent objects of which there are most in the usual scenes (counted in a
    fixed sample of them); adversarial: the usual partner of something that is there. In every category an image has as
    many questions with the answer "yes" as with "no", about up to three objects each; in `adversarial` as many as it
    has absent partners, which can be none. All categories ask for the same present objects.

    Args:
        n_images: Number of scenes.
        seed: Seed of the scenes and of all choices.
        shifted: Scenes without the biases. Popular and partner are still what is usual.

    Returns:
        Columns id, question_id (counted anew in each category), question, answer (yes/no), image_source, image,
        category; the categories one after the other.

    Raises:
        ValueError: If the number of images is negative.
    """
    rows: dict[str, list[dict[str, Any]]] = {"adversarial": [], "popular": [], "random": []}
    for scene, image, rng, _ in _scenes("pope", n_images, seed, shifted):
        there = [str(name) for name in rng.permutation(list(scene.counts()))][:_MOST_OBJECTS]
        absent = [name for name in _by_popularity() if name not in scene.counts()]
        chosen = {
            "adversarial": rng.permutation(sorted(absent_partners(scene))),
            "popular": absent,
            "random": rng.permutation(absent),
        }
        for category, names in chosen.items():
            names = [str(name) for name in names[: len(there)]]
            asked = [(name, "yes") for name in there[: len(names)]] + [(name, "no") for name in names]
            for name, answer in asked:
                forms = f"Is there {article(name)} in the picture?", f"Can you see {article(name)}?"
                question = {"question": forms[int(rng.integers(2))], "answer": answer}
                rows[category].append(
                    {**question, "image_source": scene.image_id, "image": image, "category": category}
                )
    numbered = [{"question_id": str(i), **row} for part in rows.values() for i, row in enumerate(part, start=1)]
    return _dataset([{"id": str(i), **row} for i, row in enumerate(numbered)], _POPE)


def seed_bench(n_images: int, seed: int = 0, shifted: bool = False) -> Dataset:
    """SEED-Bench (Li et al. 2023, arXiv:2307.16125): four options, of which one is true, by dimension.

    About each image one question of every type in `SEED_TYPES`; where an image allows none (no two objects to relate,
    nothing that is there only once) the row is left out. See `options.make_options` for the options.

    Args:
        n_images: Number of scenes.
        seed: Seed of the scenes and of all choices.
        shifted: Scenes without the biases.

    Returns:
        Columns data_id, data_type ("image"), question, question_id, question_type_id, choice_a to choice_d, answer (a
        letter), image (a list of one), segment (null).

    Raises:
        ValueError: If the number of images is negative.
    """
    rows = []
    for scene, image, rng, number in _scenes("seed", n_images, seed, shifted):
        for id, type in SEED_TYPES.items():
            pair = ask(scene, type, rng)
            if pair is None:
                continue
            question, answer = pair
            if type == "relation":  # "Is … left or right of …?" has two possible answers, this form has many
                question = f"What {answer.removesuffix('.').partition(' ')[2].partition(' ')[2]}?"
            options = make_options(question, answer, scene, 4, rng)
            rows.append(
                {
                    "answer": "ABCD"[options.index(answer)],
                    **{f"choice_{letter}": option for letter, option in zip("abcd", options, strict=True)},
                    "data_id": scene.image_id,
                    "data_type": "image",
                    "question": question,
                    "question_id": str(number * _INDEX_STEP + id),
                    "question_type_id": id,
                    "image": [image],
                    "segment": None,
                }
            )
    return _dataset(rows, _SEED)


def mmbench(n_images: int, seed: int = 0, shifted: bool = False) -> Dataset:
    """MMBench (Liu et al. 2023, arXiv:2307.06281): two to four options, of which one is true, by ability.

    About each image one question of every type, where the image allows it. The rows are the questions as they are asked
    first; the rotated copies of CircularEval are made when they are loaded.

    Args:
        n_images: Number of scenes, up to 100,000.
        seed: Seed of the scenes and of all choices.
        shifted: Scenes without the biases.

    Returns:
        Columns index, question, hint, A to D ("nan" where there are fewer options), answer (a letter), category (the
        question type), L2-category (see `ABILITIES`), image, source (the scene's id), comment, split ("dev").

    Raises:
        ValueError: If the number of images is negative or too large.
    """
    if n_images > _MOST_IMAGES:
        raise ValueError(f"MMBench has indices for up to {_MOST_IMAGES:,} images, got {n_images:,}")
    rows = []
    for scene, image, rng, number in _scenes("mmbench", n_images, seed, shifted):
        for place, type in enumerate(QUESTION_TYPES):
            pair = ask(scene, type, rng)
            if pair is None:
                continue
            question, answer = pair
            options = make_options(question, answer, scene, int(rng.integers(3, 5)), rng)
            texts = dict.fromkeys("ABCD", _MISSING) | dict(zip("ABCD", options))
            rows.append(
                {
                    "index": number * _INDEX_STEP + place,
                    "question": question,
                    "hint": _MISSING,
                    "answer": "ABCD"[options.index(answer)],
                    **texts,
                    "category": type,
                    "image": image,
                    "source": scene.image_id,
                    "L2-category": ABILITIES[type],
                    "comment": _MISSING,
                    "split": "dev",
                }
            )
    return _dataset(rows, _MMBENCH)


def llava_bench(n_images: int, seed: int = 0, shifted: bool = False) -> Dataset:
    """LLaVA-Bench (Liu et al. 2023, arXiv:2304.08485): three open questions about each image.

    conv: a short question (presence, count, colour or where); detail: a description; complex: how two objects are
    placed, or which of a group are there. `scenes.judge` grades the answers by the truth.

    Args:
        n_images: Number of scenes.
        seed: Seed of the scenes and of all choices.
        shifted: Scenes without the biases.

    Returns:
        Columns question_id, question, caption (a true description), gpt_answer (a true answer), category, image_id,
        image.

    Raises:
        ValueError: If the number of images is negative.
    """
    rows = []
    for scene, image, rng, number in _scenes("llava_w", n_images, seed, shifted):
        _, caption = ask(scene, "description", rng)
        short, hard = rng.permutation(["presence", "count", "colour", "where"]), rng.permutation(["relation", "group"])
        pairs = {
            # Every scene allows some of them.
            "conv": next(filter(None, (ask(scene, str(type), rng) for type in short))),
            "detail": ask(scene, "description", rng),
            "complex": next(filter(None, (ask(scene, str(type), rng) for type in hard))),
        }
        for place, (category, (question, answer)) in enumerate(pairs.items()):
            rows.append(
                {
                    "question_id": str(number * len(pairs) + place),
                    "question": question,
                    "caption": caption,
                    "gpt_answer": answer,
                    "category": category,
                    "image_id": scene.image_id,
                    "image": image,
                }
            )
    return _dataset(rows, _LLAVA_BENCH)


def _scenes(
    benchmark: str, n_images: int, seed: int, shifted: bool
) -> Iterator[tuple[Scene, dict[str, Any], np.random.Generator, int]]:
    """(scene, its encoded picture, what to choose with, its number)."""
    # As Arrow has them: the pictures stay encoded.
    rows = load_scenes(n_images, seed, "test", shifted).with_format("arrow")[:].to_pylist()
    for number, row in enumerate(rows):
        rng = np.random.default_rng([seed, _BENCHMARKS.index(benchmark), int(shifted), number])
        yield Scene.from_row(row), row["images"][0], rng, number


def _dataset(rows: list[dict[str, Any]], features: Features) -> Dataset:
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


@lru_cache(maxsize=1)
def _by_popularity() -> list[str]:
    """All categories, first those of which there are most objects in usual scenes.

    By the number of scenes they would hardly differ; some stand there more often because they come in twos.
    """
    counts: Counter[str] = Counter()
    for scene in sample_scenes(_POPULARITY_SCENES, 0, "train"):
        counts += scene.counts()
    return sorted(CATEGORIES, key=counts.get, reverse=True)
