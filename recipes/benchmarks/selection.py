"""Time and memory of `select` and `curate` against the number of pairs, from shards of scored pairs without pictures.

    python recipes/benchmarks/selection.py --pairs 50000 500000 5000000

Each size has a process of its own, which reads the columns that it needs and runs `choose_labels`, then `choose_pairs`.
The pairs are made up, in shards: about five to an image, of several types, a few without a score, some alike. Small
sizes are also done the plain way, pair by pair, and must give the same rows and the same reports.
"""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import pyarrow as pa
from plain_selection import plain_labels, plain_pairs
from trl import TrlParser

from c3l_hf.common.shards import Shards
from c3l_hf.common.tables import format_table
from c3l_hf.data.schema import PAIR_FEATURES, STATUS
from c3l_hf.pipeline.pair_tables import REPEATED
from c3l_hf.prompts.template_files import load_templates
from c3l_hf.scenes.templates import QUESTION_TYPES, TEMPLATES
from c3l_hf.selection.curation import CURATION_COLUMNS, choose_pairs
from c3l_hf.selection.label_prompts import ASKED_COLUMNS
from c3l_hf.selection.pseudo_labels import LABEL_COLUMNS, choose_labels
from c3l_hf.selection.reports import CurationReport, LengthCorrelation, SelectionReport

SCORE = "i2c"
INSTRUCT = load_templates("instruct")
SCHEMA = pa.schema(
    [
        *(PAIR_FEATURES.arrow_schema.field(name) for name in (*LABEL_COLUMNS, *ASKED_COLUMNS) if name != STATUS),
        pa.field(STATUS, pa.string()),
        pa.field(SCORE, pa.float32()),
    ]
)
IMAGES_PER_TABLE = 20_000
SHARD = 250_000  # pairs
# The plain way compares all pairs with all others: that is for the tests, on few.
_WHOLE = "choose_pairs, near-duplicates in the dataset"
_SYLLABLES = "ba co du fe gi lo mu na pe ri so tu va wi xo ze".split()
VOCABULARY = [first + second + third for first in _SYLLABLES for second in _SYLLABLES for third in ("", "n", "st", "l")]


@dataclass
class SelectionArguments:
    pairs: list[int] = field(
        default_factory=lambda: [50_000, 500_000, 5_000_000], metadata={"help": "Numbers of pairs to compare."}
    )
    pairs_per_image: int = field(default=5, metadata={"help": "Most pairs about an image; few have less."})
    target_size: int = field(default=50_000, metadata={"help": "Pairs that curation keeps, at most."})
    compare_up_to: int = field(
        default=100_000, metadata={"help": "Sizes up to this are done the plain way too (some 10 kB a pair)."}
    )
    folder: str | None = field(default=None, metadata={"help": "Where the shards go; by default a temporary folder."})


def scored_pairs(number: int, pairs: int, per_image: int) -> Iterator[pa.Table]:
    """The pairs of one shard as tables. They depend on the shard's number only, and on how many there are to be."""
    generator = np.random.default_rng([number, per_image])
    first = number * SHARD // per_image
    for start in range(0, pairs, IMAGES_PER_TABLE * per_image):
        rows = min(IMAGES_PER_TABLE * per_image, pairs - start)
        yield _table(generator, np.arange(start, start + rows), first, per_image)


