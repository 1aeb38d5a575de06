"""`c3l report`: a page to look at pairs, their pictures and scores."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from c3l_hf.cli.command import CallOptions, Command, is_left_to_the_first, set_up_process
from c3l_hf.common.errors import RunError
from c3l_hf.data.reading import ColumnOptions, PictureOptions
from c3l_hf.data.sources import load_images
from c3l_hf.pipeline.options import ImageOptions

__all__ = ["COMMAND", "ReportOptions"]

# What a page of ours has among its first characters.
_OURS = '<meta name="generator" content="c3l_hf'
_HEAD = 4096


@dataclass(kw_only=True)
class ReportOptions(ColumnOptions):
    """What is shown, and where the page goes."""

    _argument_group_name: ClassVar[str] = "What"
    source: str = field(
        metadata={"help": "The folder of a run or of a dataset, a dataset on the Hub, or a file of rows in any layout."}
    )
    output: str = field(
        default="report.html", metadata={"help": "The page, an .html file (-o); another report is replaced."}
    )
    num_pairs: int | None = field(
        default=None, metadata={"help": "Most pairs in the gallery, those of images drawn at random; by default all."}
    )
    evaluation: str | None = field(
        default=None, metadata={"help": "What c3l evaluate has written; by default a run's folder evaluation."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "A dataset's configuration (subset)."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub's dataset."})
    split: str = field(default="train", metadata={"help": "A dataset's split."})
    limit: int | None = field(default=None, metadata={"help": "Only the first so many rows."})


@dataclass
class RunImages(ImageOptions):
    """The images of a run that is not finished, or whose pairs are to be compared with the truth about them."""

    seed: int = field(default=0, metadata={"help": "Seed of an embedded world's images."})


def make_report(what: ReportOptions, pictures: PictureOptions, images: RunImages, _: CallOptions) -> None:
    """Writes a report; see `COMMAND`."""
    # They load what draws charts and pages, which no help needs.
    from c3l_hf.report.making import content_of
    from c3l_hf.report.opening import open_source
    from c3l_hf.report.page import write_page

    if is_left_to_the_first():
        return
    set_up_process()
    output = _checked_output(what.output)
    opened = None
    if images.images is not None:
        opened = load_images(images.images, split=images.images_split, limit=images.num_images, seed=images.seed)
    source = open_source(
        what.source,
        what,
        pictures,
        images=opened,
        config=what.dataset_config,
        split=what.split,
        revision=what.dataset_revision,
        limit=what.limit,
    )
    evaluation = what.evaluation
    if evaluation is None and (beside := Path(what.source) / "evaluation").is_dir():
        evaluation = str(beside)
    content = content_of(source, what.num_pairs, evaluation)
    written = write_page(content, output)
    for note in content.notes:
        print(note)
    beside_it = f", and {len(written) - 1} files in {written[1].parent}, which belong to it" if written[1:] else ""
    size = sum(path.stat().st_size for path in written)
    print(
        f"{content.pairs.count:,} pairs, {len(content.pictures):,} pictures → {output} ({size / 1e6:.1f} MB){beside_it}"
    )


def _checked_output(name: str) -> Path:
    """Where the page goes, looked at before any work.

    Raises:
        RunError: If that is no place for it, or another file than a report is there.
    """
    output = Path(name)
    if output.suffix.lower() not in (".html", ".htm"):
        raise RunError(f"output {output} must end in .html")
    if not output.parent.is_dir():
        raise RunError(f"output {output}: there is no folder {output.parent}")
    if output.is_dir():
        raise RunError(f"output {output} is a folder; give the name of a file")
    if output.exists():
        with output.open("rb") as file:
            if _OURS.encode() not in file.read(_HEAD):
                raise RunError(f"output {output} is there already, and it is no report; give another name")
    return output


COMMAND = Command(
    description="Writes one page to look at: pictures with their pairs, chosen beside rejected ones, the tokens "
    "coloured by how much the picture mattered, filters and search; before it what was run, what became of the rows, "
    "and charts. It opens from disk and needs no network. Of a run also one that is not finished. Pairs marked there "
    "can be exported, for c3l curate --marks.",
    examples=(
        "c3l report runs/demo -o demo.html",
        "c3l report user/c3l-pairs --num_pairs 2000",
        "c3l report llava_instruct.json --image_folder coco/ -o llava.html",
    ),
    groups=(ReportOptions, PictureOptions, RunImages, CallOptions),
    call=make_report,
    positionals=("source",),
    short={"-o": "--output"},
)
