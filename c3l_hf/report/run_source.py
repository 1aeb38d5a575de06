"""A run's folder as the source of a report: of all stages that are there, also of a run that is not finished."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from c3l_hf.common.errors import RunError
from c3l_hf.common.shards import Shards
from c3l_hf.data.schema import EMBEDDING
from c3l_hf.data.sources import Images
from c3l_hf.prompts.template_files import load_templates
from c3l_hf.publishing.figures import token_sums
from c3l_hf.publishing.manifest import FolderError, Manifest
from c3l_hf.report.charts import as_svg, curves
from c3l_hf.report.content import Chart
from c3l_hf.report.counts import cost_table, funnel_of, left_out_table, truth_table, usage_table
from c3l_hf.report.pools import Album
from c3l_hf.report.published_source import SECOND_ROUND, facts_of, versions_of
from c3l_hf.report.sources import (
    NO_PICTURES,
    Source,
    Truth,
    album_of_images,
    album_of_parquet,
    pool_of_stages,
    read_record,
)

__all__ = ["FIRST_ROUND", "run_source"]

FIRST_ROUND = "first round"
_LEARNT = (("total", "loss"), ("likelihood", "loss/nll"), ("contrastive", "loss/contrastive"))


def run_source(folder: str | Path, images: Images | None = None) -> Source:
    """What a run's folder has.

    Args:
        folder: With `run.json` and `stages`.
        images: The run's images; by default those of the dataset that it has written, `<folder>/dataset`. With images
            of an embedded world, and its own templates, the report also says which pairs are true.

    Raises:
        RunError: If the folder is no run's, or has no pairs yet.
    """
    folder = Path(folder)
    run, records = read_record(folder / "run.json"), _records(folder)
    paths = {name: path for name, (path, _) in records.items()}
    if "generate" not in records:
        raise RunError(f"{folder} has no pairs yet: its first stage is not complete")
    notes, are_true = [], _truth_about(images, run)
    labels = _shards(paths, "select").table() if "select" in paths else None
    kept = _shards(paths, "curate").table(["pair_id"])["pair_id"].combine_chunks() if "curate" in paths else None
    pools = []
    for stage, made, scored, parts in (
        (FIRST_ROUND, "generate", "score", {"labels": labels}),
        (SECOND_ROUND, "regenerate", "rescore", {"kept": kept}),
    ):
        if made in paths:
            scores = _shards(paths, scored) if scored in paths else None
            pairs = _shards(paths, made)
            vectors = _vectors(folder / "embeddings" / scored, pairs)
            pools.append(pool_of_stages(stage, pairs, scores, are_true=are_true, vectors=vectors, **parts))
    missing = [name for name in run.get("stages") or () if name not in records]
    if missing:
        notes.append(f"The run is not finished: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.")
    album, manifest = _album(folder / "dataset", images)
    if manifest is None and images is None:
        notes.append(f"No pictures: {NO_PICTURES}.")
    stages = [(name, list(record.get("counts", {}).items())) for name, (_, record) in records.items()]
    written = [name for name in ("generate", "regenerate") if name in paths]
    tokens = [(stage, *row) for stage in written for row in _tokens(_shards(paths, stage))]
    facts = {} if manifest is None else manifest.facts
    curation = read_record(paths["curate"] / "stage.json") if "curate" in paths else {}
    return Source(
        title=str(facts.get("title") or folder.resolve().name),
        facts=[("run", folder.resolve().name), *facts_of(facts), *(versions_of(run) or versions_of(facts))],
        funnel=funnel_of(stages),
        pools=pools,
        album=album,
        chosen_by=(curation.get("options") or {}).get("curation_score"),
        charts=_training_charts(records.get("train", (None, {}))[1]),
        tables=[
            *truth_table(_truth_of(records.get("write", (None, {}))[1])),
            *left_out_table(stages),
            *cost_table(tokens, facts.get("token_prices")),
            *usage_table({name: record for name, (_, record) in records.items()}),
        ],
        notes=notes,
    )


def _records(folder: Path) -> dict[str, tuple[Path, Mapping[str, Any]]]:
    """Stage → its folder, and what it has reported, with its time and memory."""
    records: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    for path in sorted((folder / "stages").glob("*_*")):
        number, _, name = path.name.partition("_")
        if number.isdigit() and (path / "stage.json").is_file():
            record = read_record(path / "stage.json")
            usage = {key: value for key, value in record.items() if key.endswith("_bytes") or key == "seconds"}
            records[name] = (path, usage | dict(record.get("report") or {}))
    return records


def _vectors(folder: Path, pairs: Shards) -> Callable[[], Iterator[pa.Array]] | None:
    """The vectors of a round's pairs, where the run has clustered them: those that were made last."""
    made = sorted(folder.glob("*-*"), key=lambda path: path.stat().st_mtime_ns)
    try:
        shards = Shards(made[-1])
        if shards.num_rows != pairs.num_rows:
            return None
    except (FileNotFoundError, IndexError):
        return None
    return lambda: (batch[EMBEDDING] for batch in shards.batches([EMBEDDING]))


