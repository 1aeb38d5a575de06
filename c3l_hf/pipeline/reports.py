"""The reports of a run: of all its stages beside its results, and within the dataset of what that has."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from c3l_hf.common.errors import RunError, said_by
from c3l_hf.data.sources import Images
from c3l_hf.pipeline.inputs import REPORT
from c3l_hf.publishing.cards import RunFacts
from c3l_hf.publishing.manifest import DataConfig
from c3l_hf.report.card_figures import card_figures
from c3l_hf.report.making import content_of
from c3l_hf.report.page import MOST_PAIRS, write_page
from c3l_hf.report.published_source import published_source
from c3l_hf.report.run_source import run_source
from c3l_hf.report.sources import Source

__all__ = ["for_the_dataset", "keep_run_report"]

# What a push may state otherwise than the run: it writes the card again, and not the report beside it.
_STATED_BY_PUSH = ("license", "images_license", "images_source")

logger = logging.getLogger(__name__)


def keep_run_report(folder: Path, images: Images, made_of_these: bool = False) -> None:
    """The report of a run, of all its stages, beside its results. If it cannot be made, a warning says so: the run is
    complete without.

    Args:
        folder: The run's.
        images: Its images.
        made_of_these: A report that is there is of these results, and stays.
    """
    if made_of_these and (folder / REPORT).exists():
        return
    evaluation = folder / "evaluation"

    def make() -> None:
        content = content_of(run_source(folder, images), MOST_PAIRS, evaluation if evaluation.is_dir() else None)
        write_page(content, folder / REPORT)

    _attempted(make)


def for_the_dataset(facts: RunFacts) -> Callable[[Path, Mapping[str, DataConfig]], None]:
    """What is written into the folder of a dataset beside its rows: pictures for the card, and a report that has
    nothing but these rows and what the card says. What cannot be made is not there, which a warning says.

    Args:
        facts: What the card says.
    """

    def further(folder: Path, configs: Mapping[str, DataConfig]) -> None:
        def make() -> None:
            told = facts.to_dict() | dict.fromkeys(_STATED_BY_PUSH)
            source = published_source(folder, told, configs)
            for name, content in card_figures(source).items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(content)
            _write_one_file(source, folder / REPORT)

        _attempted(make)

    return further


def _write_one_file(source: Source, path: Path) -> None:
    """A report without files beside it: with fewer pairs, if those that a file may have are too large together."""
    most = MOST_PAIRS
    while len(written := write_page(content_of(source, most), path)) > 1:
        for file in written:
            file.unlink()
        written[1].parent.rmdir()
        most //= 2
        if not most:
            raise RunError("not even one pair fits into a report of one file")


def _attempted(make: Callable[[], None]) -> None:
    try:
        make()
    except Exception as error:  # whatever it is, it is no reason to lose what the run has made
        told = "" if isinstance(error, (RunError, ValueError, OSError)) else f"{type(error).__name__}: "
        logger.warning("the report cannot be made: %s%s", told, said_by(error))
