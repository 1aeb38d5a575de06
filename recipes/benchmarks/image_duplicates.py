"""How well near-duplicate images are told: copies that are found, and different pictures that are taken for copies.

    python recipes/benchmarks/image_duplicates.py

Pictures: scenes (64 × 64, small things on plain ground), fields with shapes that are like photographs, drawings of one
shape on white, noise, and pictures of one colour; with `--folder` also pictures of your own, which should be different.
Then the time that the search for similar hashes takes.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
from photos import COPIES, encoded, photo, shapes
from trl import TrlParser

from c3l_hf.common.tables import format_table
from c3l_hf.files.image import open_image
from c3l_hf.scenes import load_scenes
from c3l_hf.selection.hamming import pairs_within
from c3l_hf.selection.image_sketches import DISTANCE, ImageSketches, look_alikes, same_contents, sketch_images


@dataclass
class DuplicateArguments:
    pictures: int = field(default=2000, metadata={"help": "Scenes; of the other kinds there are fewer."})
    copied: int = field(default=200, metadata={"help": "Pictures of each kind that copies are made of."})
    distance: int = field(default=DISTANCE, metadata={"help": "Bits of 256 that may differ."})
    hashes: list[int] = field(default_factory=lambda: [10_000, 100_000], metadata={"help": "Sizes of the search."})
    folder: str | None = field(default=None, metadata={"help": "A folder of other pictures."})


def kinds(args: DuplicateArguments) -> Iterator[tuple[str, list[PIL.Image.Image]]]:
    generator, few = np.random.default_rng(0), args.pictures // 5
    for name, shifted in (("usual scenes", False), ("shifted scenes", True)):
        scenes = load_scenes(args.pictures, seed=0, split="train", shifted=shifted)
        yield name, [row["images"][0] for row in scenes]
    yield "like photographs", [photo(number) for number in range(few)]
    yield "drawings of a shape", [shapes(number) for number in range(few)]
    yield "noise", [PIL.Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(few)]
    colours = generator.integers(0, 256, (few, 3)).tolist()
    yield "one colour", [PIL.Image.new("RGB", (64, 64), tuple(colour)) for colour in colours]
    if args.folder is not None:
        yield args.folder, [open_image(file) for file in sorted(Path(args.folder).rglob("*")) if file.is_file()]


def pairs_of(first: ImageSketches, second: ImageSketches, distance: int) -> set[tuple[int, int]]:
    """Equal and similar contents."""
    found = set(zip(*(numbers.tolist() for numbers in same_contents(first, second))))
    for one, other in look_alikes(first, second, distance):
        found |= set(zip(one.tolist(), other.tolist()))
    return found


def found_copies(images: Sequence[PIL.Image.Image], sketches: ImageSketches, distance: int) -> Iterator[float]:
    """The share of the copies that are found, by kind of copy."""
    for copy in COPIES.values():
        copies = sketch_images(enumerate(encoded(copy(image)) for image in images))
        found = pairs_of(copies, sketches, distance)
        yield np.mean([(copies.content[n], sketches.content[n]) in found for n in range(len(images))])


def search_seconds(count: int, distance: int) -> float:
    codes = np.random.default_rng(0).integers(0, 2**64, (count, 4), np.uint64)
    started = time.process_time()
    for _ in pairs_within(codes, codes, distance):
        pass
    return time.process_time() - started


def main(args: DuplicateArguments) -> None:
    lines: list[tuple] = [("pictures", "number", "ms each", "not compared", "pairs", "of these joined", *COPIES)]
    for name, images in kinds(args):
        contents = list(map(encoded, images))
        started = time.process_time()
        sketches = sketch_images(enumerate(contents))
        milliseconds = 1000 * (time.process_time() - started) / len(images)
        distinct = len(sketches.hashes)
        joined = sum(len(one) for one, _ in look_alikes(sketches, sketches, args.distance))
        shares = found_copies(images[: args.copied], sketches, args.distance)
        cells = (len(images), f"{milliseconds:.1f}", int(sketches.plain.sum()), distinct * (distinct - 1) // 2, joined)
        lines.append((name, *cells, *(f"{share:.3f}" for share in shares)))
    # A kind of picture in each column: there are more lines than columns.
    print(format_table(zip(*lines)))
    print(format_table([("hashes", "seconds"), *((n, f"{search_seconds(n, args.distance):.1f}") for n in args.hashes)]))


if __name__ == "__main__":
    (arguments,) = TrlParser((DuplicateArguments,)).parse_args_and_config()
    main(arguments)
