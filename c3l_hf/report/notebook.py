"""A report within a notebook."""

import html

from datasets import Dataset

from c3l_hf.common.errors import RunError
from c3l_hf.report.making import content_of
from c3l_hf.report.page import page_html
from c3l_hf.report.sources import rows_source

__all__ = ["Shown", "show"]

_MOST_PAIRS = 300


class Shown:
    """A report as a notebook shows it: a frame of its own, which can neither act on the notebook nor load anything."""

    def __init__(self, page: str, pairs: int):
        self._page = page
        self._pairs = pairs

    def __repr__(self) -> str:
        return f"<report of {self._pairs:,} pairs; a notebook shows it>"

    def _repr_html_(self) -> str:
        # Without "allow-same-origin" its scripts see nothing of the notebook.
        return (
            f'<iframe sandbox="allow-scripts allow-downloads" srcdoc="{html.escape(self._page)}" '
            'style="width: 100%; height: 720px; border: 0" title="report"></iframe>'
        )


def show(
    dataset: Dataset, *, num_pairs: int = _MOST_PAIRS, image_folder: str | None = None, title: str = "Pairs"
) -> Shown:
    """Pairs with their pictures and scores, in a notebook.

    The page is kept within the notebook; of many rows write a file instead (`c3l report`).

    Example:

    ```python
    from c3l_hf import report

    report.show(scored)
    ```

    Args:
        dataset: Rows in any layout of `data.layouts`, with the columns of scores or without.
        num_pairs: Most pairs to show: of more, those of images drawn at random, the same each time.
        image_folder: Where images are that rows name by a relative path; by default the working folder.
        title: Of the page.

    Raises:
        ValueError: If the columns are in no accepted layout, or `num_pairs` is below 1.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"the dataset is {type(dataset).__name__}; give a Dataset: one split, loaded without streaming")
    try:
        content = content_of(rows_source(dataset, title, image_folder), num_pairs)
    except RunError as error:
        raise ValueError(str(error)) from None
    return Shown(page_html(content), content.pairs.count)
