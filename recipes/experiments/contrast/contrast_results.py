"""The results of `contrast_experiment.py`: reading and keeping them, and shares of true pairs with their intervals."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from c3l_hf.common.intervals import bootstrap_interval, t_interval
from c3l_hf.prompts.templates import GENERAL
from c3l_hf.scenes.templates import QUESTION_TYPES

SPLITS = ("usual", "shifted")
ERRORS = ("prior_driven", "premise_absent")
NAN = float("nan")
Results = dict[str, dict[int, dict]]


def load_results(source: Path) -> list[dict]:
    """The results in a folder, the oldest first, or in a file of `keep_results`."""
    if source.suffix == ".parquet":
        if not source.is_file():
            raise ValueError(f"{source} is not there")
        texts = parquet.read_table(source)["result"].to_pylist()
    else:
        files = sorted(source.glob("results/*.json"), key=lambda file: file.stat().st_mtime)
        texts = [file.read_text() for file in files]
    results = [json.loads(text) for text in texts]
    for result in results:
        result["options"].setdefault("shifted", False)  # the first results are from before there was this option
    return results


def keep_results(results: Results, file: Path) -> None:
    """Everything that was read, as one small file: a row for each arm and seed."""
    rows = [
        {"name": name, "seed": seed, "result": json.dumps(result)}
        for name, by_seed in results.items()
        for seed, result in sorted(by_seed.items())
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, compression="zstd")


def read_results(source: Path, seeds: Sequence[int] | None, arms: Sequence[str] | None) -> Results:
    """Results by arm and seed, arms in the order of their first result, or as given.

    Raises:
        ValueError: If there are none, an arm is missing, or they were made with different options.
    """
    found: Results = {}
    first = None
    for result in load_results(source):
        if seeds is not None and result["seed"] not in seeds:
            continue
        first = first or result
        if result["options"] != first["options"]:
            one, other = (f"{of['name']}, seed {of['seed']}" for of in (first, result))
            raise ValueError(f"{source}: {one} and {other} were made with different options; they cannot be compared")
        found.setdefault(result["name"], {})[result["seed"]] = result
    if not found:
        raise ValueError(f"{source} has no results (of these seeds); run contrast_experiment.py first")
    names = list(found) if arms is None else list(arms)
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{source} has no result of {', '.join(missing)}; it has {', '.join(found)}")
    return {name: found[name] for name in names}


# Statistics


def counts_of(result: Mapping, split: str, hit: str, kind: str = "pairs") -> np.ndarray:
    """(hits, pairs) of each image and question type: float array of shape (2, images, types)."""
    columns = result[split][kind]["by_image"]
    types = QUESTION_TYPES if kind == "pairs" else (GENERAL,)
    images = {image: number for number, image in enumerate(dict.fromkeys(columns["image"]))}
    counts = np.zeros((2, len(images), len(types)))
    place = [images[image] for image in columns["image"]], [types.index(type) for type in columns["type"]]
    np.add.at(counts, (0, *place), columns[hit])
    np.add.at(counts, (1, *place), columns["pairs"])
    return counts


def balanced(counts: np.ndarray) -> np.ndarray:
    """The mean over types of hits / pairs, from (2, ..., types); types without pairs do not count."""
    with np.errstate(invalid="ignore"):
        share = counts[0] / counts[1]
    known = ~np.isnan(share)
    with np.errstate(invalid="ignore"):
        return np.where(known, share, 0).sum(-1) / known.sum(-1)


def mean_over_seeds(arms: Sequence[Sequence[np.ndarray]]) -> tuple[float, float, float]:
    """The mean over seeds of the type-balanced share, or of the first arm's minus the second's, and its 95 % interval
    over images.

    Args:
        arms: One or two arms: of each the counts of each seed. With two, a seed's images are the same in both.
    """
    seeds = list(zip(*arms, strict=True))

    def value(*times: np.ndarray) -> np.ndarray:
        """For each seed how often each image is drawn → the mean."""
        total = 0.0
        for weights, of_seed in zip(times, seeds):
            # Sums over a sample are products with this, which is much faster than to gather.
            shares = [balanced(np.tensordot(counts, weights, (1, -1)).swapaxes(1, -1)) for counts in of_seed]
            total = total + (shares[0] - shares[1] if len(shares) == 2 else shares[0])
        return total / len(seeds)

    sizes = [of_seed[0].shape[1] for of_seed in seeds]
    estimate = float(value(*map(np.ones, sizes)))
    if min(sizes) < 2 or np.isnan(estimate):
        return estimate, NAN, NAN
    return estimate, *bootstrap_interval(sizes, value, resamples=1000, seed=0)


def over_seeds(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % interval of the mean difference with the seeds as the sample; NaN for a single seed."""
    differences = [float(balanced(a.sum(axis=1)) - balanced(b.sum(axis=1))) for a, b in zip(first, second)]
    if len(differences) < 2 or np.ptp(differences) == 0:
        return NAN, NAN
    return t_interval(differences)[1:]
