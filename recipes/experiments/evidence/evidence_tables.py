"""Tables of `evidence_report.py`, and the figures in them: intervals over seeds, students against each other."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from c3l_hf.common.intervals import t_interval
from c3l_hf.common.tables import markdown_table

# Where a student stands, in one number: the mean over the four by written answers, LLaVA-Bench's relative score as a
# share; and by what it finds likely, which does not wait for it to have learned how to put its answers.
SUITE = (("pope", "generated"), ("seed", "generated"), ("mmbench", "generated"), ("llava_w", "judge"))
LIKELIHOOD = (("seed", "likelihood"),)
NAMES = {"pope": "POPE", "seed": "SEED-Bench", "mmbench": "MMBench", "llava_w": "LLaVA-Bench"}
CONTROLS = ("length", "random", "longest", "bottom", "truth", "truth_seen", "all")

Rows = list[dict]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) over seeds; without a second seed no interval (NaN)."""
    return t_interval([value for value in values if value is not None and math.isfinite(value)])


def show(values: Sequence[float], sign: str = "") -> str:
    mean, low, high = interval(values)
    if math.isnan(mean):
        return "–"
    bounds = "" if math.isnan(low) else f" [{low:{sign}.3f}, {high:{sign}.3f}]"
    return f"{mean:{sign}.3f}{bounds}"


def by_seed(rows: Iterable[Mapping], value: Callable[[Mapping], float]) -> list[float]:
    """The mean over a seed's rows, for each seed."""
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(row["seed"], []).append(value(row))
    return [float(np.nanmean(values)) if np.isfinite(values).any() else math.nan for _, values in sorted(found.items())]


def captioned(tables: Mapping[str, str]) -> str:
    """Tables under each other."""
    return "\n\n".join(f"**{caption}**\n\n{one}" for caption, one in tables.items())


def distinct(rows: Iterable[Mapping], column: str) -> list:
    return list(dict.fromkeys(row[column] for row in rows))


# What do the scores find?


def score_table(rows: Rows, **where: str) -> str:
    """AUCs of every ranking; means over the generators and kinds that `where` leaves open."""
    rows = [row for row in rows if all(row[name] == value for name, value in where.items())]
    lines = [
        (
            "ranking",
            "true over false",
            "within type",
            "within image",
            "others over prior-driven",
            "true over prior-driven",
            "within type",
            "ρ with length",
        )
    ]
    for ranking in distinct(rows, "ranking"):
        of = {label: [row for row in rows if (row["ranking"], row["label"]) == (ranking, label)] for label in LABELS}
        rho = by_seed(of["true"], lambda row: row["length_spearman"])
        lines.append(
            (
                f"`{ranking}`" if ranking not in CONTROLS else ranking,
                *(show(by_seed(of["true"], lambda row, c=column: row[c])) for column in AUCS),
                show(by_seed(of["prior"], lambda row: row["auc"])),
                show(by_seed(of["true over prior"], lambda row: row["auc"])),
                show(by_seed(of["true over prior"], lambda row: row["auc_within_type"])),
                show(rho, "+"),
            )
        )
    return markdown_table(lines)


LABELS = ("true", "prior", "true over prior")
AUCS = ("auc", "auc_within_type", "auc_within_image")


def pools_table(rows: Rows) -> str:
    lines = [("generator", "scenes", "pairs", "true", "prior-driven", "seeds")]
    for generator in distinct(rows, "generator"):
        for kind in distinct(rows, "kind"):
            of = [row for row in rows if (row["generator"], row["kind"]) == (generator, kind)]
            first = [row for row in of if (row["ranking"], row["label"]) == ("random", "true")]
            lines.append(
                (
                    generator,
                    kind,
                    f"{sum(row['n'] for row in first):,}",
                    show(by_seed(first, lambda row: row["true_share"])),
                    show(by_seed(first, lambda row: row["prior_share"])),
                    str(len(first)),
                )
            )
    return markdown_table(lines)


# Does selecting help?


def by_size(rows: Rows) -> dict[str, Rows]:
    """What was selected of how much, in words → its rows; the largest selection first."""
    sizes = sorted({(row["rows"], row["pool_images"]) for row in rows}, reverse=True)
    return {
        f"{kept:,} of the pairs about {images:,} scenes": [
            row for row in rows if (row["rows"], row["pool_images"]) == (kept, images)
        ]
        for kept, images in sizes
    }


