"""Where the images come from: an embedded world, a folder of pictures, or a dataset; checked before any long work."""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import pyarrow as pa
from datasets import Dataset, Features, Image, List, Value

from c3l_hf import _compat
from c3l_hf.common.errors import RunError
from c3l_hf.common.files import digest
from c3l_hf.common.processes import first_on_each_machine, process_state
from c3l_hf.data.image_files import files_state
from c3l_hf.data.inventory import FileState, Inventory, list_files, sha256_of
from c3l_hf.data.opening import is_saved, open_dataset
from c3l_hf.data.worlds import World, find_world

__all__ = ["Images", "image_column", "image_ids", "images_digest", "load_images"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """The images of a run.

    Attributes:
        dataset: Rows with the columns `images` (or `image`) and `image_id`, and what the source has beside them. Images
            in files are named by their paths, not copied.
        digest: SHA-256 over ids and encoded pictures, whatever the source: part of what identifies a run.
        world: The embedded world that they come from, if they do.
    """

    dataset: Dataset
    digest: str
    world: World | None = None

    def __len__(self) -> int:
        return len(self.dataset)


def load_images(
    source: str,
    *,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    inventory: Path | None = None,
) -> Images:
    """The images to generate pairs about.

    Args:
        source: The name of an embedded world ("scenes"), a folder of pictures (their paths in it become image ids), a
            folder written by `Dataset.save_to_disk`, or a dataset on the Hub.
        split: Split of the dataset, or of the world.
        limit: Take the first so many; required for a world.
        seed: Seed of a world.
        inventory: A file to keep in mind what is known of the pictures: with it, a second call reads those only whose
            size or time changed. One process of each machine looks, the others take what it has written there.

    Raises:
        RunError: If the source does not exist, is empty, has no images, or a file in the folder is not a picture.
    """
    if limit is not None and limit < 1:
        raise RunError(f"num_images is {limit}; it must be at least 1")
    if world := find_world(source):
        if limit is None:
            raise RunError(f"images {source} needs num_images")
        dataset = world.load_images(source, limit, seed, split)
        return Images(dataset, images_digest(dataset, inventory), world)
    path = Path(source)
    if path.is_dir() and not is_saved(path):
        return _read_folder(path, limit, inventory)
    if path.is_file():
        raise RunError(f"{source} is a file; images wants a folder of pictures or a dataset")
    dataset = open_dataset(source, split=split)
    dataset = _checked(dataset.select(range(_count(source, len(dataset), limit))), source)
    return Images(dataset, images_digest(dataset, inventory))


def images_digest(dataset: Dataset, inventory: Path | None = None) -> str:
    """SHA-256 over the ids and encoded pictures of a dataset.

    Args:
        dataset: With the columns `images` (or `image`) and `image_id`.
        inventory: See `load_images`; the dataset is known by its fingerprint and its files' sizes and times.
    """
    column = image_column(dataset)
    plain = dataset.select_columns([column, "image_id"]).with_format("arrow")

    def content(_: FileState) -> bytes:
        sha = hashlib.sha256()
        for table in plain.iter(100):
            for image_id, pictures in zip(table["image_id"].to_pylist(), table[column].to_pylist()):
                sha.update(f"{image_id}\0".encode())
                for picture in filter(None, pictures if isinstance(pictures, list) else [pictures]):
                    inline = picture["bytes"]
                    sha.update(sha256_of(picture["path"] or "") if inline is None else hashlib.sha256(inline).digest())
        return sha.digest()

    with first_on_each_machine():
        return Inventory(inventory).digests([_state_of(dataset, column)], content)[0].hex()


def image_column(dataset: Dataset) -> str:
    """The name of the column with images, `images` or `image`; a ValueError if there is none."""
    for column, wanted in (("images", List(Image())), ("image", Image())):
        if column in dataset.column_names:
            feature = dataset.features[column]
            inner = getattr(feature, "feature", None) if column == "images" else feature
            if not isinstance(inner, Image):
                raise ValueError(
                    f"column {column!r} holds {feature}, not images: dataset.cast_column({column!r}, {wanted})"
                )
            return column
    raise ValueError(f"no column 'images' or 'image'; found {', '.join(dataset.column_names)}")


def image_ids(dataset: Dataset) -> list[str]:
    """What to call each row's image; a ValueError if an id is missing or there twice, or there are no rows."""
    if not len(dataset):
        raise ValueError("the dataset has no rows: nothing to generate from")
    if "image_id" not in dataset.column_names:
        return [f"{row:06d}" for row in range(len(dataset))]
    ids = dataset.with_format(None)["image_id"][:]
    if None in ids:
        raise ValueError(f"column 'image_id' is null in row {ids.index(None)}")
    ids = [str(image_id) for image_id in ids]
    repeated = [image_id for image_id, count in Counter(ids).items() if count > 1]
    if repeated:
        more = f" and {len(repeated) - 5} more" if len(repeated) > 5 else ""
        raise ValueError(f"column 'image_id' must be unique; more than once: {', '.join(repeated[:5])}{more}")
    return ids


def _count(source: str | Path, there: int, limit: int | None) -> int:
    if limit is None or limit >= there:
        return there
    logger.warning("%s: the first %s of %s images are taken (num_images)", source, f"{limit:,}", f"{there:,}")
    return limit


def _read_folder(folder: Path, limit: int | None, inventory: Path | None) -> Images:
    state, kept = process_state(), inventory is not None
    with first_on_each_machine():
        if kept and not state.is_local_main_process:
            files = Inventory(inventory).states  # as the main process has just seen them
        else:
            files = list_files(folder)
        if not files:
            raise RunError(f"{folder} has no pictures in it; put some there, or give another folder")
        files = files[: _count(folder, len(files), limit)]
        try:
            digests = Inventory(inventory).digests(files, lambda file: _checked_picture(folder / file.name))
        except _NoPictureError as error:
            # All at once: in a large folder nobody wants to be told of one after the other.
            names = [file.name for file in files if _problem_of(folder / file.name) is not None]
            raise RunError(_no_pictures(folder, names, error.problem)) from None
    sha = hashlib.sha256()
    for file, content in zip(files, digests):
        sha.update(f"{file.name}\0".encode())
        sha.update(content)
    root = folder.resolve()
    paths = pa.array([str(root / file.name) for file in files], pa.string())
    images = pa.StructArray.from_arrays([pa.nulls(len(files), pa.binary()), paths], ["bytes", "path"])
    features = Features({"images": List(Image()), "image_id": Value("string")})
    table = pa.table(
        {
            "images": pa.ListArray.from_arrays(pa.array(range(len(files) + 1), pa.int32()), images),
            "image_id": pa.array([file.name for file in files], pa.string()),
        }
    ).cast(features.arrow_schema)
    return Images(Dataset(table), sha.hexdigest())


class _NoPictureError(Exception):
    """A file in a folder of pictures that is none."""

    def __init__(self, problem: str):
        super().__init__(problem)
        self.problem = problem


def _checked_picture(path: Path) -> bytes:
    if (problem := _problem_of(path)) is not None:
        raise _NoPictureError(problem)
    return sha256_of(path)


def _problem_of(path: Path) -> str | None:
    # The header only: a picture that turns out to be damaged later keeps its rows, with the reason.
    try:
        with PIL.Image.open(path):
            return None
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
        return str(error)


def _no_pictures(folder: Path, names: list[str], problem: str, most: int = 10) -> str:
    first, *others = names
    message = f"{folder / first} is not a picture that can be read ({problem})"
    if not others:
        return f"{message}; remove it from the folder"
    listed = ", ".join(others[:most]) + (f" and {len(others) - most:,} more" if len(others) > most else "")
    return f"{message}, nor {'is' if len(others) == 1 else 'are'} {listed}; remove them from the folder"


def _checked(dataset: Dataset, source: str) -> Dataset:
    if not len(dataset):
        raise RunError(f"{source} has no rows")
    try:
        image_column(dataset)
        # Here, where all rows are together: ids that occur twice may be in different processes' parts.
        ids = image_ids(dataset)
    except ValueError as error:
        raise RunError(f"{source}: {error}") from None
    if "image_id" not in dataset.column_names:
        # A part of the dataset could not number them.
        dataset = dataset.add_column("image_id", ids)
    return dataset


def _state_of(dataset: Dataset, column: str) -> FileState:
    """What tells a dataset from others without reading it: its fingerprint, its files, and those that its images are,
    which may change while the dataset stays the same."""
    files = [Path(file["filename"]) for file in dataset.cache_files]
    states = [FileState.of(str(file), file.stat()) for file in files]
    newest = max((state.changed_ns for state in states), default=0)
    return FileState(digest(_compat.fingerprint(dataset), *states, files_state(dataset, column)), len(dataset), newest)
