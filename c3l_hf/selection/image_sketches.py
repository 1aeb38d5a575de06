"""What pictures look like, in 160 bytes each: a perceptual hash, and their colours, which confirm what it finds.

The hash is ImageHash's `phash` of 16 × 16 bits (signs of the low frequencies of the brightness). It alone takes
drawings and icons on plain ground for each other: few of their frequencies are there, and the signs of the others say
nothing; and it does not see colours. So pictures of one colour, or of plain shapes with few frequencies, are equal only
if their files are, and of others the colours (8 × 8) must be alike, unless one of the two is grey.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import imagehash
import numpy as np
import PIL.Image

from c3l_hf.common.errors import RowError
from c3l_hf.data.row_images import as_stored
from c3l_hf.data.status import publishable
from c3l_hf.files.decoders import read_file
from c3l_hf.files.image import file_of, open_image
from c3l_hf.files.unreadable import cause_of
from c3l_hf.selection.hamming import pairs_within

__all__ = ["DISTANCE", "ImageSketches", "look_alikes", "same_contents", "sketch_images"]

# Bits of 256 that near-duplicates differ in, at most. Measured rates stand at `look_alikes`.
DISTANCE = 32
_SIDE, _COLOURS = 16, 8  # of the hash, of the colours
_COSINE = 0.8  # of the colours of near-duplicates, at least
_LEAST_COLOUR = 3.0  # root mean square, in levels of 256: less is grey
# Set bits of a hash, at least: half of them are, but where most frequencies are equal, as of one colour or one shape.
_LEAST_BITS = 112
_AT_ONCE = 256  # encoded pictures in memory


@dataclass(frozen=True)
class ImageSketches:
    """What a number of pictures look like, each content once.

    Attributes:
        owner: (pictures,) the number of the row, or whatever has the picture; int64.
        content: (pictures,) the number of the picture's content, -1 for those that cannot be read.
        digests: (contents, 2) of the encoded picture; uint64.
        hashes: (contents, 4) uint64.
        colours: (contents, 128) blue and red of 8 × 8 places, less brightness, around 128; uint8.
        plain: (contents,) whether the hash says nothing, or the content cannot be decoded.
        unreadable: Owner → why its picture cannot be read, a short text without its name.
    """

    owner: np.ndarray
    content: np.ndarray
    digests: np.ndarray
    hashes: np.ndarray
    colours: np.ndarray
    plain: np.ndarray
    unreadable: Mapping[int, str]


def sketch_images(pictures: Iterable[tuple[int, Any]], decode: bool = True) -> ImageSketches:
    """Read pictures, in threads, 256 at a time in memory; what is the same, to the byte, is decoded once.

    Args:
        pictures: Who has each, and the picture as `open_image` takes it: a path, bytes, a PIL image, a dict of these.
        decode: Without it, only contents are compared: no hash is made, and all are `plain`.
    """
    owners, contents, unreadable = [], [], {}
    numbers: dict[bytes, int] = {}
    sketches: list[bytes] = []
    with ThreadPoolExecutor() as pool:
        for piece in _batches(pictures, _AT_ONCE):
            read = list(pool.map(_content, (picture for _, picture in piece)))
            new: dict[bytes, bytes] = {}
            for content in read:
                if isinstance(content, bytes) and (key := _digest(content)) not in numbers:
                    numbers[key] = len(numbers)
                    new[key] = content
            made = list(pool.map(_sketch, new.values())) if decode else [_Undecoded("") for _ in new]
            reasons = {key: sketch.reason for key, sketch in zip(new, made) if isinstance(sketch, _Undecoded)}
            sketches += [_NOTHING if isinstance(sketch, _Undecoded) else sketch for sketch in made]
            for (owner, _), content in zip(piece, read):
                owners.append(owner)
                if isinstance(content, _Undecoded):
                    contents.append(-1)
                    unreadable[owner] = content.reason
                    continue
                contents.append(numbers[_digest(content)])
                if reason := reasons.get(_digest(content)):
                    unreadable[owner] = reason
    packed = np.frombuffer(b"".join(sketches), np.uint8).reshape(len(sketches), len(_NOTHING))
    return ImageSketches(
        owner=np.array(owners, np.int64),
        content=np.array(contents, np.int64),
        digests=np.frombuffer(b"".join(numbers), np.uint64).reshape(-1, 2),
        hashes=np.ascontiguousarray(packed[:, :32]).view(np.uint64),
        colours=packed[:, 32:-1],
        plain=packed[:, -1] == 1,
        unreadable=unreadable,
    )


def look_alikes(
    first: ImageSketches, second: ImageSketches, distance: int = DISTANCE
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The contents of two sets that are near-duplicates: their hashes differ in few bits, and their colours are alike.
    Equal contents are not among them; see `same_contents`.

    Measured by `recipes/benchmarks/image_duplicates.py` at the default distance. Of copies recompressed (JPEG 30 to
    95), scaled (0.5 to 1.7), grey or darker, all are found of fields like photographs, 99 % of scenes of 64 × 64
    pixels, 93 % of 27 photographs and drawings; of those cut by 1 % at each side all, 76 to 81 % (a pixel is more
    there) and 82 %; of drawings of a single shape less than half. Different pictures joined: 1 of 4 million pairs of
    scenes, none of 79,800 fields, noise, or pictures of one colour, but about 1 in 2,700 pairs of drawings of a single
    shape.

    Args:
        first: Sketches.
        second: Others, or the same for pairs among its own.
        distance: Most bits of 256 in which hashes differ.

    Yields:
        Numbers of contents in the first and the second, in pieces; each pair once.
    """
    ours = np.flatnonzero(~first.plain)
    theirs = ours if first is second else np.flatnonzero(~second.plain)
    left = first.hashes[ours]
    right = left if first is second else second.hashes[theirs]
    for one, other in pairs_within(left, right, distance):
        one, other = ours[one], theirs[other]
        alike = _same_colours(first.colours[one], second.colours[other])
        yield one[alike], other[alike]


