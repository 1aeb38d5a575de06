"""Where the images come from: the scenes world, a folder of pictures, or a dataset; checked before any long work."""

import hashlib
import logging
from collections import Counter
from pathlib import Path

import PIL.Image
from datasets import Dataset, DatasetDict, Features, Image, List, Value, load_dataset, load_from_disk
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from tqdm.auto import tqdm

from c3l_hf.common.errors import RunError
from c3l_hf.scenes import load_scenes

__all__ = ["image_column", "image_ids", "images_digest", "load_images"]

logger = logging.getLogger(__name__)


def load_images(source: str, *, split: str = "train", limit: int | None = None, seed: int = 0) -> Dataset:
    """The images to generate pairs about.

    Args:
        source: "scenes" or "scenes-shifted" (the embedded world, with its truth in further columns), a folder of
            pictures (file names become image ids), a folder written by `Dataset.save_to_disk`, or a dataset on the Hub.
        split: Split of the dataset, or of the scenes.
        limit: Take the first so many; required for scenes.
        seed: Seed of the scenes.

    Returns:
        A dataset with the columns `images` (or `image`) and `image_id`, and what the source has beside them.

    Raises:
        RunError: If the source does not exist, is empty, has no images, or a file in the folder is not a picture.
    """
    if source in ("scenes", "scenes-shifted"):
        if limit is None:
            raise RunError(f"--images {source} needs --num_images")
        return load_scenes(limit, seed, split, shifted=source == "scenes-shifted")
    path = Path(source)
    if path.is_dir() and ((path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()):
        dataset = load_from_disk(path)
        if isinstance(dataset, DatasetDict):
            if split not in dataset:
                raise RunError(f"{source} has no split {split!r}; its splits are {', '.join(dataset)}")
            dataset = dataset[split]
    elif path.is_dir():
        dataset = _read_folder(path, limit)
    elif path.exists():
        raise RunError(f"{source} is a file; --images wants a folder of pictures or a dataset")
    else:
        dataset = _read_hub(source, split)
    dataset = dataset.select(range(_count(source, len(dataset), limit)))
    return _checked(dataset, source)


def _count(source: str | Path, there: int, limit: int | None) -> int:
    if limit is None or limit >= there:
        return there
    logger.warning("%s: the first %s of %s images are taken (--num_images)", source, f"{limit:,}", f"{there:,}")
    return limit


def _read_folder(folder: Path, limit: int | None) -> Dataset:
    shown = (
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    files = sorted(shown)
    if not files:
        raise RunError(f"{folder} has no pictures in it; put some there, or give another folder")
    files = files[: _count(folder, len(files), limit)]
    for file in tqdm(files, desc="Checking pictures", unit="file", leave=False):
        # The header only: a picture that turns out to be damaged later keeps its rows, with the reason.
        try:
            with PIL.Image.open(file):
                pass
        except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
            raise RunError(f"{file} is not a picture that can be read ({error}); remove it from the folder") from None
    names = [file.relative_to(folder).as_posix() for file in files]
    return Dataset.from_dict(
        {"images": [[{"path": str(file.resolve()), "bytes": None}] for file in files], "image_id": names},
        features=Features({"images": List(Image()), "image_id": Value("string")}),
    )


def _read_hub(source: str, split: str) -> Dataset:
    try:
        return load_dataset(source, split=split)
    except (FileNotFoundError, ConnectionError, HfHubHTTPError, HFValidationError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{source} is neither a folder here nor a dataset that could be loaded ({reason})") from None


def _checked(dataset: Dataset, source: str) -> Dataset:
    if not len(dataset):
        raise RunError(f"{source} has no rows")
    try:
        image_column(dataset)
        # Here, where all rows are together: ids that occur twice may be in different processes' parts.
        image_ids(dataset)
    except ValueError as error:
        raise RunError(f"{source}: {error}") from None
    if "image_id" not in dataset.column_names:
        # A part of the dataset could not number them.
        dataset = dataset.add_column("image_id", image_ids(dataset))
    return dataset


def images_digest(dataset: Dataset) -> str:
    """SHA-256 over the ids and encoded pictures, whatever the source: part of what identifies a run."""
    column = image_column(dataset)
    plain = dataset.select_columns([column, "image_id"]).with_format("arrow")
    digest = hashlib.sha256()
    for row in range(len(plain)):
        values = {name: values[0].as_py() for name, values in zip(plain.column_names, plain[row].columns)}
        digest.update(f"{values['image_id']}\0".encode())
        pictures = values[column] if isinstance(values[column], list) else [values[column]]
        for picture in filter(None, pictures):
            digest.update(hashlib.sha256(picture["bytes"] or _content(picture["path"])).digest())
    return digest.hexdigest()


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        # A missing picture is found again, and counted, when its rows are made.
        return str(error).encode()


def image_column(dataset: Dataset) -> str:
    """The name of the column with images, `images` or `image`; a ValueError if there is none."""
    for column, wanted in (("images", List(Image())), ("image", Image())):
        if column in dataset.column_names:
            found = dataset.features[column]
            inner = getattr(found, "feature", None) if column == "images" else found
            if not isinstance(inner, Image):
                raise ValueError(
                    f"column {column!r} holds {found}, not images: dataset.cast_column({column!r}, {wanted})"
                )
            return column
    raise ValueError(f"no column 'images' or 'image'; found {', '.join(dataset.column_names)}")


def image_ids(dataset: Dataset) -> list[str]:
    """What to call each row's image; a ValueError if an id is missing or there twice, or there are no rows."""
    if not len(dataset):
        raise ValueError("the dataset has no rows: nothing to generate from")
    if "image_id" not in dataset.column_names:
        return [f"{row:06d}" for row in range(len(dataset))]
    found = dataset.with_format(None)["image_id"][:]
    if None in found:
        raise ValueError(f"column 'image_id' is null in row {found.index(None)}")
    found = [str(image_id) for image_id in found]
    repeated = [image_id for image_id, count in Counter(found).items() if count > 1]
    if repeated:
        more = f" and {len(repeated) - 5} more" if len(repeated) > 5 else ""
        raise ValueError(f"column 'image_id' must be unique; more than once: {', '.join(repeated[:5])}{more}")
    return found
