"""What is set aside: moved under its own path into a folder of its own, and never deleted."""

from collections.abc import Iterable
from pathlib import Path

from c3l_hf.common.files import move

__all__ = ["ASIDE", "set_aside"]

ASIDE = "set_aside"


def set_aside(root: str | Path, paths: Iterable[Path]) -> Path | None:
    """Move files and folders into a new folder `set_aside-N` of the folder that they are in.

    Args:
        root: The folder.
        paths: What is moved, in this order; it lies below `root`, at any depth. What does not exist is left out.

    Returns:
        Where it is now; None if nothing was there.
    """
    root = Path(root)
    there = [path for path in paths if path.exists()]
    if not there:
        return None
    numbers = [path.name.rpartition("-")[2] for path in root.glob(f"{ASIDE}-*")]
    aside = root / f"{ASIDE}-{1 + max((int(number) for number in numbers if number.isdecimal()), default=0)}"
    for path in there:
        target = aside / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        move(path, target)
    return aside
