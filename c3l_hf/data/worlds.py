"""The one door to embedded worlds: sources of images whose truth is known. Nothing else in the core knows of scenes."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from datasets import Dataset

from c3l_hf.common.names import nearest

__all__ = ["WORLDS", "World", "find_world", "nearest_world"]

# Name → the module that is the world, with the attributes of `World`; loaded when it is asked for.
WORLDS = {"scenes": "c3l_hf.scenes.entrance", "scenes-shifted": "c3l_hf.scenes.entrance"}


class World(Protocol):
    """What the core may ask of an embedded world.

    Attributes:
        TITLE: What a dataset of pairs about it is called.
        GENERATOR: Folder of the generator that is shipped with it.
        GENERATOR_NAME: What cards call that generator.
        IMAGES_LICENSE: Licence of its images.
        IMAGES_SOURCE: Where they come from, in words.
        TEMPLATES: The set of prompt templates that its generator has learnt; of their pairs the truth can be told.
        JUDGE: What grades answers about them, in words.
    """

    TITLE: str
    GENERATOR: str
    GENERATOR_NAME: str
    IMAGES_LICENSE: str
    IMAGES_SOURCE: str
    TEMPLATES: str
    JUDGE: str

    def load_images(self, name: str, limit: int, seed: int, split: str) -> Dataset:
        """Images with the columns `images` and `image_id`, and their truth in further ones."""

    def truth_of(self, images: Dataset) -> Mapping[str, Any]:
        """Image id → what `share_true` has to know of the image."""

    def share_true(
        self, types: Sequence[str], pairs: Sequence[tuple[str, str] | None], image_ids: Sequence[str], truth: Mapping
    ) -> tuple[float, float, float]:
        """The share of true pairs, each question type counting the same, and its 95 % interval."""

    def are_true(
        self, types: Sequence[str], pairs: Sequence[tuple[str, str] | None], image_ids: Sequence[str], truth: Mapping
    ) -> Sequence[bool]:
        """Whether each pair is true; one of another type than was asked for is not."""

    def benchmark(self, name: str, benchmark: str, num_images: int, seed: int) -> Dataset:
        """A benchmark's rows about its images, in the published layout."""

    def judge_answers(self, predictions: Dataset) -> Dataset:
        """Predictions on LLaVA-Bench with the columns of a judge that knows the truth."""


def find_world(name: str) -> World | None:
    """The embedded world of this name; None if there is none."""
    return importlib.import_module(WORLDS[name]) if name in WORLDS else None  # type: ignore[return-value]


def nearest_world(name: str) -> str:
    """The embedded world that was probably meant, as the end of a sentence; nothing if none is near."""
    return nearest(name, WORLDS, cutoff=0.85)
