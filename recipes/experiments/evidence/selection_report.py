"""Tables of `selection_experiment.py`, written between their marks in `SELECTION.md`.

    cd recipes/experiments/evidence
    python selection_report.py --results_dirs ../../../runs/selection/results    # collect from these, then write
    python selection_report.py                                                   # write again from what was collected

All students are kept in `selection.parquet` beside this file. A difference has two 95 % intervals: Student's t over
seeds (how sure is it for new pools and students?), and a bootstrap over the questions of each seed (how sure is it for
these students?). A comparison in which students of true pairs cannot be told from those of random pairs by the first is
called blunt.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from evidence_tables import CONTROLS, captioned, distinct, show
from kept_results import collect_results, read_results
from trl import TrlParser

from c3l_hf.common.intervals import bootstrap_interval, t_interval
from c3l_hf.common.tables import fill_marks, markdown_table

HERE = Path(__file__).parent
KEY = ("generator", "arm", "share", "steps_rule", "seed")
# What is measured, of each question → its name.
MEASURES = {"right": "right answers", "prior_driven": "prior-driven answers"}
# Seed → student.
Students = Mapping[int, Mapping]


@dataclass
class ReportArguments:
    results_dirs: list[str] = field(
        default_factory=list, metadata={"help": "Collect the results of these folders first."}
    )
    kept: str = field(default=str(HERE / "selection.parquet"), metadata={"help": "File of the collected results."})
    readme: str = field(
        default=str(HERE / "SELECTION.md"),
        metadata={"help": "File with the marks <!-- evidence: name --> and <!-- end -->."},
    )


@dataclass(frozen=True)
class Comparison:
    """Students of one generator's pool that had the same number of pairs, or of steps.

    Attributes:
        caption: What they have in common.
        arms: Arm → its students, those with most true pairs first; with `before`, and `all` where it has as many steps.
        everything: The students of all pairs, one pass; empty if there are none.
    """

    caption: str
    arms: Mapping[str, Students]
    everything: Students

    @property
    def has_oracle(self) -> bool:
        return {"truth", "random"} <= set(self.arms)

    def difference(self, arm: str, column: str = "right") -> list[np.ndarray]:
        return differences(self.arms[arm], self.arms["random"], column)


def differences(a: Students, b: Students, column: str) -> list[np.ndarray]:
    """Of every seed that both have: for each question what the first got minus what the second got."""
    return [np.subtract(a[seed][column], b[seed][column], dtype=float) for seed in sorted(a) if seed in b]


def over_seeds(found: Sequence[np.ndarray]) -> tuple[float, float, float]:
    return t_interval([one.mean() for one in found])


def over_questions(found: Sequence[np.ndarray]) -> tuple[float, float]:
    """The interval of the mean over seeds, the questions of each seed drawn anew."""
    if not found:
        return math.nan, math.nan

    def mean(*times: np.ndarray) -> np.ndarray:
        return np.mean([drawn @ one / len(one) for drawn, one in zip(times, found)], axis=0)

    return bootstrap_interval([len(one) for one in found], mean)


def comparisons(rows: Sequence[Mapping]) -> list[Comparison]:
    """The comparisons that there are, in the order of the generators, shares and numbers of steps."""

    def students(generator: str, arm: str, share: float, rule: str) -> Students:
        wanted = (generator, arm, share, rule)
        return {row["seed"]: row for row in rows if tuple(row[name] for name in KEY[:-1]) == wanted}

    found = []
    for generator in (name for name in distinct(rows, "generator") if name):
        of = [row for row in rows if row["generator"] == generator and row["arm"] != "all"]
        for share, rule in sorted({(row["share"], row["steps_rule"]) for row in of}, key=lambda one: (one[1], one[0])):
            here = [row for row in of if (row["share"], row["steps_rule"]) == (share, rule)]
            arms = {arm: students(generator, arm, share, rule) for arm in distinct(here, "arm")}
            arms |= {"all": students(generator, "all", 1.0, rule)} if rule == "equal" else {}
            arms = {arm: of_arm for arm, of_arm in arms.items() if of_arm}
            order = sorted(arms, key=lambda arm: mean(arms[arm], "true"), reverse=True)
            pairs, steps = (round(np.mean([row[name] for row in here])) for name in ("wanted", "steps"))
            pool = round(np.mean([row["pool"] for row in here]))
            caption = f"{generator} generator, {pairs:,} of {pool:,} pairs ({share:.0%}), {steps:,} steps"
            everything = students(generator, "all", 1.0, "epoch")
            found.append(Comparison(caption, {arm: arms[arm] for arm in order}, everything))
    return found


def mean(students: Students, column: str) -> float:
    return float(np.mean([np.mean(row[column]) for row in students.values()]))


def seeds_and_questions(found: Sequence[np.ndarray]) -> str:
    """A difference with both intervals; nothing where there is no common seed."""
    if not found:
        return ""
    value, *seeds = over_seeds(found)
    intervals = " ".join(f"[{low:+.3f}, {high:+.3f}]" for low, high in (seeds, over_questions(found)) if low == low)
    return f"{value:+.3f} {intervals}".strip()


def named(arm: str) -> str:
    return arm if arm in CONTROLS else f"`{arm}`"


# Tables


def pools_table(rows: Sequence[Mapping]) -> str:
    """What the generators wrote: the students of all pairs have all of it."""
    lines = [("generator", "pairs of a pool", "true", "prior-driven", "premise absent", "the same without the picture")]
    for generator in (name for name in distinct(rows, "generator") if name):
        of = {row["seed"]: row for row in rows if (row["generator"], row["arm"]) == (generator, "all")}
        shares = (show([row[name] for row in of.values()]) for name in ("true", "prior", "premise", "blind"))
        lines.append((generator, f"{mean(of, 'pool'):,.0f}" if of else "–", *shares))
    return markdown_table(lines)


def oracle_table(found: Sequence[Comparison]) -> str:
    """Whether a comparison can tell anything: students of true pairs against students of random pairs."""
    lines = [("comparison", *(f"truth − random, {name}" for name in MEASURES.values()), "seeds")]
    for one in found:
        if one.has_oracle:
            gaps = [f"{seeds_and_questions(one.difference('truth', of))} **{verdict(one, of)}**" for of in MEASURES]
            lines.append((one.caption, *gaps, str(len(one.difference("truth")))))
    return markdown_table(lines)


def verdict(one: Comparison, column: str) -> str:
    """Blunt unless the interval over seeds is on the right side of 0."""
    _, low, high = over_seeds(one.difference("truth", column)) if one.has_oracle else (math.nan,) * 3
    return "sharp" if (low > 0 if column == "right" else high < 0) else "blunt"


def with_oracle(one: Comparison) -> str:
    if not one.has_oracle:
        return f"{one.caption}; truth − random is not known: blunt"
    gaps = (
        f"{name} {seeds_and_questions(one.difference('truth', column))} {verdict(one, column)}"
        for column, name in MEASURES.items()
    )
    return f"{one.caption}; truth − random: {', '.join(gaps)}"


def students_table(one: Comparison, before: Students) -> str:
    lines = [("pairs kept by", "steps", "right", "− random", "− all, one pass", "prior-driven", "− random", "seeds")]
    for arm, students in one.arms.items():
        against = [one.difference(arm, column) if arm != "random" else [] for column in ("right", "prior_driven")]
        lines.append(
            (
                named(arm),
                f"{mean(students, 'steps'):,.0f}",
                f"{mean(students, 'right'):.3f}",
                seeds_and_questions(against[0]),
                seeds_and_questions(differences(students, one.everything, "right")),
                f"{mean(students, 'prior_driven'):.3f}",
                seeds_and_questions(against[1]),
                str(len(students)),
            )
        )
    for name, students in (("all, one pass", one.everything), ("before training", before)):
        if students:
            steps = f"{mean(students, 'steps'):,.0f}" if name != "before training" else "0"
            right, prior = (f"{mean(students, column):.3f}" for column in ("right", "prior_driven"))
            lines.append((name, steps, right, "", "", prior, "", str(len(students))))
    return markdown_table(lines)


def kept_table(one: Comparison) -> str:
    columns = ("true", "prior", "premise", "blind")
    lines = [
        (
            "pairs kept by",
            "pairs",
            "true",
            "prior-driven",
            "premise absent",
            "the same without the picture",
            "different texts",
            "images",
        )
    ]
    for arm, students in one.arms.items():
        shares = (f"{mean(students, name):.3f}" for name in columns)
        pairs, texts, images = (f"{mean(students, name):,.0f}" for name in ("pairs", "texts", "images"))
        lines.append((named(arm), pairs, *shares, texts, images))
    return markdown_table(lines)


def cost_line(rows: Sequence[Mapping]) -> str:
    seconds = np.array([row["cpu_seconds"] for row in rows])
    return (
        f"{len(rows):,} students, {seconds.mean():.0f} CPU-seconds each with their questions (the longest "
        f"{seconds.max():.0f}), {seconds.sum() / 3600:.1f} CPU-hours in all, without the pools."
    )


def texts_of(rows: Sequence[Mapping]) -> dict[str, str]:
    """All tables by name."""
    found = comparisons(rows)
    before = {row["seed"]: row for row in rows if row["arm"] == "before"}
    return {
        "cost": cost_line(rows),
        "selection pools": pools_table(rows),
        "oracle": oracle_table(found),
        "students": captioned({with_oracle(one): students_table(one, before) for one in found}),
        "selection kept": captioned({one.caption: kept_table(one) for one in found}),
    }


# Files


def collect(folders: Sequence[str], kept: Path) -> None:
    if not collect_results(folders, "students-*.parquet", KEY, kept):
        sys.exit(f"selection_report: no results in {', '.join(folders)}; give the folder results of an --output_dir")


def main(args: ReportArguments) -> None:
    if args.results_dirs:
        collect(args.results_dirs, Path(args.kept))
    readme = Path(args.readme)
    readme.write_text(fill_marks(readme.read_text(), texts_of(read_results(Path(args.kept)))))
    print(f"written: {readme}")


if __name__ == "__main__":
    (arguments,) = TrlParser((ReportArguments,)).parse_args_and_config()
    main(arguments)
