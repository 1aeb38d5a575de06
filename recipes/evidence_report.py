"""Tables and plots of `evidence.py`, written between their marks in the two READMEs.

    python recipes/evidence_report.py --results_dirs runs/evidence/results     # collect from these, then write
    python recipes/evidence_report.py                                         # write again from what was collected

All results are kept in `evidence_scores.parquet` and `evidence_selection.parquet` beside this file. Intervals are 95 %
t-intervals over seeds.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset
from scipy.stats import t
from trl import TrlParser

HERE = Path(__file__).parent
PARTS = ("scores", "selection")
# Where a student stands, in one number: the mean over the four by written answers, LLaVA-Bench's relative score as a
# share; and by what it finds likely, which does not wait for it to have learned how to put its answers.
SUITE = (("pope", "generated"), ("seed", "generated"), ("mmbench", "generated"), ("llava_w", "judge"))
LIKELIHOOD = (("seed", "likelihood"),)
NAMES = {"pope": "POPE", "seed": "SEED-Bench", "mmbench": "MMBench", "llava_w": "LLaVA-Bench"}
CONTROLS = ("length", "random", "longest", "bottom", "truth", "all")


@dataclass
class ReportArguments:
    results_dirs: list[str] = field(
        default_factory=list, metadata={"help": "Collect the results of these folders first."}
    )
    kept: str = field(default=str(HERE), metadata={"help": "Folder of the collected results and of the plots."})
    readmes: list[str] = field(
        default_factory=lambda: [str(HERE.parent / "README.md"), str(HERE / "README.md")],
        metadata={"help": "Files with the marks <!-- evidence: name --> and <!-- end -->."},
    )


Rows = list[dict]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) over seeds; without a second seed no interval (NaN)."""
    values = np.array([value for value in values if value is not None and math.isfinite(value)])
    if not len(values):
        return (math.nan,) * 3
    mean = float(values.mean())
    if len(values) == 1:
        return mean, math.nan, math.nan
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


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


def table(lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    head, *rest = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rest))


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
    return table(lines)


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
    return table(lines)


# Does selecting help?


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
    return table(lines)


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
    return table(lines)


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
    return table(lines)


# Plots


def plot_scores(rows: Rows, file: Path) -> None:
    """For each ranking how well it tells true pairs, and prior-driven errors from true pairs, on shifted scenes."""
    import matplotlib.pyplot as plt

    names = [name for name in distinct(rows, "ranking") if "," not in name]
    figure_, axes = plt.subplots(1, 2, figsize=(10, 0.36 * len(names) + 1.2), sharey=True)
    for axis, (label, column, title) in zip(
        axes,
        (
            ("true", "auc_within_type", "true over false pairs, within type"),
            ("true over prior", "auc", "true pairs over prior-driven errors"),
        ),
    ):
        for shift, kind in ((-0.15, "usual"), (0.15, "shifted")):
            found = [
                interval(
                    by_seed(
                        [r for r in rows if (r["ranking"], r["label"], r["kind"]) == (name, label, kind)],
                        lambda row, c=column: row[c],
                    )
                )
                for name in names
            ]
            means = [mean for mean, _, _ in found]
            errors = np.nan_to_num([[mean - low, high - mean] for mean, low, high in found]).T
            axis.errorbar(means, np.arange(len(names)) + shift, xerr=errors, fmt="o", label=f"{kind} scenes", capsize=2)
        axis.axvline(0.5, color="grey", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("AUC, mean of the generators")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[0].legend(fontsize=8)
    figure_.tight_layout()
    figure_.savefig(file, dpi=110)
    plt.close(figure_)


def plot_selection(rows: Rows, file: Path) -> None:
    """Students by what they were trained on: the four benchmarks by written answers, SEED-Bench by likelihood."""
    import matplotlib.pyplot as plt

    arms = arms_of(rows)
    figure_, axes = plt.subplots(1, 2, figsize=(10, 0.36 * len(arms) + 1.2), sharey=True)
    for axis, parts, title in zip(
        axes, (LIKELIHOOD, SUITE), ("SEED-Bench on scenes, by likelihood", "four benchmarks on scenes, written answers")
    ):
        for shift, kind in ((-0.15, "usual"), (0.15, "shifted")):
            values = [list(suite(rows, arm, kind, parts).values()) for arm in arms]
            for number, of in enumerate(values):
                axis.plot(of, [number + shift] * len(of), ".", color="silver", zorder=0)
            means = [np.mean(of) if of else np.nan for of in values]
            axis.plot(means, np.arange(len(arms)) + shift, "o", label=f"{kind} scenes")
        axis.set_title(title, fontsize=10)
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].invert_yaxis()
    axes[0].legend(fontsize=8)
    figure_.tight_layout()
    figure_.savefig(file, dpi=110)
    plt.close(figure_)


