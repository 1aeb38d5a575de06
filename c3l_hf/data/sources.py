"""Where the images come from: an embedded world, a folder of pictures, or a dataset; checked before any long work."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Features, Image, List, Value

from c3l_hf import _compat
from c3l_hf.common.errors import RowError, RunError
from c3l_hf.common.files import digest
from c3l_hf.common.names import is_not_on_hub, listed
from c3l_hf.common.processes import first_on_each_machine, process_state
from c3l_hf.common.run_folder import is_run
from c3l_hf.data.file_states import FILE_STATES, FILE_STATES_FEATURE, packed_state, with_file_states
from c3l_hf.data.image_files import files_state
from c3l_hf.data.schema import number_id
from c3l_hf.data.worlds import World, find_world, nearest_world
from c3l_hf.files.image import file_of
from c3l_hf.files.inventory import FileState, Inventory, list_files, sha256_of
from c3l_hf.files.opening import is_saved, open_dataset
from c3l_hf.files.picture_folder import Copies, data_files, metadata_columns, pictures_in

__all__ = [
    "Images",
    "columns_digest",
    "image_column",
    "image_ids",
    "images_digest",
    "is_misspelt",
    "is_picture_folder",
    "load_images",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """The images of a run.

    Attributes:
        dataset: Rows with the columns `images` (or `image`) and `image_id`, and what the source has beside them. Images
            in files are named by their paths, not copied; how the files are stands in a column of its own, see
            `data.file_states`.
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
    copies: Copies = "once",
) -> Images:
    """The images to generate pairs about.

    Args:
        source: The name of an embedded world ("scenes"), a folder of pictures (their paths in it become image ids; see
            `picture_folder.pictures_in`), a folder written by `Dataset.save_to_disk`, a folder of data files such as a
            snapshot of a dataset, or a dataset on the Hub.
        split: Split of the dataset, or of the world.
        limit: Take the first so many; required for a world.
        seed: Seed of a world.
        inventory: A file to keep in mind what is known of the pictures: with it, a second call reads those only whose
            size or time changed. One process of each machine looks, the others take what it has written there.
        copies: Of a folder of pictures: "once" takes files that are equal to the byte once, "all" each of them.

    Raises:
        RunError: If the source does not exist, is empty, has no images, or is a folder of both pictures and tables.
    """
    if limit is not None and limit < 1:
        raise RunError(f"num_images is {limit}; it must be at least 1")
    if world := find_world(source):
        if limit is None:
            raise RunError(f"images {source} needs num_images")
        dataset = world.load_images(source, limit, seed, split)
        return Images(dataset, images_digest(dataset, inventory), world)
    path = Path(source)
    if is_picture_folder(source):
        return _read_folder(path, _listed_files(path), limit, inventory, copies)
    if path.is_file():
        raise RunError(f"{source} is a file; images wants a folder of pictures or a dataset")
    if not path.exists() and (meant := nearest_world(source)):
        raise RunError(f"images {source}: there is no such folder{meant}")
    dataset = open_dataset(source, split=split)
    dataset = _checked(dataset.select(range(_count(source, len(dataset), limit))), source)
    known = images_digest(dataset, inventory)
    return Images(with_file_states(dataset, image_column(dataset)), known)


def is_picture_folder(source: str) -> bool:
    """Whether a source of images is a folder of pictures, and no dataset.

    Raises:
        RunError: If it has both pictures and tables with rows.
    """
    path = Path(source)
    # Of a run's folder `open_dataset` says what it is.
    if find_world(source) or not path.is_dir() or is_saved(path) or is_run(path):
        return False
    return not data_files(path, [file for file in list_files(path) if _is_text(file.name)])


def is_misspelt(source: str) -> bool:
    """Whether there is nothing of this name here, and the Hub need not be asked for it: `load_images` says why."""
    if find_world(source) or Path(source).exists():
        return False
    return bool(nearest_world(source)) or is_not_on_hub(source)


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
                    sha.update(_digest_of(picture["path"] or "") if inline is None else hashlib.sha256(inline).digest())
        return sha.digest()

    with first_on_each_machine():
        return Inventory(inventory).digests([_state_of(dataset, column)], content)[0].hex()


