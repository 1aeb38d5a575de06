"""How large the report's page is, and how fast in a headless Chromium: first picture, search, scrolling.

    python recipes/benchmarks/report.py --pairs 5000

Pictures are like photographs of 256 pixels, one for every `--pairs_an_image` pairs; answers have 30 tokens.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from photos import photo
from playwright.sync_api import sync_playwright
from trl import TrlParser

from c3l_hf.common.tables import format_table
from c3l_hf.report.content import Content, Pairs, Picture, ShownPair, ShownTurn
from c3l_hf.report.page import write_page

WORDS = (
    "there is a small brown dog beside the red door of an old house in the evening sun while two people walk".split()
)
# Frames while the page is scrolled by 300 pixels in each: their times in ms.
SCROLL = """async () => {
  const times = [];
  window.scrollTo({ top: document.getElementById("gallery").offsetTop, behavior: "instant" });
  let last = performance.now();
  for (let n = 0; n < 240; n++) {
    window.scrollBy({ top: 300, behavior: "instant" });
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - last);
    last = performance.now();
  }
  return times;
}"""
SEARCH = """async (sought) => {
  const start = performance.now();
  await change({ q: sought });
  await new Promise(requestAnimationFrame);
  return performance.now() - start;
}"""
FIRST = "() => [...document.querySelectorAll('#list img')].some((image) => image.complete) && performance.now()"


@dataclass
class ReportArguments:
    pairs: int = field(default=5000)
    pairs_an_image: int = field(default=1, metadata={"help": "Pairs of each picture."})
    distinct: int = field(default=250, metadata={"help": "Pictures that are made; they repeat."})
    chromium: str = field(default="chromium", metadata={"help": "The browser's program."})


def content(args: ReportArguments) -> Content:
    made = [photo(number).resize((256, 256)) for number in range(min(args.distinct, args.pairs))]
    pictures = [
        Picture(f"photo-{number:06}", lambda number=number: made[number % len(made)])
        for number in range(-(-args.pairs // args.pairs_an_image))
    ]

    def rows() -> Iterator[ShownPair]:
        generator = np.random.default_rng(0)
        for number in range(args.pairs):
            tokens = [f" {WORDS[at]}" for at in generator.integers(0, len(WORDS), 30)]
            gain = generator.normal(size=30).tolist()
            turn = ShownTurn(f"What is in picture {number}?", "".join(tokens), tokens, gain, np.abs(gain).tolist())
            scores = dict(zip(("pmi", "token_kl", "answer_kl"), generator.normal(size=3).tolist()))
            stage = "first round" if number % 2 else "second round"
            yield ShownPair(
                f"key-{number}", f"pair-{number}", f"{number:032x}", number // args.pairs_an_image, stage, turns=[turn],
                type="description", language="en", scores=scores,
            )  # fmt: skip

    return Content("Pictures like photographs", Pairs(args.pairs, rows), pictures, ranking="pmi")


def main(args: ReportArguments) -> None:
    lines: list[tuple[str, str]] = [("figure", "value")]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        started = time.perf_counter()
        files = write_page(content(args), Path(folder) / "report.html")
        lines.append(("written in", f"{time.perf_counter() - started:.1f} s"))
        lines.append(("size", f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB in {len(files)} files"))
        # Chromium runs as root only without its sandbox, and the page is our own.
        browser = playwright.chromium.launch(executable_path=shutil.which(args.chromium), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 900})
        page.goto(files[0].as_uri(), wait_until="commit")
        lines.append(("first picture after", f"{page.wait_for_function(FIRST).json_value():.0f} ms"))
        page.wait_for_selector("html[data-ready]")
        for name, sought in (("first search", "picture 123"), ("later search", "brown dog"), ("search for all", "a")):
            lines.append((name, f"{page.evaluate(SEARCH, sought):.0f} ms"))
        page.evaluate(SEARCH, "")
        times = np.array(page.evaluate(SCROLL))
        middle, most, longest = np.median(times), np.quantile(times, 0.95), times.max()
        lines.append(("frames while scrolling", f"median {middle:.0f}, 95 % {most:.0f}, longest {longest:.0f} ms"))
        lines.append(("elements in the page", f"{page.evaluate('document.getElementsByTagName(`*`).length'):,}"))
        browser.close()
    print(format_table(lines))


if __name__ == "__main__":
    (arguments,) = TrlParser((ReportArguments,)).parse_args_and_config()
    main(arguments)