def _shards(paths: Mapping[str, Path], stage: str) -> Shards:
    try:
        return Shards(paths[stage])
    except FileNotFoundError as error:
        raise RunError(f"{error}: the result of {stage} is not whole") from None


def _truth_about(images: Images | None, run: Mapping[str, Any]) -> Truth | None:
    """What is true of pairs about images of an embedded world, if it is the world's own templates that asked."""
    if images is None or (world := images.world) is None:
        return None
    asked = ((run.get("stages") or {}).get("regenerate") or {}).get("templates")
    if asked != load_templates(world.TEMPLATES).digest():
        return None
    truth = world.truth_of(images.dataset)

    def are_true(types: Sequence[str], texts: Sequence[tuple[str, str]], image_ids: Sequence[str]) -> list[bool | None]:
        asked = zip(types, texts, image_ids, strict=True)
        return [world.are_true([t], [pair], [id], truth)[0] if id in truth else None for t, pair, id in asked]

    return are_true


def _album(dataset: Path, images: Images | None) -> tuple[Album, Manifest | None]:
    try:
        manifest = Manifest.read(dataset)
    except FolderError:
        manifest = None
    if images is not None:
        return album_of_images(images.dataset), manifest
    if manifest is not None and "images" in manifest.configs:
        return album_of_parquet(dataset, manifest.configs["images"]), manifest

    def nothing(_: int) -> Any:
        raise AssertionError("there are no pictures to be opened")

    return Album(pa.array([], pa.string()), nothing, NO_PICTURES), manifest


def _tokens(pairs: Shards) -> Sequence[tuple[str | None, int | None, int | None]]:
    return token_sums(batch["usage"] for batch in pairs.batches(["usage"]))


def _truth_of(record: Mapping[str, Any]) -> list[tuple[str, int, float, float, float]]:
    return [(pool["name"], pool["pairs"], *pool["true"]) for pool in record.get("pools") or () if pool.get("true")]


def _training_charts(record: Mapping[str, Any]) -> list[Chart]:
    """The curves of the trainer's log: losses, and how often the chosen pair is nearer than the rejected ones."""
    log = [entry for entry in record.get("log") or () if "step" in entry]
    found = []
    for id, title, names in (
        ("training-loss", "Training: loss", dict(_LEARNT)),
        ("training-accuracy", "Training: chosen before rejected", {"share": "contrastive_accuracy"}),
    ):
        series: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
        for label, name in names.items():
            points = [(entry["step"], entry[name]) for entry in log if entry.get(name) is not None]
            if len(points) > 1:
                steps, values = zip(*points)
                series[label] = (steps, values)
        if series:
            last = "; ".join(f"{label} {values[-1]:.3f}" for label, (_, values) in series.items())
            text = f"{title} by step; at the end {last}."
            found.append(Chart(id, title, text, as_svg(curves(series, "step", title.rpartition(": ")[2]), id, text)))
    return found
