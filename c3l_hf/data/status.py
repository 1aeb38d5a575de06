"""What became of the rows of a stage, counted."""

import re
from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
from datasets import Dataset

__all__ = [
    "count_reasons",
    "count_repeated",
    "count_statuses",
    "generation_counts",
    "of_image",
    "publishable",
    "reason_kind",
    "remedy",
    "without_folders",
]

# The name of an image within a reason: an address, or that of a file.
_ADDRESS = re.compile(
    r"(?P<image>the image) is an address, (?P<name>.+?), (?P<what>which (?:is not fetched|could not be downloaded).*)",
    re.DOTALL,
)
_FILE = re.compile(
    r"(?P<image>the image) (?P<name>.+?) (?P<what>(?:cannot be read|is not in the folder|is on another machine|"
    r"is \w+, which is not read).*)",
    re.DOTALL,
)

_OF_OTHERS = ("the processor refuses the row", "the model fails at the row")


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


def count_reasons(statuses: Iterable[str]) -> list[tuple[str, int]]:
    """Reasons and how many rows have each, by frequency. Those that are the same but for the name of a file, an address
    or a number are one, with the first as its example, whole, and what may help."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for status in statuses:
        kind, example = _kind_of(status)
        counts[kind] += 1
        if example:
            examples.setdefault(kind, example)
    return [
        (f"{kind}{f', as {examples[kind]}' if kind in examples else ''}{remedy(kind)}", count)
        for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def reason_kind(status: str) -> str:
    """A reason without the name of a file, an address or a number, so that equal ones have one name."""
    return _kind_of(status)[0]


def _kind_of(status: str) -> tuple[str, str | None]:
    """A reason without what is particular to its row, and the name that it has of an image."""
    example = None
    if found := _ADDRESS.match(status) or _FILE.match(status):
        example = found["name"]
        comma = "is an address, " if found.re is _ADDRESS else ""
        status = f"{found['image']} {comma}{found['what']}"
    if status.startswith(_OF_OTHERS):  # a processor's or a model's own words may quote the row
        status = re.sub(r"'[^']*'|\"[^\"]*\"", "…", status)
    # Paths of the system's own messages; numbers, but for those that name an error.
    return re.sub(r"(?<!Errno )(?<!HTTP )\b\d+", "N", re.sub(r": '/[^']*'", "", status)), example


def without_folders(status: str) -> str:
    """A reason as it may be sent to others: a file by its name, without the folders that it is in on this machine."""
    found = _FILE.match(status)
    if found is None:
        return status
    name, what = found["name"].replace("\\", "/"), re.sub(r""":? (['"])/.*?\1""", "", found["what"])
    is_absolute = re.match(r"/|\w:/|file:", name) is not None
    return f"{found['image']} {name.rpartition('/')[2] if is_absolute else name} {what}"


def remedy(kind: str) -> str:
    """What may help against a reason, where that is not said in it."""
    if "no such file" in kind:
        return "; is image_folder, where relative paths begin, given and right?"
    return ""


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


def publishable(status: str, which: str = "the image") -> str:
    """A row's status as a run keeps, counts and publishes it: of an image that cannot be read why, without the
    file's path on this machine; of one on the web what is wrong, without its address.

    Args:
        status: As `open_image` has it.
        which: Of several images of a row, "images[1]".
    """
    status = re.sub(
        r"the image is an address, .*?, which (is not|could not)", r"the image is an address, which \1", status
    )
    status = re.sub(r"^the image .* is (\w+), which is not read", r"the image is \1, which is not read", status)
    status = re.sub(r"^the image .* is on another machine", "the image is on another machine", status)
    status = re.sub(r"^the image .* is not in the folder.*", "the image is not in the folder of the images", status)
    status = re.sub(
        r"^the image.*? cannot be read: ([^:]*).*", r"the image cannot be read (\1)", status, flags=re.DOTALL
    )
    return re.sub(r"^the image", which, status)