def same_contents(first: ImageSketches, second: ImageSketches) -> tuple[np.ndarray, np.ndarray]:
    """The contents of the first, each once, that are contents of the second too, and their numbers there."""
    numbers = {digest.tobytes(): number for number, digest in enumerate(second.digests)}
    found = np.array([numbers.get(digest.tobytes(), -1) for digest in first.digests], np.int64)
    ours = np.flatnonzero(found >= 0)
    return ours, found[ours]


@dataclass(frozen=True)
class _Undecoded:
    reason: str


_NOTHING = bytes(_SIDE**2 // 8 + 2 * _COLOURS**2) + b"\1"


def _content(picture: Any) -> bytes | _Undecoded:
    try:
        stored = as_stored(picture)
        if stored["bytes"] is None and stored["path"] is not None and (file := file_of(stored["path"])) is not None:
            return read_file(file)
        if stored["bytes"] is not None:
            return stored["bytes"]
        open_image(stored)  # says why it cannot be read
    except RowError as error:
        return _Undecoded(publishable(str(error)))
    except (OSError, ValueError) as error:
        return _Undecoded(f"the image cannot be read ({cause_of(error)})")
    return _Undecoded("the image is not here")


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _sketch(content: bytes) -> bytes | _Undecoded:
    try:
        image = open_image(content)
    except RowError as error:
        return _Undecoded(publishable(str(error)))
    code = imagehash.phash(image, hash_size=_SIDE).hash
    small = image.resize((4 * _SIDE, 4 * _SIDE), PIL.Image.Resampling.BOX).convert("YCbCr")
    plain = code.sum() < _LEAST_BITS
    colours = np.asarray(small.resize((_COLOURS, _COLOURS), PIL.Image.Resampling.BOX))[..., 1:]
    return b"".join((np.packbits(code).tobytes(), colours.tobytes(), bytes([bool(plain)])))


def _same_colours(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether colours are alike or missing, pair by pair."""
    ours, theirs = (part.astype(np.float32) - 128 for part in (first, second))
    grey = [np.square(part).mean(axis=1) < _LEAST_COLOUR**2 for part in (ours, theirs)]
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return grey[0] | grey[1] | ((ours * theirs).sum(axis=1) >= _COSINE * norms)


def _batches(items: Iterable[tuple[int, Any]], size: int) -> Iterator[Sequence[tuple[int, Any]]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
