"""Datasets from a file, a folder or the Hub: the one way in which all stages open rows."""

import dataclasses
import glob
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import datasets
from datasets import (
    Dataset,
    DatasetBuilder,
    DatasetDict,
    get_dataset_config_names,
    get_dataset_split_names,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError, DatasetsError
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from c3l_hf import _compat
from c3l_hf.common.errors import RunError, said_by
from c3l_hf.common.names import is_not_on_hub, listed, nearest, nearest_path
from c3l_hf.common.processes import process_state
from c3l_hf.common.run_folder import is_run
from c3l_hf.files.delimited import open_delimited
from c3l_hf.files.json_files import open_json
from c3l_hf.files.table_files import check_columns, check_tables
from c3l_hf.files.webdatasets import open_tars, spread

__all__ = ["folder_cache", "is_saved", "may_be_on_hub", "open_dataset"]

logger = logging.getLogger(__name__)

_FILES = {
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".ndjson": "json",
    ".arrow": "arrow",
    ".tar": "tar",
}
# Fields of a configuration of `datasets` that say where files are, not how they are read.
_NO_OPTIONS = {"name", "version", "data_dir", "data_files", "description"}
_SEPARATORS = {"csv": ",", "tsv": "\t"}
_ERRORS = (OSError, ValueError, TypeError, DatasetsError, HfHubHTTPError, HFValidationError)


def open_dataset(
    name: str | Path,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
    limit: int | None = None,
    texts: Iterable[str] = (),
) -> Dataset:
    """The rows of a dataset, wherever it is.

    Args:
        name: A file (.json, .jsonl, .parquet, .csv, .tsv, .arrow, WebDataset's .tar; texts and tars also as .gz), a
            pattern that names several of one kind (data/*.parquet), a folder that `save_to_disk` wrote, a folder of
            data files, or a dataset on the Hub.
        config: Its configuration, where there are several.
        split: Its split. A file is one split whatever it is called, as is a single dataset of `save_to_disk`. In a
            folder of data files "dev" may also be what `datasets` calls "validation".
        revision: Branch, tag or commit of a dataset on the Hub; folders and files have none, and it is not looked at.
        limit: The first so many rows; by default all.
        texts: Columns of CSV and TSV files that are texts whatever they look like, beside those whose names say so.

    Raises:
        RunError: If it cannot be opened; one line that says what was given, what is there and what comes near.
    """
    if limit is not None and limit < 1:
        raise RunError(f"limit is {limit}; it must be at least 1")
    path = Path(name)
    if path.is_file():
        dataset = _open_files([path], config, texts)
    elif is_saved(path):
        dataset = _open_saved(path, config, split)
    elif path.is_dir():
        dataset = _open_folder(path, config, split, texts)
    elif may_be_on_hub(str(name)):
        dataset = _load(str(name), config, split, revision)
    elif files := _matching(str(name)):
        dataset = _open_files(files, config, texts)
    else:
        raise RunError(_nothing_here(path))
    check_columns(str(name), dataset.data.table)
    return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))


def may_be_on_hub(name: str) -> bool:
    """Whether what is not here may be a dataset on the Hub: it is called neither as a file nor nearly as one here."""
    return not is_not_on_hub(name) and _kind(Path(name)) is None


def _nothing_here(path: Path) -> str:
    if path.is_symlink() and not os.path.exists(path):
        return f"{path} is a link to {os.readlink(path)}, which is not there"
    if os.path.exists(path):
        return f"{path} is no ordinary file (perhaps a pipe), and is read more than once; save it as a file"
    return f"{path}: there is no such file or folder{nearest_path(path)}"


def is_saved(path: str | Path) -> bool:
    """Whether a folder was written by `save_to_disk`, of a `Dataset` or a `DatasetDict`."""
    return any((Path(path) / file).is_file() for file in ("dataset_info.json", "dataset_dict.json"))


