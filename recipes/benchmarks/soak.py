"""Small runs one after another in one process for an hour: memory, open files, threads and left files must not grow.

    python recipes/benchmarks/soak.py --minutes 60 --folder soak

Each turn makes a whole run of the scenes, calls it again when it is complete and verifies its dataset; generates,
scores, selects and curates by single commands; and removes it all. After every turn a line goes to
`<folder>/soak.csv`; at the end a table compares the last quarter of the turns with the second: the first warms caches
up. It ends with 1 if something has grown.
"""

import contextlib
import csv
import gc
import io
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import datasets
import psutil
from trl import TrlParser

from c3l_hf.cli import main as c3l
from c3l_hf.common.tables import format_table

# What a figure may grow by, from the second quarter of the turns to the last: what an allocator keeps to itself. The
# cache of `datasets` grows by intent: by a copy of each file that is opened, here a new one each turn, and its scores.
ALLOWED = {"memory_mb": 40.0, "open_files": 0, "threads": 0, "children": 0, "temporary_files": 0, "cache_mb": None}


@dataclass
class SoakArguments:
    minutes: float = field(default=60.0)
    images: int = field(default=12, metadata={"help": "Scenes of a run."})
    folder: str = field(default="soak", metadata={"help": "A new folder for everything that is written."})


def commands(folder: Path, images: int) -> list[list[str]]:
    run, count = folder / "run", str(images)
    start = ["run", "--config", "scenes", "--num_images", count, "--max_steps", "2", "--output_dir", str(run)]
    pairs, scored, labels, curated = (str(folder / f"{name}.parquet") for name in ("pairs", "scored", "labels", "kept"))
    return [
        start,
        start,  # complete: nothing is made twice
        ["verify", str(run / "dataset")],
        ["generate", "--images", "scenes", "--num_images", count, "--model", "scenes", "--output", pairs],
        ["score", "--model", "scenes", "--dataset", pairs, "--output", scored],
        ["select", "--dataset", scored, "--output", labels],
        ["curate", "--dataset", scored, "--output", curated],
    ]


def size_and_count(folder: Path) -> tuple[int, int]:
    sizes = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return sum(sizes), len(sizes)


def figures(caches: Path, temporary: Path) -> dict[str, float]:
    gc.collect()
    process = psutil.Process()
    return {
        "memory_mb": process.memory_info().rss / 1e6,
        "open_files": process.num_fds(),
        "threads": process.num_threads(),
        "children": len(process.children(recursive=True)),
        "temporary_files": size_and_count(temporary)[1],
        "cache_mb": size_and_count(caches)[0] / 1e6,
    }


def main(args: SoakArguments) -> int:
    folder = Path(args.folder).absolute()
    folder.mkdir(parents=True)
    temporary, caches, work = (folder / name for name in ("temporary", "caches", "work"))
    for path in (temporary, caches):
        path.mkdir()
    tempfile.tempdir = str(temporary)
    datasets.config.HF_DATASETS_CACHE = caches  # so that what it leaves is counted
    rows: list[dict[str, float]] = []
    began = time.monotonic()
    with (folder / "soak.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["turn", "seconds", *ALLOWED])
        writer.writeheader()
        while time.monotonic() < began + 60 * args.minutes:
            work.mkdir()
            for words in commands(work, args.images):
                said = io.StringIO()
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                    code = c3l(words)
                if code:
                    print(f"{said.getvalue()}\nc3l {' '.join(words)} ended with {code}", file=sys.stderr)
                    return 1
            shutil.rmtree(work)
            rows.append(figures(caches, temporary))
            writer.writerow({"turn": len(rows), "seconds": round(time.monotonic() - began), **rows[-1]})
            file.flush()
    quarter = len(rows) // 4
    if not quarter:
        print(f"{len(rows)} turns are too few to compare: more minutes")
        return 1
    lines: list[tuple[object, ...]] = [("figure, median", "second quarter", "last quarter", "may grow by")]
    grown = []
    for name, allowed in ALLOWED.items():
        before = median(row[name] for row in rows[quarter : 2 * quarter])
        after = median(row[name] for row in rows[-quarter:])
        lines.append((name, f"{before:,.1f}", f"{after:,.1f}", "any" if allowed is None else f"{allowed:g}"))
        grown += [name] * (allowed is not None and after > before + allowed)
    print(f"{len(rows)} turns of {len(commands(work, 1))} commands\n{format_table(lines)}")
    print(f"grown: {', '.join(grown)}" if grown else "nothing has grown")
    return bool(grown)


if __name__ == "__main__":
    (parsed,) = TrlParser(SoakArguments).parse_args_and_config()
    sys.exit(main(parsed))