def columns_digest(dataset: Dataset, columns: Sequence[str]) -> str:
    """What identifies the values of some columns, none of them images."""
    sha = hashlib.sha256()
    for table in dataset.select_columns(list(columns)).with_format("arrow").iter(1000):
        for row in table.select(list(columns)).to_pylist():
            sha.update(digest(*(f"{type(value).__name__} {value!r}" for value in row.values())).encode())
    return sha.hexdigest()[:16]


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
        return list(map(number_id, range(len(dataset))))
    ids = dataset.with_format(None)["image_id"][:]
    if None in ids:
        raise ValueError(f"column 'image_id' is null in row {ids.index(None)}")
    ids = [str(image_id) for image_id in ids]
    repeated = [image_id for image_id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"column 'image_id' must be unique; more than once: {listed(repeated, 5)}")
    return ids


def _count(source: str | Path, there: int, limit: int | None) -> int:
    if limit is None or limit >= there:
        return there
    logger.warning("%s: the first %s of %s images are taken (num_images)", source, f"{limit:,}", f"{there:,}")
    return limit


def _read_folder(
    folder: Path, files: list[FileState], limit: int | None, inventory: Path | None, copies: Copies
) -> Images:
    state = process_state()
    say = state.is_main_process
    with first_on_each_machine():
        if inventory is not None and not state.is_local_main_process:
            # As the main process has just seen them, if it could keep what it saw.
            files = Inventory(inventory).states or files
        pictures, there = pictures_in(folder, files, limit, Inventory(inventory), say, copies)
    if say:
        _count(folder, there, limit)
    columns = metadata_columns(folder, files, [picture.name for picture in pictures], say)
    sha = hashlib.sha256()
    for picture in pictures:
        sha.update(f"{picture.name}\0".encode())
        sha.update(picture.digest)
    root = str(folder.resolve())
    paths = pa.array([os.path.join(root, picture.name) for picture in pictures], pa.string())
    images = pa.StructArray.from_arrays([pa.nulls(len(pictures), pa.binary()), paths], ["bytes", "path"])
    states = {file.name: file for file in files}
    features = Features({"images": List(Image()), "image_id": Value("string"), FILE_STATES: FILE_STATES_FEATURE})
    table = pa.table(
        {
            "images": pa.ListArray.from_arrays(pa.array(range(len(pictures) + 1), pa.int32()), images),
            "image_id": pa.array([picture.name for picture in pictures], pa.string()),
            FILE_STATES: [[packed_state(states[picture.name], picture.digest)] for picture in pictures],
        }
    ).cast(features.arrow_schema)
    for name in columns.column_names:
        table = table.append_column(name, columns[name])
    if columns.column_names:
        features = Features({**features, **Features.from_arrow_schema(columns.schema)})
        table = table.cast(features.arrow_schema)
    return Images(Dataset(table), sha.hexdigest())


def _listed_files(folder: Path) -> list[FileState]:
    """The files in a folder whose names can be told."""
    notes: list[str] = []
    files = list_files(folder, notes)
    for note in notes if process_state().is_main_process else ():
        logger.warning("%s: %s", folder, note)
    told = [file for file in files if _is_text(file.name)]
    if (odd := [file.name for file in files if not _is_text(file.name)]) and process_state().is_main_process:
        names = ", ".join(name.encode("utf-8", "backslashreplace").decode() for name in odd[:5])
        logger.warning("%s: %s", folder, f"{len(odd):,} files passed over, whose names are not UTF-8; rename: {names}")
    return told


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def _digest_of(name: str) -> bytes:
    try:
        # Of an address that is not downloaded it is the digest of there being no such file.
        return sha256_of(file_of(name) or name)
    except RowError as error:
        return hashlib.sha256(str(error).encode()).digest()


def _state_of(dataset: Dataset, column: str) -> FileState:
    """What tells a dataset from others without reading it: its fingerprint, its files, and those that its images are,
    which may change while the dataset stays the same."""
    files = [Path(file["filename"]) for file in dataset.cache_files]
    states = [FileState.of(str(file), file.stat()) for file in files]
    newest = max((state.changed_ns for state in states), default=0)
    return FileState(digest(_compat.fingerprint(dataset), *states, files_state(dataset, column)), len(dataset), newest)