def folder_cache(source: str | Path) -> str | None:
    """The `cache_dir` for `load_dataset(source)`: if it is a folder, one for this folder as it is now; else None.

    Left to itself `datasets` takes the copy of an earlier content, if a README there lists the data files.
    """
    if not Path(source).is_dir():
        return None
    files = [(path, path.stat()) for path in sorted(Path(source).rglob("*")) if path.is_file()]
    digest = _compat.hash_of([(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in files])
    return str(Path(datasets.config.HF_DATASETS_CACHE) / f"c3l_hf-{digest}")


def _kind(path: Path) -> str | None:
    """What kind of file that is by its ending, also compressed by gzip."""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return _FILES.get(plain.suffix.lower())


def _matching(pattern: str) -> list[Path]:
    """The files that a pattern such as data/*.parquet names, sorted; none if it is no pattern."""
    if not glob.has_magic(pattern):
        return []
    return [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]


def _open_files(files: Sequence[Path], config: str | None, texts: Iterable[str]) -> Dataset:
    kinds = {file: _kind(file) for file in files}
    if (other := next((file for file in files if kinds[file] is None), None)) is not None:
        raise RunError(f"{other} ends in none of {', '.join(_FILES)}")
    if len(set(kinds.values())) > 1:
        raise RunError(f"{files[0]} and {_other_kind(files, kinds)} are of different kinds; give those of one")
    if config is not None:
        raise RunError(f"{files[0]} is a file, which has no configurations such as {config!r}; leave it out")
    return _read(str(kinds[files[0]]), files, texts)


def _other_kind(files: Sequence[Path], kinds: Mapping[Path, str | None]) -> Path:
    return next(file for file in files if kinds[file] != kinds[files[0]])


def _read(kind: str, files: Sequence[Path], texts: Iterable[str]) -> Dataset:
    try:
        if kind in _SEPARATORS:
            return open_delimited(files, _SEPARATORS[kind], texts)
        if kind == "json":
            return open_json(files)
        check_tables(kind, files)
        if kind == "tar":
            return open_tars(files)
        # It takes names for patterns.
        return load_dataset(kind, data_files=[glob.escape(str(file)) for file in files], split="train")
    except _ERRORS as error:
        names = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        raise RunError(f"{names} cannot be read: {_reason(error)}") from None


def _open_saved(path: Path, config: str | None, split: str) -> Dataset:
    if config is not None:
        raise RunError(f"{path} was written by save_to_disk and has no configurations such as {config!r}; leave it out")
    try:
        loaded = load_from_disk(str(path))
    except _ERRORS as error:
        raise RunError(f"{path} cannot be read: {_reason(error)}") from None
    except IndexError:  # what `datasets` says of a folder without a file of rows
        raise RunError(f"{path} has no rows") from None
    # Without the format that was saved with it, which would turn images into arrays, or hide columns.
    loaded = loaded.with_format(None)
    if isinstance(loaded, DatasetDict):
        if split not in loaded:
            raise RunError(f"{path} has no split {split!r}{_choices(split, loaded, 'splits')}")
        loaded = loaded[split]
    return loaded


def _open_folder(path: Path, config: str | None, split: str, texts: Iterable[str]) -> Dataset:
    if is_run(path):
        # All its stages' files together would be read as if they were one dataset.
        made = path / "dataset"
        raise RunError(
            f"{path} is the folder of a run; its dataset is {made}, all its scored pairs, without pictures, "
            f"{made / 'scored'}"
        )
    # In full, so that `datasets` never takes it for a dataset on the Hub.
    name = str(path.resolve())
    if split == "dev":
        try:
            split = "dev" if "dev" in get_dataset_split_names(name, config) else "validation"
        except _ERRORS:
            pass  # it cannot be opened, of which `_load` finds the reason
    try:
        builder = load_dataset_builder(name, config)
    except (*_ERRORS, StopIteration):
        own = None  # it cannot be opened, of which `_load` finds the reason
    else:
        own = _files_of_split(builder, split)
        _check_tables(builder, split)
        _warn_of_others(path, builder)
    return _read(*own, texts) if own is not None else _load(name, config, split, None, title=str(path))


def _check_tables(builder: DatasetBuilder, split: str) -> None:
    for file in map(Path, (builder.config.data_files or {}).get(split, ())):
        if (kind := _kind(file)) in {"parquet", "arrow"} and file.is_file():
            check_tables(kind, [file])


def _files_of_split(builder: DatasetBuilder, split: str) -> tuple[str, list[Path]] | None:
    """The kind and the files of a split of a folder, where all are of a kind that is read here; else None."""
    files = [Path(file) for file in (builder.config.data_files or {}).get(split, ())]
    kinds = {_kind(file) for file in files}
    if len(kinds) != 1 or not kinds <= {"json", "csv", "tsv", "tar"} or not all(map(Path.is_file, files)):
        return None
    kind = str(kinds.pop())
    # With further options in its README it is read as they say, by `datasets`.
    usual = type(builder.config)(**({"sep": _SEPARATORS[kind]} if kind in _SEPARATORS else {}))
    options = [item.name for item in dataclasses.fields(usual) if item.name not in _NO_OPTIONS]
    if any(getattr(builder.config, option) != getattr(usual, option) for option in options):
        return None
    return kind, files


def _warn_of_others(path: Path, builder: DatasetBuilder) -> None:
    """Says which files of rows are not read: of a folder with several kinds `datasets` takes one."""
    read = {Path(file).resolve() for files in (builder.config.data_files or {}).values() for file in files}
    if not read or builder.config.name != "default" or len(builder.builder_configs) > 1:
        return  # a README says what is in each configuration
    kinds = {_kind(file) for file in read}
    others = [file for file in sorted(path.rglob("*")) if _kind(file) not in {None, *kinds} and file.is_file()]
    names = [str(file.relative_to(path)) for file in others if file.resolve() not in read]
    names = [name for name in names if not any(part.startswith(".") for part in Path(name).parts)]
    if names and process_state().is_main_process:
        logger.warning(
            "%s: only its %s files are read, not %s; give one of these by its own name",
            path,
            ", ".join(sorted({file.suffix for file in read})),
            listed(names),
        )


def _load(name: str, config: str | None, split: str, revision: str | None, title: str | None = None) -> Dataset:
    try:
        return spread(load_dataset(name, config, split=split, revision=revision, cache_dir=folder_cache(name)))
    except _ERRORS as error:
        raise RunError(_problem(name, config, split, revision, title or name, error)) from None


def _problem(name: str, config: str | None, split: str, revision: str | None, title: str, error: BaseException) -> str:
    """What is wrong, found by asking for what there is."""
    local = Path(name).is_dir()
    try:
        configs = get_dataset_config_names(name, revision=revision)
        if config is not None and config not in configs:
            return f"{title} has no configuration {config!r}{_choices(config, configs, 'configurations')}"
        if config is None and len(configs) > 1 and "default" not in configs:
            return f"{title} has several configurations: {listed(configs)}; say which"
        splits = get_dataset_split_names(name, config, revision=revision)
        if split.partition("[")[0] not in splits:  # before a slice, as "train[:10%]"
            return f"{title} has no split {split!r}{_choices(split, splits, 'splits')}"
    except _ERRORS:
        pass  # there is nothing to be found out: the first error says why
    if local:
        return f"{title} cannot be read: {_reason(error)}"
    return (
        f"{title} is neither a file or folder here{nearest_path(name)} nor a dataset on the Hub that could be "
        f"loaded: {_reason(error)}"
    )


def _reason(error: BaseException) -> str:
    # That one says only that there was an error.
    cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
    return said_by(cause)


def _choices(given: str, names: Iterable[str], kind: str) -> str:
    names = list(names)
    return f"; its {kind} are {listed(names)}{nearest(given, names)}"
