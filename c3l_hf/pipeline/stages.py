"""The stages of the method in a run's folder: each a function from what others have made to its own result."""

import contextlib
import functools
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from datasets import Dataset, Features, Value

from c3l_hf.common.errors import RunError
from c3l_hf.common.memory_errors import made_in_batches
from c3l_hf.common.processes import process_state
from c3l_hf.common.progress import ProgressLine
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.common.shards import Shards
from c3l_hf.data.schema import (
    CHOSEN_TOKENS_FEATURES,
    PAIR_TABLE_FEATURES,
    PSEUDO_LABEL_FEATURES,
    SCORE_FEATURES,
    STATUS,
    TURNS,
)
from c3l_hf.data.status import count_repeated, count_statuses, publishable
from c3l_hf.data.stored_images import WithImages
from c3l_hf.generation.pairs import generate_tables
from c3l_hf.generation.retries import Retries, count_attempts, generate_with_retries
from c3l_hf.models.loading import Source
from c3l_hf.pipeline.facts import run_facts
from c3l_hf.pipeline.image_checks import ImageChecks
from c3l_hf.pipeline.inputs import Inputs
from c3l_hf.pipeline.model_in_use import ModelInUse
from c3l_hf.pipeline.options import STAGES
from c3l_hf.pipeline.pair_clusters import cluster_round
from c3l_hf.pipeline.pair_tables import ScoredPairs
from c3l_hf.pipeline.pools import choice_table, choose, pools_of_stages
from c3l_hf.pipeline.published_rows import counted, image_rows, rows_of_examples, stream_of, with_images
from c3l_hf.pipeline.reports import for_the_dataset, keep_run_report
from c3l_hf.pipeline.settings import Settings
from c3l_hf.pipeline.sizes import images_in_shard
from c3l_hf.pipeline.summary import Pool, format_summary
from c3l_hf.pipeline.writers import open_writer
from c3l_hf.publishing.export import example_pictures, write_dataset, write_generator
from c3l_hf.scoring.dataset import score_tables
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.selection.label_prompts import ASKED_COLUMNS
from c3l_hf.selection.pseudo_labels import LABEL_COLUMNS, choose_labels
from c3l_hf.selection.token_weights import GAIN_COLUMNS
from c3l_hf.training.checkpoints import remove_checkpoints, training_folder
from c3l_hf.training.run import train_generator

__all__ = ["curate", "generate", "score", "select", "train", "write"]

_SHOWN_REASONS = 5
_LABELS = Features({name: feature for name, feature in PSEUDO_LABEL_FEATURES.items() if name != "images"})
# Beside a label the row of its image and the scores of its tokens, for the training.
_LABEL_TABLE = Features({"image_row": Value("int64"), **_LABELS, **CHOSEN_TOKENS_FEATURES})
_SCORED = Features({**PAIR_TABLE_FEATURES, **SCORE_FEATURES})


def generate(
    stage: str, folder: RunFolder, settings: Settings, inputs: Inputs, models: ModelInUse, generator: Source | Path
) -> Shards:
    """Pairs about all images, a shard for some of them; in the first round those that somebody has, if given.

    Images whose best pair is below the floor are asked about again, if the options say so.
    """
    images, k = inputs.images.dataset, settings.generation.pairs_per_image
    line = ProgressLine(stage, k * len(images), "replies", lambda: k * sum(map(len, folder.begun_parts(stage))))
    # Every random choice depends on (seed, stage, row).
    config = settings.generating(settings.training.seed + 1_000_003 * STAGES.index(stage))

    def make(first: int, last: int) -> Iterator[pa.Table]:
        if writer is None:
            assert inputs.pairs is not None
            return inputs.pairs.tables(first, last)
        part = images.select(range(first, last))
        line.begin_part()
        if retries is None:
            tables = generate_tables(part, writer, config, first_row=first, progress=line.advance)
        else:
            tables = generate_with_retries(part, writer, config, retries, first_row=first, progress=line.advance)
        return made_in_batches(tables, "generation_batch_size", options.generation_batch_size)

    def report(shards: Shards) -> dict[str, Any]:
        counts = count_statuses(_values(shards, "generation_status"), "pairs")
        if stage == "generate" and inputs.pairs is not None:
            shown = Counter(inputs.pairs.without_image).most_common(_SHOWN_REASONS)
            counts |= {f"left out, {reason}": count for reason, count in shown}
            others = sum(inputs.pairs.without_image.values()) - sum(count for _, count in shown)
            counts |= {"left out, without an image for other reasons": others} if others else {}
        if retries is not None and not imported:
            counts |= count_attempts(shards.batches(["image_row", "attempt"]))
        columns = ["image_id", "prompt", "completion"]
        return {"counts": counts, "repeated": count_repeated(shards.batches(columns))}

    options, retries = settings.generation, None
    if options.retries:
        score = functools.partial(_scores_now, settings=settings, inputs=inputs, models=models)
        retries = Retries(score, options.retries, options.retry_floor)
    imported, writer = stage == "generate" and inputs.pairs is not None, None
    replies = folder.folder / "replies" / stage
    with contextlib.ExitStack() as stack:
        stack.enter_context(line)
        if not imported and not folder.is_done(stage):
            source = generator if isinstance(generator, Source) else models.source_of(generator)
            load, trained = functools.partial(models.load, generator), stage == "regenerate"
            if settings.backend.backend == "server":
                models.release()  # the memory is the server's
            writer = stack.enter_context(open_writer(settings.backend, config, source, load, replies, trained))
        size = images_in_shard(options, settings.backend, len(images))
        shards = folder.in_shards(stage, len(images), make, PAIR_TABLE_FEATURES.arrow_schema, report, size)
    if process_state().is_main_process and replies.is_dir():
        shutil.rmtree(replies)  # all that is in it stands in the shards
        with contextlib.suppress(OSError):  # another stage's may be there
            replies.parent.rmdir()
    return shards


