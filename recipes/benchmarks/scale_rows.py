"""Memory and time of a run against its rows: flat and linear, or not.

    python recipes/benchmarks/scale_rows.py --rows 200000

Pairs of the scenes world, five to a picture, as files (a JSONL file, pictures beside it) go through `c3l run --pairs`:
they are read, scored by the small generator, and pseudo-labels are chosen. What is replaced is generation: the texts
are stored ones; `--stages` goes on to training and what follows. The run is a process of its own, looked at from
outside: its resident memory, and the rows of the shards that it has finished. At 120 to 180 rows scored a second
200,000 take 20 to 30 minutes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

from c3l_hf.common.tables import format_table
from c3l_hf.scenes.questions import ask
from c3l_hf.scenes.world import render, sample_scenes

_TYPES = ("presence", "count", "colour", "where", "description")
_LOOKS = 2.0  # seconds between two looks
_OPTIONS = ["--dtype", "float32", "--bf16", "false", "--use_lora", "false", "--report_to", "none"]
_OPTIONS += ["--activation_checkpointing", "false", "--max_steps", "20", "--save_strategy", "no"]


def write_pairs(folder: Path, rows: int) -> Path:
    """Pictures, and a file with a line for each pair."""
    rng = np.random.default_rng(0)
    file = folder / "pairs.jsonl"
    (folder / "pictures").mkdir(parents=True)
    with file.open("w", encoding="utf-8") as lines:
        for number, scene in enumerate(sample_scenes(-(-rows // len(_TYPES)), 0, "test")):
            name = f"pictures/{number:07d}.png"
            Image.fromarray(render(scene)).save(folder / name)
            for type in _TYPES:
                question, answer = (
                    ask(scene, type, rng) or ask(scene, "description", rng) or ("What is it?", "Nothing.")
                )
                lines.write(json.dumps({"image": name, "question": question, "answer": answer}) + "\n")
    return file


def rows_of(stage: Path, known: dict[Path, int]) -> int:
    """Rows of the shards that a stage has finished; those that are known are not opened again."""
    for file in stage.rglob("*.parquet"):
        if file not in known:
            try:
                known[file] = pq.read_metadata(file).num_rows
            except (OSError, ValueError):  # it is being written, or has just got its last name
                continue
    return sum(rows for file, rows in known.items() if file.is_relative_to(stage))


def look(process: subprocess.Popen, folder: Path) -> Iterator[tuple[float, str, int, float]]:
    """Seconds, stage, its finished rows, and bytes of memory, until the process ends."""
    began, watched, known = time.monotonic(), psutil.Process(process.pid), {}
    while process.poll() is None:
        try:
            memory = watched.memory_info().rss
        except psutil.NoSuchProcess:
            return
        stages = sorted((folder / "stages").glob("*")) if (folder / "stages").is_dir() else []
        for stage in stages[-2:]:  # the one before may have finished its last shards since the last look
            name = stage.name.partition("_")[2].partition(".")[0]  # without ".unfinished"
            yield time.monotonic() - began, name, rows_of(stage, known), memory
        time.sleep(_LOOKS)


def figures(seen: list[tuple[float, str, int, float]]) -> list[list[str]]:
    """Of each stage and tenth of its rows: seconds from its beginning, rows a second, memory."""
    table = [["stage", "rows", "seconds", "rows/s since the line before", "memory"]]
    for stage in dict.fromkeys(name for _, name, _, _ in seen):
        of_stage = [look for look in seen if look[1] == stage]
        began, most = of_stage[0][0], of_stage[-1][2]
        before = (0.0, 0)
        for tenth in range(1, 11):
            reached = next((look for look in of_stage if look[2] and look[2] >= most * tenth / 10), None)
            if reached is None or reached[2] == before[1]:
                continue
            seconds, rows = reached[0] - began, reached[2]
            rate = (rows - before[1]) / max(seconds - before[0], _LOOKS)
            table.append([stage, f"{rows:,}", f"{seconds:.0f}", f"{rate:,.0f}", f"{reached[3] / 1e9:.2f} GB"])
            before = seconds, rows
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--model", default="scenes", help="what scores; a smaller one than the scenes' is faster")
    parser.add_argument("--stages", nargs="+", default=["generate", "score", "select"])
    parser.add_argument("--folder", type=Path, help="where pictures and run are kept; by default they are thrown away")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = arguments.folder or Path(place)
        began = time.monotonic()
        pairs = folder / "data" / "pairs.jsonl"
        if not pairs.is_file():
            write_pairs(pairs.parent, arguments.rows)
        print(f"{arguments.rows:,} pairs written in {time.monotonic() - began:.0f} s", flush=True)
        words = [sys.executable, "-m", "c3l_hf", "run", "--pairs", str(pairs), "--output_dir", str(folder / "run")]
        words += ["--image_folder", str(pairs.parent), "--model", arguments.model]
        words += [*_OPTIONS, "--stages", *arguments.stages]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        seen = list(look(process, folder / "run"))
        print(format_table(figures(seen)))
        if seen:
            print(f"most memory: {max(memory for *_, memory in seen) / 1e9:.2f} GB")
        sys.exit(process.wait())


if __name__ == "__main__":
    main()
