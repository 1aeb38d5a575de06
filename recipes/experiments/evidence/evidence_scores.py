"""What does each score find? AUCs for `evidence.py`: true pairs over false ones, others over prior-driven ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from evidence_pools import BASELINES, Pool
from scipy.stats import rankdata, spearmanr

from c3l_hf.scenes.evaluation import judge_pairs
from c3l_hf.scenes.priors import prior_driven
from c3l_hf.scenes.world import sample_scenes
from c3l_hf.scoring.formulas import PMI_K

# A type, or an image, says something about a ranking only if it has both kinds of pairs: so many of either.
LEAST_OF_TYPE, LEAST_OF_IMAGE = 5, 1
# Found on the tuning seed, as `PMI_K` was.
_QUESTION_WEIGHT = 0.3


@dataclass(frozen=True)
class Labels:
    """What is true about a pool's pairs, as arrays with an element per pair.

    Attributes:
        pair: Whether there is a pair at all.
        true: Well-formed, of the type asked for, and true by the checker.
        prior: Prior-driven, see `c3l_hf.scenes.priors`.
    """

    pair: np.ndarray
    true: np.ndarray
    prior: np.ndarray


def label(rows: Mapping[str, Sequence], pool: Pool) -> Labels:
    """The labels of a pool's rows."""
    scenes = {
        scene.image_id: scene for scene in sample_scenes(pool.images, pool.seed, "validation", pool.kind == "shifted")
    }
    of_rows = [scenes[image_id] for image_id in rows["image_id"]]
    texts = [(q, a) if q else None for q, a in zip(rows["question"], rows["answer"])]
    _, true = judge_pairs(rows["type"], texts, of_rows)
    prior = [bool(text and prior_driven(*text, scene)) for text, scene in zip(texts, of_rows)]
    return Labels(np.array([text is not None for text in texts]), np.array(true), np.array(prior))


def rankings(rows: Mapping[str, Sequence], seed: int) -> dict[str, np.ndarray]:
    """Every ranking of a pool's pairs, higher for what is to be kept; NaN where a pair has no score.

    Beside the scores: `min_pmi` and `min_logprob`, of the token that has least; `pmi_k+question`, with the question's
    own log-probability, given image and generation instruction; `<score>, <baseline>` for the other blind baselines;
    and as controls `length` (tokens of the answer) and `random`.
    """
    with_image, blind = (_lists(rows[f"{name}_per_token"]) for name in ("logprob", "logprob_blind"))
    found = {name: column(rows[name]) for name in ("answer_kl", "token_kl", "pmi", "logprob")}
    found["pmi_k"] = np.array([np.mean(PMI_K * p - q) for p, q in zip(with_image, blind)])
    found["min_pmi"] = np.array([np.min(p - q) for p, q in zip(with_image, blind)])
    found["min_logprob"] = np.array([np.min(p) for p in with_image])
    if "question_logprob" in rows:
        found["pmi_k+question"] = found["pmi_k"] + _QUESTION_WEIGHT * column(rows["question_logprob"])
    for baseline in BASELINES[1:]:
        for score in ("answer_kl", "token_kl", "pmi"):
            if f"{score}_{baseline}" in rows:
                found[f"{score}, {baseline}"] = column(rows[f"{score}_{baseline}"])
    found["length"] = np.array([float(p.size) if np.isfinite(p).all() else np.nan for p in with_image])
    found["random"] = np.random.default_rng([seed, 99]).random(len(with_image))
    return found


def column(values: Sequence[float | None]) -> np.ndarray:
    """Numbers, NaN for null."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _lists(values: Sequence[Sequence[float] | None]) -> list[np.ndarray]:
    return [np.array(value or [np.nan], dtype=float) for value in values]


def auc(scores: np.ndarray, good: np.ndarray) -> float:
    """The chance that a good pair scores above a bad one (ties count half); NaN if one kind is missing."""
    number, of = int(good.sum()), len(good)
    if number in (0, of):
        return float("nan")
    above = rankdata(scores)[good].sum() - number * (number + 1) / 2
    return float(above / (number * (of - number)))


def mean_auc(scores: np.ndarray, good: np.ndarray, groups: np.ndarray, least: int) -> float:
    """The mean AUC within the groups that have at least `least` pairs of either kind; NaN if there is none."""
    values = []
    for group in np.unique(groups):
        inside = groups == group
        number = int(good[inside].sum())
        if least <= number <= inside.sum() - least:
            values.append(auc(scores[inside], good[inside]))
    return float(np.mean(values)) if values else float("nan")


def measure(rows: Mapping[str, Sequence], pool: Pool) -> list[dict]:
    """One row per ranking and label: AUC overall, within type and within image, and correlation with length.

    Labels: "true" (true over false pairs), "prior" (all other pairs over prior-driven ones), "true over prior" (true
    pairs over prior-driven ones, other errors left out). Rows without a pair or without a score are left out; `n` and
    `bad` count what is left.
    """
    labels = label(rows, pool)
    types, images = np.array(rows["type"]), np.array(rows["image_id"])
    ranked = rankings(rows, pool.seed)
    sizes = ranked["length"]
    result = []
    for name, scores in ranked.items():
        usable = labels.pair & np.isfinite(scores)
        rho = float("nan") if name in ("random", "length") else spearmanr(scores[usable], sizes[usable]).statistic
        for kind, good, asked in (
            ("true", labels.true, usable),
            ("prior", ~labels.prior, usable),
            ("true over prior", labels.true, usable & (labels.true | labels.prior)),
        ):
            s, g = scores[asked], good[asked]
            result.append(
                {
                    "ranking": name,
                    "label": kind,
                    "n": int(asked.sum()),
                    "bad": int((~g).sum()),
                    "auc": auc(s, g),
                    "auc_within_type": mean_auc(s, g, types[asked], LEAST_OF_TYPE),
                    "auc_within_image": mean_auc(s, g, images[asked], LEAST_OF_IMAGE),
                    "length_spearman": float(rho),
                }
            )
    return result
