"""What became of the rows of a stage, counted."""

from collections import Counter

from datasets import Dataset

__all__ = ["generation_counts"]


def generation_counts(dataset: Dataset) -> dict[str, int]:
    """Counts of what `generate_pairs` made: "pairs" (all rows), "ok", then each other status by frequency."""
    counts = Counter(dataset["generation_status"])
    ok = counts.pop("ok", 0)
    return {"pairs": len(dataset), "ok": ok, **dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))}
