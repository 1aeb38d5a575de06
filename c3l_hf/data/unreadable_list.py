"""A file that names the images that cannot be read, with the reason of each: for people, on their own machine."""

import csv
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from datasets import Dataset

from c3l_hf.common.errors import RowError
from c3l_hf.common.files import atomic_write
from c3l_hf.data.status import of_image
from c3l_hf.data.stored_images import stored_images
from c3l_hf.files.image import open_image

__all__ = ["beside", "unreadable_images", "write_unreadable"]

logger = logging.getLogger(__name__)

_HEADER = ["image", "reason"]


def unreadable_images(rows: Iterable[tuple[str, str]], images: Dataset | None = None) -> dict[str, str]:
    """Which images cannot be read, each once, and why.

    Args:
        rows: The image's id, or what it is called, and the status of each row, as generation or scoring says it.
        images: The images, with a column `image_id`: those that cannot be read are tried once more, as a status that
            may be published says less than the reason, which names the file.
    """
    found: dict[str, str] = {}
    for image_id, status in rows:
        if of_image(status):
            found.setdefault(image_id, status)
    if images is not None and found:
        numbers = {str(image_id): number for number, image_id in enumerate(images.with_format(None)["image_id"])}
        for image_id in found.keys() & numbers.keys():
            try:
                list(map(open_image, stored_images(images, [numbers[image_id]])[0]))
            except RowError as error:
                found[image_id] = str(error)
    return found


def beside(output: str | Path) -> Path:
    """Where the list stands for a command's result: `pairs.unreadable.csv` for `pairs.parquet`."""
    return Path(output).with_name(f"{Path(output).stem}.unreadable.csv")


def write_unreadable(file: str | Path, reasons: Mapping[str, str]) -> Path | None:
    """Write which images cannot be read, in CSV with the columns `image` and `reason`, and log where it is.

    A file of that name is replaced if it is such a list; if it is something else, it stays, and the next free name is
    taken (`unreadable-2.csv`). Without reasons an old list is removed.

    Args:
        file: The file.
        reasons: Image (its id, or the name of its row) → why it cannot be read.

    Returns:
        The file; None if there is none.
    """
    file, number = Path(file), 1
    place = file
    while place.exists() and not _is_list(place):
        number += 1
        place = file.with_name(f"{file.stem}-{number}{file.suffix}")
    if not reasons:
        if number == 1:
            file.unlink(missing_ok=True)
        return None
    with atomic_write(place) as partial, open(partial, "w", newline="", encoding="utf-8") as text:
        csv.writer(text).writerows([_HEADER, *reasons.items()])
    logger.warning("%d images cannot be read; %s names them, with the reasons", len(reasons), place)
    return place


def _is_list(file: Path) -> bool:
    try:
        with open(file, newline="", encoding="utf-8") as text:
            return next(csv.reader(text), None) == _HEADER
    except (OSError, ValueError, csv.Error):
        return False
