"""What became of the rows of a stage, counted."""

import re
from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
from datasets import Dataset

__all__ = ["count_repeated", "count_statuses", "generation_counts", "of_image", "publishable"]


def generation_counts(dataset: Dataset) -> dict[str, int]:
    """Counts of what `generate_pairs` made: "pairs" (all rows), "ok", then each other status by frequency."""
    return count_statuses(dataset["generation_status"], "pairs")


def count_statuses(statuses: Iterable[str], rows: str) -> dict[str, int]:
    """How many rows there are, how many are "ok", then each other status by frequency.

    Args:
        statuses: Of each row.
        rows: What the number of all rows is called.
    """
    counts = Counter(statuses)
    total, ok = counts.total(), counts.pop("ok", 0)
    return {rows: total, "ok": ok, **dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))}


def count_repeated(tables: Iterable[pa.Table | pa.RecordBatch]) -> int:
    """How many pairs have the same texts as an earlier one of their image.

    Args:
        tables: With `image_id`, `prompt` and `completion`; the pairs of an image come one after the other.
    """
    image, seen, repeated = None, set[str](), 0
    for table in tables:
        for row in table.select(["image_id", "prompt", "completion"]).to_pylist():
            if row["image_id"] != image:
                image, seen = row["image_id"], set()
            if row["prompt"] is not None:
                texts = str((row["prompt"], row["completion"]))
                repeated += texts in seen
                seen.add(texts)
    return repeated


def of_image(status: str) -> bool:
    """Whether a row's status says that its image cannot be shown to a model: whatever is asked about it."""
    return re.match(r"no image$|the image |images\[\d+\] ", status) is not None


def publishable(status: str) -> str:
    """A row's status as a run keeps, counts and publishes it: of an image that cannot be read the kind of error, as
    generation says it, without what the decoder and the system say, such as the file's path on this machine; of one on
    the web what is wrong, without its address."""
    status = re.sub(
        r"the image is an address, .*?, which (is not|could not)", r"the image is an address, which \1", status
    )
    status = re.sub(r"^the image .* is (\w+), which is not read", r"the image is \1, which is not read", status)
    status = re.sub(r"^the image .* is on another machine", "the image is on another machine", status)
    status = re.sub(r"^the image .* is not in the folder.*", "the image is not in the folder of the images", status)
    return re.sub(r"the image.*? cannot be read: (\w+).*", r"the image cannot be read (\1)", status, flags=re.DOTALL)
