"""How many rows go into a shard: as many as in those that are there, whatever number of processes made them."""

from pathlib import Path

from c3l_hf.common.processes import process_state
from c3l_hf.common.shards import SHARD_FILES

__all__ = ["sized_folder"]


def sized_folder(folder: str | Path, rows: int, most: int) -> tuple[Path, int]:
    """The folder of a result's shards, and the rows in each of them. Every process calls this, before it makes any.

    Shards of other sizes cannot be mixed, so they are in a folder that is named by their size. What was begun goes on
    with the size that it has, also with more or fewer processes; of several sizes with that of which most rows are
    there.

    Args:
        folder: The folder of the result.
        rows: Rows of the result.
        most: Most rows in a shard; fewer where there are more processes than such shards.
    """
    begun = [path for path in Path(folder).glob("*") if path.name.isdecimal() and path.is_dir()]
    there = {int(path.name): int(path.name) * len(list(path.glob(SHARD_FILES))) for path in begun}
    there = {size: count for size, count in there.items() if count}
    fair = max(1, min(most, -(-rows // process_state().num_processes)))
    size = max(there, key=lambda size: (there[size], size), default=fair)
    process_state().wait_for_everyone()  # all have seen the same
    return Path(folder) / str(size), size
