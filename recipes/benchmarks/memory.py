"""Peak memory and time of the scorer against the number of rows, streamed from the scenes world.

    python recipes/benchmarks/memory.py --rows 1000 50000

Each number of rows has a process of its own: `IterableDataset.map(scorer)` with the small generator over scenes that
are drawn as they are asked for, five questions to each.
"""

import multiprocessing
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from datasets import IterableDataset
from PIL import Image
from trl import TrlParser

from c3l_hf.common.tables import format_table
from c3l_hf.scenes import GENERATOR
from c3l_hf.scenes.questions import ask
from c3l_hf.scenes.world import render, sample_scenes
from c3l_hf.scoring.scorer import I2CScorer

TYPES = ("presence", "count", "colour", "where", "description")


@dataclass
class MemoryArguments:
    rows: list[int] = field(default_factory=lambda: [1000, 50000], metadata={"help": "Numbers of rows to compare."})
    batch_size: int = field(default=250, metadata={"help": "Rows given to the scorer at once."})


def stream(count: int) -> Iterator[dict]:
    rng = np.random.default_rng(0)
    for scene in sample_scenes(-(-count // len(TYPES)), 0, "test"):
        image = Image.fromarray(render(scene))
        for type in TYPES:
            question, answer = ask(scene, type, rng) or ask(scene, "description", rng)
            yield {"image": image, "question": question, "answer": answer}


def measure(count: int, batch_size: int, pipe) -> None:
    scorer = I2CScorer.from_pretrained(GENERATOR, dtype="float32")
    started = time.perf_counter()
    rows = IterableDataset.from_generator(stream, gen_kwargs={"count": count})
    scored = rows.map(scorer, batched=True, batch_size=batch_size)
    finished = sum(row["i2c_status"] == "ok" for row in scored)
    pipe.send((finished, time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def main(args: MemoryArguments) -> None:
    context = multiprocessing.get_context("spawn")
    table = [("rows", "with scores", "rows/s", "peak memory")]
    for count in args.rows:
        ours, theirs = context.Pipe()
        process = context.Process(target=measure, args=(count, args.batch_size, theirs))
        process.start()
        finished, seconds, memory = ours.recv()
        process.join()
        table.append((f"{count:,}", finished, f"{count / seconds:.0f}", f"{memory / 1e9:.2f} GB"))
    print(format_table(table))


if __name__ == "__main__":
    (arguments,) = TrlParser((MemoryArguments,)).parse_args_and_config()
    main(arguments)
