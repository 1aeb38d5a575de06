"""The paper's claims, tested where the truth is known: what do the scores find, and does selecting by them help?

    python recipes/scenes/pretrain_scenes.py --output_dir runs/generator
    python recipes/scenes/pretrain_scenes.py --descriptions_only --bridges 0.5 --output_dir runs/student
    python recipes/experiments/evidence/evidence.py --student runs/student/final --seeds 0 1 2 3 4 \
        --generators strong=scenes middle=runs/generator/joint/checkpoint-2500 \
        weak=runs/generator/joint/checkpoint-1500 --output_dir runs/evidence
    python recipes/experiments/evidence/evidence_report.py --results_dirs runs/evidence/results

Three parts. `scores`: pairs that generators of several strengths write about usual and shifted scenes, scored in every
way against every blind baseline; how well does each ranking tell true pairs, and prior-driven errors? `signals`: the
same question to the signals beside the correspondence, and to combinations (the call is in `signals_report.py`).
`selection`: from one large pool of the first generator's pairs each ranking keeps its best; students fine-tuned on
these answer the four scenes benchmarks. Whether contrastive training helps is the question of `contrast_experiment.py`.

Hours on a CPU. Every result is a parquet file in `<output_dir>/results`; the same command goes on after an
interruption, and several processes may share the folder if each has seeds, or parts, of its own.
"""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import datasets
from datasets import Dataset
from evidence_pools import BASELINES, KINDS, Pool, load_generator, load_pool
from evidence_scores import label, measure
from evidence_signals import signal_results
from evidence_students import ALL, ARMS, Training, candidates, describe, evaluate, questions, select, steps_of, train
from trl import TrlParser

from c3l_hf.common.files import atomic_write, files_digest, read_json, write_json
from c3l_hf.common.versions import versions
from c3l_hf.finetuning.examples import encode_examples
from c3l_hf.scenes import GENERATOR

PARTS = ("scores", "signals", "selection")


