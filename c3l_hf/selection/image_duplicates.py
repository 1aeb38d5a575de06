"""Near-duplicate images over the whole dataset: pairs about an image that shows what a better pair's image shows.

Images are compared with the kept ones, best first, and not along chains: of ten frames of a film, each like the next,
the first and the last may stay. How pictures are compared stands in `image_sketches`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from datasets import Dataset

from c3l_hf.common.choices import check_choice
from c3l_hf.common.errors import RowError
from c3l_hf.data.image_files import located
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.row_images import pictures_of
from c3l_hf.data.stored_rows import stored_rows
from c3l_hf.selection.columns import encode
from c3l_hf.selection.image_sketches import DISTANCE, ImageSketches, look_alikes, sketch_images

__all__ = [
    "ImageComparison",
    "SimilarImages",
    "SketchedImages",
    "embedding_links",
    "images_of_pairs",
    "similar_images",
    "sketched",
]

ImageComparison = Literal["none", "same", "similar"]
_NO_PICTURE = "the row has no image that can be read"
_AT_ONCE = 32  # rows with their pictures
_BLOCK = 1024  # rows of embeddings that are compared with all at once


@dataclass(frozen=True)
class SketchedImages:
    """Images, which may be of several pictures, and what these look like.

    Attributes:
        ids: The `image_id` of each.
        sketches: Of their pictures; the owner of a picture is the place of its image in `ids`.
    """

    ids: Sequence[str]
    sketches: ImageSketches

    @property
    def notes(self) -> list[str]:
        """What could not be read, by reason, a line each."""
        counts = Counter(self.sketches.unreadable.values())
        return [f"images compared with none: {count:,}; {reason}" for reason, count in counts.most_common(5)]


@dataclass(frozen=True)
class SimilarImages:
    """Which images of a dataset are near-duplicates.

    Attributes:
        looks: `image_id` → a number, the same for images of the same content. What cannot be read has none.
        links: (pairs, 2) numbers of near-duplicates.
        notes: What could not be compared, a line each.
    """

    looks: Mapping[str, int]
    links: np.ndarray
    notes: Sequence[str] = ()

    def kept(self, image_ids: pa.Array, images: np.ndarray) -> np.ndarray:
        """Which pairs stay: an image leaves with its pairs if it is similar to one that stays and has a better pair.

        Args:
            image_ids: By number.
            images: The number of each pair's image, best pair first.

        Returns:
            bool for each pair.
        """
        numbers, firsts = np.unique(images, return_index=True)
        ends = np.concatenate([self.links, self.links[:, ::-1]]) if len(self.links) else np.empty((0, 2), np.int64)
        ends = ends[np.argsort(ends[:, 0], kind="stable")]
        there: set[int] = set()
        stays = np.ones(len(image_ids), bool)
        best_first = numbers[np.argsort(firsts)]
        for number, image_id in zip(best_first.tolist(), image_ids.take(pa.array(best_first)).to_pylist()):
            look = self.looks.get(image_id)
            if look is None:
                continue
            start, end = np.searchsorted(ends[:, 0], (look, look + 1))
            if look in there or not there.isdisjoint(ends[start:end, 1].tolist()):
                stays[number] = False
            else:
                there.add(look)
        return stays[images]


def sketched(images: Iterable[tuple[str, Sequence[Any]]], decode: bool = True) -> SketchedImages:
    """What images look like, each read once.

    Args:
        images: The id of each, and its pictures as `open_image` takes them.
        decode: Without it only contents are compared; see `sketch_images`.
    """
    ids: list[str] = []
    without: dict[int, str] = {}

    def pictures() -> Iterator[tuple[int, Any]]:
        for number, (image_id, some) in enumerate(images):
            ids.append(image_id)
            if not some:
                without[number] = _NO_PICTURE
            yield from ((number, picture) for picture in some)

    sketches = sketch_images(pictures(), decode)
    return SketchedImages(ids, _with_unreadable(sketches, without))


def similar_images(
    images: SketchedImages,
    comparison: ImageComparison = "similar",
    *,
    distance: int = DISTANCE,
    embeddings: np.ndarray | None = None,
    min_cosine: float = 0.95,
) -> SimilarImages:
    """Find near-duplicates among images. Images of several pictures are compared by their contents alone.

    Args:
        images: From `sketched`.
        comparison: "same": files that are equal to the byte; "similar": also near-duplicates.
        distance: See `image_sketches.look_alikes`.
        embeddings: (images, size) of any model, in the order of `images.ids`: those with a cosine of at least
            `min_cosine` are near-duplicates too. All are compared with all.
        min_cosine: Of embeddings.

    Raises:
        ValueError: If the comparison is "none" or unknown, or there are not as many embeddings as images.
    """
    check_choice("comparison", comparison, get_args(ImageComparison)[1:])
    contents: dict[int, list[int]] = {}
    for owner, content in zip(images.sketches.owner.tolist(), images.sketches.content.tolist()):
        contents.setdefault(owner, []).append(content)
    numbers: dict[tuple[int, ...], int] = {}
    look_of = np.full(len(images.ids), -1)
    for owner, those in contents.items():
        if -1 not in those:
            look_of[owner] = numbers.setdefault(tuple(those), len(numbers))
    links = [np.empty((0, 2), np.int64)]
    if comparison == "similar":
        alone = np.array([numbers.get((content,), -1) for content in range(len(images.sketches.hashes))], np.int64)
        for pair in look_alikes(images.sketches, images.sketches, distance):
            both = np.stack([alone[side] for side in pair], axis=1)
            links.append(both[(both >= 0).all(axis=1)])
    if embeddings is not None:
        both = look_of[embedding_links(embeddings, min_cosine, len(images.ids))]
        links.append(both[(both >= 0).all(axis=1)])
    looks = {image_id: look for image_id, look in zip(images.ids, look_of.tolist()) if look >= 0}
    return SimilarImages(looks, np.concatenate(links), images.notes)


def embedding_links(embeddings: np.ndarray, min_cosine: float, count: int) -> np.ndarray:
    """The pairs of embeddings with a cosine of at least so much: (pairs, 2), the smaller number first.

    All are compared with all, 1,024 with the others at a time: n² · size multiplications.

    Raises:
        ValueError: If they are not `count` vectors of finite numbers.
    """
    vectors = np.asarray(embeddings, np.float32)
    if vectors.ndim != 2 or len(vectors) != count or not np.isfinite(vectors).all():
        raise ValueError(
            f"embeddings have the shape {vectors.shape}; give a vector of finite numbers for each of {count} images"
        )
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, count, _BLOCK):
        near = vectors[start : start + _BLOCK] @ vectors[start:].T >= min_cosine
        pairs = np.argwhere(np.triu(near, 1))
        found.append(pairs + start)
    return np.concatenate(found)


def images_of_pairs(
    dataset: Dataset, ids: pa.ChunkedArray, folder: str | Path | None = None
) -> Iterator[tuple[str, list[Any]]]:
    """The images of pairs in any layout: each `image_id` with the pictures of its first row.

    Args:
        dataset: With images.
        ids: The `image_id` of each row.
        folder: Where images are that rows name by a relative path; by default the working folder.

    Raises:
        ValueError: If the dataset has no images.
    """
    layout = layout_of(dataset.column_names)
    numbers, values = encode(ids)
    _, firsts = np.unique(numbers[numbers >= 0], return_index=True)
    rows = np.flatnonzero(numbers >= 0)[firsts]
    needed = dataset.select_columns(list(layout.columns)).select(rows).with_format("arrow")
    names = iter(values.to_pylist())
    for table in needed.iter(_AT_ONCE) if len(rows) else ():
        for name, row in zip(names, stored_rows(table, needed.features)):
            try:
                yield name, [located(picture, folder) for picture in pictures_of(row, layout)]
            except RowError:
                yield name, []


def _with_unreadable(sketches: ImageSketches, reasons: Mapping[int, str]) -> ImageSketches:
    return replace(sketches, unreadable={**sketches.unreadable, **reasons})
