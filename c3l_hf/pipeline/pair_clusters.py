"""The clusters of a round's pairs: vectors by the model that scores, kept in the run's folder, and their clusters."""

from collections.abc import Iterator

import pyarrow as pa

from c3l_hf.common.processes import process_state
from c3l_hf.common.progress import ProgressLine
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.common.shards import Shards
from c3l_hf.data.schema import EMBEDDING
from c3l_hf.pipeline.inputs import EMBEDDINGS, Inputs
from c3l_hf.pipeline.model_in_use import ModelInUse
from c3l_hf.pipeline.settings import Settings
from c3l_hf.scoring.embeddings import EMBEDDING_KINDS, EmbeddingKind, PairEmbedder, embed_tables
from c3l_hf.selection.clusters import Clusters, cluster_vectors

__all__ = ["cluster_round"]


def cluster_round(
    stage: str, folder: RunFolder, settings: Settings, inputs: Inputs, models: ModelInUse, pairs: Shards
) -> Clusters | None:
    """The clusters of all pairs of a round. Every process calls this; the main process gets them, the others None.

    The vectors are no stage's result, as the choice alone needs them. They are in `embeddings/`, a shard for each of
    the pairs', made once and found again by whoever clusters the same pairs in another way.

    Args:
        stage: The stage that scored these pairs.

    Raises:
        ValueError: If there are fewer vectors than clusters, or not as many rows as pairs.
    """
    options, state = settings.curation, process_state()
    kind = next(kind for kind in EMBEDDING_KINDS if kind == options.embeddings)
    assert options.clusters is not None
    place = folder.folder / EMBEDDINGS / stage / f"{kind}-{folder.digest(stage)}"
    shards = Shards(place, len(pairs), root=folder.folder)
    if state.is_main_process:
        shards.check()
    state.wait_for_everyone()
    missing = shards.missing
    state.wait_for_everyone()  # all have seen the same
    if missing:
        _embed(kind, shards, settings, inputs, models, pairs)
    if not state.is_main_process:
        return None

    def pieces() -> Iterator[pa.Array]:
        return (batch[EMBEDDING] for batch in shards.batches([EMBEDDING]))

    if shards.num_rows != pairs.num_rows:
        raise ValueError(f"{shards.folder} has {shards.num_rows:,} rows for {pairs.num_rows:,} pairs; remove it")
    return cluster_vectors(pieces, options.clusters, seed=settings.training.seed)


def _embed(
    kind: EmbeddingKind, shards: Shards, settings: Settings, inputs: Inputs, models: ModelInUse, pairs: Shards
) -> None:
    options, line = settings.scoring, ProgressLine("embed", pairs.num_rows, "pairs", shards.num_rows_there)
    embedder = PairEmbedder(*models.load(inputs.scorer), kind=kind, max_tokens=options.scoring_max_tokens)

    def make(number: int) -> Iterator[pa.Table]:
        rows = pairs.batches(size=options.scoring_batch_size, numbers=[number])
        tables = embed_tables(rows, inputs.images.dataset, embedder, options.scoring_batch_size)
        return line.over(tables)

    with line:
        shards.write_missing(make, embedder.features.arrow_schema)
