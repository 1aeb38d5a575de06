"""Scores of datasets that are streams: batch by batch, as they are read."""

import logging
from collections.abc import Iterable, Mapping

from datasets import Features, IterableDataset

from c3l_hf.common.processes import process_state
from c3l_hf.data.stored_rows import undecoded
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.scoring.signals import Signal

__all__ = ["check_columns", "scored_stream"]

logger = logging.getLogger(__name__)


def scored_stream(dataset: IterableDataset, scorer: I2CScorer | Signal, batch_size: int) -> IterableDataset:
    """A stream with the score columns beside its own; see `score_dataset`. Nothing is read before it is iterated."""
    features = dataset.features
    if features is not None:
        check_columns(features, scorer)
        features = Features(undecoded(dict(features)))
        dataset = dataset.cast(features)  # reading would end at an image that cannot be decoded
    if process_state().num_processes > 1 and process_state().is_main_process:
        logger.warning(
            "each process scores all of the stream that it is given; datasets.distributed.split_dataset_by_node gives "
            "each a part"
        )
    # Without its format, which would turn lists into arrays.
    return dataset.with_format(None).map(
        _Scored(scorer),
        batched=True,
        batch_size=batch_size,
        features=None if features is None else Features({**features, **scorer.features}),
    )


def check_columns(columns: Iterable[str], scorer: I2CScorer | Signal) -> None:
    """That rows with these columns can be scored.

    Raises:
        ValueError: If they are in no accepted layout, or there are the columns already that the scorer adds.
    """
    columns = list(columns)
    scorer.columns(columns)
    if present := [name for name in scorer.features if name in columns]:
        raise ValueError(f"the dataset has the columns {', '.join(present)} already; remove or rename them first")


class _Scored:
    """A function for `map`: the score columns of a batch of rows."""

    def __init__(self, scorer: I2CScorer | Signal):
        self._scorer = scorer

    def __call__(self, batch: Mapping[str, list]) -> dict[str, list]:
        check_columns(batch, self._scorer)
        needed = {name: batch[name] for name in self._scorer.columns(batch)}
        rows = [dict(zip(needed, values)) for values in zip(*needed.values(), strict=True)]
        scored = self._scorer.score(rows)
        return {name: [row[name] for row in scored] for name in self._scorer.features}
