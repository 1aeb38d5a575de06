"""A folder of pictures as people have it: which of its files are pictures, and what its metadata say of them."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from c3l_hf.common.errors import RunError, said_by
from c3l_hf.common.names import listed
from c3l_hf.files.decoders import FORMATS, check_is_file, opened
from c3l_hf.files.delimited import open_delimited
from c3l_hf.files.inventory import FileState, Inventory, Look, sha256_of
from c3l_hf.files.json_files import open_json
from c3l_hf.files.unreadable import kind_of

__all__ = ["Copies", "Picture", "data_files", "metadata_columns", "pictures_in"]

logger = logging.getLogger(__name__)

# By their names files are pictures, readable or not; ...
_PICTURES = frozenset(
    ".apng .avif .avifs .bmp .dib .gif .heic .heif .icns .ico .j2c .j2k .jfif .jp2 .jpe .jpeg .jpf .jpg .jpx .jxl .mpo "
    ".pbm .pcx .pgm .png .pnm .ppm .psd .qoi .sgi .tga .tif .tiff .webp".split()
)
# ... others are when they begin like one of these: formats that nothing else is taken for. TIFF only without an ending:
# raw photographs are TIFF too, and hold a small picture of themselves.
_BY_CONTENT = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "WEBP")
_DATA = frozenset((".arrow", ".csv", ".json", ".jsonl", ".parquet", ".tar", ".tsv"))
_TABLES = frozenset((".arrow", ".parquet"))  # what nobody keeps beside pictures but as a dataset
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE_NAME = "file_name"
_NOT_LOOKED_AT = bytes(32)  # the digest of a file that is no picture: it may be a long film


Copies = Literal["once", "all"]


class Picture(NamedTuple):
    """A picture in a folder: its path relative to it, the SHA-256 of its content, and why it cannot be read, if so."""

    name: str
    digest: bytes
    problem: str | None


def data_files(folder: Path, files: Sequence[FileState]) -> list[str]:
    """The files of a folder that make it a dataset and not a folder of pictures; [] for a folder of pictures.

    Raises:
        RunError: If it has both pictures and tables with rows.
    """
    others = [file.name for file in files if _ending(file.name) not in _PICTURES]
    data = [name for name in others if _ending(name) in _DATA and not _is_metadata(name)]
    tables = [name for name in data if _ending(name) in _TABLES]
    pictures = len(files) - len(others)
    if pictures and tables:
        first = next(file.name for file in files if _ending(file.name) in _PICTURES)
        raise RunError(
            f"{folder} has both {pictures:,} pictures ({first}, ...) and {len(tables):,} files of rows "
            f"({tables[0]}, ...); move those that are not meant, or give a folder that has only the others"
        )
    if pictures or not data:
        return []
    # A folder of downloads has names without endings, and perhaps a list of them.
    unknown = (name for name in others if _ending(name) not in _DATA)
    return [] if any(_problem(folder / name) is None for name in unknown) else data


def pictures_in(
    folder: Path,
    files: Sequence[FileState],
    limit: int | None,
    inventory: Inventory,
    say: bool = True,
    copies: Copies = "once",
) -> tuple[list[Picture], int]:
    """The pictures among the files of a folder, in order; what can be said of all of them is logged in a line each.

    A file with the ending of a picture is one, also if it cannot be read: then its row has the reason. Another file is
    one if it begins like one. The rest is passed over.

    Args:
        folder: The folder.
        files: As `list_files` has them.
        limit: The first so many pictures; others are not read.
        inventory: What is known from an earlier look.
        say: Whether to log; one process does.
        copies: "once": of files that are equal to the byte, as links to one file are, the first by its name without the
            ending stands for all.

    Returns:
        The pictures, and how many there are without the limit.

    Raises:
        RunError: If none of them can be read.
    """
    pictures: list[Picture] = []
    others, repeated, not_read = [], [], []
    names: dict[bytes, str] = {}

    def wanted(file: FileState) -> bool:
        if limit is None or len(pictures) < limit or _ending(file.name) not in _PICTURES:
            return True
        not_read.append(file.name)
        return False

    # By names without their ending: a copy, as "a copy.jpg" or "a (1).jpg" of "a.jpg", comes after what it is one of.
    files = sorted(files, key=lambda file: (os.path.splitext(file.name)[0], file.name))
    for file, look in inventory.looks(files, lambda file: _look(folder, file.name), wanted):
        if look.digest == _NOT_LOOKED_AT:
            others += [] if _is_metadata(file.name) else [file.name]
        elif copies == "once" and look.problem is None and names.setdefault(look.digest, file.name) != file.name:
            repeated.append(f"{file.name} (as {names[look.digest]})")
        else:
            pictures.append(Picture(file.name, look.digest, look.problem))
    there = len(pictures) + len(not_read)
    pictures = pictures[:limit]
    bad = _problems(pictures)
    if len(bad) == len(pictures):
        raise RunError(_nothing(folder, bad, others))
    inventory.keep()
    if others and say:
        logger.warning("%s: %s", folder, f"{_files(len(others))} of other kinds passed over ({_endings(others)})")
    if repeated and say:
        told = f"{_files(len(repeated))} left out, copies of others to the byte"
        logger.warning("%s: %s", folder, f"{told}: {listed(repeated)}; copies: all takes them")
    if bad and say:
        kept = "cannot be read; rows are kept, with the reason"
        logger.warning("%s: %s", folder, f"{_files(len(bad))} {kept}: {listed(bad)}")
    return pictures, there


def _problems(pictures: Sequence[Picture]) -> list[str]:
    return [f"{picture.name} ({picture.problem})" for picture in pictures if picture.problem is not None]


def _nothing(folder: Path, bad: list[str], others: list[str]) -> str:
    text = f"{folder} has no pictures in it"
    if bad:
        text = f"{folder} has no picture that can be read: {listed(bad)}"
    if others:
        text += f"; {_files(len(others))} of other kinds ({_endings(others)})"
    return f"{text}; put some there, or give another folder"


def _look(folder: Path, name: str) -> Look:
    path = folder / name
    problem = _problem(path)
    if problem is not None and _ending(name) not in _PICTURES:
        return Look(_NOT_LOOKED_AT, problem)
    return Look(sha256_of(path), problem)


def _problem(path: Path) -> str | None:
    """Why a file is no picture that can be read. By its header only: one that turns out to be damaged later keeps its
    rows, with the reason."""
    formats = FORMATS if path.suffix.lower() in _PICTURES else (*_BY_CONTENT, *(() if path.suffix else ("TIFF",)))
    try:
        check_is_file(path)
        with open(path, "rb") as file:
            beginning = file.read(64)
        with opened(path, formats):
            return None
    except PIL.UnidentifiedImageError:
        return kind_of(beginning) or "not a picture"
    except PIL.Image.DecompressionBombError:
        return "too many pixels"
    except OSError as error:
        return error.strerror or str(error) or "not a picture"
    except Exception as error:  # decoders raise errors of many types
        return type(error).__name__


def metadata_columns(folder: Path, files: Sequence[FileState], pictures: Sequence[str], say: bool = True) -> pa.Table:
    """What `metadata.csv`, `.jsonl` or `.parquet` say of the pictures, as `datasets` has them for an `imagefolder`: a
    column `file_name`, relative to the file that it stands in, and further ones.

    Args:
        folder: The folder.
        files: As `list_files` has them; there may be metadata in folders below.
        pictures: Names of pictures, in order.
        say: Whether to log what is missing; one process does.

    Returns:
        A row for each picture, without `file_name`; null where nothing is said of it. No columns without metadata.

    Raises:
        RunError: If such a file cannot be read (CSV and JSON as by `open_dataset`), has no `file_name`, says two things
            of a picture, or has a column with a name that is taken.
    """
    sources = [file.name for file in files if _is_metadata(file.name)]
    tables = [_metadata(folder, name) for name in sources]
    if not tables:
        return pa.table({"": pa.nulls(len(pictures))}).select([])
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise RunError(f"{folder}: {', '.join(sources)} do not go together: {' '.join(str(error).split())}") from None
    names = table[_FILE_NAME].to_pylist()
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise RunError(f"{folder}: {', '.join(sources)} name files more than once: {listed(repeated)}")
    rows = {name: row for row, name in enumerate(names)}
    there = {file.name for file in files}
    if (gone := [name for name in names if name not in there]) and say:
        logger.warning("%s: %s", folder, f"metadata of {_files(len(gone))} that are not there: {listed(gone)}")
    if (without := [name for name in pictures if name not in rows]) and say:
        logger.warning("%s: %s", folder, f"no metadata for {_files(len(without))}: {listed(without)}")
    places = pa.array([rows.get(name) for name in pictures], pa.int64())
    return table.drop_columns([_FILE_NAME]).take(places)


def _metadata(folder: Path, name: str) -> pa.Table:
    path = folder / name
    try:
        table = _table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RunError(f"{path} cannot be read: {said_by(error)}") from None
    columns = table.column_names
    if _FILE_NAME not in columns:
        raise RunError(f"{path} has no column {_FILE_NAME}, by which metadata belong to pictures; it has {columns}")
    if taken := [column for column in columns if column in ("image", "images", "image_id")]:
        raise RunError(f"{path} has the column {', '.join(taken)}, whose name is taken; rename it")
    if len(set(columns)) < len(columns):
        raise RunError(f"{path} has columns of the same name; rename them: {columns}")
    if table[_FILE_NAME].null_count or not pa.types.is_string(table[_FILE_NAME].type):
        raise RunError(f"{path}: column {_FILE_NAME} is not a text in every row")
    below = PurePosixPath(name).parent
    # "./a.png" is "a.png".
    files = [str(below / file) for file in table[_FILE_NAME].to_pylist()]
    return table.set_column(columns.index(_FILE_NAME), _FILE_NAME, pa.array(files, pa.string()))


def _table(path: Path) -> pa.Table:
    """The rows of a file of metadata, in the types in which such a file is read everywhere."""
    if path.suffix != ".parquet":
        rows = open_json([path]) if path.suffix == ".jsonl" else open_delimited([path], ",", [_FILE_NAME])
        return rows.data.table.replace_schema_metadata(None)
    table = pq.read_table(path)
    place = table.schema.get_field_index(_FILE_NAME)
    if place >= 0 and pa.types.is_large_string(table.schema.field(place).type):
        table = table.set_column(place, _FILE_NAME, pc.cast(table[_FILE_NAME], pa.string()))
    return table.replace_schema_metadata(None)


def _is_metadata(name: str) -> bool:
    return name.rpartition("/")[2] in _METADATA


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def _endings(names: Sequence[str], most: int = 8) -> str:
    counts = Counter(_ending(name) or "without an ending" for name in names).most_common()
    listed = ", ".join(f"{count:,} {ending}" for ending, count in counts[:most])
    return listed + (f", {sum(count for _, count in counts[most:]):,} others" if len(counts) > most else "")
