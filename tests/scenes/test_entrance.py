"""The scenes world through the one door by which the core knows of it: all of it, and the same as directly."""

import inspect
import json
import subprocess
import sys

import numpy as np
import pytest

from c3l_hf.data.worlds import WORLDS, World, find_world
from c3l_hf.scenes import GENERATOR, Scene, benchmarks, entrance, load_scenes
from c3l_hf.scenes.evaluation import judge_pairs, type_balanced
from c3l_hf.scenes.judge import judge_scene_answers
from c3l_hf.scenes.questions import ask

NAMES = {"scenes": False, "scenes-shifted": True}


def test_names():
    assert set(WORLDS) == set(NAMES) and find_world("user/images") is None
    for name in NAMES:
        assert find_world(name) is entrance


def test_it_has_all_that_a_world_has():
    for name in World.__annotations__:
        assert isinstance(getattr(entrance, name), str) and getattr(entrance, name), name
    functions = {name: member for name, member in vars(World).items() if inspect.isfunction(member) and name[0] != "_"}
    assert len(functions) == 6
    for name, declared in functions.items():
        parameters = list(inspect.signature(declared).parameters)[1:]  # without self
        assert list(inspect.signature(getattr(entrance, name)).parameters) == parameters, name
    assert set(entrance.__all__) == set(World.__annotations__) | set(functions)
    assert entrance.GENERATOR == GENERATOR


@pytest.mark.parametrize("name, shifted", NAMES.items())
def test_images_and_their_truth(name, shifted):
    images = entrance.load_images(name, 6, 3, "validation")
    assert images[:] == load_scenes(6, 3, "validation", shifted=shifted)[:]
    assert entrance.load_images(name, 6, 4, "validation")["image_id"][:] != images["image_id"][:]
    truth = entrance.truth_of(images)
    assert truth == {row["image_id"]: Scene.from_row(row) for row in images.remove_columns("images")}
    assert len(truth) == 6


def test_the_share_of_true_pairs():
    rng = np.random.default_rng(0)
    images = entrance.load_images("scenes", 8, 0, "test")
    truth = entrance.truth_of(images)
    ids = list(truth)
    types = ["colour", "presence"] * 8
    pairs = [ask(truth[image_id], type, rng) for image_id, type in zip([*ids, *ids], types)]
    about = [*ids, *ids]
    pairs[1], pairs[2] = None, (pairs[2][0], "It is nice.")
    share, low, high = entrance.share_true(types, pairs, about, truth)
    _, true = judge_pairs(types, pairs, [truth[image_id] for image_id in about])
    assert (share, low, high) == type_balanced(types, true, about)
    assert share == pytest.approx(np.mean([7 / 8, 7 / 8])) and low < share < high


@pytest.mark.parametrize("name, shifted", NAMES.items())
def test_benchmarks(name, shifted):
    direct = {
        "pope": benchmarks.pope,
        "seed": benchmarks.seed_bench,
        "mmbench": benchmarks.mmbench,
        "llava_w": benchmarks.llava_bench,
    }
    for benchmark, make in direct.items():
        rows = entrance.benchmark(name, benchmark, 3, 5)
        assert len(rows) and rows[:] == make(3, 5, shifted)[:]


def test_the_judge_who_knows_the_truth(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "c3l_hf.scenes.judge.judge_scene_answers", lambda rows: seen.append(rows) or judge_scene_answers
    )
    assert entrance.judge_answers("predictions") is judge_scene_answers and seen == ["predictions"]


def test_it_is_loaded_only_when_it_is_asked_for():
    """And alone, as the source of a run's images, it brings no model library."""
    code = (
        "import json, sys, c3l_hf.data.worlds as w; before = sorted(sys.modules); "
        "images = w.find_world('scenes').load_images('scenes', 1, 0, 'test'); "
        "print(json.dumps([before, sorted(sys.modules), images['image_id'][:]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after, ids = json.loads(done.stdout)
    assert not any(name.startswith("c3l_hf.scenes") for name in before) and len(ids) == 1
    assert "c3l_hf.scenes.entrance" in after and not {"trl", "peft"} & set(after)
    assert not {"c3l_hf.scenes.pretraining", "c3l_hf.scenes.judge", "c3l_hf.scenes.evaluation"} & set(after)
