"""Images whose best pair is too poor are asked about again, a few times at most: correct, instead of drop."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from c3l_hf.data.schema import STATUS, STATUS_OK
from c3l_hf.data.status import of_image
from c3l_hf.generation.pairs import PairGenerationConfig, generate_tables
from c3l_hf.generation.requests import Writer

__all__ = ["Retries", "count_attempts", "generate_with_retries"]

_TABLE_ROWS = 1000


@dataclass(frozen=True)
class Retries:
    """When an image is asked about again.

    Attributes:
        score: Gives the scores of pairs: of tables of `PAIR_TABLE_FEATURES` those of `SCORE_FEATURES`, a row for each,
            as `scoring.dataset.score_tables` does.
        most: How often an image is asked about again, at most.
        floor: An image is asked about again while it has no pair whose `pmi` is at least this. Below 0 the picture
            speaks against the answer.

    Raises:
        ValueError: If `most` is less than 1, or `floor` is no number.
    """

    score: Callable[[Iterable[pa.Table]], Iterable[pa.Table]]
    most: int = 1
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"retries must be at least 1, not {self.most}")
        if not np.isfinite(self.floor):
            raise ValueError(f"retry_floor must be a finite number, not {self.floor}")


def generate_with_retries(
    images: Dataset,
    writer: Writer,
    config: PairGenerationConfig,
    retries: Retries,
    *,
    first_row: int = 0,
    progress: bool | Callable[[int], None] = True,
) -> Iterator[pa.Table]:
    """The pairs of `generate_tables`, and those of further attempts about images whose best pair is too poor.

    An attempt asks as the first one does, with draws of its own: of types, templates and samples, by the seed, the
    image's id and the attempt's number. So the question is another one, too: most errors of generators are in the
    question, which names what is not there. Every attempt's rows stay, those of the first ones too: `attempt` has its
    number, and the numbers of the replies in `pair_id` go on. Which rows there are depends on the image and on the
    scores alone. An image that cannot be read is asked about once.

    It costs a pass of scoring over all pairs but those of the last attempt.

    Args:
        images: As for `generate_tables`, with `image_id`.
        writer: What replies.
        config: Options.
        retries: When an image is asked about again, and how often.
        first_row: The row of the first one among all images.
        progress: Show a progress bar of each attempt; or what is told how many replies of the first have come.

    Returns:
        Tables of `PAIR_TABLE_FEATURES`, in the order of the images; of each the attempts one after the other.

    Raises:
        ValueError: As for `generate_tables`; or if the images have no `image_id`.
    """
    if "image_id" not in images.column_names:
        raise ValueError("the images have no column image_id, by which those that are asked about again are known")
    waiting, made = np.arange(len(images)), []
    for attempt in range(1 + retries.most):
        if not len(waiting):
            break
        asked = replace(config, attempt=attempt)
        shown = progress if progress is True or not attempt else False
        parts = list(generate_tables(images.select(waiting), writer, asked, progress=shown))
        made += [_placed(part, first_row + waiting) for part in parts]
        if attempt < retries.most and parts:
            pairs = made[-len(parts) :]
            scores = pa.concat_tables(retries.score(pairs))
            done = _finished_images(pa.concat_tables(pairs), scores, retries.floor)
            waiting = np.setdiff1d(waiting, done - first_row)
    if made:
        table = pa.concat_tables(made)
        order = np.argsort(table["image_row"].to_numpy(), kind="stable")
        for start in range(0, len(order), _TABLE_ROWS):
            yield table.take(order[start : start + _TABLE_ROWS])


def count_attempts(tables: Iterable[pa.Table | pa.RecordBatch]) -> dict[str, int]:
    """How many images were asked about again, and the rows of each attempt after the first.

    Args:
        tables: With the column `attempt`, and `image_row` or `image_id`.
    """
    images: dict[int, set] = {}
    rows: dict[int, int] = {}
    for table in tables:
        attempts = table["attempt"].fill_null(0).to_numpy()
        for attempt in np.unique(attempts[attempts > 0]).tolist():
            column = "image_row" if "image_row" in table.schema.names else "image_id"
            there = table[column].filter(pa.array(attempts == attempt)).to_pylist()
            images.setdefault(attempt, set()).update(there)
            rows[attempt] = rows.get(attempt, 0) + len(there)
    counts = {}
    for attempt in sorted(rows):
        counts[f"images asked about again, attempt {attempt}"] = len(images[attempt])
        counts[f"pairs of attempt {attempt}"] = rows[attempt]
    return counts


def _placed(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Pairs about some of the images, with the images' rows among all."""
    place = table.schema.get_field_index("image_row")
    return table.set_column(place, table.schema.field(place), pa.array(rows[table["image_row"].to_numpy()]))


def _finished_images(pairs: pa.Table, scores: pa.Table, floor: float) -> np.ndarray:
    """The rows of images that have a pair at or above the floor, or cannot be shown to a model."""
    if len(scores) != len(pairs):
        raise ValueError(f"there are {len(scores)} scores of {len(pairs)} pairs")
    # NaN is not at or above anything.
    good = pc.and_(pc.equal(scores[STATUS], STATUS_OK), pc.greater_equal(scores["pmi"], floor)).fill_null(False)
    unseen = np.array([of_image(status) for status in pairs["generation_status"].to_pylist()], bool)
    return pairs["image_row"].to_numpy()[good.to_numpy() | unseen]