# Files


def collect(folders: Sequence[str], kept: Path) -> None:
    for part in PARTS:
        files = [file for folder in folders for file in sorted(Path(folder).glob(f"{part}-*.parquet"))]
        names = [file.name for file in files]
        if twice := [file for file in files if names.count(file.name) > 1]:
            sys.exit(f"evidence_report: the same result is there more than once: {', '.join(map(str, twice))}")
        rows = [row for file in files for row in Dataset.from_parquet(str(file), keep_in_memory=True)]
        if rows:
            Dataset.from_list(rows).to_parquet(kept / f"evidence_{part}.parquet")


def read(kept: Path, part: str) -> Rows:
    file = kept / f"evidence_{part}.parquet"
    if not file.is_file():
        sys.exit(f"evidence_report: {file} is missing; collect results with --results_dirs")
    return Dataset.from_parquet(str(file), keep_in_memory=True).to_list()


def fill(text: str, texts: Mapping[str, str]) -> str:
    """The text with what stands between `<!-- evidence: name -->` and `<!-- end -->` replaced."""
    for name, new in texts.items():
        begin, end = f"<!-- evidence: {name} -->", "<!-- end -->"
        if begin in text:
            before, _, rest = text.partition(begin)
            if end not in rest:
                raise ValueError(f"no {end} after {begin}")
            text = f"{before}{begin}\n{new}\n{end}{rest.partition(end)[2]}"
    return text


def texts_of(scores: Rows, selection: Rows) -> dict[str, str]:
    """All tables by name."""
    main = ("answer_kl", "token_kl", "pmi", "pmi_k", "min_pmi", "logprob", "pmi_k+question", "length", "random")
    few = [row for row in scores if row["ranking"] in main]
    found = {"scores": score_table(few), "pools": pools_table(scores)}
    found |= {
        "kept": kept_table(selection),
        "likelihood": selection_table(selection, LIKELIHOOD),
        "selection": selection_table(selection, SUITE),
    }
    parts = [
        f"**{generator} generator, {kind} scenes**\n\n{score_table(scores, generator=generator, kind=kind)}"
        for generator in distinct(scores, "generator")
        for kind in distinct(scores, "kind")
    ]
    found["all scores"] = "\n\n".join(parts)
    found["benchmarks"] = "\n\n".join(
        f"**{kind} scenes**\n\n{benchmark_table(selection, kind)}" for kind in ("usual", "shifted")
    )
    return found


def main(args: ReportArguments) -> None:
    kept = Path(args.kept)
    if args.results_dirs:
        collect(args.results_dirs, kept)
    scores, selection = (read(kept, part) for part in PARTS)
    plot_scores(scores, kept / "evidence_scores.png")
    plot_selection(selection, kept / "evidence_selection.png")
    texts = texts_of(scores, selection)
    for file in map(Path, args.readmes):
        file.write_text(fill(file.read_text(), texts))
        print(f"written: {file}")


if __name__ == "__main__":
    (arguments,) = TrlParser((ReportArguments,)).parse_args_and_config()
    main(arguments)
