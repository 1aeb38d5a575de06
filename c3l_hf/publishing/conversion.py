"""Rows of any accepted layout written in another one: a folder with its files, its pictures, and what was left out."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets import Audio, Features, Value, Video

from c3l_hf.common.errors import RowError, RunError
from c3l_hf.common.files import atomic_folder
from c3l_hf.common.versions import versions
from c3l_hf.data.conversations import read_conversation
from c3l_hf.data.encoded_pictures import EncodedPicture, PictureReader
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.status import publishable
from c3l_hf.data.stored_rows import has_images, stored_rows
from c3l_hf.data.streams import RowStream
from c3l_hf.data.written_layouts import TEXT_COLUMNS, Written, written_rows
from c3l_hf.generation.data_urls import data_urls
from c3l_hf.publishing.written_files import WrittenRow, open_rows_file

__all__ = ["AT_ONCE", "Conversion", "Placement", "check_conversion", "convert"]

# Where pictures go: into the files of rows, or beside them into a folder `images`.
Placement = Literal["embedded", "files"]

# Rows whose images are in memory together.
AT_ONCE = 32
_PLACEMENTS: dict[Written, tuple[Placement, ...]] = {
    **dict.fromkeys(("llava", "sharegpt", "jsonl", "csv"), ("files",)),
    **dict.fromkeys(("texts", "webdataset", "trl"), ("embedded",)),
    "openai": ("embedded", "files"),
}
# What the reader of tars says of where a row was, on this machine.
_OF_THE_SOURCE = ("__key__", "__url__")
_LEFT_OUT = "left_out.txt"


@dataclass
class Conversion:
    """What became of the rows.

    Attributes:
        read: How many there were.
        converted: How many of them are written.
        written: Rows in the files: more, where every answer is one.
        pictures: Different ones in the folder `images`, or pictures in the files, also the same one again.
        left_out: Reason → rows. The file `left_out.txt` has each of them.
        first: Reason → the number of the first row that has it.
        columns_left_out: Columns of the source that the layout has no place for.
        files: The files of rows in the folder, a name or a pattern.
    """

    read: int = 0
    converted: int = 0
    written: int = 0
    pictures: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    columns_left_out: list[str] = field(default_factory=list)
    files: str = ""


def check_conversion(to: Written, output: str | Path, placement: Placement | None = None) -> Placement:
    """Where the pictures go, after a look at what can be wrong before any work.

    Raises:
        RunError: If the output is there already, or the layout cannot have its pictures there.
    """
    output = Path(output)
    if os.path.lexists(output):
        raise RunError(f"output {output} is there already, and nothing is written over; give another name")
    if not output.absolute().parent.is_dir():
        raise RunError(f"output {output}: there is no folder {output.parent}")
    allowed = _PLACEMENTS[to]
    if placement is not None and placement not in allowed:
        raise RunError(f"pictures is {placement!r}; in the layout {to} they are {allowed[0]}")
    return placement or allowed[0]


def convert(
    rows: RowStream,
    to: Written,
    output: str | Path,
    *,
    placement: Placement | None = None,
    image_folder: str | Path | None = None,
    keep_metadata: bool = False,
) -> Conversion:
    """Write rows in another layout.

    A row whose meaning the layout cannot hold, or whose picture cannot be read, is left out with its reason, and so is
    one that our own reader would not read back as it was. Rows are in memory a few at a time.

    Args:
        rows: In any accepted layout; see `data.layouts`.
        to: The layout to write.
        output: A folder to be made. It appears when it is complete, or not at all.
        placement: Where pictures go; by default as the layout has them.
        image_folder: Where pictures are that rows name by a relative path; by default the working folder.
        keep_metadata: Leave EXIF and the like in the pictures.

    Raises:
        ValueError: If the columns are in none of the accepted layouts.
        RunError: If something is there under that name, the layout has its pictures elsewhere, or no row can be
            written.
    """
    placement = check_conversion(to, output, placement)
    layout = layout_of(rows.column_names)
    kept, left = _further_columns(rows.features, to)
    result = Conversion(columns_left_out=left)
    reader = PictureReader(image_folder, keep_metadata)
    with atomic_folder(output) as folder, (folder / _LEFT_OUT).open("w", encoding="utf-8") as listing:
        file = open_rows_file(to, folder, kept)
        result.files = file.files
        with contextlib.closing(file):
            for table in rows.tables():
                for row in stored_rows(table, rows.features):
                    try:
                        conversation = read_conversation({name: row[name] for name in layout.columns})
                        pictures = [reader.read(image) for image in conversation.images]
                        stand = _stand_ins(pictures, to, placement)
                        made = written_rows(conversation, to, stand)
                        others = {name: row[name] for name in kept}
                        for part in made:
                            file.add(WrittenRow(part, others, pictures))
                    except RowError as error:
                        kind = _kind(str(error))
                        result.left_out[kind] += 1
                        result.first.setdefault(kind, result.read)
                        listing.write(f"row {result.read}{_named(row)}: {error}\n")
                    else:
                        result.converted += 1
                        result.written += len(made)
                        if placement == "files":
                            result.pictures += _write_pictures(folder, pictures)
                        else:
                            result.pictures += len(pictures)
                    result.read += 1
        if not result.converted:
            reasons = "; ".join(f"{count:,} × {reason}" for reason, count in result.left_out.most_common(5))
            raise RunError(f"none of {result.read:,} rows can be written in the layout {to}: {reasons or 'no rows'}")
        if not result.left_out:
            (folder / _LEFT_OUT).unlink()
        (folder / "README.md").write_text(_readme(to, result), "utf-8")
    return result


def _stand_ins(pictures: list[EncodedPicture], to: Written, placement: Placement) -> list[Any]:
    if placement == "files":
        return [f"images/{picture.name}" for picture in pictures]
    stored = [picture.stored for picture in pictures]
    return data_urls(stored) if to == "openai" else list(stored)


def _write_pictures(folder: Path, pictures: list[EncodedPicture]) -> int:
    """Writes those that are not there yet: names are made of the content, so what is there is the same."""
    count = 0
    for picture in pictures:
        path = folder / "images" / picture.name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(picture.content)
            count += 1
    return count


def _further_columns(features: Features, to: Written) -> tuple[Features, list[str]]:
    """The columns that go along, and those that the layout has no place for."""
    others = {name: kind for name, kind in features.items() if name not in layout_of(features).columns}
    kept = Features({name: kind for name, kind in others.items() if _is_kept(name, kind, to)})
    return kept, [name for name in others if name not in kept and name not in _OF_THE_SOURCE]


def _is_kept(name: str, kind: Any, to: Written) -> bool:
    # A column that a layout is known by would be read instead of what was written.
    if to == "openai" or name in TEXT_COLUMNS or name in _OF_THE_SOURCE or _has_no_text(kind):
        return False
    return to != "csv" or isinstance(kind, Value)


def _has_no_text(kind: Any) -> bool:
    """Whether a feature is of pictures, sounds, films or bytes, at any depth."""
    if isinstance(kind, Mapping):
        return any(map(_has_no_text, kind.values()))
    if has_images(kind) or isinstance(kind, Audio | Video):
        return True
    if isinstance(kind, Value):
        return "binary" in kind.dtype
    inner = getattr(kind, "feature", None)
    return inner is not None and _has_no_text(inner)


def _named(row: Mapping[str, Any]) -> str:
    name = next((row[name] for name in ("pair_id", "id", "image_id") if row.get(name) is not None), None)
    return "" if name is None else f" ({name!r:.80})"


def _kind(reason: str) -> str:
    """A reason without what only this row has, so that equal ones are counted together."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "…", publishable(reason))


def _readme(to: Written, result: Conversion) -> str:
    lines = ["---", "configs:", "- config_name: default", f'  data_files: "{result.files}"', "---", ""]
    lines += [f"{result.written:,} rows in the layout {to}, written by c3l-hf {versions()['c3l-hf']}."]
    if result.left_out:
        lines += [f"{result.left_out.total():,} rows are left out; {_LEFT_OUT} has the reason of each."]
    return "\n".join([*lines, ""])
