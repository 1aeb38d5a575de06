"""The source of a report by its name: a run's folder, a written or published dataset, or rows in any layout."""

from pathlib import Path

import pyarrow as pa
from datasets import Dataset
from huggingface_hub.errors import HfHubHTTPError

from c3l_hf.common.errors import RunError
from c3l_hf.common.run_folder import is_run
from c3l_hf.data.reading import ColumnOptions, PictureOptions, fetch_pictures, read_dataset
from c3l_hf.data.sources import Images
from c3l_hf.files.opening import may_be_on_hub
from c3l_hf.publishing.manifest import MANIFEST, FolderError, Manifest
from c3l_hf.report.published_source import published_source
from c3l_hf.report.run_source import run_source
from c3l_hf.report.sources import Source, rows_source

__all__ = ["open_source"]


def open_source(
    name: str,
    columns: ColumnOptions,
    pictures: PictureOptions,
    *,
    images: Images | None = None,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
    limit: int | None = None,
) -> Source:
    """What a name stands for.

    Args:
        name: A run's folder; a folder or a repository on the Hub with a dataset that a run has written; or whatever
            `files.opening.open_dataset` takes.
        columns, pictures: Of other rows: which columns and answers, and where their pictures are.
        images: Of a run: its images, where its folder has no dataset with them yet.
        config, split, revision, limit: As for `open_dataset`. With a configuration or a limit a dataset that a run has
            written is read as any other.

    Raises:
        RunError: If it cannot be opened, or has nothing that can be shown.
    """
    path, plain = Path(name), config is None and limit is None
    if is_run(path):
        return run_source(path, images)
    if images is not None:
        raise RunError(f"images are those of a run, and {name} is no run's folder; leave them out")
    if plain and (path / MANIFEST).is_file():
        return _published(path, name)
    if plain and not path.exists() and may_be_on_hub(name) and (folder := _downloaded(name, revision)) is not None:
        return _published(folder, name)
    dataset = read_dataset(name, columns, config=config, split=split, revision=revision, limit=limit)
    return _rows_of(dataset, name, pictures)


def _rows_of(dataset: Dataset, title: str, pictures: PictureOptions) -> Source:
    """Rows, with their pictures fetched if the options say so."""
    try:
        fetch_pictures(dataset, pictures)
    except ValueError as error:
        raise RunError(f"{title}: {error}") from None
    return rows_source(dataset, title, pictures.image_folder)


def _published(folder: Path, name: str) -> Source:
    try:
        manifest = Manifest.read(folder)
        if manifest.kind != "dataset":
            raise RunError(f"{name} is a {manifest.kind}, of which there is nothing to be shown; give its dataset")
        return published_source(folder, manifest.facts, manifest.configs)
    except FolderError as error:
        raise RunError(str(error)) from None
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, OSError, pa.ArrowException) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RunError(f"{name} is not as c3l_hf writes it ({reason}); see what c3l verify says of it") from None


def _downloaded(name: str, revision: str | None) -> Path | None:
    """The files of a dataset on the Hub that c3l_hf has published; None if it is another one, or cannot be had."""
    from huggingface_hub import HfApi

    from c3l_hf.publishing.hub import HubError, HubUnreachable, download  # which loads what cards are made with

    try:
        return download(name, revision, "dataset", HfApi())[0]
    except HubUnreachable as error:
        # What `read_dataset` would ask again, for a minute, and perhaps have of another time.
        raise RunError(str(error)) from None
    except (HubError, HfHubHTTPError, OSError):
        return None  # of which `read_dataset` says more
