"""Scenes: small pictures of emoji artwork whose whole truth is known, from a biased and a *shifted* distribution."""

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

__all__ = [
    "BACKGROUNDS",
    "BACKGROUND_OF",
    "CATEGORIES",
    "CORNERS",
    "GROUPS",
    "GROUP_OF",
    "PARTNER",
    "SIZE",
    "USUALLY_TWO",
    "Scene",
    "SceneObject",
    "home_corner",
    "load_scenes",
    "render",
    "sample_scene",
]

SIZE = 64
CORNERS = ("top left", "top right", "bottom left", "bottom right")
SPLITS = ("train", "validation", "test")
FILLS = ("plain", "gradient", "noise")
BACKGROUNDS = {
    "red": (205, 70, 65),
    "yellow": (240, 205, 80),
    "green": (95, 165, 90),
    "blue": (85, 130, 215),
    "purple": (140, 90, 180),
    "pink": (240, 160, 190),
    "grey": (140, 140, 145),
    "white": (240, 240, 240),
}
# Sprite sheet order: eight to a row.
GROUPS = {
    "animal": ("dog", "cat", "horse", "cow", "elephant", "bird"),
    "food": ("apple", "banana", "orange", "carrot", "pizza", "cake"),
    "vehicle": ("car", "bus", "bicycle", "train", "airplane", "boat"),
    "furnishing": ("chair", "couch", "bed", "toilet", "mirror", "door"),
    "device": ("laptop", "phone", "television", "clock", "camera", "radio"),
    "toy": ("ball", "kite", "skateboard", "racket", "frisbee", "drum"),
    "utensil": ("bottle", "cup", "spoon", "knife", "bowl", "glass"),
    "garment": ("hat", "shoe", "tie", "shirt", "dress", "handbag"),
}
CATEGORIES = tuple(name for members in GROUPS.values() for name in members)
GROUP_OF = {name: group for group, members in GROUPS.items() for name in members}

# The biases of the usual distribution: what makes a language prior, and makes it wrong on shifted scenes.
_PAIRS = (
    "dog ball, cat couch, horse hat, cow bottle, elephant drum, bird kite, apple banana, orange glass, carrot knife, "
    "pizza television, cake spoon, car shoe, bus handbag, bicycle skateboard, train clock, airplane camera, boat bowl, "
    "chair laptop, bed phone, toilet mirror, door tie, radio cup, racket shirt, frisbee dress"
)
PARTNER = {a: b for pair in _PAIRS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}
BACKGROUND_OF = dict(zip(GROUPS, BACKGROUNDS))
USUALLY_TWO = frozenset(("shoe", "cup", "apple", "banana", "bird", "ball", "chair", "car"))
_AT_TOP = frozenset(
    "bird airplane kite clock hat mirror camera frisbee phone elephant horse train bus television tie shirt cake apple "
    "orange bottle glass couch racket radio".split()
)
_P_TOTAL = (0.1, 0.25, 0.3, 0.35)
_P_PARTNER, _P_SAME_GROUP, _P_TWO, _P_CORNER, _P_BACKGROUND = 0.6, 0.5, 0.6, 0.65, 0.6


