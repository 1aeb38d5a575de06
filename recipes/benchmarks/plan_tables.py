"""The tables of docs/plan.md that `c3l run --plan` makes, written into the page.

    python recipes/benchmarks/plan_tables.py

LLaVA-1.5-7B, by the defaults of its configuration class, with the settings of recipes/configs/llava15_7b.yaml. Takes
seconds, and no weights. A test makes the same tables, and compares.
"""

import tempfile
from pathlib import Path

from transformers import LlavaConfig

from c3l_hf.cli.run import COMMAND
from c3l_hf.cli.settings import read_settings
from c3l_hf.common.tables import fill_marks, markdown_table
from c3l_hf.common.usage import format_bytes, format_seconds
from c3l_hf.pipeline.accelerators import ACCELERATORS
from c3l_hf.pipeline.plan import Plan, make_plan
from c3l_hf.pipeline.plan_text import format_plan
from c3l_hf.pipeline.plan_time import HUB
from c3l_hf.pipeline.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "plan.md"
IMAGES, DEVICES = (10_000, 1_000_000, 100_000_000), (1, 8, 64)
_MODEL = "llava-1.5-7b"


def plans() -> dict[tuple[int, int], Plan]:
    """(images, devices) → the plan."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / _MODEL
        LlavaConfig().save_pretrained(folder)
        made = {}
        for images in IMAGES:
            for devices in DEVICES:
                words = ["--config", "llava15_7b", "--model", str(folder), "--num_images", str(images)]
                settings = read_settings(COMMAND, [*words, "--plan", f"{devices}xh100"], {}, list)
                made[images, devices] = make_plan(Settings(*settings.groups))
    return made


def tables() -> dict[str, str]:
    """The name of a place in the page → what stands there."""
    made = plans()
    stages = ("generate", "score", "train", "regenerate", "rescore")
    times = [["images", "H100", *stages, "one process", "all", "longest, and what it waits for"]]
    for (images, devices), plan in made.items():
        one = sum(time.seconds for name, time in plan.times.items() if name not in stages)
        stage, longest = plan.bottleneck
        shown = [format_seconds(plan.times[name].seconds) for name in stages]
        times.append(
            [f"{images:,}", str(devices), *shown, format_seconds(one), format_seconds(plan.seconds)]
            + [f"{stage}: {longest.bound}"]
        )
    room = [["images", "pictures", "disk", "main process", "pushed", "files", "push", "what will not fit"]]
    for images in IMAGES:
        plan = made[images, 8]
        kept, pushed = plan.storage, plan.storage.dataset + plan.storage.model
        sizes = [format_bytes(size) for size in (kept.pictures, kept.run, plan.host, pushed)]
        room.append(
            [f"{images:,}", *sizes, f"{kept.files:,}", format_seconds(pushed / HUB), "; ".join(plan.problems()) or "-"]
        )
    gpus = [["--plan", "", "dense bfloat16", "memory", "bandwidth", "source"]]
    for name, one in ACCELERATORS.items():
        numbers = f"{one.flops / 1e12:,.0f} TFLOP/s", format_bytes(one.memory), f"{one.bandwidth / 1e9:,.0f} GB/s"
        gpus.append([f"`{name}`", one.name, *numbers, one.source])
    return {
        "plan": f"```\n{format_plan(made[1_000_000, 8])}\n```",
        "plan times": markdown_table(times),
        "plan room": markdown_table(room),
        "plan gpus": markdown_table(gpus),
    }


def main() -> None:
    PAGE.write_text(fill_marks(PAGE.read_text("utf-8"), tables()), "utf-8")


if __name__ == "__main__":
    main()
