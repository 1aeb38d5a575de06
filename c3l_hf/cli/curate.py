"""`c3l curate`: the compact dataset from scored pairs."""

from dataclasses import dataclass, field

from datasets import Dataset

from c3l_hf.cli.command import CallOptions, Command, is_left_to_the_first, set_up_process
from c3l_hf.cli.rows import (
    OutputOptions,
    RowsOptions,
    check_output,
    check_own_names,
    open_rows,
    with_own_names,
    write_rows,
)
from c3l_hf.cli.scores import ScoreChoice, with_score
from c3l_hf.common.errors import RunError
from c3l_hf.common.processes import process_state
from c3l_hf.data.reading import PictureOptions, fetch_pictures
from c3l_hf.data.schema import EMBEDDING
from c3l_hf.models.loading import Source, load
from c3l_hf.pipeline.curation_options import ChoiceOptions
from c3l_hf.pipeline.image_checks import open_benchmarks
from c3l_hf.pipeline.options import UsedModelOptions
from c3l_hf.scoring.embeddings import EMBEDDING_KINDS, PairEmbedder, embed_dataset
from c3l_hf.selection.clusters import CLUSTER_FEATURES, cluster_pairs
from c3l_hf.selection.curation import curate

__all__ = ["COMMAND", "CurateOptions", "VectorOptions"]


@dataclass
class CurateOptions(ScoreChoice, ChoiceOptions):
    """Which pairs come into the compact dataset, and by which score."""

    min_quantile: float | None = field(
        default=None, metadata={"help": "This share of the pairs, the lowest of each type, is dropped."}
    )
    seed: int = field(default=0, metadata={"help": "For ties, and the starts of clusters."})


@dataclass
class VectorOptions(UsedModelOptions, PictureOptions):
    """The model that makes vectors where embeddings is hidden or image, and where the rows' pictures are."""

    _argument_group_name = "Vectors"
    model: str = field(default="", metadata={"help": "A folder, a Hub id, or 'scenes'; by default none."})
    embedding_batch_size: int = field(default=250, metadata={"help": "Rows whose images are in memory together."})
    embedding_max_tokens: int | None = field(
        default=None, metadata={"help": "Most tokens in a pass; by default as for scores."}
    )


def curate_rows(
    rows: RowsOptions, curation: CurateOptions, vectors: VectorOptions, output: OutputOptions, _: CallOptions
) -> None:
    """Curates pairs; see `COMMAND`."""
    made, column = curation.embeddings in EMBEDDING_KINDS, str(curation.embeddings)
    if not made and is_left_to_the_first():  # vectors are shared out
        return
    set_up_process()
    path, rules = check_output(output), curation.rules()
    del rules["combine"]  # into the score
    marks = curation.read_marks()
    if made and not vectors.model:
        raise RunError(f"embeddings is {column}, and model, which makes them, is not given")
    if not made and vectors.model:
        raise RunError(f"model makes vectors if embeddings is {' or '.join(EMBEDDING_KINDS)}; it is {column}")
    (dataset, score, told), clusters = with_score(open_rows(rows), curation), None
    fetch_pictures(dataset, vectors)
    benchmarks = open_benchmarks(curation.decontaminate or ())
    if curation.clusters is not None:
        check_own_names(rows, CLUSTER_FEATURES)
        embedded = _embedded(dataset, vectors, column) if made else dataset
        if not process_state().is_main_process:
            return
        name = EMBEDDING if made else column
        found, clusters = cluster_pairs(embedded, clusters=curation.clusters, embeddings=name, seed=curation.seed)
        dataset = found.select_columns([*dataset.column_names, *CLUSTER_FEATURES])
    curated, report = curate(
        dataset,
        **rules | {"score": score},
        near_duplicate_images=curation.image_comparison(),
        near_duplicate_distance=curation.near_duplicate_distance,
        benchmarks=[one.contents() for one in benchmarks],
        image_folder=vectors.image_folder,
        marks=marks,
    )
    if not report.kept:
        raise RunError(f"no pair is left for the dataset\n{report}\n")
    write_rows(with_own_names(curated, rows), output)
    parts = [told, str(clusters or ""), str(report), f"{len(curated):,} pairs → {path}"]
    print(*filter(None, parts), sep="\n\n")


def _embedded(dataset: Dataset, options: VectorOptions, kind: str) -> Dataset:
    """The rows with vectors of their own images and texts. Every process calls this."""
    embedder = PairEmbedder(
        *load(Source.of(options, trust_remote_code=options.trust_remote_code).pinned()),
        kind=next(known for known in EMBEDDING_KINDS if known == kind),
        max_tokens=options.embedding_max_tokens,
        image_folder=options.image_folder,
    )
    return embed_dataset(dataset, embedder, batch_size=options.embedding_batch_size)


COMMAND = Command(
    description="Keeps the best of scored rows of any layout, as c3l score writes them: without near-duplicates, "
    "balanced by type of question or by clusters of like pairs, with all their columns. Rows without image_id are "
    "about one image if their images have the same content or path. The report says how many rows each rule dropped. "
    "Clusters are of vectors that a column has, or that a model makes: an interrupted command goes on with these.",
    examples=(
        "c3l curate --dataset scored.parquet --target_size 5000 --output curated.parquet",
        "c3l curate --dataset scored.parquet --combine pmi=1 truth_logodds=0.5 --output curated.parquet",
        "c3l curate --dataset scored.parquet --marks marks.json --output curated.parquet",
        "c3l curate --dataset scored.parquet --floors pmi=0 --embeddings hidden --clusters 50 --model … --output …",
    ),
    groups=(RowsOptions, CurateOptions, VectorOptions, OutputOptions, CallOptions),
    call=curate_rows,
    resumes=True,
)
