"""Does selecting help where errors come from a prior? Students of what each selection keeps of a prior-heavy pool.

    python recipes/scenes/prior_heavy.py --steps 150 --output_dir runs/prior-strong
    python recipes/scenes/prior_heavy.py --steps 25 --output_dir runs/prior-weak
    python recipes/experiments/evidence/selection_experiment.py --student runs/prior-strong/final \
        --generators strong=runs/prior-strong/final weak=runs/prior-weak/final --output_dir runs/selection
    python recipes/experiments/evidence/selection_report.py --results_dirs runs/selection/results

Each generator writes five pairs of one type about each of some shifted scenes. Every arm keeps the same number of these
pairs; the same student is fine-tuned on them and then asked about other shifted scenes. A share of the pool is kept at
two numbers of steps: `equal`, those of one pass over `step_share` of the pool, whatever is kept; `epoch`, one pass over
what is kept. A selection can only be judged where pairs that are true by the scenes' own truth (`truth`) make better
students than pairs at random (`random`).

Every student is a parquet file in `<output_dir>/results`; the same command goes on after an interruption, and several
processes may share the folder if each has seeds of its own.
"""

import logging
import sys
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import datasets
from evidence import write
from evidence_pools import BASELINES, Pool
from evidence_students import Training, train
from selection_pools import Candidates, load_candidates
from selection_students import ALL, ARMS, answer, describe, make_questions, make_student, select
from trl import TrlParser

from c3l_hf.common.files import files_digest, read_json, write_json
from c3l_hf.common.versions import versions

BEFORE = "before"
EQUAL, EPOCH = "equal", "epoch"