def _table(generator: np.random.Generator, numbers: np.ndarray, first_image: int, per_image: int) -> pa.Table:
    image, k = first_image + numbers // per_image, numbers % per_image
    # Each image has questions of two types.
    types = np.array(QUESTION_TYPES)[(image + (k > per_image // 2)) % len(QUESTION_TYPES)]
    templates = [TEMPLATES.of_type(type)[draw].id for type, draw in zip(types, generator.integers(0, 2, len(types)))]
    # What they were asked: one of the texts of the set "instruct", some 700 letters each.
    asked = [INSTRUCT.templates[draw] for draw in generator.integers(0, len(INSTRUCT.templates), len(types))]
    questions, answers = _texts(generator, len(numbers), 4, 10), _texts(generator, len(numbers), 3, 30)
    # One in ten repeats the pair before it: the same question or one with a word more, the answer too.
    for row in np.flatnonzero((k > 0) & (generator.random(len(numbers)) < 0.1)).tolist():
        more = " " + VOCABULARY[row % len(VOCABULARY)]
        questions[row] = questions[row - 1] if row % 2 else questions[row - 1] + more
        answers[row] = answers[row - 1] if row % 3 else answers[row - 1] + more
    scores = generator.normal(size=len(numbers)).round(3)  # rounded: there are ties
    scores = [None if draw < 0.01 else score for draw, score in zip(generator.random(len(scores)), scores)]
    without_pair = generator.random(len(numbers)) < 0.01
    columns = {
        "image_id": [f"picture-{number:08d}" for number in image],
        "pair_id": [f"picture-{number:08d}/{which}" for number, which in zip(image, k)],
        "template": templates,
        "type": types,
        "prompt": _messages("user", questions, without_pair),
        "completion": _messages("assistant", answers, without_pair),
        "generation_prompt": [[{"role": "user", "content": template.user}] for template in asked],
        "reply_form": [template.reply.to_json() for template in asked],
        STATUS: ["the score is not there" if score is None else "ok" for score in scores],
        SCORE: pa.array(scores, pa.float32()),
    }
    return pa.table([columns[name] for name in SCHEMA.names], SCHEMA)


def _texts(generator: np.random.Generator, count: int, shortest: int, longest: int) -> list[str]:
    lengths = generator.integers(shortest, longest + 1, count)
    words = np.array(VOCABULARY, object)[generator.integers(0, len(VOCABULARY), lengths.sum())].tolist()
    ends = np.cumsum(lengths)
    return [" ".join(words[start:end]) + "." for start, end in zip((ends - lengths).tolist(), ends.tolist())]


def _messages(role: str, texts: list[str], missing: np.ndarray) -> list:
    return [None if gone else [{"role": role, "content": text}] for text, gone in zip(texts, missing)]


def write(folder: Path, pairs: int, per_image: int) -> None:
    """The pairs as shards."""

    def tables(number: int) -> Iterator[pa.Table]:
        return scored_pairs(number, min(SHARD, pairs - number * SHARD), per_image)

    Shards(folder, -(-pairs // SHARD)).write_missing(tables, SCHEMA)


def peak_memory() -> int:
    """Most memory that this process has held until now, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(folder: Path, target_size: int, compare: bool, results: Connection) -> None:
    """Sends the lines of the table for one size, and whether the plain way gives the same (None if not compared)."""
    shards, of_labels = Shards(folder), (*LABEL_COLUMNS, *ASKED_COLUMNS)
    steps: dict[str, tuple[Sequence[str], Callable]] = {
        "choose_labels": (of_labels, partial(choose_labels, score=SCORE)),
        "choose_labels, within all": (of_labels, partial(choose_labels, score=SCORE, within="all")),
        "choose_pairs": (CURATION_COLUMNS, partial(choose_pairs, score=SCORE, target_size=target_size)),
        _WHOLE: (
            CURATION_COLUMNS,
            partial(choose_pairs, score=SCORE, target_size=target_size, near_duplicate_scope="dataset"),
        ),
    }
    lines, chosen = [], {}
    for name, (columns, choose) in steps.items():
        before = peak_memory()
        started = time.perf_counter()
        table = shards.table([*columns, SCORE], REPEATED)
        result, report = choose(table)
        seconds = time.perf_counter() - started
        cells = (f"{seconds:.1f}", int(len(table) / seconds), _size(table.nbytes), _size(before), _size(peak_memory()))
        lines.append((len(table), name, len(result), *cells))
        if compare and name != _WHOLE:
            chosen[name] = (result, report)
        del table, result
    results.send((lines, same_as_plain(shards, target_size, chosen) if compare else None))


def same_as_plain(shards: Shards, target_size: int, chosen: dict[str, tuple]) -> bool:
    """Whether rows and reports are those of the plain way."""
    rows = shards.table([*LABEL_COLUMNS, *ASKED_COLUMNS, SCORE]).to_pylist()
    expected = [
        plain_labels(rows, score=SCORE),
        plain_labels(rows, score=SCORE, within="all"),
        plain_pairs(rows, score=SCORE, target_size=target_size),
    ]
    actual = [
        (result.to_pylist() if isinstance(result, pa.Table) else result.tolist(), _figures(report))
        for result, report in chosen.values()
    ]
    return actual == expected


def _figures(report: CurationReport | SelectionReport) -> dict:
    return {
        name: (value.spearman, value.pairs) if isinstance(value, LengthCorrelation) else value
        for name, value in vars(report).items()
    }


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def main(args: SelectionArguments) -> None:
    context = multiprocessing.get_context("spawn")
    lines = [("pairs", "step", "rows of the result", "seconds", "pairs/s", "table", "peak before", "peak memory")]
    with tempfile.TemporaryDirectory() as temporary:
        for pairs in sorted(args.pairs):
            folder = Path(args.folder or temporary) / str(pairs)
            # Writing has a process of its own too: what it held is no part of the peak.
            _in_a_process(context, write, folder, pairs, args.pairs_per_image)
            written = sum(file.stat().st_size for file in Shards(folder).files)
            print(f"{pairs:,} pairs in {_size(written)} of shards", flush=True)
            ours, theirs = context.Pipe()
            _in_a_process(context, measure, folder, args.target_size, pairs <= args.compare_up_to, theirs)
            measured, same = ours.recv()
            lines += measured
            if same is not None:
                answer = "yes" if same else "NO"
                print(f"{pairs:,} pairs: same rows and reports as the plain way: {answer}", flush=True)
    print(format_table(lines))


def _in_a_process(context: BaseContext, function: Callable, *arguments: object) -> None:
    process = context.Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} ended with {process.exitcode}")


if __name__ == "__main__":
    (arguments,) = TrlParser((SelectionArguments,)).parse_args_and_config()
    main(arguments)
