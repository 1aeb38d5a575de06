"""Tables and plots of `evidence.py`, written between their marks in docs/evidence.md, README.md and APPENDIX.md.

    cd recipes/experiments/evidence
    python evidence_report.py --results_dirs ../../../runs/evidence/results    # collect from these, then write
    python evidence_report.py                                                  # write again from what was collected

All results are kept in `evidence_scores.parquet` and `evidence_selection.parquet` beside this file. Intervals are 95 %
t-intervals over seeds.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from evidence_tables import (
    LIKELIHOOD,
    SUITE,
    Rows,
    arms_of,
    benchmark_table,
    by_seed,
    by_size,
    captioned,
    distinct,
    interval,
    kept_table,
    oracle_table,
    pools_table,
    score_table,
    selection_table,
    suite,
)
from kept_results import collect_results, read_results
from trl import TrlParser

from c3l_hf.common.tables import fill_marks

HERE = Path(__file__).parent
READMES = ((HERE.parents[2] / "docs", "evidence.md"), (HERE, "README.md"), (HERE, "APPENDIX.md"))
# What there is → what its results are told apart by.
PARTS = {
    "scores": ("generator", "kind", "seed", "ranking", "label"),
    "selection": ("rows", "pool_images", "arm", "seed", "kind", "benchmark", "by"),
}


@dataclass
class ReportArguments:
    results_dirs: list[str] = field(
        default_factory=list, metadata={"help": "Collect the results of these folders first."}
    )
    kept: str = field(default=str(HERE), metadata={"help": "Folder of the collected results and of the plots."})
    readmes: list[str] = field(
        default_factory=lambda: [str(folder / name) for folder, name in READMES],
        metadata={"help": "Files with the marks <!-- evidence: name --> and <!-- end -->."},
    )


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
    """Students by what they were trained on: SEED-Bench by likelihood, the four benchmarks by written answers; one row
    of panels for each size."""
    import matplotlib.pyplot as plt

    sizes = by_size(rows)
    heights = [len(arms_of(of)) + 2.5 for of in sizes.values()]
    figure_, panels = plt.subplots(
        len(sizes), 2, figsize=(10, 0.36 * sum(heights)), sharex="col", squeeze=False, height_ratios=heights
    )
    ways = ((LIKELIHOOD, "SEED-Bench on scenes, by likelihood"), (SUITE, "four benchmarks on scenes, written answers"))
    for axes, (size, of) in zip(panels, sizes.items()):
        arms = arms_of(of)
        for axis, (parts, title) in zip(axes, ways):
            for shift, kind in ((-0.15, "usual"), (0.15, "shifted")):
                values = [list(suite(of, arm, kind, parts).values()) for arm in arms]
                for number, seeds in enumerate(values):
                    axis.plot(seeds, [number + shift] * len(seeds), ".", color="silver", zorder=0)
                means = [np.mean(seeds) if seeds else np.nan for seeds in values]
                axis.plot(means, np.arange(len(arms)) + shift, "o", label=f"{kind} scenes")
            axis.set_title(f"{title}\n{size}", fontsize=9)
            axis.set_yticks(range(len(arms)), arms if axis is axes[0] else [""] * len(arms))
            axis.invert_yaxis()
    panels[0, 0].legend(fontsize=8)
    figure_.tight_layout()
    figure_.savefig(file, dpi=110)
    plt.close(figure_)


# Files


def collect(folders: Sequence[str], kept: Path, parts: Mapping[str, tuple[str, ...]] = PARTS) -> None:
    for folder in folders:
        if not any(file for part in parts for file in Path(folder).glob(f"{part}-*.parquet")):
            sys.exit(f"evidence_report: {folder} has no results; give the folder results of an --output_dir")
    for part, names in parts.items():
        collect_results(folders, f"{part}-*.parquet", names, kept / f"evidence_{part}.parquet")


def read(kept: Path, part: str) -> Rows:
    return read_results(kept / f"evidence_{part}.parquet")


def texts_of(scores: Rows, selection: Rows) -> dict[str, str]:
    """All tables by name."""
    main = ("answer_kl", "token_kl", "pmi", "pmi_k", "min_pmi", "logprob", "pmi_k+question", "length", "random")
    few = [row for row in scores if row["ranking"] in main]
    found = {"scores": score_table(few), "pools": pools_table(scores)}
    sizes = by_size(selection)
    kinds = ("usual", "shifted")
    found |= {
        name: captioned({size: make(of) for size, of in sizes.items()})
        for name, make in (
            ("kept", kept_table),
            ("likelihood", lambda rows: selection_table(rows, LIKELIHOOD)),
            ("selection", lambda rows: selection_table(rows, SUITE)),
        )
    }
    found["blunt"] = oracle_table(sizes)
    found["benchmarks"] = captioned(
        {f"{size}, {kind}": benchmark_table(of, kind) for size, of in sizes.items() for kind in kinds}
    )
    found["all scores"] = captioned(
        {
            f"{generator} generator, {kind} scenes": score_table(scores, generator=generator, kind=kind)
            for generator in distinct(scores, "generator")
            for kind in distinct(scores, "kind")
        }
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
        file.write_text(fill_marks(file.read_text(), texts))
        print(f"written: {file}")


if __name__ == "__main__":
    (arguments,) = TrlParser((ReportArguments,)).parse_args_and_config()
    main(arguments)
