"""What pairs of a run are chosen by, and figures of the pairs of every stage beside those that other choices give."""

import numpy as np
import pyarrow as pa

from c3l_hf.common.arrow import take_rows
from c3l_hf.common.shards import Shards
from c3l_hf.data.schema import CLUSTER, LANGUAGE, PAPERS_FORM
from c3l_hf.pipeline.image_checks import ImageChecks
from c3l_hf.pipeline.inputs import Inputs
from c3l_hf.pipeline.pair_tables import ScoredPairs
from c3l_hf.pipeline.settings import Settings
from c3l_hf.pipeline.summary import POOL_COLUMNS, Pool, Truth, pool_of_labels, pool_of_pairs
from c3l_hf.prompts.template_files import load_templates
from c3l_hf.publishing.cards import GENERATED_AGAIN
from c3l_hf.selection.clusters import Clusters
from c3l_hf.selection.curation import CURATION_COLUMNS, CurationReport, choose_pairs
from c3l_hf.selection.marks import Marks
from c3l_hf.selection.random_choice import choose_random

__all__ = ["choice_table", "choose", "pools_of_stages", "truth_of_run"]


def choice_table(scored: ScoredPairs, settings: Settings) -> pa.Table:
    """What pairs are chosen by; the figures of a pool and a choice at random need a part of it."""
    rules = settings.curation.rules()
    own = (rules["score"], *rules["floors"], *rules["balance_by"])
    return scored.table(list(dict.fromkeys([*CURATION_COLUMNS, "i2c", PAPERS_FORM, LANGUAGE, *own])))


def choose(
    table: pa.Table,
    settings: Settings,
    checks: ImageChecks,
    clusters: Clusters | None = None,
    score: str | None = None,
    marks: Marks | None = None,
) -> tuple[np.ndarray, CurationReport]:
    """The rows that are kept, by the score that the options name or another one. Without the clusters that the options
    ask for, types share the places in their stead."""
    rules = settings.curation.rules()
    rules["score"] = score or rules["score"]
    if clusters is not None:
        table = table.append_column(CLUSTER, clusters.table[CLUSTER])
    elif CLUSTER in rules["balance_by"]:
        rules["balance_by"] = [name for name in rules["balance_by"] if name != CLUSTER] or ["type"]
    return choose_pairs(table, **rules, hygiene=checks.found, marks=marks, seed=settings.training.seed)


def pools_of_stages(
    settings: Settings,
    inputs: Inputs,
    first: ScoredPairs,
    labels: Shards,
    second: ScoredPairs,
    curated: Shards,
    checks: ImageChecks,
) -> list[Pool]:
    """Figures of every stage's pairs, with selections of the same size from the first round, at random, and by the
    score in the paper's form where the run ranks by another."""
    truth = truth_of_run(settings, inputs)
    # Vectors of the first round as well would cost as much again, for a line of figures.
    without = ", without clusters" if settings.curation.clusters is not None else ""

    def by_papers_form(table: pa.Table) -> list[Pool]:
        ranks = settings.curation.rules()["score"]
        if PAPERS_FORM in (ranks, settings.scoring.ranking if ranks == "i2c" else None):
            return []
        chosen, _ = choose(table, settings, checks, score=PAPERS_FORM)
        return [pool_of_pairs(f"  by {PAPERS_FORM}{without}", _some(table, chosen), truth)]

    def pools_of_round(name: str, scored: ScoredPairs) -> tuple[Pool, Pool, pa.Table]:
        """Of all its pairs, and of as many at random as were kept; the texts of one round at a time are in memory."""
        table = choice_table(scored, settings)
        # The first round may have fewer usable pairs than were kept of the second.
        size = min(curated.num_rows, len(table) - table["prompt"].null_count)
        at_random = choose_random(table, size, seed=settings.training.seed)
        pool = pool_of_pairs("  random of that size", _some(table, at_random), truth)
        return pool_of_pairs(name, table, truth), pool, table

    generated, at_random, table = pools_of_round("generated", first)
    chosen, _ = choose(table, settings, checks)
    from_these = [pool_of_pairs(f"  curated from these{without}", _some(table, chosen), truth), *by_papers_form(table)]
    del table
    again, at_random_again, table = pools_of_round(GENERATED_AGAIN, second)
    label_table = labels.table()
    return [
        generated,
        pool_of_labels("  pseudo-labels, chosen", label_table, "chosen", truth),
        pool_of_labels("  pseudo-labels, rejected", label_table, "rejected", truth),
        *from_these,
        at_random,
        again,
        pool_of_pairs("  curated: the dataset", curated.table(POOL_COLUMNS), truth),
        *by_papers_form(table),
        at_random_again,
    ]


def truth_of_run(settings: Settings, inputs: Inputs) -> Truth | None:
    """The truth about the images of an embedded world, if it is the world's own templates that ask about them: of other
    pairs it cannot tell whether they are true."""
    world = inputs.images.world
    if world is None:
        return None
    asked, own = settings.generating(0).template_set, load_templates(world.TEMPLATES)
    return Truth(world, world.truth_of(inputs.images.dataset)) if asked.identity() == own.identity() else None


def _some(table: pa.Table, numbers: np.ndarray) -> pa.Table:
    return take_rows((pa.Table.from_batches([batch]) for batch in table.to_batches()), numbers)