def arms_of(rows: Rows) -> list[str]:
    """The arms, those with most true pairs first."""
    shares = {arm: np.mean([row["true"] for row in rows if row["arm"] == arm]) for arm in distinct(rows, "arm")}
    return sorted(shares, key=shares.get, reverse=True)


def figure(row: Mapping) -> float:
    return row["value"] / 100 if row["benchmark"] == "llava_w" else row["value"]


def suite(rows: Rows, arm: str, kind: str, parts: Sequence[tuple[str, str]] = SUITE) -> dict[int, float]:
    """Seed → mean over some benchmarks."""
    of = [row for row in rows if (row["arm"], row["kind"]) == (arm, kind) and (row["benchmark"], row["by"]) in parts]
    seeds = sorted({row["seed"] for row in of})
    return {seed: float(np.mean([figure(row) for row in of if row["seed"] == seed])) for seed in seeds}


def against(rows: Rows, arm: str, other: str, kind: str, parts: Sequence[tuple[str, str]] = SUITE) -> list[float]:
    """The differences between two arms, for the seeds that both have."""
    a, b = suite(rows, arm, kind, parts), suite(rows, other, kind, parts)
    return [a[seed] - b[seed] for seed in a if seed in b]


def selection_table(rows: Rows, parts: Sequence[tuple[str, str]]) -> str:
    """Students by what they were fine-tuned on, and their distance to those of random pairs, and of all pairs, of the
    same seeds."""
    others = [other for other in ("random", "all") if any(row["arm"] == other for row in rows)]
    distances = [f"− {other}" for other in others]
    lines = [("pairs kept by", "steps", "true", "usual scenes", *distances, "shifted", *distances, "seeds")]
    for arm in arms_of(rows):
        one = {row["seed"]: row for row in rows if row["arm"] == arm}
        kinds = []
        for kind in ("usual", "shifted"):
            kinds.append(show(list(suite(rows, arm, kind, parts).values())))
            kinds += ["" if arm == other else show(against(rows, arm, other, kind, parts), "+") for other in others]
        steps = f"{np.mean([row['steps'] for row in one.values()]):,.0f}"
        true = f"{np.mean([row['true'] for row in one.values()]):.3f}"
        lines.append((arm if arm in CONTROLS else f"`{arm}`", steps, true, *kinds, str(len(one))))
    return markdown_table(lines)


def oracle_table(sizes: Mapping[str, Rows]) -> str:
    """Whether students can tell anything: those of true pairs against those of random pairs, for each size."""
    lines = [("pairs", "measure", "scenes", "truth − random", "seeds", "the comparison is")]
    for size, rows in sizes.items():
        for measure, parts in (("SEED-Bench by likelihood", LIKELIHOOD), ("four benchmarks, written answers", SUITE)):
            for kind in ("usual", "shifted"):
                gap = against(rows, "truth", "random", kind, parts)
                told = interval(gap)[1] > 0
                lines.append((size, measure, kind, show(gap, "+"), str(len(gap)), "sharp" if told else "**blunt**"))
    return markdown_table(lines)


def kept_table(rows: Rows) -> str:
    """What each ranking keeps: means over seeds."""
    lines = [("pairs kept by", "pairs", "true", "prior-driven", "different texts", "images", "steps")]
    for arm in arms_of(rows):
        of = list({row["seed"]: row for row in rows if row["arm"] == arm}.values())
        shares = (show([row[name] for row in of]) for name in ("true", "prior"))
        pairs, texts, images, steps = (
            f"{np.mean([row[name] for row in of]):,.0f}" for name in ("pairs", "texts", "images", "steps")
        )
        lines.append((arm if arm in CONTROLS else f"`{arm}`", pairs, *shares, texts, images, steps))
    return markdown_table(lines)


def benchmark_table(rows: Rows, kind: str) -> str:
    ways = distinct(rows, "benchmark"), distinct(rows, "by")
    columns = [(b, w) for b in ways[0] for w in ways[1] if any((r["benchmark"], r["by"]) == (b, w) for r in rows)]
    lines = [("pairs kept by", *(f"{NAMES[benchmark]}, {way}" for benchmark, way in columns))]
    for arm in arms_of(rows):
        of = [row for row in rows if (row["arm"], row["kind"]) == (arm, kind)]
        cells = [
            show(by_seed([row for row in of if (row["benchmark"], row["by"]) == column], figure)) for column in columns
        ]
        lines.append((arm, *cells))
    return markdown_table(lines)
