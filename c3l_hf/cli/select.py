"""`c3l select`: pseudo-labels from scored pairs."""

from dataclasses import dataclass

from c3l_hf.cli.command import CallOptions, Command, is_left_to_the_first, set_up_process
from c3l_hf.cli.rows import OutputOptions, RowsOptions, check_output, open_rows, write_rows
from c3l_hf.cli.scores import ScoreChoice, with_score
from c3l_hf.data.reading import PictureOptions, fetch_pictures
from c3l_hf.pipeline.options import SelectionOptions
from c3l_hf.selection.pseudo_labels import select_pseudo_labels

__all__ = ["COMMAND", "SelectOptions"]


@dataclass
class SelectOptions(ScoreChoice, SelectionOptions, PictureOptions):
    """Which pairs become pseudo-labels, and by which score."""


def select(rows: RowsOptions, selection: SelectOptions, output: OutputOptions, _: CallOptions) -> None:
    """Chooses pseudo-labels; see `COMMAND`."""
    if is_left_to_the_first():
        return
    set_up_process()
    path = check_output(output)
    dataset = open_rows(rows)
    fetch_pictures(dataset, selection)
    dataset, score, told = with_score(dataset, selection)
    labels, report = select_pseudo_labels(
        dataset,
        score=score,
        within=selection.within,
        max_rejected=selection.max_rejected,
        min_margin=selection.min_margin,
        image_folder=selection.image_folder,
    )
    write_rows(labels, output)
    print(*[told] * bool(told), f"{report}\n\n{len(labels):,} pseudo-labels → {path}", sep="\n")


COMMAND = Command(
    description="Makes pseudo-labels from scored rows of any layout, as c3l score writes them: of each image the pair "
    "with the best score is chosen, the others are rejected. Rows without image_id are about one image if their images "
    "have the same content or path. The report says what was left out, and why.",
    examples=(
        "c3l select --dataset scored.parquet --output labels.parquet",
        "c3l select --dataset scored.parquet --image_folder pictures --output labels.parquet",
    ),
    groups=(RowsOptions, SelectOptions, OutputOptions, CallOptions),
    call=select,
)
