"""How long the stages of a plan take, and what each is bound by."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from c3l_hf.pipeline.accelerators import Hardware
from c3l_hf.pipeline.calibration import Calibration
from c3l_hf.pipeline.plan_work import Stage

__all__ = [
    "DISK",
    "HUB",
    "LIKE",
    "MAIN_PROCESS",
    "NEAR_DUPLICATES",
    "ROWS",
    "Timed",
    "alone",
    "assumptions",
    "measured",
    "reached",
    "timed",
]

# Of what a data sheet promises. Tuned training of large transformers reaches 30 to 50 % (the "model FLOPs utilisation"
# of Chowdhery et al. 2022, PaLM, table 3: 21 to 46 %); a decoding step is a sequence of small kernels, each of which
# waits for the one before.
_OF_ARITHMETIC = 0.40
_OF_BANDWIDTH = 0.60
# Seconds that Python and the starts of kernels take in a step of writing, and in each block of it, however fast the
# device: measured on this project's CPU with a model of width 32, whose arithmetic takes no time (docs/plan.md).
_STEP, _BLOCK = 1.1e-3, 0.4e-3
# Seconds that one core takes to decode a megapixel of JPEG and to make tensors of it: measured on this project's CPU,
# see docs/plan.md. A process has one thread for it, which works beside the model.
_PICTURE = 0.021
_DECODED = 0.0085  # of it to decode alone
_THREADS = 16  # of the main process, where it looks for pictures that are alike
# Bytes a second: of a disk that all processes share, and to and from the Hub. Both differ by a factor of ten between
# places.
DISK, HUB = 500e6, 50e6
# What the main process does while the others wait: seconds and bytes for each pair, measured up to 5 million pairs; and
# bytes whatever their number. See docs/speed.md.
MAIN_PROCESS = {"select": (9.8e-6, 700.0), "curate": (12.8e-6, 700.0)}
NEAR_DUPLICATES = (40e-6, 600.0)

# What of a measured stage grows with its rows.
ROWS = "rows"
# The stages of which a calibration tells, and by what it calls them.
LIKE = {"generate": "generate", "score": "score", "train": "train", "regenerate": "generate", "rescore": "score"}


@dataclass(frozen=True)
class Timed:
    """Seconds of a stage.

    Attributes:
        seconds: All.
        bound: What it waits for most.
        parts: What → seconds. Pictures are decoded beside the model, except in training; the longer one counts.
    """

    seconds: float
    bound: str
    parts: Mapping[str, float] = field(default_factory=dict)


def timed(stage: Stage, hardware: Hardware, loading: float) -> Timed:
    """How long a stage takes by the data sheet of its devices, at the assumed shares of it.

    Args:
        stage: Its work.
        hardware: With a data sheet.
        loading: Bytes of weights that are read from disk before it begins.
    """
    sheet = hardware.accelerator
    assert sheet is not None
    arithmetic = sheet.flops * _OF_ARITHMETIC * hardware.devices
    parts = {f"{name}: arithmetic": operations / arithmetic for name, operations in stage.operations.items()}
    if stage.writing_steps:
        written = {
            "writing: memory bandwidth": stage.moved / (sheet.bandwidth * _OF_BANDWIDTH * hardware.devices),
            "writing: arithmetic": stage.written / arithmetic,
            "writing: Python": stage.writing_steps * (_STEP + stage.blocks * _BLOCK) / hardware.devices,
        }
        slowest = max(written, key=written.__getitem__)
        parts[slowest] = written[slowest]
    pictures = {"pictures: one core a device": stage.megapixels * _PICTURE / hardware.devices}
    beside = max(sum(parts.values()), sum(pictures.values()))
    seconds = sum(parts.values()) + sum(pictures.values()) if stage.name == "train" else beside
    loads = {"loading: disk": loading * hardware.machines / DISK} if loading else {}
    parts |= pictures | loads
    return Timed(seconds + sum(loads.values()), _bound(parts, pictures), parts)


def _bound(parts: Mapping[str, float], pictures: Mapping[str, float]) -> str:
    """The longest part; pictures only where the model waits for them."""
    model = {name: seconds for name, seconds in parts.items() if name not in pictures}
    longest = max(model, key=model.__getitem__)
    late = next(iter(pictures), "")
    return late if pictures.get(late, 0) > sum(model.values()) else longest


def measured(stage: Stage, hardware: Hardware, tried: Calibration) -> Timed | None:
    """How long a stage takes by what a short run took; None if it was not tried.

    Args:
        stage: Its work.
        hardware: Devices like the one that was tried.
        tried: The short run, on one device.
    """
    like = LIKE[stage.name]
    if like not in tried.per_row:
        return None
    # A step of the training takes as long on many devices as on one.
    work = tried.per_row[like] * (stage.steps if stage.steps else stage.rows / hardware.devices)
    once = tried.fixed.get(stage.name, tried.fixed.get(like, 0.0))
    return Timed(work + once, "loading and first steps" if once > work else "as measured here", {ROWS: work})


def alone(pairs: int, written: float, similar: float, near_duplicates: bool) -> dict[str, Timed]:
    """How long the stages take that the main process does while the others wait.

    Args:
        pairs: Of a round.
        written: Bytes that are written with the dataset, and read for it.
        similar: Megapixels of pictures that are decoded once more to find those that look alike; 0 if none are.
        near_duplicates: Whether texts are compared over the whole dataset.
    """
    name = "one process: pairs"
    times = {stage: Timed(pairs * each, name) for stage, (each, _) in MAIN_PROCESS.items()}
    parts = {name: times["curate"].seconds}
    if near_duplicates:
        parts["one process: alike texts"] = pairs * NEAR_DUPLICATES[0]
    if similar:
        parts["one process: alike pictures"] = similar * _DECODED / _THREADS
    times["curate"] = Timed(sum(parts.values()), max(parts, key=parts.__getitem__), parts)
    times["write"] = Timed(2 * written / DISK, "one process: disk")
    return times


def reached(stage: Stage, seconds: float, hardware: Hardware) -> str:
    """What of a device a stage reached, in words: of the data sheet, if there is one.

    Args:
        stage: Its work.
        seconds: That its rows took, all devices together, without what is done once.
        hardware: With the data sheet or without.
    """
    rate = stage.flops / seconds / hardware.devices if seconds else 0.0
    told = f"{rate / 1e9:,.1f} GFLOP/s" if rate < 1e12 else f"{rate / 1e12:,.1f} TFLOP/s"
    if hardware.accelerator is None:
        return told
    told += f", {rate / hardware.accelerator.flops:.0%} of the data sheet"
    if stage.moved:
        share = stage.moved / seconds / hardware.devices / hardware.accelerator.bandwidth
        told += f"; {share:.0%} of its bandwidth"
    return told


def assumptions(hardware: Hardware) -> list[str]:
    """What a plan without a measurement assumes, in lines."""
    sheet = hardware.accelerator
    assert sheet is not None
    return [
        f"{_OF_ARITHMETIC:.0%} of {sheet.flops / 1e12:,.0f} TFLOP/s (dense bfloat16) and {_OF_BANDWIDTH:.0%} of "
        f"{sheet.bandwidth / 1e12:,.2f} TB/s: {sheet.source}",
        f"a step of writing takes Python {_STEP * 1e3:g} ms, and {_BLOCK * 1e3:g} ms for each block of the model",
        f"{_PICTURE:g} s of one core for a megapixel of pictures; a disk of {DISK / 1e6:,.0f} MB/s; "
        f"{HUB / 1e6:,.0f} MB/s to and from the Hub",
        "n devices are n times as fast; the rounds' tables, texts and the rest of the CPU's work cost nothing",
    ]
