"""A benchmark's questions about the images of an embedded world, whose truth is known."""

from datasets import Dataset

from c3l_hf.data.worlds import WORLDS, find_world
from c3l_hf.evaluation.benchmarks import BENCHMARKS
from c3l_hf.evaluation.questions import read_questions

__all__ = ["world_questions"]


def world_questions(world: str, benchmark: str, num_images: int, *, seed: int = 0, circular: bool = True) -> Dataset:
    """A benchmark's questions on an embedded world, as `questions.load_questions` gives the published ones.

    Args:
        world: A key of `worlds.WORLDS`.
        benchmark: A key of `benchmarks.BENCHMARKS`.
        num_images: Number of images.
        seed: Seed of the images and of all choices.
        circular: As for `load_questions`.

    Raises:
        ValueError: If there is no such world or benchmark, or not at least one image.
    """
    found = find_world(world)
    if found is None:
        raise ValueError(f"no world {world!r}; there are {', '.join(WORLDS)}")
    if benchmark not in BENCHMARKS:
        raise ValueError(f"no benchmark {benchmark!r}; there are {', '.join(BENCHMARKS)}")
    if num_images < 1:
        raise ValueError(f"num_images is {num_images}; it must be at least 1")
    return read_questions(benchmark, found.benchmark(world, benchmark, num_images, seed), world, circular=circular)
