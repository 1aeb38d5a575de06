"""What curation is told about images: near-duplicates among them, and what benchmarks have."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from c3l_hf.selection.decontamination import BenchmarkContents, Contamination, find_contamination
from c3l_hf.selection.image_duplicates import ImageComparison, SimilarImages, SketchedImages, similar_images, sketched
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

    Raises:
        ValueError: If no picture of the pairs can be read, or none of a benchmark: nothing would be found, and nothing
            said against it.
    """
    if near_duplicates == "none" and not benchmarks:
        return NO_HYGIENE
    sketches = sketched(images(), decode=bool(benchmarks) or near_duplicates != "same")
    _check_some_readable(sketches, "image_folder may be missing or wrong", "the pairs")
    for benchmark in benchmarks:
        _check_some_readable(benchmark.images, f"benchmark {benchmark.name}", "it")
    similar = None if near_duplicates == "none" else similar_images(sketches, near_duplicates, distance=distance)
    contamination = find_contamination(sketches, benchmarks, distance) if benchmarks else None
    return Hygiene(similar, contamination, sketches.notes if contamination is None else contamination.notes)


def _check_some_readable(images: SketchedImages, about: str, owner: str) -> None:
    contents = images.sketches.content
    if len(contents) and (contents < 0).all():
        reason, _ = Counter(images.sketches.unreadable.values()).most_common(1)[0]
        raise ValueError(f"{about}: of {len(contents):,} pictures of {owner} none can be read; most often: {reason}")
