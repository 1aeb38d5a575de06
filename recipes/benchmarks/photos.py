"""Pictures like photographs and drawings, made in memory, and what happens to copies on their way through the web.

For `image_duplicates.py` and the tests of near-duplicate images.
"""

import io
from collections.abc import Callable

import numpy as np
import PIL.Image
from PIL.ImageEnhance import Brightness

SIZE = 128
Copy = Callable[[PIL.Image.Image], PIL.Image.Image]


def photo(number: int) -> PIL.Image.Image:
    """Smooth random fields with some shapes in front, other ones for each number."""
    generator = np.random.default_rng(number)
    field = sum(_smooth(generator.normal(size=(cells, cells, 3))) / cells**0.7 for cells in (4, 10, 30))
    y, x = np.mgrid[:SIZE, :SIZE]
    for _ in range(4):
        (left, top), radius = generator.uniform(0, SIZE, 2), generator.uniform(8, 30)
        disc = (x - left) ** 2 + (y - top) ** 2 < radius**2
        box = (abs(x - left) < radius) & (abs(y - top) < radius / 2)
        field[disc if generator.random() < 0.5 else box] = generator.normal(size=3)
    field = (field - field.min()) / (field.max() - field.min())
    return PIL.Image.fromarray((255 * field).astype(np.uint8))


def _smooth(noise: np.ndarray) -> np.ndarray:
    """A few values as a field of the picture's size."""
    bands = (PIL.Image.fromarray(band.astype(np.float32)) for band in np.moveaxis(noise, 2, 0))
    return np.stack([band.resize((SIZE, SIZE), PIL.Image.Resampling.BICUBIC) for band in bands], axis=2)


def shapes(number: int) -> PIL.Image.Image:
    """A drawing: one shape in one colour on white."""
    generator = np.random.default_rng(number)
    pixels = np.full((96, 96, 3), 255, np.uint8)
    colour, start, end = generator.integers(0, 256, 3), *generator.integers(8, 88, 2)
    y, x = np.mgrid[:96, :96]
    disc, corner = (x - 48) ** 2 + (y - 48) ** 2 < start**2, abs(x - start) + abs(y - end) < 20
    pixels[(disc, x < start, y < end, corner)[number % 4]] = colour
    return PIL.Image.fromarray(pixels)


def encoded(image: PIL.Image.Image, kind: str = "PNG", **options: int) -> bytes:
    """A picture as a file's content."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def stored(image: PIL.Image.Image) -> dict:
    """A picture as `datasets` stores it."""
    return {"bytes": encoded(image), "path": None}


def jpeg(quality: int) -> Copy:
    return lambda image: PIL.Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality)))


def scaled(factor: float) -> Copy:
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)))


def cropped(image: PIL.Image.Image) -> PIL.Image.Image:
    """Without 1 % at each side."""
    margin = max(1, round(image.width * 0.01))
    return image.crop((margin, margin, image.width - margin, image.height - margin))


COPIES: dict[str, Copy] = {
    "jpeg 30": jpeg(30),
    "jpeg 60": jpeg(60),
    "jpeg 95": jpeg(95),
    "half as large": scaled(0.5),
    "larger": scaled(1.7),
    "cropped": cropped,
    "grey": lambda image: image.convert("L"),
    "darker": lambda image: Brightness(image).enhance(0.7),
    "brighter": lambda image: Brightness(image).enhance(1.2),
    "cropped, smaller, jpeg 50": lambda image: jpeg(50)(scaled(0.75)(cropped(image))),
}
