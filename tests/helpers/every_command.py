"""What test_many_processes.py runs: python every_command.py DIR

Commands of `c3l` in one process (DIR/1) and in two (DIR/2), from the same rows; exits with 1 if one of them fails. All
are children of this process, so that what takes seconds to load is loaded once.
"""

import sys
from pathlib import Path
from unittest.mock import patch

import datasets
from ranks import in_ranks

from c3l_hf.cli import main

GENERATE = "generate --images scenes --num_images 4 --pairs_per_image 2 --model scenes --dtype float32 --output"
SHARED_OUT = (
    "run --config scenes --num_images 4 --pairs_per_image 2 --stages generate score --output_dir {out}/run",
    f"{GENERATE} {{out}}/pairs.parquet",
    "score --dataset {rows}/pairs.parquet --model scenes --output {out}/scored.parquet",
)
OF_THE_FIRST = (
    "select --dataset {rows}/scored.parquet --output {out}/labels.parquet",
    "curate --dataset {rows}/scored.parquet --target_size 4 --output {out}/curated.parquet",
)


def in_processes(folder: Path, count: int, commands: tuple[str, ...], cache: str) -> None:
    def work(_: int) -> int:
        datasets.config.HF_DATASETS_CACHE = folder / f"cache-{cache}"
        return max(main(words.format(out=folder / str(count), rows=folder / "1").split()) for words in commands)

    told = folder / f"told-{count}-{commands[0].split()[0]}"
    if any(in_ranks(count, work, told)):
        sys.exit("\n".join(file.read_text()[-2000:] for file in sorted(told.iterdir())))


def refuse(*_, **__):
    raise AssertionError("generated again")


if __name__ == "__main__":
    here = Path(sys.argv[1])
    for processes in (1, 2):
        (here / str(processes)).mkdir()
        in_processes(here, processes, SHARED_OUT, f"{processes}")
        in_processes(here, processes, OF_THE_FIRST, f"{processes}")
    with patch("c3l_hf.cli.generate.generate_tables", refuse):
        in_processes(here, 1, (f"{GENERATE} {{out}}/again.parquet",), "2")
