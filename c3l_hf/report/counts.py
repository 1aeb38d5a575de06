"""Counts of a run as a report shows them: what became of the rows of each stage, and what the stages cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from c3l_hf.common.prices import cost_of
from c3l_hf.common.usage import format_bytes
from c3l_hf.data.status import reason_kind
from c3l_hf.report.content import Funnel, Table
from c3l_hf.selection.label_choice import RULES

__all__ = ["cost_table", "funnel_of", "left_out_table", "truth_table", "usage_table"]

_DROPPED = "dropped: "
_TOTALS = ("pairs", "ok", "images", "kept", "pseudo-labels", "steps")
# Rows of later attempts are among the pairs already.
_BESIDE = ("images asked about again", "pairs of attempt")


def funnel_of(stages: Sequence[tuple[str, Sequence[tuple[str, int]]]]) -> list[Funnel]:
    """What became of the rows of each stage.

    Args:
        stages: (name, [(label, number), …]) in the order of the run, as its cards have them.
    """
    funnel = []
    for stage, pairs in stages:
        counts = {str(label): int(number) for label, number in pairs}
        reasons = {
            label.removeprefix(_DROPPED): count
            for label, count in counts.items()
            if label not in _TOTALS and not label.startswith(_BESIDE) and count
        }
        if stage in ("generate", "regenerate"):
            funnel.append(Funnel(stage, None, counts.get("ok", 0), _sorted(_kinds(reasons))))
        elif stage in ("score", "rescore"):
            ok = counts.get("ok", 0)
            funnel.append(Funnel(stage, ok + sum(reasons.values()), ok, _sorted(_kinds(reasons))))
        elif stage == "select":
            of_images = {rule: count for rule, count in reasons.items() if rule in RULES}
            # The other reasons are of pairs beside a chosen one, see `left_out_table`.
            funnel.append(Funnel(stage, counts.get("images"), counts.get("pseudo-labels", 0), _sorted(of_images)))
        elif stage == "curate":
            funnel.append(Funnel(stage, counts.get("pairs"), counts.get("kept", 0), _sorted(reasons)))
    return funnel


def left_out_table(stages: Sequence[tuple[str, Sequence[tuple[str, int]]]]) -> list[Table]:
    """Why pairs are in no pseudo-label."""
    counts = {str(label): int(number) for stage, pairs in stages if stage == "select" for label, number in pairs}
    reasons = {
        label.removeprefix(_DROPPED): count
        for label, count in counts.items()
        if label.startswith(_DROPPED) and label.removeprefix(_DROPPED) not in RULES and count
    }
    rows = [[reason, f"{count:,}"] for reason, count in _sorted(reasons)]
    return [Table("Pairs in no pseudo-label", ["reason", "pairs"], rows)] if rows else []


def _kinds(reasons: Mapping[str, int]) -> Counter[str]:
    """Reasons that differ in a number, as those of texts that are too long, as one."""
    kinds: Counter[str] = Counter()
    for reason, count in reasons.items():
        kinds[reason_kind(reason)] += count
    return kinds


def _sorted(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(reasons.items(), key=lambda item: (-item[1], item[0]))


def cost_table(
    tokens: Sequence[tuple[str, str | None, int | None, int | None]] | None, prices: Sequence[float | None] | None
) -> list[Table]:
    """Tokens by stage and model, with what they cost at servers, if prices are known; as `cards.RunFacts` has them."""
    if not tokens:
        return []
    rows = []
    for stage, model, *counts in tokens:
        told = "in the run's own process" if model is None else str(model)
        rows.append([str(stage), told, *("not reported" if count is None else f"{count:,}" for count in counts)])
        if prices:
            cost = cost_of(counts, prices)
            told = "not reported" if cost is None else f"{cost:,.4f}"
            rows[-1].append("" if model is None else told)
    header = ["stage", "model", "tokens of prompts", "tokens of replies", *["cost"] * bool(prices)]
    return [Table("Tokens", header, rows, "As those who wrote the replies counted them.")]


def usage_table(records: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Time and memory of each stage, of those whose record has them."""
    rows = []
    for stage, record in records.items():
        seconds, memory = record.get("seconds"), record.get("peak_memory_bytes")
        accelerator = record.get("peak_accelerator_bytes")
        if seconds is not None or memory is not None:
            sizes = ["" if size is None else format_bytes(size) for size in (memory, accelerator)]
            rows.append([stage, "" if seconds is None else f"{seconds:,.1f} s", *sizes])
    header = ["stage", "time", "most memory", "most memory of the accelerator"]
    return [Table("Time and memory", header, rows, "Of the process that had most.")] if rows else []


def truth_table(truth: Sequence[tuple[str, int, float, float, float]] | None) -> list[Table]:
    """The shares of true pairs, as `cards.RunFacts` has them."""
    rows = [
        [str(pairs).strip(), f"{judged:,}", f"{share:.1%}", f"{low:.1%} to {high:.1%}"]
        for pairs, judged, share, low, high in truth or ()
    ]
    note = (
        "The truth of these images is known. It took no part in choosing pairs. Each type of question counts the same."
    )
    return [Table("Truth", ["pairs", "judged", "true", "95 % interval"], rows, note)] if rows else []
