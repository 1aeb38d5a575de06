"""What `c3l run --plan` prints: a plan as a table, and lines that say what it is bound by and where it is from."""

from c3l_hf.common.tables import format_table
from c3l_hf.common.usage import format_bytes, format_seconds
from c3l_hf.pipeline.options import STAGES
from c3l_hf.pipeline.plan import Plan
from c3l_hf.pipeline.plan_time import HUB, ROWS, assumptions, reached
from c3l_hf.pipeline.plan_work import Texts

__all__ = ["format_plan"]

# What a server generates, and what was not measured, has no time here.
_UNKNOWN = "unknown"


def format_plan(plan: Plan) -> str:
    """A plan, as text."""
    costs, image, hardware = plan.costs, plan.image, plan.hardware
    lines = [
        f"Plan for {hardware}: {plan.images:,} images of {image.width}x{image.height}, {plan.pairs:,} pairs a round",
        f"{plan.model}: {_count(costs.parameters)} parameters, {image.tokens:,} tokens an image",
        "",
        format_table(_table(plan)),
        "",
    ]
    missing = [name for name in plan.stages if name not in plan.times]
    total = f"time: {format_seconds(plan.seconds)}"
    total += f", without {', '.join(missing)}" if missing else ""
    if hardware.devices > 1:
        total += f"; {plan.seconds * hardware.devices / 3600:,.0f} hours of a device"
    stage, time = plan.bottleneck
    lines += [total, f"bottleneck: {stage}, {time.seconds / plan.seconds:.0%} of the time ({time.bound})"]
    lines += _room(plan)
    lines += [f"texts, {plan.texts.source}: {_told_texts(plan.texts)}"]
    if plan.tried is None:
        lines += [f"assumed: {line}" for line in assumptions(hardware)]
    else:
        lines += [f"measured with {plan.tried.images:,} images on this machine: {line}" for line in _reached(plan)]
        lines += [plan.tried.problem] if plan.tried.problem else []
    lines += [f"note: {remark}" for remark in plan.remarks]
    return "\n".join([*lines, *(f"WILL NOT FIT: {problem}" for problem in plan.problems())])


def _table(plan: Plan) -> list[list[str]]:
    rows = [["stage", "rows", "image tokens", "text tokens", "FLOPs", "time", "bound by"]]
    for name in (*plan.stages, *(name for name in plan.times if name not in plan.stages)):
        stage, time = plan.stages.get(name), plan.times.get(name)
        seen = text = ""
        if stage is not None:
            of_text = {kind: number for kind, number in stage.tokens.items() if kind != "image"}
            seen, text = _count(stage.tokens["image"]), " + ".join(f"{_count(n)} {kind}" for kind, n in of_text.items())
        counted = f"{plan.pairs:,} pairs" if stage is None else f"{round(stage.rows):,} {stage.unit}"
        told = (_UNKNOWN, "") if time is None else (format_seconds(time.seconds), time.bound)
        rows.append([name, counted, seen, text, "" if stage is None else f"{stage.flops:.1e}", *told])
    order = {name: place for place, name in enumerate(STAGES)}
    return [rows[0], *sorted(rows[1:], key=lambda row: order[row[0]])]


def _room(plan: Plan) -> list[str]:
    storage = plan.storage
    needed = ", ".join(f"{name} {format_bytes(size)}" for name, size in plan.memory.items())
    room, where = plan.room
    published = storage.dataset + storage.model
    return [
        f"memory of a device: {needed}; {where} has {format_bytes(room)}",
        f"memory of the main process: {format_bytes(plan.host)} to choose among {plan.pairs:,} pairs",
        f"disk: {format_bytes(storage.run)} written; pictures {format_bytes(storage.pictures)}, read again by each "
        "stage that sees them",
        f"Hub: {format_bytes(storage.model)} of weights to each of {plan.hardware.machines:,} machines; a push of "
        f"{format_bytes(published)} in {storage.files:,} files and the generator, {format_seconds(published / HUB)}",
    ]


def _reached(plan: Plan) -> list[str]:
    told = []
    for name in ("generate", "score", "train"):
        if name in plan.stages and name in plan.times:
            seconds = plan.times[name].parts[ROWS]
            told.append(f"{name} reached {reached(plan.stages[name], seconds, plan.hardware)}")
    return told


def _told_texts(texts: Texts) -> str:
    return (
        f"prompt {texts.prompt:.0f} tokens, reply {texts.reply:.0f} (at most {texts.longest}), scored pair "
        f"{texts.pair:.0f}, its answer {texts.answer:.0f}"
    )


def _count(number: float) -> str:
    """A number in three digits: 950, 1.23M, 4.56B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
