"""Results of one experiment, collected from the folders where they were made into one file that is kept."""

import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from c3l_hf.common.files import atomic_write

__all__ = ["collect_results", "read_results"]


def collect_results(folders: Sequence[str], pattern: str, key: Sequence[str], kept: Path) -> bool:
    """Collect the rows of all result files into one; whether there are any.

    Args:
        folders: Where the results are.
        pattern: Of their files' names.
        key: The columns that tell a result from another.
        kept: The file; what it has is to be among the results.

    Raises:
        SystemExit: If a result is there twice, or one that the file has is in none of the folders.
    """
    rows: list[dict] = []
    found: dict[tuple, Path] = {}
    for file in (file for folder in folders for file in sorted(Path(folder).glob(pattern))):
        for row in Dataset.from_parquet(str(file), keep_in_memory=True):
            first = found.setdefault(tuple(row[name] for name in key), file)
            if first != file:
                sys.exit(f"{kept.name}: the same result is there more than once: {first}, {file}")
            rows.append(row)
    if not rows:
        return False
    before = read_results(kept) if kept.is_file() else []
    lost = [values for row in before if (values := tuple(row.get(name) for name in key)) not in found]
    if lost:
        what = ", ".join(f"{name} {value}" for name, value in zip(key, lost[0]))
        sys.exit(
            f"{kept} has {len(lost)} results that are not in these folders (the first: {what}); give theirs too, or "
            "another --kept"
        )
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(kept) as partial:
        Dataset.from_list([{name: row.get(name) for name in names} for row in rows]).to_parquet(partial)
    return True


def read_results(kept: Path) -> list[dict]:
    """The rows of a file of collected results."""
    if not kept.is_file():
        sys.exit(f"{kept} is missing; collect results with --results_dirs")
    return Dataset.from_parquet(str(kept), keep_in_memory=True).to_list()
