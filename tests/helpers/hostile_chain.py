"""Hostile rows through the whole chain: loaded, scored, selected, curated, written in other layouts, shown. At each
stage what goes in is what comes out and what is left out, by its reason."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, Value
from scored_rows import assert_same

from c3l_hf.cli import main
from c3l_hf.cli.rows import OutputOptions, write_rows
from c3l_hf.common.errors import RunError
from c3l_hf.common.files import digest
from c3l_hf.data.schema import SCORE_COLUMNS
from c3l_hf.data.status import generation_counts, of_image
from c3l_hf.data.streams import RowStream
from c3l_hf.files.opening import open_dataset
from c3l_hf.generation.pairs import PairGenerationConfig, generate_pairs
from c3l_hf.publishing.conversion import convert
from c3l_hf.scoring.dataset import score_dataset
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.selection.curation import curate
from c3l_hf.selection.pseudo_labels import select_pseudo_labels

FEATURES = Features(
    {
        "image": Image(decode=False),
        **dict.fromkeys(("question", "answer", "image_id", "pair_id", "type"), Value("string")),
        "good": Value("bool"),
    }
)
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


def load(rows: list[dict[str, Any]], file: Path) -> Dataset:
    """The rows by way of a file: parquet, or JSON lines for messages."""
    if "messages" in rows[0]:
        file = file.with_suffix(".jsonl")
        folder = file.with_suffix("")
        folder.mkdir()
        lines = []
        for row in rows:
            image = folder / f"{digest(row['image'])}.png"
            image.write_bytes(row["image"])
            lines.append(json.dumps(row | {"image": str(image)}))
        file.write_text("\n".join(lines))
    else:
        table = pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
        pq.write_table(table, file.with_suffix(".parquet"))
        file = file.with_suffix(".parquet")
    dataset = open_dataset(file)
    assert len(dataset) == len(rows)
    return dataset


def generate(rows: list[dict[str, Any]], model: Any, processor: Any) -> Dataset:
    """Two replies about each picture; of one that cannot be read as many rows, with the reason."""
    images = [{"image": row["image"], "image_id": str(number)} for number, row in enumerate(rows)]
    dataset = Dataset.from_list(images, features=Features({"image": Image(decode=False), "image_id": Value("string")}))
    config = PairGenerationConfig("scenes", pairs_per_image=2, batch_size=64)
    pairs = generate_pairs(dataset, model, processor, config, progress=False)
    assert pairs["image_id"][:] == [str(number) for number in range(len(rows)) for _ in range(2)]
    counts = generation_counts(pairs)
    assert counts.pop("pairs") == len(pairs) == sum(counts.values())
    for status, row in zip(pairs["generation_status"][:], (row for row in rows for _ in range(2))):
        assert _PRINTABLE.fullmatch(status) and not (row["good"] and of_image(status)), status
    return pairs


def score(dataset: Dataset, scorer: I2CScorer, folder: Path) -> Dataset:
    """Each row is there, in its place, with a score or a reason; and good rows have the scores that they have alone."""
    scored = score_dataset(dataset, scorer, cache_dir=folder / "all")
    assert len(scored) == len(dataset) and scored.column_names[: len(dataset.column_names)] == dataset.column_names
    statuses = scored["i2c_status"][:]
    for status, value in zip(statuses, scored["i2c"][:]):
        assert _PRINTABLE.fullmatch(status), status
        assert (value is not None and math.isfinite(value)) if status == "ok" else value is None
    if "good" in dataset.column_names:
        good = [number for number, is_good in enumerate(dataset["good"][:]) if is_good]
        assert {statuses[number] for number in good} <= {"ok"}
        alone = score_dataset(dataset.select(good), scorer, cache_dir=folder / "good")
        assert_same(_score_columns(scored.select(good)), _score_columns(alone))
        assert_same(_score_columns(scored.select(good[:1])), [scorer.score([dataset[good[0]]])[0]])
    return scored


def choose(scored: Dataset) -> None:
    """Pseudo-labels and the compact dataset, from pairs that all are accounted for."""
    ok = sum(status == "ok" for status in scored["i2c_status"][:])
    labels, report = select_pseudo_labels(scored)
    assert report.pairs == len(scored) and report.labels == len(labels)
    assert report.images == report.labels + sum(report.images_dropped.values())
    left = sum(report.pairs_left_out.values())
    assert left >= len(scored) - ok and str(report)
    for target in (5, len(scored)):
        kept, curation = curate(scored, target_size=target, max_per_image=1, near_duplicate_scope="dataset")
        assert curation.pairs == len(scored) == curation.kept + sum(curation.dropped.values()) and str(curation)
        assert len(kept) == curation.kept <= ok and set(kept["i2c_status"][:]) <= {"ok"}


def write(scored: Dataset, folder: Path, layouts: tuple[str, ...]) -> Counter[str]:
    """In other layouts: nothing outside of the folder, each row written or left out, and read back as many."""
    reasons: Counter[str] = Counter()
    for layout in layouts:
        before = set(folder.parent.iterdir())
        try:
            result = convert(RowStream.of(scored, 100), layout, folder / layout)
        except RunError as error:
            assert "none of" in str(error)
            continue
        assert result.read == len(scored) == result.converted + result.left_out.total()
        assert set(folder.parent.iterdir()) == before
        assert len(open_dataset(str(folder / layout / result.files))) == result.written
        reasons.update(result.left_out)
    return reasons


def show(scored: Dataset, folder: Path) -> None:
    """The report: no text of a row is markup there."""
    write_rows(scored, OutputOptions(output=str(folder / "scored.parquet")))
    assert len(open_dataset(folder / "scored.parquet")) == len(scored)
    assert main(["report", str(folder / "scored.parquet"), "-o", str(folder / "page.html")]) == 0
    page = (folder / "page.html").read_text()
    assert not re.search(r"<script>alert|<img src=x|</script><img", page)


def _score_columns(scored: Dataset) -> list[dict[str, Any]]:
    return [dict(zip(SCORE_COLUMNS, values)) for values in zip(*(scored[name][:] for name in SCORE_COLUMNS))]