@dataclass(frozen=True)
class SceneObject:
    """One sprite: category name, centre (x, y) and side length, in pixels."""

    name: str
    x: int
    y: int
    size: int

    @property
    def corner(self) -> str:
        return CORNERS[2 * (self.y >= SIZE // 2) + (self.x >= SIZE // 2)]


@dataclass(frozen=True)
class Scene:
    """The whole truth about one picture. Objects stand in reading order of their corners."""

    image_id: str
    objects: tuple[SceneObject, ...]
    background: str
    fill: str
    texture_seed: int

    def counts(self) -> Counter[str]:
        """How many objects of each category there are."""
        return Counter(item.name for item in self.objects)

    def of(self, name: str) -> list[SceneObject]:
        """The objects of one category."""
        return [item for item in self.objects if item.name == name]

    @classmethod
    def from_row(cls, row: Mapping) -> "Scene":
        """The scene of one row of `load_scenes`."""
        objects = tuple(SceneObject(**item) for item in row["objects"])
        return cls(row["image_id"], objects, row["background"], row["fill"], row["texture_seed"])

    """The number in `CORNERS` of a category's usual corner."""


def home_corner(name: str) -> int:
    return 2 * (name not in _AT_TOP) + CATEGORIES.index(name) % 2


def _sample_names(rng: np.random.Generator, shifted: bool) -> list[str]:
    total = int(rng.choice(4, p=_P_TOTAL)) + 1
    if shifted:
        # A small vocabulary per picture, so that a category may stand there several times here too.
        kinds = rng.choice(CATEGORIES, size=total, replace=False)
        return [str(name) for name in rng.choice(kinds, size=total)]
    names: list[str] = []
    while len(names) < total:
        if not names:
            name = str(rng.choice(CATEGORIES))
        elif PARTNER[names[0]] not in names and rng.random() < _P_PARTNER:
            name = PARTNER[names[0]]
        elif rng.random() < _P_SAME_GROUP:
            name = str(rng.choice(GROUPS[GROUP_OF[names[0]]]))
        else:
            name = str(rng.choice(CATEGORIES))
        names.append(name)
        while name in USUALLY_TWO and len(names) < total and names.count(name) < 4 and rng.random() < _P_TWO:
            names.append(name)
    return names


def sample_scene(rng: np.random.Generator, image_id: str, shifted: bool = False) -> Scene:
    """One scene. `shifted` draws categories, corners and backgrounds uniformly, without the biases."""
    names = _sample_names(rng, shifted)
    free = list(range(4))
    placed: list[tuple[int, SceneObject]] = []
    for name in names:
        corner = home_corner(name)
        if shifted or corner not in free or rng.random() >= _P_CORNER:
            corner = int(rng.choice(free))
        free.remove(corner)
        size = int(rng.integers(22, 31))
        jitter = 17 - size // 2
        dx, dy = (int(v) for v in rng.integers(-jitter, jitter + 1, size=2))
        placed.append((corner, SceneObject(name, 16 + 32 * (corner % 2) + dx, 16 + 32 * (corner // 2) + dy, size)))
    background = BACKGROUND_OF[GROUP_OF[names[0]]]
    if shifted or rng.random() >= _P_BACKGROUND:
        background = str(rng.choice(list(BACKGROUNDS)))
    objects = tuple(item for _, item in sorted(placed, key=lambda pair: pair[0]))
    return Scene(image_id, objects, background, str(rng.choice(FILLS)), int(rng.integers(2**31)))


@lru_cache(maxsize=1)
def _sheet() -> PILImage.Image:
    with files("c3l_hf.scenes").joinpath("sprites.png").open("rb") as file:
        return PILImage.open(file).convert("RGBA")


@lru_cache(maxsize=1024)
def _sprite(name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    side = _sheet().width // 8
    index = CATEGORIES.index(name)
    left, top = side * (index % 8), side * (index // 8)
    sprite = _sheet().crop((left, top, left + side, top + side)).resize((size, size), PILImage.Resampling.LANCZOS)
    pixels = np.asarray(sprite, dtype=np.float32)
    return pixels[..., :3], pixels[..., 3:] / 255


def render(scene: Scene) -> np.ndarray:
    """The picture of a scene, uint8 of shape (64, 64, 3)."""
    rng = np.random.default_rng(scene.texture_seed)
    colour = np.array(BACKGROUNDS[scene.background], dtype=np.float32) + rng.uniform(-12, 12, size=3)
    canvas = np.broadcast_to(colour, (SIZE, SIZE, 3)).astype(np.float32)
    if scene.fill == "gradient":
        ramp = np.linspace(-25, 25, SIZE, dtype=np.float32)
        canvas += (ramp[:, None] if rng.random() < 0.5 else ramp[None, :])[..., None]
    elif scene.fill == "noise":
        canvas += rng.normal(0, 10, size=(SIZE, SIZE, 1)).astype(np.float32)
    for item in scene.objects:
        rgb, alpha = _sprite(item.name, item.size)
        left, top = item.x - item.size // 2, item.y - item.size // 2
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + item.size, SIZE), min(top + item.size, SIZE)
        inside = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        region = canvas[y0:y1, x0:x1]
        region += alpha[inside] * (rgb[inside] - region)
    return canvas.clip(0, 255).astype(np.uint8)


def sample_scenes(n: int, seed: int, split: str, shifted: bool = False, start: int = 0) -> Iterator[Scene]:
    """Scenes `start` … `start + n - 1` of a split; each depends on (seed, split, shifted, index) only."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r} of the scenes; the splits are {', '.join(SPLITS)}")
    for index in range(start, start + n):
        rng = np.random.default_rng([seed, SPLITS.index(split), int(shifted), index])
        yield sample_scene(rng, f"scene-{'shifted-' if shifted else ''}{split}-{seed}-{index:06d}", shifted)


def _png(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(render(scene)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


_FEATURES = Features(
    {
        "images": List(Image()),
        "image_id": Value("string"),
        "objects": List({"name": Value("string"), "x": Value("int32"), "y": Value("int32"), "size": Value("int32")}),
        "background": Value("string"),
        "fill": Value("string"),
        "texture_seed": Value("int64"),
    }
)


def load_scenes(n: int, seed: int = 0, split: str = "train", shifted: bool = False) -> Dataset:
    """A dataset of `n` scenes with their truth.

    Args:
        n: Number of scenes.
        seed: Scenes of different seeds are different; the first scenes of a seed do not depend on `n`.
        split: "train" (what the shipped generator was trained on, with seed 0), "validation" or "test".
        shifted: Draw from the distribution without co-occurrence, position, count and background biases.

    Returns:
        Columns `images` (a list of one 64 × 64 picture), `image_id`, and the truth: `objects` (name, centre x and y,
        size, in pixels), `background`, `fill`, `texture_seed`. `Scene.from_row` turns a row into a `Scene`.

    Raises:
        ValueError: If the split does not exist or `n` is negative.
    """
    if n < 0:
        raise ValueError(f"the number of scenes must not be negative, got {n}")
    scenes = list(sample_scenes(n, seed, split, shifted))
    columns = {
        "images": [[{"bytes": _png(scene), "path": None}] for scene in scenes],
        "image_id": [scene.image_id for scene in scenes],
        "objects": [[vars(item) for item in scene.objects] for scene in scenes],
        "background": [scene.background for scene in scenes],
        "fill": [scene.fill for scene in scenes],
        "texture_seed": [scene.texture_seed for scene in scenes],
    }
    return Dataset.from_dict(columns, features=_FEATURES)
