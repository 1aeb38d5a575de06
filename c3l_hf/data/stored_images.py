"""The images of rows as they are stored: what `image_row` of a pair table names is a row of the images' dataset."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from c3l_hf.data.image_files import is_there
from c3l_hf.data.sources import image_column

__all__ = ["stored_images"]


def stored_images(images: Dataset, rows: Sequence[int]) -> list[list[dict[str, Any]]]:
    """The images of some rows as they are stored, not decoded, without those that are null or whose file is gone:
    `datasets` would end where it stores them.

    Args:
        images: Images in a column `images` (lists of images) or `image`.
        rows: Numbers of rows, as `image_row` of a pair table has them.

    Returns:
        For each row its images as dicts with "bytes" and "path".
    """
    column = image_column(images)
    stored = images.select_columns([column]).with_format("arrow")[list(rows)].column(0).to_pylist()
    lists = [value if isinstance(value, list) else [value] for value in stored]
    return [[image for image in values if image is not None and is_there(image)] for values in lists]
