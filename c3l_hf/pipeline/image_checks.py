"""What a dataset is to have nothing of, opened by name; and what is the same among its images, looked for once."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import digest
from c3l_hf.common.progress import ProgressLine
from c3l_hf.data.imported_pairs import import_pairs
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.sources import image_ids, images_digest, is_picture_folder, load_images
from c3l_hf.data.stored_images import AT_ONCE, stored_images
from c3l_hf.evaluation.benchmarks import BENCHMARKS
from c3l_hf.evaluation.questions import load_questions
from c3l_hf.files.opening import open_dataset
from c3l_hf.pipeline.curation_options import CurationOptions
from c3l_hf.selection.decontamination import BenchmarkContents, benchmark_contents
from c3l_hf.selection.hygiene import Hygiene, image_hygiene

__all__ = ["ImageChecks", "OpenedBenchmark", "open_benchmarks"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedBenchmark:
    """A benchmark, or whatever a dataset is to have nothing of.

    Attributes:
        name: What counts and cards call it.
        images: Its pictures: `images` (or `image`) and `image_id`.
        texts: What it says, each with the id of its picture.
        digest: What identifies pictures and texts.
    """

    name: str
    images: Dataset
    texts: Sequence[tuple[str, str]]
    digest: str

    def contents(self) -> BenchmarkContents:
        """Read the pictures."""
        return benchmark_contents(self.name, _images_of_source(self.images), self.texts)


class ImageChecks:
    """Near-duplicate images and what benchmarks have, for the curation of pairs about some images.

    Pictures are read when the result is first asked for, and once in a process.

    Args:
        curation: What is looked for.
        images: Those of the pairs: `images` (or `image`) and `image_id`.
        benchmarks: From `open_benchmarks`.
    """

    def __init__(self, curation: CurationOptions, images: Dataset, benchmarks: Sequence[OpenedBenchmark]):
        self._curation, self._images, self._benchmarks = curation, images, benchmarks

    @cached_property
    def found(self) -> Hygiene:
        """What was found."""
        curation = self._curation
        contents = [benchmark.contents() for benchmark in self._benchmarks]
        images = partial(_images_of_source, self._images)
        return image_hygiene(images, curation.image_comparison(), contents, curation.near_duplicate_distance)


def open_benchmarks(sources: Iterable[str], inventory: Path | None = None) -> list[OpenedBenchmark]:
    """Open what a dataset is to have nothing of. Pictures are hashed, not decoded.

    Args:
        sources: For each the name of a benchmark as `c3l evaluate` has them (MMBench: split dev); benchmark=source,
            where it is a file, folder or Hub id in a layout of that benchmark; a folder of pictures; or a dataset, of
            pairs in any accepted layout or of images alone. Another split than the usual one ("train" of datasets)
            stands behind it: name#split.
        inventory: See `data.sources.images_digest`.

    Raises:
        RunError: If one of them cannot be opened; the message names it.
    """
    opened = []
    for source in sources:
        name, split = source, None
        if "#" in source and not Path(source).exists():
            name, _, split = source.rpartition("#")
        benchmark, equals, data = name.partition("=")
        try:
            if benchmark in BENCHMARKS and (not equals or data):
                opened.append(_questions(benchmark, data or None, split, inventory))
            else:
                opened.append(_others(name, split, inventory))
        except (RunError, ValueError) as error:
            raise RunError(f"decontaminate has {source!r}: {error}") from None
    return _named_apart(opened)


def _images_of_source(images: Dataset) -> Iterator[tuple[str, list[Any]]]:
    """Ids and pictures as they are stored, few at a time."""
    ids = image_ids(images)
    with ProgressLine("image checks", len(ids), "images") as line:
        line.begin_part()
        for start in range(0, len(ids), AT_ONCE):
            rows = range(start, min(start + AT_ONCE, len(ids)))
            yield from zip(ids[start:], stored_images(images, rows))
            line.advance(len(rows))


def _questions(benchmark: str, source: str | None, split: str | None, inventory: Path | None) -> OpenedBenchmark:
    questions = load_questions(benchmark, source, split=split, circular=False)
    images = questions.select_columns(["question_id", "images"]).rename_column("question_id", "image_id")
    texts = []
    for row in questions.select_columns(["cluster", "answer", "meta"]):
        meta = json.loads(row["meta"])
        texts += [(row["cluster"], text) for text in (meta["stem"], meta.get("caption"), row["answer"]) if text]
    return _opened(benchmark, images, texts, images_digest(images, inventory))


def _others(source: str, split: str | None, inventory: Path | None) -> OpenedBenchmark:
    path = Path(source)
    name = path.resolve().name if path.exists() else source
    split = split or "train"
    if is_picture_folder(source):
        dataset = load_images(source, inventory=inventory).dataset
    else:
        dataset = open_dataset(source, split=split)
    if not _has_texts(dataset):
        images = load_images(source, split=split, inventory=inventory)
        return _opened(name, images.dataset, [], images.digest)
    pairs = import_pairs(dataset, inventory)
    if pairs.without_image:
        shown, _ = Counter(pairs.without_image).most_common(1)[0]
        if not len(pairs.table):
            raise RunError(f"none of its {sum(pairs.without_image.values()):,} rows has an image; most often: {shown}")
        logger.warning("%s: %d rows have no image: %s", name, sum(pairs.without_image.values()), shown)
    return _opened(name, pairs.images.dataset, list(_said(pairs.table)), pairs.digest)


def _has_texts(dataset: Dataset) -> bool:
    try:
        layout_of(dataset.column_names)
    except ValueError:
        return False
    return True


def _said(table: pa.Table) -> Iterator[tuple[str, str]]:
    """The texts of imported pairs, questions and answers."""
    for column in ("prompt", "completion"):
        for batch in table.select(["image_id", column]).to_batches():
            for image_id, messages in zip(batch["image_id"].to_pylist(), batch[column].to_pylist()):
                yield from ((image_id, message["content"]) for message in messages or () if message["content"])


def _opened(name: str, images: Dataset, texts: list[tuple[str, str]], of_images: str) -> OpenedBenchmark:
    return OpenedBenchmark(name, images, texts, digest(of_images, *(part for text in texts for part in text)))


def _named_apart(opened: list[OpenedBenchmark]) -> list[OpenedBenchmark]:
    """With names that differ: counts are by name."""
    names: Counter[str] = Counter()
    result = []
    for one in opened:
        names[one.name] += 1
        name = one.name if names[one.name] == 1 else f"{one.name} ({names[one.name]})"
        result.append(OpenedBenchmark(name, one.images, one.texts, one.digest))
    return result
