"""What curation is told about images: near-duplicates among them, and what benchmarks have."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from c3l_hf.selection.decontamination import BenchmarkContents, Contamination, find_contamination
from c3l_hf.selection.image_duplicates import ImageComparison, SimilarImages, SketchedImages, similar_images
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
    images: SketchedImages | None,
    near_duplicates: ImageComparison = "none",
    benchmarks: Sequence[BenchmarkContents] = (),
    distance: int = DISTANCE,
) -> Hygiene:
    """Look for near-duplicates among images, and for what benchmarks have.

    Args:
        images: Those of the pairs; None if neither is looked for.
        near_duplicates: See `image_duplicates.similar_images`; "none" not to look for them.
        benchmarks: From `decontamination.benchmark_contents`.
        distance: See `image_sketches.look_alikes`.
    """
    if images is None or (near_duplicates == "none" and not benchmarks):
        return NO_HYGIENE
    similar = None if near_duplicates == "none" else similar_images(images, near_duplicates, distance=distance)
    contamination = find_contamination(images, benchmarks, distance) if benchmarks else None
    return Hygiene(similar, contamination, images.notes if contamination is None else contamination.notes)
