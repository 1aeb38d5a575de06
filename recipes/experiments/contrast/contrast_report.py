"""The results of `contrast_experiment.py` as Markdown tables and a plot.

    python recipes/experiments/contrast/contrast_report.py --results runs/contrast    # prints the tables
    python recipes/experiments/contrast/contrast_report.py --results runs/contrast \
        --keep recipes/experiments/contrast/contrast.parquet

What is published comes from the kept results; here in their folder:

    python contrast_report.py --results contrast.parquet --plot contrast.png \
        --readmes ../../../docs/evidence.md README.md
    python contrast_report.py --results contrast_settings.parquet --mark settings --readmes README.md
    python contrast_report.py --results prior_heavy_tuning.parquet --mark prior_heavy_tuning --readmes README.md
    python contrast_report.py --results prior_heavy.parquet --prefix prior_heavy_ --mark prior_heavy \
        --readmes ../../../docs/evidence.md README.md

Shares of generated pairs are type-balanced: every question type counts the same. A share is the mean over seeds. Two
95 % intervals answer two questions:

- over images: a bootstrap that resamples the test images within each seed (for a difference, the same images for both
  arms). How sure is it for these trained models?
- over seeds: Student's t of the differences, one for each seed. How sure is it for a new training with new images?
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from contrast_results import (
    ERRORS,
    NAN,
    SPLITS,
    Results,
    balanced,
    counts_of,
    keep_results,
    mean_over_seeds,
    over_seeds,
    read_results,
)
from trl import TrlParser

from c3l_hf.common.tables import fill_marks, markdown_table
from c3l_hf.prompts.templates import GENERAL
from c3l_hf.scenes.evaluation import Share
from c3l_hf.scenes.templates import QUESTION_TYPES


@dataclass
class ReportArguments:
    results: str = field(
        default="runs/contrast", metadata={"help": "Folder of contrast_experiment.py, or a file made with --keep."}
    )
    seeds: list[int] | None = field(default=None, metadata={"help": "Only these seeds."})
    arms: list[str] | None = field(default=None, metadata={"help": "Only these arms, in this order."})
    differences: list[str] = field(
        default_factory=list,
        metadata={"help": "Further differences, as arm:control. Each arm is compared with `before` and its control."},
    )
    plot: str | None = field(default=None, metadata={"help": "File for the plot."})
    keep: str | None = field(default=None, metadata={"help": "Parquet file for the results themselves."})
    readmes: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Files with the marks <!-- evidence: name --> and <!-- end -->: contrast, second, errors "
            "(after --prefix), --mark."
        },
    )
    prefix: str = field(default="", metadata={"help": "What the marks of the short tables begin with."})
    mark: str = field(default="tables", metadata={"help": "Name of the mark that takes all tables."})


# Tables


def cell(estimate: float, low: float, high: float, sign: bool = False) -> str:
    form = "{:+.3f}" if sign else "{:.3f}"
    if np.isnan(estimate):
        return "–"
    return form.format(estimate) + ("" if np.isnan(low) else f" [{form.format(low)}, {form.format(high)}]")


def of_arm(results: Results, name: str, split: str, hit: str, kind: str = "pairs") -> list[np.ndarray]:
    return [counts_of(result, split, hit, kind) for _, result in sorted(results[name].items())]


def overview(results: Results) -> str:
    rows = []
    for name, by_seed in results.items():
        row = [name, len(by_seed)]
        row += [cell(*mean_over_seeds([of_arm(results, name, split, "true")])) for split in SPLITS]
        for hit in ("well_formed", "distinct"):
            row.append(cell(*mean_over_seeds([of_arm(results, name, "shifted", hit)])))
        distinct = [
            r["shifted"]["pairs"]["distinct"] / sum(r["shifted"]["pairs"]["by_image"]["pairs"])
            for r in by_seed.values()
        ]
        row.append(f"{np.mean(distinct):.3f}")
        rows.append(row)
    header = ["arm", "seeds", "true, usual", "true, shifted", "well-formed, shifted", "distinct of an image, shifted"]
    return markdown_table([[*header, "distinct of all, shifted"], *rows])


def differences(results: Results, further: Sequence[str]) -> str:
    asked = [(name, control) for name, by_seed in results.items() for control in ("before", control_of(by_seed))]
    asked += [tuple(item.split(":", 1)) for item in further]
    rows = []
    for name, control in dict.fromkeys(asked):
        if name == control or control not in results or name not in results:
            continue
        common = sorted(results[name].keys() & results[control].keys())
        if not common:
            continue
        row: list[object] = [f"{name} − {control}", len(common)]
        for split in SPLITS:
            both = [[counts_of(results[arm][seed], split, "true") for seed in common] for arm in (name, control)]
            low, high = over_seeds(*both)
            row += [
                cell(*mean_over_seeds(both), sign=True),
                "–" if np.isnan(low) else f"[{low:+.3f}, {high:+.3f}]",
            ]
        rows.append(row)
    header = ["difference", "seeds"]
    header += [f"{split}{what}" for split in SPLITS for what in (" [over images]", " [over seeds]")]
    return markdown_table([header, *rows])


def errors(results: Results) -> str:
    """Shares of the kinds of errors on shifted scenes, and their differences to the control of each arm."""
    header = ["arm", "control"]
    header += [text for hit in ERRORS for text in (hit.replace("_", " "), "difference [over seeds]")]
    rows = []
    for name, by_seed in results.items():
        control = control_of(by_seed)
        rows.append([name, control or "–"])
        for hit in ERRORS:
            rows[-1] += [
                cell(*mean_over_seeds([of_arm(results, name, "shifted", hit)])),
                difference(results, name, control, "shifted", hit),
            ]
    return markdown_table([header, *rows])


def counts_errors(results: Results) -> bool:
    """Whether kinds of errors were counted; the first results have none."""
    return all(
        hit in result["shifted"]["pairs"]["by_image"]
        for by_seed in results.values()
        for result in by_seed.values()
        for hit in ERRORS
    )


def difference(results: Results, name: str, control: str, split: str, hit: str) -> str:
    """The mean difference to another arm with its interval over seeds; empty without a common seed."""
    common = sorted(results[name].keys() & results.get(control, {}).keys())
    if not common:
        return ""
    both = [[counts_of(results[arm][seed], split, hit) for seed in common] for arm in (name, control)]
    return cell(mean_over_seeds(both)[0], *over_seeds(*both), sign=True)


def control_of(by_seed: Mapping[int, Mapping]) -> str:
    return next(iter(by_seed.values()))["arm"]["control"]


def by_type(results: Results, split: str) -> str:
    rows = []
    for name in results:
        row = [name]
        for type in range(len(QUESTION_TYPES)):
            counts = [counts[..., [type]] for counts in of_arm(results, name, split, "true")]
            # Only images that were asked about it: no resample is without any.
            row.append(cell(*mean_over_seeds([[one[:, one[1, :, 0] > 0] for one in counts]])))
        rows.append(row)
    return markdown_table([["arm", *QUESTION_TYPES], *rows])


def answers(results: Results, split: str) -> str:
    names = [*QUESTION_TYPES, "description precision", "description recall"]
    rows = []
    for name, by_seed in results.items():
        found = {}
        for type in names:
            counts = [r[split]["answers"].get(type, [0, 0]) for r in by_seed.values()]
            found[type] = Share(*map(sum, zip(*counts)))
        mean = np.nanmean([found[type].value for type in QUESTION_TYPES])
        shares = [cell(found[type].value, *found[type].interval) for type in names]
        rows.append([name, f"{mean:.3f}", *shares])
    return markdown_table([["arm", "mean of types", *names], *rows])


def open_type(results: Results, split: str) -> str:
    rows = []
    for name, by_seed in results.items():
        found = [r[split][GENERAL]["types_found"] for r in by_seed.values()]
        total = sum(sum(types.values()) for types in found)
        shares = [f"{sum(types.get(type, 0) for types in found) / total:.2f}" for type in (*QUESTION_TYPES, "none")]
        rows.append([name, cell(*mean_over_seeds([of_arm(results, name, split, "true", GENERAL)])), *shares])
    return markdown_table([["arm", "true", *QUESTION_TYPES, "no known question"], *rows])


def training_rows(results: Results) -> str:
    rows = []
    for name, by_seed in results.items():
        labels = [result["labels"] for result in by_seed.values() if result["labels"]]
        if labels:
            shares = [Share(*map(sum, zip(*(label[column] for label in labels)))) for column in ("chosen", "rejected")]
            total = sum(label["rows"] for label in labels)
            types = [f"{sum(label['types'].get(type, 0) for label in labels) / total:.2f}" for type in QUESTION_TYPES]
            rows.append([name, f"{total / len(labels):.0f}", *(f"{share.value:.3f}" for share in shares), *types])
    return markdown_table([["arm", "rows per seed", "chosen: true", "rejected: true", *QUESTION_TYPES], *rows])


def report(results: Results, further: Sequence[str] = ()) -> str:
    """All tables, as Markdown."""
    any_result = next(iter(next(iter(results.values())).values()))
    shown = {name: value for name, value in any_result["options"].items() if name != "generator" and value is not False}
    options = ", ".join(f"{name} {value}" for name, value in shown.items())
    seeds = sorted({seed for by_seed in results.values() for seed in by_seed})
    parts = [
        f"Seeds {', '.join(map(str, seeds))}; {options}. Generator {any_result['options']['generator'][:12]}.",
        "### Generated pairs, type-balanced\n\nShares, mean over seeds, [95 % bootstrap interval over images within "
        f"seeds].\n\n{overview(results)}",
        "### Differences of the share of true pairs\n\nPaired: same images, same random numbers. The first interval is "
        "a bootstrap over images within seeds, the second Student's t over the seeds' differences.\n\n"
        f"{differences(results, further)}",
    ]
    if counts_errors(results):
        parts.append(
            "### Errors on shifted scenes\n\nPrior-driven: false, and what a bias of the usual scenes would have said. "
            "Premise absent: the question names what is not there. Differences to the control, over seeds.\n\n"
            f"{errors(results)}"
        )
    for split in SPLITS:
        parts.append(f"### True pairs by the type asked for, {split} scenes\n\n{by_type(results, split)}")
        if any_result[split]["answers"]:
            parts.append(
                f"### Greedy answers, {split} scenes\n\nTrue answers to given questions, pooled over seeds [95 % "
                f"Wilson interval].\n\n{answers(results, split)}"
            )
        if GENERAL in any_result[split]:
            parts.append(
                f"### Pairs of open type, {split} scenes\n\nThe instruction leaves the type open. Share of true pairs, "
                f"and which types the questions are of.\n\n{open_type(results, split)}"
            )
    parts.append(
        "### Training rows\n\nShare of true pairs among the chosen and the rejected, and types of the rows.\n\n"
        f"{training_rows(results)}"
    )
    return "\n\n".join(parts) + "\n"


# What docs/evidence.md shows: an arm in words, and the arm that it is compared with
FIRST = {
    "before": ("nothing: the shipped generator", ""),
    "random_nll": ("random pairs, NLL", "before"),
    "nll": ("positives (best by `pmi`), NLL", "before"),
    "c3l": ("positives and negatives, C3L by hidden states (τ = 0.1, λ = 1)", "before"),
    "likelihood": ("positives and negatives, C3L by likelihood (τ = 0.3, λ = 1)", "before"),
    "contrastive": ("positives and negatives, contrast alone", "before"),
    "dpo": ("positive and worst negative, TRL's DPO (β = 0.1)", "before"),
    "truth_nll": ("positives chosen by truth, NLL", "before"),
    "truth_c3l": ("positives and negatives by truth, C3L", "before"),
}
REGIME = {
    "before": ("nothing", ""),
    "random_nll": ("random pairs, NLL", "before"),
    "nll": ("positives (best by `pmi`), NLL", "random_nll"),
    "nll_tokens": ("positives, NLL with token weights (CAL)", "nll"),
    "dpo": ("positive and worst negative, TRL's DPO (β = 0.1)", "nll"),
    "c3l": ("positives and negatives, C3L by hidden states (τ = 0.1)", "nll"),
    "likelihood": ("positives and negatives, **C3L by likelihood** (τ = 0.3)", "nll"),
    "likelihood_second": ("the same, a second round", "likelihood_again"),
    "truth_nll": ("positives chosen by truth, NLL", "nll"),
    "truth_likelihood": ("positives and negatives by truth, C3L by likelihood", "truth_nll"),
}
SECOND = {
    "nll": ("one round, NLL", ""),
    "nll_again": ("one round, NLL, its rows once more", "nll"),
    "nll_second": ("two rounds, NLL", "nll_again"),
    "c3l": ("one round, C3L", ""),
    "c3l_again": ("one round, C3L, its rows once more", "c3l"),
    "c3l_second": ("two rounds, C3L", "c3l_again"),
}


def short(results: Results, arms: Mapping[str, tuple[str, str]]) -> str:
    """Shares of true pairs, intervals over images; differences to the arm that is named, over seeds."""
    header = ["trained on", *(text for split in SPLITS for text in (f"true, {split} scenes", "difference")), "seeds"]
    rows = []
    for name, (words, control) in arms.items():
        if name not in results or not control and not any(arms[other][1] == name for other in arms if other in results):
            continue  # nothing is compared with it
        row: list[object] = [words]
        for split in SPLITS:
            row.append(cell(*mean_over_seeds([of_arm(results, name, split, "true")])))
            row.append(difference(results, name, control, split, "true"))
        rows.append([*row, len(results[name])])
    return markdown_table([header, *rows])


def short_with_errors(results: Results, arms: Mapping[str, tuple[str, str]]) -> str:
    """On shifted scenes: true pairs, both kinds of errors and variety, and differences to the arm that is named, over
    seeds."""
    header = ["trained on", "true", "difference", "prior-driven", "difference", "premise absent"]
    header += ["distinct of an image", "true, usual scenes", "seeds"]
    rows = []
    for name, (words, control) in arms.items():
        if name not in results:
            continue
        share = {hit: mean_over_seeds([of_arm(results, name, "shifted", hit)]) for hit in ("true", *ERRORS, "distinct")}
        rows.append(
            [
                words,
                cell(*share["true"]),
                difference(results, name, control, "shifted", "true"),
                cell(share["prior_driven"][0], NAN, NAN),
                difference(results, name, control, "shifted", "prior_driven"),
                cell(share["premise_absent"][0], NAN, NAN),
                cell(share["distinct"][0], NAN, NAN),
                cell(*mean_over_seeds([of_arm(results, name, "usual", "true")])),
                len(results[name]),
            ]
        )
    return markdown_table([header, *rows])


def short_texts(results: Results, prefix: str = "") -> dict[str, str]:
    """The tables of docs/evidence.md by name."""
    texts = {"contrast": short(results, FIRST), "second": short(results, SECOND)}
    if counts_errors(results):
        texts["errors"] = short_with_errors(results, REGIME)
    return {prefix + name: text for name, text in texts.items()}


def plot(results: Results, file: Path) -> None:
    """Type-balanced share of true pairs of each arm with its interval over images, and each seed's as a small dot."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 1.2 + 0.32 * len(results)), sharey=True, layout="constrained")
    for axis, split in zip(axes, SPLITS):
        for place, name in enumerate(results):
            seeds = of_arm(results, name, split, "true")
            value, low, high = mean_over_seeds([seeds])
            axis.plot([low, high], [place, place], color="C0", linewidth=2)
            axis.plot(value, place, "o", color="C0")
            each = [float(balanced(counts.sum(axis=1))) for counts in seeds]
            axis.plot(each, [place] * len(each), ".", color="0.5", markersize=4)
        axis.set(title=f"{split} scenes", xlabel="true pairs, type-balanced")
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(results)), list(results))
    axes[0].invert_yaxis()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def main(args: ReportArguments) -> None:
    try:
        results = read_results(Path(args.results), args.seeds, args.arms)
    except ValueError as error:
        sys.exit(f"contrast_report: {error}")
    texts = short_texts(results, args.prefix) | {args.mark: report(results, args.differences).rstrip()}
    if args.keep:
        keep_results(results, Path(args.keep))
    for file in map(Path, args.readmes):
        file.write_text(fill_marks(file.read_text(), texts))
    if not (args.keep or args.readmes or args.plot):
        print(texts[args.mark])
    if args.plot:
        plot(results, Path(args.plot))


if __name__ == "__main__":
    (arguments,) = TrlParser((ReportArguments,)).parse_args_and_config()
    main(arguments)
