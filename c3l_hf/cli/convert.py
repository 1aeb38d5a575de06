"""`c3l convert`: rows of any accepted layout in another one, with their pictures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from c3l_hf.cli.command import CallOptions, Command, is_left_to_the_first, set_up_process
from c3l_hf.cli.rows import RowsOptions, open_rows
from c3l_hf.common.errors import RunError
from c3l_hf.common.names import listed
from c3l_hf.common.progress import ProgressLine
from c3l_hf.common.run_folder import is_run
from c3l_hf.common.tables import format_table
from c3l_hf.data.reading import PictureOptions, fetch_pictures
from c3l_hf.data.streams import RowStream
from c3l_hf.data.written_layouts import Written
from c3l_hf.publishing.conversion import AT_ONCE, Conversion, Placement, check_conversion, convert

__all__ = ["COMMAND", "ConvertOptions", "format_conversion"]

_MOST_REASONS = 10


@dataclass
class ConvertOptions(PictureOptions):
    """What is written, and where."""

    _argument_group_name: ClassVar[str] = "Result"
    to: Written = field(kw_only=True, metadata={"help": "The layout to write."})
    output: str = field(kw_only=True, metadata={"help": "A folder to be made; nothing is written over."})
    pictures: Placement | None = field(
        default=None,
        metadata={"help": "In the rows' files, or as files beside them; by default as the layout has them."},
    )
    keep_metadata: bool = field(
        default=False, metadata={"help": "Leave EXIF (places, cameras, ...) and the like in the pictures."}
    )


def convert_rows(rows: RowsOptions, options: ConvertOptions, _: CallOptions) -> None:
    """Converts a dataset; see `COMMAND`."""
    if is_left_to_the_first():
        return
    set_up_process()
    check_conversion(options.to, options.output, options.pictures)
    if is_run(rows.dataset):
        if not (Path(rows.dataset) / "dataset").is_dir():
            raise RunError(f"dataset {rows.dataset} is the folder of a run that has written no dataset yet")
        rows.dataset = str(Path(rows.dataset) / "dataset")
    dataset = open_rows(rows)
    fetch_pictures(dataset, options)
    stream = RowStream.of(dataset, AT_ONCE)
    with ProgressLine("convert", len(stream), "rows") as line:
        result = convert(
            RowStream(stream.features, len(stream), lambda: line.over(stream.tables())),
            options.to,
            options.output,
            placement=options.pictures,
            image_folder=options.image_folder,
            keep_metadata=options.keep_metadata,
        )
    print(format_conversion(result, options.output))


def format_conversion(result: Conversion, output: str) -> str:
    """What became of the rows, as the command prints it."""
    parts = []
    if result.left_out:
        counted = result.left_out.most_common(_MOST_REASONS)
        shown = [(f"{reason}, as row {result.first[reason]:,}", count) for reason, count in counted]
        if more := result.left_out.total() - sum(count for _, count in counted):
            shown.append(("other reasons", more))
        parts.append(format_table([("left out", "rows"), *shown]))
        if any("no such file" in reason for reason in result.left_out):
            parts.append("Pictures are not there: is --image_folder, where relative paths begin, given and right?")
        parts.append(f"{Path(output) / 'left_out.txt'} has the reason of each.")
    if result.columns_left_out:
        parts.append(f"columns that the layout has no place for: {listed(result.columns_left_out, 20)}")
    rows = f"{result.converted:,} of {result.read:,} rows"
    rows += f" as {result.written:,}" if result.written != result.converted else ""
    parts.append(f"{rows}, {result.pictures:,} pictures → {Path(output) / result.files}")
    return "\n\n".join(parts)


COMMAND = Command(
    description="Writes rows of any layout in another one, with their pictures: LLaVA's JSON (llava), ShareGPT as "
    "LLaMA-Factory reads it (sharegpt), FineVision's and the Cauldron's parquet (texts), OpenAI's messages (openai), "
    "plain JSON lines or CSV with paths (jsonl, csv), WebDataset's tars (webdataset), parquet for TRL (trl). Scores "
    "and other columns go along where the layout has a place for them. A row that the layout cannot hold unchanged is "
    "left out, counted and listed with its reason. docs/interoperability.md says what each can hold.",
    examples=(
        "c3l convert runs/demo --to llava --output llava",
        "c3l convert user/my-pairs --to openai --pictures files --output openai",
        "c3l convert llava.json --image_folder pictures --to webdataset --output tars",
    ),
    groups=(RowsOptions, ConvertOptions, CallOptions),
    call=convert_rows,
    positionals=("dataset",),
)
