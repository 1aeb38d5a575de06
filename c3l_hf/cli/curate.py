"""`c3l curate`: the compact dataset from scored pairs."""

from dataclasses import dataclass, field

from c3l_hf.cli.command import CallOptions, Command, set_up_process
from c3l_hf.cli.rows import OutputOptions, RowsOptions, check_output, open_rows, with_own_names, write_rows
from c3l_hf.cli.scores import ScoreChoice, with_score
from c3l_hf.common.errors import RunError
from c3l_hf.pipeline.options import CurationOptions
from c3l_hf.selection.curation import curate

__all__ = ["COMMAND", "CurateOptions"]


@dataclass
class CurateOptions(ScoreChoice, CurationOptions):
    """Which pairs come into the compact dataset, and by which score."""

    min_score: float | None = field(default=None, metadata={"help": "Pairs with a lower score are dropped."})
    min_quantile: float | None = field(
        default=None, metadata={"help": "This share of the pairs, the lowest of each type, is dropped."}
    )
    seed: int = field(default=0, metadata={"help": "For ties."})


def curate_rows(rows: RowsOptions, curation: CurateOptions, output: OutputOptions, _: CallOptions) -> None:
    """Curates pairs; see `COMMAND`."""
    set_up_process()
    path = check_output(output)
    dataset, score, told = with_score(open_rows(rows), curation)
    options = {name: value for name, value in vars(curation).items() if name not in ("score", "combine")}
    curated, report = curate(dataset, score=score, **options)
    if not report.kept:
        raise RunError(f"no pair is left for the dataset\n{report}\n")
    write_rows(with_own_names(curated, rows), output)
    print(*[told] * bool(told), f"{report}\n\n{len(curated):,} pairs → {path}", sep="\n")


COMMAND = Command(
    description="Keeps the best of scored rows of any layout, as c3l score writes them: without near-duplicates, "
    "balanced by type of question, with all their columns. Rows without image_id are about one image if their images "
    "have the same content or path. The report says how many rows each rule dropped.",
    examples=(
        "c3l curate --dataset scored.parquet --target_size 5000 --output curated.parquet",
        "c3l curate --dataset scored.parquet --combine pmi=1 truth_logodds=0.5 --output curated.parquet",
    ),
    groups=(RowsOptions, CurateOptions, OutputOptions, CallOptions),
    call=curate_rows,
)
