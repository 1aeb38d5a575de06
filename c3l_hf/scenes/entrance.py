"""The scenes world as the core sees it: see `data.worlds.World`."""

from collections.abc import Mapping, Sequence

from datasets import Dataset

from c3l_hf.scenes import GENERATOR, Scene, load_scenes

__all__ = [
    "GENERATOR",
    "GENERATOR_NAME",
    "IMAGES_LICENSE",
    "IMAGES_SOURCE",
    "JUDGE",
    "TEMPLATES",
    "TITLE",
    "are_true",
    "benchmark",
    "judge_answers",
    "load_images",
    "share_true",
    "truth_of",
]

TITLE = "C3L pairs about scenes"
GENERATOR_NAME = "c3l_hf scenes generator"
IMAGES_LICENSE = "apache-2.0"  # of the artwork, see NOTICE
IMAGES_SOURCE = "the embedded world of c3l_hf"
TEMPLATES = "scenes"
JUDGE = "the scenes checker"


def load_images(name: str, limit: int, seed: int, split: str) -> Dataset:
    return load_scenes(limit, seed, split, shifted=_shifted(name))


def truth_of(images: Dataset) -> dict[str, Scene]:
    return {row["image_id"]: Scene.from_row(row) for row in images.remove_columns("images")}


def share_true(
    types: Sequence[str],
    pairs: Sequence[tuple[str, str] | None],
    image_ids: Sequence[str],
    truth: Mapping[str, Scene],
) -> tuple[float, float, float]:
    from c3l_hf.scenes.evaluation import type_balanced

    return type_balanced(types, are_true(types, pairs, image_ids, truth), image_ids)


def are_true(
    types: Sequence[str],
    pairs: Sequence[tuple[str, str] | None],
    image_ids: Sequence[str],
    truth: Mapping[str, Scene],
) -> list[bool]:
    from c3l_hf.scenes.evaluation import judge_pairs

    return judge_pairs(types, pairs, [truth[image_id] for image_id in image_ids])[1]


def benchmark(name: str, benchmark: str, num_images: int, seed: int) -> Dataset:
    from c3l_hf.scenes import benchmarks

    makers = {
        "pope": benchmarks.pope,
        "seed": benchmarks.seed_bench,
        "mmbench": benchmarks.mmbench,
        "llava_w": benchmarks.llava_bench,
    }
    return makers[benchmark](num_images, seed, _shifted(name))


def judge_answers(predictions: Dataset) -> Dataset:
    from c3l_hf.scenes.judge import judge_scene_answers

    return judge_scene_answers(predictions)


def _shifted(name: str) -> bool:
    return name == "scenes-shifted"
