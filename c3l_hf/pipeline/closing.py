"""What a run tells at its end: what its stages took, some of its pairs, and where to look further."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from c3l_hf.common.run_folder import RunFolder
from c3l_hf.common.tables import format_table
from c3l_hf.common.usage import format_bytes, format_seconds
from c3l_hf.common.words import in_one_line
from c3l_hf.data.row_texts import turns_of
from c3l_hf.data.schema import STATUS, STATUS_OK
from c3l_hf.pipeline.inputs import REPORT, UNREADABLE
from c3l_hf.pipeline.pair_tables import ScoredPairs

__all__ = ["format_closing"]

# The newest first.
_ROUNDS = (("regenerate", "rescore"), ("generate", "score"))
_PAIRS_SHOWN = 3
_MOST_CHARACTERS = 110
# What may be in a run's folder → what it is.
_PLACES = {REPORT: "report", UNREADABLE: "unreadable pictures"}


def format_closing(folder: RunFolder, stages: Sequence[str], ranking: str) -> str:
    """What a run tells when these stages are complete."""
    places = [f"{name}: {folder.folder / file}" for file, name in _PLACES.items() if (folder.folder / file).is_file()]
    parts = [_format_usage(folder, stages), _format_pairs(folder, stages, ranking), "\n".join(places)]
    return "\n\n".join(part for part in parts if part)


def _format_usage(folder: RunFolder, stages: Sequence[str]) -> str:
    """A line for each stage: its time by the clock, and the most memory; nothing of a run of an older version."""
    usages = {stage: folder.usage(stage) for stage in stages if folder.is_done(stage)}
    if not any(usages.values()):
        return ""
    on_accelerator = any("peak_accelerator_bytes" in usage for usage in usages.values())
    rows: list[list[str]] = [["", "time", "memory (process)", *["memory (accelerator)"] * on_accelerator]]
    for stage, usage in usages.items():
        sizes = [usage.get(name) for name in ("peak_memory_bytes", "peak_accelerator_bytes")[: 1 + on_accelerator]]
        told = [format_seconds(usage["seconds"]) if usage else "-"]
        # A training goes on from its checkpoint, and nobody has kept what was before.
        since = folder.report(stage).get("from_step")
        rows.append([stage + (f" (from step {since:,})" if since else ""), *told])
        rows[-1] += ["-" if size is None else format_bytes(size) for size in sizes]
    rows.append(["all", format_seconds(sum(usage.get("seconds", 0.0) for usage in usages.values()))])
    rows[-1] += [""] * (len(rows[0]) - len(rows[-1]))
    return format_table(rows)


def _format_pairs(folder: RunFolder, stages: Sequence[str], ranking: str) -> str:
    """The best and the worst pairs of the newest round, to look at."""
    there = [names for names in _ROUNDS if set(names) <= set(stages) and all(map(folder.is_done, names))]
    if not there:
        return ""
    scored = ScoredPairs(*map(folder.shards, there[0]))
    columns = scored.table(["i2c", STATUS, "image_row"])
    scores, images = columns["i2c"].to_numpy().astype(float), columns["image_row"].to_numpy()
    usable = np.flatnonzero((columns[STATUS].to_numpy() == STATUS_OK) & np.isfinite(scores))
    order = usable[np.argsort(-scores[usable], kind="stable")]
    best = _one_of_each(order, images)
    worst = _one_of_each(order[~np.isin(order, best)][::-1], images)[::-1]
    numbers = [*best, *worst]
    if not numbers:
        return ""
    rows = scored.rows(numbers, ["image_id", "prompt", "completion", "i2c"]).to_pylist()
    lines = [f"{ranking} of the pairs of {there[0][0]}, highest:", *map(_format_pair, rows[: len(best)])]
    if len(worst):
        lines += ["lowest:", *map(_format_pair, rows[len(best) :])]
    return "\n".join(lines)


def _one_of_each(order: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The first rows of an order, about different images."""
    _, first = np.unique(images[order], return_index=True)
    return order[np.sort(first)[:_PAIRS_SHOWN]]


def _format_pair(row: dict[str, Any]) -> str:
    (question, answer), *others = turns_of(row["prompt"], row["completion"])
    more = f" (and {len(others)} more turns)" if others else ""
    shown = [in_one_line(text, _MOST_CHARACTERS) for text in (row["image_id"], question, answer)]
    return f"  {row['i2c']:7.3f}  {shown[0]}\n           {shown[1]}\n           → {shown[2]}{more}"
