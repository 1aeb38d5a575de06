"""Bytes, memory and time of a whole run, and of a start on a folder that is known already, by number of pictures.

    python recipes/benchmarks/storage.py --images 40 160 640
    python recipes/benchmarks/storage.py --start_images 100000

A run of C3L with the small generator of the scenes world on photographs-to-be: noise, about 100 kB a picture. *Written*
is what the process handed to the system (`wchar` of /proc/self/io), without the weights of the models; *needed* are the
pictures and, once, the texts and scores of both rounds. Every run is a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from c3l_hf.common.tables import format_table

PAIRS_PER_IMAGE = 5
_OPTIONS = ["--images_license", "cc0-1.0", "--license", "cc0-1.0", "--report_to", "none", "--save_strategy", "no"]


def make_pictures(folder: Path, count: int, side: int) -> int:
    """JPEG files of noise; their bytes."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06d}.jpg", quality=80)
    return sum(file.stat().st_size for file in folder.iterdir())


def bytes_of(folder: Path, *patterns: str) -> int:
    return sum(file.stat().st_size for pattern in patterns for file in folder.glob(pattern) if file.is_file())


def written_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar")).split()[1])


def run(pictures: Path, output: Path) -> dict[str, float]:
    """One run in this process."""
    from c3l_hf.cli import main

    started, before = time.monotonic(), written_bytes()
    arguments = ["run", "--config", "scenes", "--images", str(pictures), "--output_dir", str(output), *_OPTIONS]
    arguments += ["--max_steps", "2", "--pairs_per_image", str(PAIRS_PER_IMAGE), "--target_size", "1000000"]
    if code := main(arguments):
        raise SystemExit(code)
    return {
        "written": written_bytes() - before,
        "seconds": time.monotonic() - started,
        "memory": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def start(pictures: Path, output: Path) -> dict[str, float]:
    """The beginning of a run in this process: imports, options, a look at the pictures."""
    started = time.monotonic()
    from c3l_hf.data.sources import load_images

    images = load_images(str(pictures), inventory=output / "images.parquet")
    return {"seconds": time.monotonic() - started, "images": len(images)}


def in_a_process_of_its_own(name: str, *folders: Path) -> dict[str, float]:
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folders[-1].parent / "cache")}
    command = [sys.executable, __file__, "--only", name, *map(str, folders)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def measure(count: int, side: int) -> list[object]:
    with tempfile.TemporaryDirectory() as name:
        folder, output = Path(name), Path(name) / "run"
        pictures = make_pictures(folder / "pictures", count, side)
        found = in_a_process_of_its_own("run", folder / "pictures", output)
        weights = bytes_of(output, "stages/*/generator/*.safetensors", "generator/*.safetensors")
        texts = bytes_of(output, "stages/*generate/*.parquet", "stages/*score/*.parquet")
        written, needed = found["written"] - weights, pictures + texts
        kept = bytes_of(output, "**/*") - weights
    rows = 2 * count * PAIRS_PER_IMAGE
    return [
        f"{count:,}",
        f"{pictures / 1e6:.1f}",
        f"{texts / 1e6:.2f}",
        f"{written / 1e6:.1f}",
        f"{written / needed:.2f}",
        f"{kept / needed:.2f}",
        f"{found['memory'] / 1e9:.2f}",
        f"{found['seconds']:.0f}",
        f"{rows / found['seconds']:.0f}",
    ]


def measure_start(count: int) -> list[tuple]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder / "pictures", count, 16)
        looks = [in_a_process_of_its_own("start", folder / "pictures", folder / "run") for _ in range(2)]
    return [(f"{count:,}", *(f"{look['seconds']:.1f}" for look in looks))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="*", default=[40, 160, 640], help="numbers of pictures of a run")
    parser.add_argument("--side", type=int, default=384, help="pixels of a side: 384 are about 100 kB")
    parser.add_argument("--start_images", type=int, default=20_000, help="pictures of a start; 0: none")
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        name, pictures, output = args.only
        print(json.dumps({"run": run, "start": start}[name](Path(pictures), Path(output))))
        return
    header = ("pictures", "MB", "texts and scores, MB", "written, MB", "written / needed", "kept / needed", "GB", "s")
    print(format_table([(*header, "pairs/s"), *(measure(count, args.side) for count in args.images)]), flush=True)
    if args.start_images:
        rows = [("pictures", "first look, s", "second look, s"), *measure_start(args.start_images)]
        print(f"\n{format_table(rows)}")


if __name__ == "__main__":
    main()