@dataclass
class EvidenceArguments:
    student: str | None = field(
        default=None,
        metadata={"help": "Folder of the student: pretrain_scenes.py --descriptions_only; for `selection`."},
    )
    output_dir: str = field(default="runs/evidence", metadata={"help": "Folder of pools and results."})
    parts: list[str] = field(default_factory=lambda: list(PARTS), metadata={"help": f"Of {', '.join(PARTS)}."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Seeds of all that is random."})
    generators: list[str] = field(
        default_factory=lambda: ["strong=scenes"],
        metadata={"help": "name=folder of each; 'scenes' is the shipped one. The first writes the students' pairs."},
    )
    arms: list[str] = field(
        default_factory=lambda: list(ARMS), metadata={"help": f"What students are trained on: {', '.join(ARMS)}."}
    )

    # All from here on is part of what a result is
    score_images: int = field(
        default=200, metadata={"help": "Scenes of either kind, five pairs about each: `scores`, `signals`."}
    )
    pool_images: int = field(default=5000, metadata={"help": "Usual scenes, five pairs about each: `selection`."})
    rows: int = field(default=5000, metadata={"help": "Pairs that a ranking keeps of these."})
    epochs: int = field(default=1, metadata={"help": "Passes over them."})
    rows_per_step: int = field(default=4, metadata={"help": "Pairs in a gradient step."})
    learning_rate: float = field(default=4e-4, metadata={"help": "Highest learning rate, cosine decay."})
    test_images: int = field(default=40, metadata={"help": "Scenes of either kind in each benchmark."})

    def sizes(self) -> dict[str, float]:
        """What must be equal for results to be compared."""
        names = ("score_images", "pool_images", "rows", "epochs", "rows_per_step", "learning_rate", "test_images")
        return {name: getattr(self, name) for name in names}

    def folders(self) -> dict[str, str]:
        """The generators' folders by name."""
        named = dict(one.partition("=")[::2] for one in self.generators)
        return {name: GENERATOR if folder == "scenes" else folder for name, folder in named.items()}


def score_results(args: EvidenceArguments, seed: int) -> list[dict]:
    """What each ranking finds, for every generator and kind of scenes."""
    rows = []
    for name, folder in args.folders().items():
        for kind in KINDS:
            pool = Pool(folder, kind, args.score_images, BASELINES, seed)
            found = load_pool(Path(args.output_dir) / "pools" / f"{name}-{kind}-{seed}", pool)
            labels = label(found.to_dict(), pool)
            about = {"generator": name, "kind": kind, "seed": seed}
            about |= {"true_share": float(labels.true.mean()), "prior_share": float(labels.prior.mean())}
            rows += [about | row for row in measure(found.to_dict(), pool)]
    return rows


def selection_results(args: EvidenceArguments, seed: int, arms: list[str], keep: Callable[[str, list], None]) -> None:
    """Students of a seed, one after the other; `keep` is given an arm and its rows."""
    pool = Pool(next(iter(args.folders().values())), "usual", args.pool_images, BASELINES[:1], seed, questions=False)
    rows = load_pool(Path(args.output_dir) / "pools" / f"students-{seed}", pool)
    columns = rows.to_dict()
    labels = label(columns, pool)
    found = candidates(rows, pool, labels)
    _, processor = load_generator(args.student)
    examples = encode_examples(found, processor, keep=True)
    asked = {kind: questions(seed, kind, args.test_images) for kind in KINDS}
    training = Training(args.rows, args.epochs, args.rows_per_step, args.learning_rate)
    usable = sum(row not in examples.rejected for row in select(found, ALL, training, seed))
    for arm in arms:
        chosen = [row for row in select(found, arm, training, seed) if row not in examples.rejected]
        steps = steps_of(arm, len(chosen), usable, training)
        model, processor = load_generator(args.student)
        model = train(model, processor, examples, chosen, steps, training, seed)
        about = {"rows": args.rows, "pool_images": args.pool_images, "arm": arm, "seed": seed, "steps": steps}
        about |= describe(chosen, labels, columns)
        keep(arm, [about | {"kind": kind, **row} for kind in KINDS for row in evaluate(model, processor, asked[kind])])


def result_file(args: EvidenceArguments, part: str, *names: object) -> Path:
    return Path(args.output_dir) / "results" / ("-".join(map(str, (part, *names))) + ".parquet")


def write(file: Path, rows: list[dict]) -> None:
    """A result appears only when it is complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as partial:
        Dataset.from_list(rows).to_parquet(partial)


def check(args: EvidenceArguments) -> None:
    """Ends with one line if the call is wrong, or the folder has something of another experiment."""
    for name, wrong in (
        ("parts", [part for part in args.parts if part not in PARTS]),
        ("arms", [arm for arm in args.arms if arm not in ARMS]),
        ("generators", [one for one in args.generators if "=" not in one]),
    ):
        if wrong or not getattr(args, name):
            sys.exit(f"evidence: --{name} {' '.join(wrong)}: see --help")
    if "selection" in args.parts and args.student is None:
        sys.exit("evidence: --student is missing, which --parts selection needs; see --help")
    for folder in (*[args.student] * (args.student is not None), *args.folders().values()):
        if not any(Path(folder).glob("*.safetensors")):
            sys.exit(f"evidence: {folder} has no model; see the first lines of evidence.py")
    for name, value in args.sizes().items():
        if value <= 0:
            sys.exit(f"evidence: --{name} is {value}; it must be above 0")
    record = {
        "options": args.sizes(),
        "generators": {name: files_digest(folder, "*.safetensors") for name, folder in args.folders().items()},
        "student": args.student and files_digest(args.student, "*.safetensors"),
        "versions": versions(),
    }
    file = Path(args.output_dir) / "evidence.json"
    if file.is_file():
        there = read_json(file)
        for key in ("options", "generators", "student"):
            if there[key] != record[key]:
                sys.exit(f"evidence: {file} says {key} {there[key]}, not {record[key]}; give another --output_dir")
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, record)


def main(args: EvidenceArguments) -> None:
    check(args)
    datasets.disable_caching()  # pools and results are kept here
    for seed in args.seeds:
        if "scores" in args.parts and not result_file(args, "scores", seed).is_file():
            write(result_file(args, "scores", seed), score_results(args, seed))
            print(f"scores, seed {seed}", flush=True)
    for kind, seed in product(reversed(KINDS), args.seeds) if "signals" in args.parts else ():
        for name, folder in args.folders().items():
            file = result_file(args, "signals", name, kind, seed)
            if not file.is_file():
                pool = Pool(folder, kind, args.score_images, BASELINES[:1], seed)
                kept = Path(args.output_dir) / "pools" / f"signals-{name}-{kind}-{seed}"
                write(file, [{"generator": name, **row} for row in signal_results(kept, pool)])
                print(f"signals, {name}, {kind}, seed {seed}", flush=True)
    for seed in args.seeds if "selection" in args.parts else ():
        missing = [arm for arm in args.arms if not result_file(args, "selection", seed, arm).is_file()]

        def keep(arm: str, rows: list[dict], seed: int = seed) -> None:
            write(result_file(args, "selection", seed, arm), rows)
            values = {f"{row['benchmark']} {row['by']}, {row['kind']}": round(row["value"], 3) for row in rows}
            print(f"selection, seed {seed}, {arm}: {rows[0]['true']:.3f} true; {values}", flush=True)

        if missing:
            selection_results(args, seed, missing, keep)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    (arguments,) = TrlParser((EvidenceArguments,)).parse_args_and_config()
    main(arguments)
