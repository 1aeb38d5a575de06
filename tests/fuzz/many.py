"""As many hostile rows as one wants through the whole chain, with what became of them and the memory that it took:

PYTHONPATH=tests/helpers python tests/fuzz/many.py --rows 6000 --seed 0
"""

import argparse
import os
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
from hostile_chain import choose, generate, load, score, show, write
from hostile_rows import messages, rows
from tiny_models import tiny_llava
from transformers import AutoModelForImageTextToText, AutoProcessor

from c3l_hf.common.tables import format_table
from c3l_hf.data.status import reason_kind
from c3l_hf.scenes import GENERATOR
from c3l_hf.scoring.scorer import I2CScorer

_AT_ONCE = 500
_GENERATED = 40  # pictures of each part that pairs are generated about, which takes most of the time
_LAYOUTS = ("llava", "sharegpt", "openai", "csv", "jsonl", "texts", "webdataset", "trl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6000, help="How many; half of them have messages.")
    parser.add_argument("--seed", type=int, default=0, help="What they are drawn from.")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    scorer = I2CScorer(*tiny_llava())
    generator = AutoModelForImageTextToText.from_pretrained(GENERATOR), AutoProcessor.from_pretrained(GENERATOR)
    counts: Counter[str] = Counter()
    for number, start in enumerate(range(0, options.rows, _AT_ONCE)):
        begun, seed = time.monotonic(), options.seed * 1_000_003 + number
        made = (messages if number % 2 else rows)(min(_AT_ONCE, options.rows - start), seed)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            datasets.config.HF_DATASETS_CACHE = folder / "cache"
            if number % 2 == 0:
                pairs = generate(made[:_GENERATED], *generator)
                counts.update(f"generate: {reason_kind(status)}" for status in pairs["generation_status"][:])
            scored = score(load(made, folder / "rows"), scorer, folder / "scores")
            counts.update(f"score: {reason_kind(status)}" for status in scored["i2c_status"][:])
            choose(scored)
            (folder / "out").mkdir()
            counts.update(f"convert: {reason}" for reason in write(scored, folder / "out", _LAYOUTS).elements())
            show(scored, folder)
        taken, memory = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"seed {seed}: {len(made):,} rows, {taken:.0f} s, peak {memory / 2**10:,.0f} MiB", flush=True)
    print(format_table([("what became of them", "rows"), *counts.most_common()]))


if __name__ == "__main__":
    main()
