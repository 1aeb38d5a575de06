"""Tables of `evidence.py --parts signals`, written between their marks in `SIGNALS.md`.

    python recipes/scenes/prior_heavy.py --help    # makes the prior-heavy generators
    python recipes/experiments/evidence/evidence.py --parts signals --seeds 0 1 2 3 4 90 --score_images 100 \
        --generators shipped=scenes weak=runs/weak strong=runs/strong --output_dir runs/signals
    cd recipes/experiments/evidence
    python signals_report.py --results_dirs ../../../runs/signals/results    # collect from these, then write
    python signals_report.py                                                 # write again from what was collected

All results are kept in `evidence_signals.parquet` beside this file. Seeds from 90 on are tuning seeds: the combination
was chosen on them, and they are in no other figure. Intervals are 95 % t-intervals over the other seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
from evidence_report import collect, read
from evidence_signals import COMBINATIONS, CONTRASTS, SIGNALS
from evidence_tables import captioned, distinct, interval, show
from trl import TrlParser

from c3l_hf.common.tables import fill_marks, markdown_table

HERE = Path(__file__).parent
PARTS = {"signals": ("generator", "kind", "seed", "signal", "contrast")}
TUNING_SEEDS_FROM = 90
TARGET = 0.85


@dataclass
class ReportArguments:
    results_dirs: list[str] = field(
        default_factory=list, metadata={"help": "Collect the results of these folders first."}
    )
    kept: str = field(default=str(HERE), metadata={"help": "Folder of the collected results."})
    readme: str = field(
        default=str(HERE / "SIGNALS.md"),
        metadata={"help": "File with the marks <!-- evidence: name --> and <!-- end -->."},
    )


def values_of(rows: Sequence[Mapping], **where: object) -> list[float]:
    """The AUCs of these seeds, in their order; without those that no type has enough pairs for."""
    found = [row for row in rows if all(row[name] == value for name, value in where.items())]
    return [row["auc"] for row in sorted(found, key=lambda row: row["seed"]) if np.isfinite(row["auc"])]


def signals_table(rows: Sequence[Mapping]) -> str:
    """AUCs of every signal for every contrast, of one generator and kind of scenes."""
    seeds = len(distinct(rows, "seed"))
    lines = [("signal", *CONTRASTS.values(), "cost")]
    for signal in distinct(rows, "signal"):
        cells = []
        for contrast in CONTRASTS:
            values = values_of(rows, signal=signal, contrast=contrast)
            fewer = f" ({len(values)} of {seeds} seeds)" if 0 < len(values) < seeds else ""
            cells.append(f"{reached(values)}{fewer}")
        lines.append((shown(signal), *cells, SIGNALS.get(signal, "the sum" if "+" in signal else "–")))
    return markdown_table(lines)


def reached(values: Sequence[float]) -> str:
    """A figure with its interval, in bold where the mean reaches the target."""
    return f"**{show(values)}**" if interval(values)[0] >= TARGET else show(values)


def shown(signal: str) -> str:
    return " + ".join(f"`{name}`" if name != "random" else name for name in signal.split(" + "))


def target_table(rows: Sequence[Mapping]) -> str:
    """For each contrast and pool the best signal, and those whose mean reaches the target."""
    lines = [("contrast", "generator, scenes", "best signal", "its AUC", f"others with a mean ≥ {TARGET}")]
    for contrast, kind, generator in product(CONTRASTS, ("shifted", "usual"), distinct(rows, "generator")):
        of = [row for row in rows if (row["kind"], row["generator"]) == (kind, generator)]
        found = {signal: values_of(of, signal=signal, contrast=contrast) for signal in distinct(of, "signal")}
        means = {signal: float(np.mean(values)) for signal, values in found.items() if values}
        if means:
            best, *others = sorted(means, key=means.get, reverse=True)
            over = ", ".join(shown(signal) for signal in others if means[signal] >= TARGET)
            lines.append((CONTRASTS[contrast], f"{generator}, {kind}", shown(best), reached(found[best]), over or "–"))
    return markdown_table(lines)


def pools_table(rows: Sequence[Mapping]) -> str:
    """What the generators wrote, and whether they say yes or no at all when they are asked to."""
    lines = [
        (
            "generator, scenes",
            "pairs",
            "true",
            "prior-driven",
            "premise absent",
            "P(yes or no): truth",
            "premise, general",
            "premise, object",
            "seeds",
        )
    ]
    for kind, generator in product(("shifted", "usual"), distinct(rows, "generator")):
        of = {row["seed"]: row for row in rows if (row["kind"], row["generator"]) == (kind, generator)}
        if of:
            shares = (show([row[name] for row in of.values()]) for name in ("true", "prior", "premise"))
            masses = (f"{np.median([row[name] for row in of.values()]):.1g}" for name in MASSES)
            pairs = f"{sum(row['pairs'] for row in of.values()):,}"
            lines.append((f"{generator}, {kind}", pairs, *shares, *masses, str(len(of))))
    return markdown_table(lines)


MASSES = ("truth_mass", "general_mass", "object_mass")


def combinations_table(rows: Sequence[Mapping]) -> str:
    """The combinations on the tuning seeds: means over the generators and contrasts, the greatest first."""
    names = [" + ".join(names) for names in COMBINATIONS]
    means = {}
    for name in names:
        of = [values_of(rows, signal=name, contrast=contrast) for contrast in CONTRASTS]
        means[name] = [float(np.mean(values)) if values else float("nan") for values in of]
    order = sorted(
        (name for name in names if np.isfinite(means[name]).any()), key=lambda name: -np.nanmean(means[name])
    )
    lines = [("combination, equal weights", *CONTRASTS.values(), "mean")]
    lines += [
        (shown(name), *(f"{mean:.3f}" for mean in means[name]), f"{np.nanmean(means[name]):.3f}") for name in order
    ]
    return markdown_table(lines)


def texts_of(rows: Sequence[Mapping]) -> dict[str, str]:
    """All tables by name."""
    tuning = [row for row in rows if row["seed"] >= TUNING_SEEDS_FROM]
    rows = [row for row in rows if row["seed"] < TUNING_SEEDS_FROM]
    order = product(("shifted", "usual"), distinct(rows, "generator"))
    pools = {
        f"{generator} generator, {kind} scenes": of
        for kind, generator in order
        if (of := [row for row in rows if (row["kind"], row["generator"]) == (kind, generator)])
    }
    return {
        "signal pools": pools_table(rows),
        "target": target_table(rows),
        "combinations": combinations_table(tuning),
        "signals": captioned({caption: signals_table(of) for caption, of in pools.items()}),
    }


def main(args: ReportArguments) -> None:
    kept = Path(args.kept)
    if args.results_dirs:
        collect(args.results_dirs, kept, PARTS)
    readme = Path(args.readme)
    readme.write_text(fill_marks(readme.read_text(), texts_of(read(kept, "signals"))))
    print(f"written: {readme}")


if __name__ == "__main__":
    (arguments,) = TrlParser((ReportArguments,)).parse_args_and_config()
    main(arguments)