@dataclass
class SelectionArguments:
    student: str = field(metadata={"help": "Folder of the prior-heavy model that the student is made of, see lean."})
    generators: list[str] = field(metadata={"help": "name=folder of each generator that writes a pool."})
    output_dir: str = field(default="runs/selection", metadata={"help": "Folder of pools and results."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Seeds of all that is random."})
    arms: list[str] = field(
        default_factory=lambda: [BEFORE, *ARMS, ALL],
        metadata={"help": f"What students are trained on: {', '.join((*ARMS, ALL))}; {BEFORE}: nothing."},
    )
    shares: list[float] = field(default_factory=lambda: [0.2, 0.1, 0.4], metadata={"help": "Shares of the pool kept."})
    steps: list[str] = field(default_factory=lambda: [EQUAL, EPOCH], metadata={"help": f"Of {EQUAL}, {EPOCH}."})

    # All from here on is part of what a result is
    lean: float = field(
        default=2.5, metadata={"help": "How far the student goes from the shipped generator; the prior-heavy one is 1."}
    )
    pool_images: int = field(default=300, metadata={"help": "Shifted scenes, five pairs about each."})
    step_share: float = field(default=0.2, metadata={"help": "Equal steps: those of one pass over this share."})
    rows_per_step: int = field(default=4, metadata={"help": "Pairs in a gradient step."})
    learning_rate: float = field(default=4e-4, metadata={"help": "Highest learning rate, cosine decay."})
    clusters: int = field(default=20, metadata={"help": "Clusters of a pool."})
    questions: int = field(default=40, metadata={"help": "Questions of each type about shifted scenes."})

    def sizes(self) -> dict[str, float]:
        """What must be equal for results to be compared."""
        names = ("lean", "pool_images", "step_share", "rows_per_step", "learning_rate", "clusters", "questions")
        return {name: getattr(self, name) for name in names}

    def folders(self) -> dict[str, str]:
        """The generators' folders by name."""
        return dict(one.partition("=")[::2] for one in self.generators)


@dataclass(frozen=True)
class Run:
    """One student: what it is trained on."""

    generator: str
    arm: str
    share: float
    steps: str

    def file(self, args: SelectionArguments, seed: int) -> Path:
        names = ("students", self.generator or "none", self.arm, f"{self.share:g}", self.steps, seed)
        return Path(args.output_dir) / "results" / ("-".join(map(str, names)) + ".parquet")


def blocks_of(args: SelectionArguments) -> list[list[Run]]:
    """The students of a seed: those that are compared with each other together, blocks in the order of training.

    Where one pass over a share takes the equal steps, that is one student. `all` has share 1; `before` 0, and no
    generator.
    """
    arms = [arm for arm in args.arms if arm in ARMS]
    blocks = [[Run("", BEFORE, 0.0, EQUAL)]] if BEFORE in args.arms else []
    for name, share in product(args.folders(), args.shares):
        rules = [rule for rule in args.steps if rule == EQUAL or share != args.step_share]
        blocks += [[Run(name, arm, share, rule) for arm in arms] for rule in rules]
        if share == args.shares[0] and ALL in args.arms:
            blocks.append([Run(name, ALL, 1.0, rule) for rule in args.steps])
    return blocks


def steps_of(run: Run, args: SelectionArguments, kept: int, pool: int) -> int:
    """Gradient steps: of one pass over what is kept, or over `step_share` of the pool."""
    rows = kept if run.steps == EPOCH else round(args.step_share * pool)
    return -(-rows // args.rows_per_step)


def result(args: SelectionArguments, run: Run, seed: int, found: Candidates | None) -> dict:
    """A student, trained and asked."""
    start = time.process_time()
    about = {"generator": run.generator, "arm": run.arm, "share": run.share, "steps_rule": run.steps, "seed": seed}
    model, processor = make_student(args.student, args.lean)
    if found is not None:
        pool = len(found.table)
        size = round(run.share * pool)
        rows = select(found, run.arm, size, seed)
        steps = steps_of(run, args, len(rows), pool)
        training = Training(size, 1, args.rows_per_step, args.learning_rate)
        model = train(model, processor, found.examples, rows, steps, training, seed)
        about |= {"pool": pool, "wanted": size, "steps": steps, **describe(found, rows)}
    answers = answer(model, processor, make_questions(args.questions, seed, shifted=True))
    return about | answers | {"cpu_seconds": time.process_time() - start}


def check(args: SelectionArguments) -> None:
    """Ends with one line if the call is wrong, or the folder has something of another experiment."""
    for name, wrong in (
        ("arms", [arm for arm in args.arms if arm not in (*ARMS, ALL, BEFORE)]),
        ("steps", [rule for rule in args.steps if rule not in (EQUAL, EPOCH)]),
        ("shares", [f"{share:g}" for share in args.shares if not 0 < share < 1]),
        ("generators", [one for one in args.generators if "=" not in one or one.startswith("=")]),
    ):
        if wrong or not getattr(args, name):
            sys.exit(f"selection_experiment: --{name} {' '.join(wrong)}: see --help")
    for folder in (args.student, *args.folders().values()):
        if not any(Path(folder).glob("*.safetensors")):
            sys.exit(f"selection_experiment: {folder} has no model; see the first lines of selection_experiment.py")
    for name, value in args.sizes().items():
        if value <= 0:
            sys.exit(f"selection_experiment: --{name} is {value}; it must be above 0")
    record = {
        "options": args.sizes(),
        "generators": {name: files_digest(folder, "*.safetensors") for name, folder in args.folders().items()},
        "student": files_digest(args.student, "*.safetensors"),
        "versions": versions(),
    }
    file = Path(args.output_dir) / "selection.json"
    if file.is_file():
        there = read_json(file)
        for key in ("options", "generators", "student"):
            if there[key] != record[key]:
                sys.exit(
                    f"selection_experiment: {file} says {key} {there[key]}, not {record[key]}; give another "
                    "--output_dir"
                )
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, record)


def main(args: SelectionArguments) -> None:
    check(args)
    datasets.disable_caching()  # pools and results are kept here
    pools: dict[tuple[str, int], Candidates] = {}
    for block, seed in product(blocks_of(args), args.seeds):
        for run in block:
            file = run.file(args, seed)
            if file.is_file():
                continue
            key = run.generator, seed
            if run.generator and key not in pools:
                spec = Pool(args.folders()[run.generator], "shifted", args.pool_images, BASELINES[:1], seed, False)
                folder = Path(args.output_dir) / "pools" / "-".join(map(str, key))
                pools[key] = load_candidates(folder, spec, args.clusters)
            row = result(args, run, seed, pools.get(key))
            write(file, [row])
            right = sum(row["right"]) / len(row["right"])
            true = f"{row['true']:.3f} true, " if run.generator else ""
            print(f"{file.stem}: {true}{right:.3f} right, {row['cpu_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    (arguments,) = TrlParser((SelectionArguments,)).parse_args_and_config()
    main(arguments)
