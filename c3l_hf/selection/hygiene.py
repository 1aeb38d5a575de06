"""What curation is told about images: near-duplicates among them, and what benchmarks have."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from c3l_hf.selection.decontamination import BenchmarkContents, Contamination, find_contamination
from c3l_hf.selection.image_duplicates import ImageComparison, SimilarImages, similar_images, sketched
from c3l_hf.selection.image_sketches import DISTANCE

__all__ = ["NO_HYGIENE", "Hygiene", "image_hygiene"]


@dataclass(frozen=True)
class Hygiene:
    """What leaves a dataset whatever its score.

    Attributes:
        similar: Near-duplicate images; None if they are not looked for.
        contamination: What benchmarks have; None without benchmarks.
        notes: What could not be compared, a line each.
    """

    similar: SimilarImages | None = None
    contamination: Contamination | None = None
    notes: Sequence[str] = field(default_factory=tuple)


NO_HYGIENE = Hygiene()


def image_hygiene(
    images: Callable[[], Iterable[tuple[str, Sequence[Any]]]],
    near_duplicates: ImageComparison = "none",
    benchmarks: Sequence[BenchmarkContents] = (),
    distance: int = DISTANCE,
) -> Hygiene:
    """Look for near-duplicates among images, and for what benchmarks have.

    Args:
        images: Called if either is looked for: the images of the pairs, their ids and pictures.
        near_duplicates: See `image_duplicates.similar_images`; "none" not to look for them.
        benchmarks: From `decontamination.benchmark_contents`.
        distance: See `image_sketches.look_alikes`.
    """
    if near_duplicates == "none" and not benchmarks:
        return NO_HYGIENE
    sketches = sketched(images(), decode=bool(benchmarks) or near_duplicates != "same")
    similar = None if near_duplicates == "none" else similar_images(sketches, near_duplicates, distance=distance)
    contamination = find_contamination(sketches, benchmarks, distance) if benchmarks else None
    return Hygiene(similar, contamination, sketches.notes if contamination is None else contamination.notes)
