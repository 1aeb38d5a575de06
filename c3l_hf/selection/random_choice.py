"""The control for curation: as many pairs at random, whatever their score, with the same quotas."""

import logging
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from datasets import Dataset

from c3l_hf.data.pair_columns import UNREAD, read_pair_columns
from c3l_hf.selection.columns import text_order
from c3l_hf.selection.quotas import BalanceBy, balanced_quotas, columns_of, group_rows
from c3l_hf.selection.scored_pairs import PAIR_COLUMNS, read_pairs, tie_breaks

__all__ = ["RANDOM_COLUMNS", "choose_random", "random_selection"]

logger = logging.getLogger(__name__)

# What `choose_random` reads, beside the columns that it balances by.
RANDOM_COLUMNS = PAIR_COLUMNS


def random_selection(
    dataset: Dataset, size: int | Mapping[str, int], *, balance_by: BalanceBy = "type", seed: int = 0
) -> Dataset:
    """The control for `curate`: pairs chosen at random, whatever their score.

    Args:
        dataset: Rows in any layout, as for `curate`; those without a pair are never chosen, nor those that have null in
            a column of `balance_by`.
        size: Rows to choose, or how many of each group: `CurationReport.groups_after` gives exactly the shares of a
            curated dataset.
        balance_by: With a number as `size`, the same quotas as `curate` uses with this option.
        seed: The choice depends on (seed, pair_id) only.

    Returns:
        The rows chosen, sorted by (image_id, pair_id).

    Raises:
        TypeError: If the dataset is streamed, or a `DatasetDict`.
        ValueError: If the texts are in no accepted layout, which rows are about one image cannot be told, a column of
            `balance_by` is missing, `image_id`, `pair_id` or `type` of a pair is null, or there are not enough pairs
            (of a group).
    """
    columns = read_pair_columns(dataset, (*RANDOM_COLUMNS, *columns_of(balance_by)))
    for line in columns.assumed:
        logger.warning(line)
    if UNREAD in columns.table.column_names:
        reasons = columns.table[UNREAD].drop_null()
        logger.warning("%d rows cannot be read and are never chosen; the first: %s", len(reasons), reasons[0])
    return dataset.select(choose_random(columns.table, size, balance_by=balance_by, seed=seed))


def choose_random(
    table: pa.Table, size: int | Mapping[str, int], *, balance_by: BalanceBy = "type", seed: int = 0
) -> np.ndarray:
    """`random_selection` on a table: which rows it chooses.

    Args:
        table: The columns `RANDOM_COLUMNS` of pairs and those of `balance_by`; others are not looked at.
        size: This and the other options are those of `random_selection`.

    Returns:
        The rows chosen (int64), in the order (image_id, pair_id).

    Raises:
        ValueError: As `random_selection`.
    """
    pairs, groups = read_pairs(table), group_rows(table, balance_by)
    # The hash alone decides but where a pair_id occurs twice.
    image_place = text_order(pairs.image_ids)[pairs.image]
    type_place = text_order(pa.array(pairs.types, pa.string()))[pairs.type]
    order = np.lexsort((image_place, type_place, tie_breaks(pairs, seed)))
    order = order[groups.number[pairs.row[order]] >= 0]
    available = groups.counts(pairs.row[order])
    if isinstance(size, Mapping):
        quotas = dict(size)
        short = [
            f"{group} ({count} of {available.get(group, 0)})"
            for group, count in quotas.items()
            if count > available.get(group, 0)
        ]
        if short:
            raise ValueError(f"more pairs asked for than there are: {', '.join(short)}")
    elif size < 0:
        raise ValueError(f"size must be at least 0, not {size}")
    elif size > len(order):
        raise ValueError(f"more pairs asked for than there are: {size} of {len(order)}")
    else:
        quotas = balanced_quotas(available, size)
    chosen = order[groups.within(quotas, pairs.row[order])]
    return pairs.row[pairs.sorted_by_id(chosen)]
