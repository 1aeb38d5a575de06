"""Datasets from a folder, a file or the Hub."""

from pathlib import Path

import datasets
from datasets.fingerprint import Hasher

__all__ = ["folder_cache"]


def folder_cache(source: str | Path) -> str | None:
    """The `cache_dir` for `load_dataset(source)`: if it is a folder, one for this folder as it is now; else None.

    Left to itself `datasets` takes the copy of an earlier content, if a README there lists the data files.
    """
    if not Path(source).is_dir():
        return None
    files = [(path, path.stat()) for path in sorted(Path(source).rglob("*")) if path.is_file()]
    digest = Hasher.hash([(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in files])
    return str(Path(datasets.config.HF_DATASETS_CACHE) / f"c3l_hf-{digest}")