def score(
    stage: str, folder: RunFolder, settings: Settings, inputs: Inputs, models: ModelInUse, pairs: Shards
) -> Shards:
    """The scores of all pairs, a shard for each of theirs. Both rounds by the same model, as it was before training."""
    options, scorers, sizes = settings.scoring, [], pairs.sizes()

    def there() -> int:
        return sum(sum(sizes[part.start : part.stop]) for part in folder.begun_parts(stage))

    line = ProgressLine(stage, sum(sizes), "pairs", there)

    def make(first: int, last: int) -> Iterator[pa.Table]:
        if not scorers:
            scorers.append(_scorer(settings, inputs, models))
        rows = pairs.batches(size=options.scoring_batch_size, numbers=range(first, last))
        tables = score_tables(rows, inputs.images.dataset, scorers[0], options.scoring_batch_size)
        tables = made_in_batches(tables, "scoring_batch_size", options.scoring_batch_size)
        return line.over(map(_with_publishable_status, tables))

    def report(shards: Shards) -> dict[str, Any]:
        return {"counts": dict(Counter(_values(shards, STATUS)).most_common())}

    with line:
        return folder.in_shards(stage, len(pairs), make, SCORE_FEATURES.arrow_schema, report, shard_size=1)


def _scorer(settings: Settings, inputs: Inputs, models: ModelInUse) -> I2CScorer:
    options = settings.scoring
    model, processor = models.load(inputs.scorer)
    return I2CScorer(model, processor, ranking=options.ranking, max_tokens=options.scoring_max_tokens)


def _scores_now(pairs: Iterable[pa.Table], settings: Settings, inputs: Inputs, models: ModelInUse) -> list[pa.Table]:
    """The scores of pairs while others are generated. The scorer is not kept: a generator may need its memory."""
    scorer, size = _scorer(settings, inputs, models), settings.scoring.scoring_batch_size
    return list(made_in_batches(score_tables(pairs, inputs.images.dataset, scorer, size), "scoring_batch_size", size))


def _with_publishable_status(scores: pa.Table) -> pa.Table:
    statuses = pa.array(map(publishable, scores[STATUS].to_pylist()), scores.schema.field(STATUS).type)
    return scores.set_column(scores.schema.get_field_index(STATUS), scores.schema.field(STATUS), statuses)


def select(folder: RunFolder, settings: Settings, scored: ScoredPairs) -> Shards:
    """Pseudo-labels, on the main process."""

    def make(path: Path) -> dict[str, Any] | None:
        if not process_state().is_main_process:
            return None
        pairs = scored.table([*LABEL_COLUMNS, *ASKED_COLUMNS, "i2c", "image_row"])
        asked = settings.generating(0).template_set  # where pairs that somebody has do not say what was asked
        tokens = functools.partial(scored.rows, columns=[*GAIN_COLUMNS, TURNS])
        labels, report = choose_labels(pairs, **vars(settings.selection), templates=asked, tokens=tokens)
        labels = labels.append_column("image_row", pairs["image_row"].take(labels["row"]))
        Shards(path, 1).write(0, [labels.select(list(_LABEL_TABLE))], _LABEL_TABLE.arrow_schema)
        left_out = (report.images_dropped, report.pairs_left_out, report.rejected_left_out)
        dropped = [(f"dropped: {rule}", count) for counts in left_out for rule, count in counts.items() if count]
        counts = [("images", report.images), ("pairs", report.pairs), *dropped, ("pseudo-labels", report.labels)]
        return {"table": str(report), "counts": dict(counts)}

    folder.complete("select", make)
    return folder.shards("select")


