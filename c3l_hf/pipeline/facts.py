"""What the cards of a run say, gathered from its folder."""

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from c3l_hf.common.plain import plain
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.common.shards import Shards
from c3l_hf.data.schema import LANGUAGE
from c3l_hf.models.loading import resolve_dtype
from c3l_hf.pipeline.inputs import Inputs
from c3l_hf.pipeline.pair_tables import ScoredPairs
from c3l_hf.pipeline.settings import Settings
from c3l_hf.pipeline.summary import Pool
from c3l_hf.publishing.cards import TRAINING_FACTS, RunFacts
from c3l_hf.publishing.figures import dataset_figures, token_sums
from c3l_hf.selection.curation import CURATION_COLUMNS

__all__ = ["run_facts"]

_BEFORE_CURATION = ("generate", "score", "select", "train", "regenerate", "rescore", "curate")


def run_facts(
    settings: Settings,
    inputs: Inputs,
    folder: RunFolder,
    pools: Sequence[Pool],
    curated: Shards,
    second: ScoredPairs,
) -> RunFacts:
    """The facts of a run that has made everything but its cards."""
    world, model = inputs.images.world, settings.model.model
    source = settings.images.images or settings.run.pairs
    publishing = settings.publishing
    generator, scorer = inputs.generator_identity, inputs.scorer_identity or {}
    prices = (settings.backend.prompt_price, settings.backend.completion_price)
    # Pairs that somebody has were not written by this run.
    written = [stage for stage in ("generate", "regenerate") if stage == "regenerate" or inputs.pairs is None]
    return RunFacts(
        title="C3L pairs" if world is None else world.TITLE,
        generator=world.GENERATOR_NAME if world is not None and model == "scenes" else model,
        scorer=settings.scoring.scorer_model,
        generator_revision=generator.get("revision"),
        generator_digest=generator.get("digest"),
        generator_base=generator.get("base_model"),
        generator_base_revision=generator.get("base_revision"),
        generator_base_digest=generator.get("base_digest"),
        scorer_revision=scorer.get("revision"),
        scorer_digest=scorer.get("digest"),
        scorer_base=scorer.get("base_model"),
        scorer_base_revision=scorer.get("base_revision"),
        scorer_base_digest=scorer.get("base_digest"),
        scorer_dtype=resolve_dtype(settings.model.dtype),
        pairs_source=settings.run.pairs,
        images=f"{plain(source)}, {len(inputs.images):,} images",
        images_digest=inputs.images.digest,
        images_license=settings.images_license,
        images_source=publishing.images_source or (None if world is None else world.IMAGES_SOURCE),
        license=publishing.license,
        synthetic_images=world is not None,
        seed=settings.training.seed,
        ranking=settings.scoring.ranking,
        options=settings.configuration(),
        config_file=Path(settings.config_name).name if settings.config_name else None,
        stages=[(stage, _counts(folder, stage)) for stage in _BEFORE_CURATION],
        truth=[(pool.name.strip(), pool.pairs, *pool.true) for pool in pools if pool.true] or None,
        templates=settings.generating(0).template_set.name,
        tokens=[(stage, *row) for stage in written for row in _tokens(folder.shards(stage))] or None,
        token_prices=None if prices == (None, None) else prices,
        training={name: getattr(settings.training, name) for name in TRAINING_FACTS},
        near_duplicate_scope=settings.curation.near_duplicate_scope,
        **dataset_figures(
            Dataset(curated.table([*CURATION_COLUMNS, "i2c", LANGUAGE])), second.table(["i2c"])["i2c"].to_numpy()
        ),
    )


def _tokens(pairs: Shards) -> list[tuple[str | None, int | None, int | None]]:
    return token_sums(batch["usage"] for batch in pairs.batches(["usage"]))


def _counts(folder: RunFolder, stage: str) -> list[tuple[str, int]]:
    report = folder.report(stage)
    return [("steps", report["steps"])] if stage == "train" else list(report["counts"].items())
