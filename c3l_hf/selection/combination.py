"""Several scores as one: the weighted mean of a pair's places among the others of its type."""

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value

from c3l_hf.common.arrow import beside
from c3l_hf.common.names import nearest
from c3l_hf.selection.columns import encode
from c3l_hf.selection.scored_pairs import numbers_of, quantile_ranks

__all__ = ["COMBINED", "combine_scores", "weights_of"]

COMBINED = "combined"


def combine_scores(
    dataset: Dataset, weights: Mapping[str, float], *, within_type: bool = True, name: str = COMBINED
) -> tuple[Dataset, dict[str, int]]:
    """Scored rows with one more score: Σ_c w_c r_c / Σ_c |w_c|. There r_c in (0, 1) is where the row's value in the
    column c stands among the n rows of its type that have a value in all of the columns: (mean rank − ½) / n.

    Ranks, not values or z-scores: scores have different units and heavy tails, in which a few rows would decide, and a
    rank stays the same under every rising function of a score. A column of which less is better has a weight below 0.

    Example:

    ```python
    scored, missing = combine_scores(scored, {"pmi": 1, "truth_logodds": 0.5})
    curated, report = curate(scored, score="combined")
    ```

    Args:
        dataset: Rows with the columns of the weights, and `type`; without it all rows count as one type.
        weights: Column → weight.
        within_type: Rank within the type; otherwise among all rows.
        name: The new column.

    Returns:
        The rows with the new column (float32), null where one of the scores is null or not finite; and for each column
        how many rows lack it.

    Raises:
        ValueError: If there is no weight, one is 0 or not finite, a column is missing or has no numbers, or the new
            one is there already.
    """
    names = dataset.column_names
    if name in names:
        raise ValueError(f"the dataset has a column {name} already; remove or rename it")
    if not weights:
        raise ValueError("there is no weight: name columns with their weights")
    for column, weight in weights.items():
        if not np.isfinite(weight) or weight == 0:
            raise ValueError(f"the weight of {column} is {weight}; it must be a number other than 0")
        if column not in names:
            raise ValueError(f"there is no column {column!r} to combine{nearest(column, names)}")
    with_types = within_type and "type" in names
    needed = dict.fromkeys([*weights, *["type"] * with_types])
    table = dataset.select_columns(list(needed)).with_format("arrow")[:]
    values = {column: numbers_of(table, column) for column in weights}
    missing = {column: int(np.count_nonzero(~np.isfinite(numbers))) for column, numbers in values.items()}
    whole = np.logical_and.reduce([np.isfinite(numbers) for numbers in values.values()])
    groups = encode(table["type"])[0][whole] if with_types else np.zeros(np.count_nonzero(whole), np.int32)
    total = np.zeros(len(groups))
    for column, weight in weights.items():
        total += weight * quantile_ranks(values[column][whole], groups)
    result = np.zeros(len(whole), np.float32)
    result[whole] = total / sum(map(abs, weights.values()))
    scores = pa.table({name: pa.array(result, mask=~whole)})
    return beside(dataset, Dataset(scores).cast(Features({name: Value("float32")}))), missing


def weights_of(words: Iterable[str]) -> dict[str, float]:
    """Column → weight, of words such as "pmi=1".

    Raises:
        ValueError: If a word is something else, or a column is there twice.
    """
    weights: dict[str, float] = {}
    for word in words:
        column, _, weight = word.rpartition("=")
        try:
            number = float(weight)
        except ValueError:
            number = float("nan")
        if not column or not np.isfinite(number):
            raise ValueError(f"{word!r} is not COLUMN=WEIGHT, as pmi=1")
        if column in weights:
            raise ValueError(f"{column} is given twice")
        weights[column] = number
    return weights