def train(folder: RunFolder, settings: Settings, inputs: Inputs, models: ModelInUse, labels: Shards) -> Path:
    """The generator trained on the pseudo-labels: the folder of its weights."""
    checkpoints, limit = training_folder(folder, "train"), settings.run.max_epochs

    def make(path: Path) -> dict[str, Any]:
        model, processor = models.load(inputs.generator)
        models.release()
        rows = Dataset(labels.table()).with_transform(WithImages(inputs.images.dataset))
        return train_generator(model, processor, rows, settings.training, checkpoints, path / "generator", limit)

    folder.complete("train", make)
    if process_state().is_main_process:
        remove_checkpoints(checkpoints)
    return folder.path("train") / "generator"


def curate(
    folder: RunFolder,
    settings: Settings,
    inputs: Inputs,
    models: ModelInUse,
    scored: ScoredPairs,
    checks: ImageChecks,
) -> Shards:
    """The pairs of the compact dataset with their scores, on the main process; their vectors, if there are to be
    clusters, on all.

    Raises:
        RunError: If no pair is left.
        ValueError: If fewer pairs have a vector than there are to be clusters.
    """

    def make(path: Path) -> dict[str, Any] | None:
        clusters = None
        if settings.curation.clusters is not None:
            clusters = cluster_round("rescore", folder, settings, inputs, models, scored.pairs)
        if not process_state().is_main_process:
            return None
        marks = settings.curation.read_marks()
        rows, report = choose(choice_table(scored, settings), settings, checks, clusters, marks=marks)
        if not report.kept:
            raise RunError(f"no pair is left for the dataset:\n{report}")
        Shards(path, 1).write(0, [scored.rows(rows)], _SCORED.arrow_schema)
        dropped = [(f"dropped: {rule}", count) for rule, count in report.dropped.items()]
        return {
            "table": str(report) if clusters is None else f"{clusters.report}\n\n{report}",
            "counts": dict([("pairs", report.pairs), *dropped, ("kept", report.kept)]),
        }

    folder.complete("curate", make)
    return folder.shards("curate")


def write(
    folder: RunFolder,
    settings: Settings,
    inputs: Inputs,
    models: ModelInUse,
    first: ScoredPairs,
    labels: Shards,
    trained: Path,
    second: ScoredPairs,
    curated: Shards,
    checks: ImageChecks,
) -> str:
    """Dataset and generator in the shape in which they are published, in their places, and a report; the summary."""

    def make(path: Path) -> dict[str, Any] | None:
        if not process_state().is_main_process:
            return None
        pools = pools_of_stages(settings, inputs, first, labels, second, curated, checks)
        facts = run_facts(settings, inputs, folder, pools, curated, second)
        configs = {
            "default": with_images(curated, inputs),
            "images": image_rows(inputs),
            "scored": second.stream(),
            "pseudo_labels": stream_of(labels, _LABELS),
        }
        pictures = example_pictures(rows_of_examples(curated, inputs, facts.examples or ()), facts.examples)
        with ProgressLine("write", sum(map(len, configs.values())), "rows") as line:
            write_dataset(counted(configs, line), path / "dataset", facts, pictures, for_the_dataset(facts))
        model, processor = models.load(trained)
        write_generator(model, processor, path / "generator", facts, pictures)
        (path / "config.yaml").write_text(yaml.safe_dump(settings.configuration(), sort_keys=False), "utf-8")
        return {"pools": [asdict(pool) for pool in pools]}

    was_there = folder.is_done("write")
    report = folder.complete("write", make)
    if process_state().is_main_process:
        folder.move_results()  # now that all are complete
        keep_run_report(folder.folder, inputs.images, made_of_these=was_there)
    summary = format_summary([Pool(**values) for values in report["pools"]], settings.scoring.ranking)
    return f"{summary}\n\ndataset    {folder.folder / 'dataset'}\ngenerator  {folder.folder / 'generator'}"


def _values(shards: Shards, column: str) -> Iterator[Any]:
    for batch in shards.batches([column]):
        yield from batch[column].to_pylist()
