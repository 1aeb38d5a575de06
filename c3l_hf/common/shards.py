"""A result as a folder of shards: parquet files that are each complete or not there, never merged or copied."""

import errno
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from c3l_hf.common.aside import set_aside
from c3l_hf.common.checksums import checksum, damage_of_file, note, note_of, noted
from c3l_hf.common.files import atomic_write
from c3l_hf.common.nodes import wait_for_files
from c3l_hf.common.processes import process_state

__all__ = ["SHARD_FILES", "Shards"]

logger = logging.getLogger(__name__)

SHARD_FILES = "?????-of-?????.parquet"  # a pattern of their names


class Shards:
    """Parquet files `00000-of-00003.parquet`, … in one folder, in their order. A file is there when it is whole.

    Beside each is its checksum in a hidden file (see `common.checksums`), which is written before the shard has its
    name: whatever ends the process, there is no shard without one.

    Example:

    ```python
    shards = Shards("scores", count=3)
    shards.write_missing(lambda number: tables_of(number), schema)  # goes on after an interruption
    for batch in shards.batches(columns=["pmi"]):
        ...
    ```

    Args:
        folder: Where the files are, or are to be.
        count: How many there are to be; None for those of a complete folder.
        root: A folder above, into whose `set_aside-N` damaged shards are moved; by default the folder itself.
        with_checksums: False for what is given away: there are no checksums then, and damage is not found.

    Raises:
        FileNotFoundError: If `count` is None and the folder does not hold all shards of one result.
    """

    def __init__(
        self,
        folder: str | Path,
        count: int | None = None,
        *,
        root: str | Path | None = None,
        with_checksums: bool = True,
    ):
        self.folder = Path(folder)
        self._root = self.folder if root is None else Path(root)
        self._with_checksums, self._is_checked = with_checksums, False
        if count is None:
            present = sorted(self.folder.glob(SHARD_FILES))
            count = int(present[0].stem[-5:]) if present else -1
            if len(present) != count:
                raise FileNotFoundError(f"{self.folder} has {len(present)} of {max(count, 0)} shards")
        self.files = [self.folder / f"{number:05d}-of-{count:05d}.parquet" for number in range(count)]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def missing(self) -> list[int]:
        """The numbers of the shards that are not there."""
        return [number for number, file in enumerate(self.files) if not file.is_file()]

    def sizes(self) -> list[int]:
        """Rows of each shard."""
        return [pq.read_metadata(file).num_rows for file in self.files]

    @property
    def num_rows(self) -> int:
        return sum(self.sizes())

    def num_rows_there(self) -> int:
        """Rows in the shards that are there."""
        return sum(pq.read_metadata(file).num_rows for file in self.files if file.is_file())

    @property
    def schema(self) -> pa.Schema:
        return pq.read_schema(self.files[0])

    def write_missing(self, make: Callable[[int], Iterable[pa.Table | pa.RecordBatch]], schema: pa.Schema) -> None:
        """Writes the shards that are missing, and those that are damaged (see `check`). Every process calls this: they
        take turns, and return when all are there.

        Args:
            make: Number of a shard → its rows, as tables that need not be in memory together.
            schema: Of the rows.
        """
        state = process_state()
        if state.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.check()
        state.wait_for_everyone()
        missing = self.missing
        state.wait_for_everyone()  # all have seen the same
        for number in missing[state.process_index :: state.num_processes]:
            self.write(number, make(number), schema)
        state.wait_for_everyone()
        wait_for_files(self.files)

    def check(self) -> None:
        """Looks once whether the shards that are there are what was written, and moves those that are not, or belong to
        another result, out of the way, into `set_aside-N`; a warning names each. The main process calls this, while
        the others wait."""
        if self._is_checked or not self._with_checksums:
            return
        self._is_checked = True
        found = {file: "belongs to another result" for file in self.folder.glob(SHARD_FILES) if file not in self.files}
        found |= {file: told for file in self.files if file.is_file() and (told := damage_of_file(file, noted(file)))}
        aside = set_aside(self._root, sorted(found))
        for file, told in sorted(found.items()):
            name = file.relative_to(self._root).as_posix()
            logger.warning("%s %s; it is made again where it is needed. What was there is in %s", name, told, aside)

    def take_away(self, column: str, is_unfit: Callable[[str], bool]) -> int:
        """Takes away the shards that have an unfit text in a column, so that they are made again, and checks all (see
        `check`). The main process calls this, while the others wait.

        Returns:
            How many are left.
        """
        self.check()
        left = 0
        for file in self.files:
            if file.is_file():
                texts = pq.read_table(file, columns=[column])[column].unique().drop_null()
                if any(map(is_unfit, texts.to_pylist())):
                    file.unlink()
                    note_of(file).unlink(missing_ok=True)
                else:
                    left += 1
        return left

    def write(self, number: int, tables: Iterable[pa.Table | pa.RecordBatch], schema: pa.Schema) -> None:
        """Writes one shard into the folder.

        Raises:
            OSError: If it cannot be written, or the folder has gone meanwhile, which is seen at the next table.
        """
        file = self.files[number]
        if self._root == self.folder:  # else it was made, and a run's folder that has gone is not made anew
            self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as partial:
            with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
                for table in tables:
                    if not partial.exists():
                        raise FileNotFoundError(errno.ENOENT, "it has gone while it was written", str(file))
                    table = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
                    writer.write_table(table.cast(schema))
            if self._with_checksums:
                note(file, checksum(partial))

    def batches(
        self, columns: Sequence[str] | None = None, size: int = 1024, numbers: Iterable[int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows in their order, so many at a time.

        Args:
            columns: Those to read; by default all.
            size: Most rows in a batch.
            numbers: The shards to read; by default all.
        """
        for number in range(len(self)) if numbers is None else numbers:
            with pq.ParquetFile(self.files[number]) as file:
                yield from file.iter_batches(size, columns=None if columns is None else list(columns))

    def table(self, columns: Sequence[str] | None = None, repeated: Sequence[str] = ()) -> pa.Table:
        """All rows of some columns, in memory.

        Args:
            columns: Those to read; by default all.
            repeated: Texts, by their paths in Parquet ("reply.list.element.content"), of which few are different: they
                come as dictionaries, in which each is once.
        """
        names = None if columns is None else list(columns)
        read = [pq.read_table(file, columns=names, read_dictionary=list(repeated)) for file in self.files]
        return pa.concat_tables(read)
