"""A dataset that a run has written or published as the source of a report, which then has nothing that it has not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from c3l_hf.common.errors import RunError
from c3l_hf.data.layouts import text_layout
from c3l_hf.publishing.manifest import DataConfig
from c3l_hf.report.counts import cost_table, funnel_of, left_out_table, truth_table
from c3l_hf.report.sources import Source, album_of_parquet, pool_of_parquet

__all__ = ["SECOND_ROUND", "facts_of", "published_source", "versions_of"]

SECOND_ROUND, DATASET = "second round", "dataset"
# Fact → what the report calls it.
_FACTS = {
    "images": "images",
    "images_source": "source of the images",
    "images_license": "licence of the images",
    "generator": "generator before training",
    "generator_revision": "its revision",
    "generator_base": "its base model",
    "scorer": "scored by",
    "pairs_source": "pairs of the first round",
    "templates": "prompt templates",
    "ranking": "ranking score (i2c)",
    "rows": "pairs in the dataset",
    "seed": "seed",
    "license": "licence",
    "config_file": "configuration",
}


def facts_of(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a card's facts say of a run, names and values."""
    told = [(called, facts.get(name)) for name, called in _FACTS.items()]
    return [
        (called, f"{value:,}" if isinstance(value, int) else str(value))
        for called, value in told
        if value not in (None, "")
    ]


def published_source(
    folder: str | Path, facts: Mapping[str, Any], configs: Mapping[str, DataConfig], title: str | None = None
) -> Source:
    """What a written dataset has.

    Args:
        folder: With the files of its configurations.
        facts: Of its card, see `publishing.cards.RunFacts`; whatever version has written them.
        configs: Its configurations; "default" among them.
        title: Of the report; by default that of the card.

    Raises:
        RunError: If it has no configuration with pairs.
    """
    folder = Path(folder)
    if "default" not in configs:
        raise RunError(f"{folder} has no configuration 'default': it is no dataset of pairs")
    kept = pq.read_table([folder / path for path in configs["default"].files], columns=["pair_id"])["pair_id"]
    name, stage = ("scored", SECOND_ROUND) if "scored" in configs else ("default", DATASET)
    pool = pool_of_parquet(stage, folder, configs[name], kept=kept.combine_chunks().cast(pa.string()))
    text_layout(pool.features)
    pictures = configs.get("images", configs["default"])
    stages = facts.get("stages") or ()
    options = facts.get("options") or {}
    return Source(
        title=title or str(facts.get("title") or folder.name),
        facts=[*facts_of(facts), *versions_of(facts)],
        funnel=funnel_of(stages),
        pools=[pool],
        album=album_of_parquet(folder, pictures),
        chosen_by=options.get("curation_score"),
        tables=[
            *truth_table(facts.get("truth")),
            *left_out_table(stages),
            *cost_table(facts.get("tokens"), facts.get("token_prices")),
        ],
        notes=[]
        if name == "scored"
        else ["Only the pairs of the compact dataset are here, not those it was chosen of."],
    )


def versions_of(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fact "versions" of a card's facts, or of what a run's folder says of itself; none if they have none."""
    versions = record.get("versions") or {}
    return [("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))] if versions else []
