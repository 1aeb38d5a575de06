"""Students of `selection_experiment.py`: which pairs an arm keeps, and what students trained on them answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from evidence_pools import load_generator
from PIL import Image
from selection_pools import LABELS, Candidates
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.scenes import GENERATOR
from c3l_hf.scenes.checker import check_pair
from c3l_hf.scenes.evaluation import answer_questions
from c3l_hf.scenes.priors import prior_driven
from c3l_hf.scenes.questions import ask
from c3l_hf.scenes.templates import QUESTION_TYPES
from c3l_hf.scenes.world import Scene, render, sample_scenes
from c3l_hf.selection.curation import curate

ALL = "all"
# Arm → the score whose best pairs are kept, whether the places are shared by clusters (else by types), and the least
# `pmi` of a pair. `truth` is known here only; `all` keeps everything.
ARMS: dict[str, tuple[str, bool, float | None]] = {
    "random": ("random", False, None),
    "truth": ("truth", False, None),
    "pmi": ("pmi", False, None),
    "pmi_k": ("pmi_k", False, None),
    "clusters_pmi": ("pmi", True, 0.0),
    "clusters_random": ("random", True, None),
    "floor_random": ("random", False, 0.0),
    "clusters_pmi_k": ("pmi_k", True, 0.0),
    "logprob": ("logprob", False, None),
    "token_kl": ("token_kl", False, None),
    "answer_kl": ("answer_kl", False, None),
    "truth_seen": ("truth_seen", False, None),
}


@dataclass(frozen=True)
class Asked:
    """A question of the test, about a scene of its own."""

    type: str
    question: str
    scene: Scene


def make_student(prior_heavy: str, lean: float) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A student that leans further on the prior of the usual scenes than a prior-heavy generator does.

    Its weights are those of the shipped generator, moved `lean` times as far as reading without pictures moved them:
    w = w_shipped + lean · (w_prior_heavy − w_shipped), an extrapolated task vector (Ilharco et al., arXiv:2212.04089).
    It sees as well as ever, and makes less of it, so a few hundred pairs show which of them bring it back.
    """
    shipped, _ = load_generator(GENERATOR)
    model, processor = load_generator(prior_heavy)
    start = shipped.state_dict()
    model.load_state_dict({name: torch.lerp(start[name], weight, lean) for name, weight in model.state_dict().items()})
    return model, processor


def select(found: Candidates, arm: str, size: int, seed: int) -> list[int]:
    """The rows of the pool that an arm trains on, at most `size`: `curate`'s choice."""
    if arm == ALL:
        return found.table["row"][:]
    score, by_cluster, floor = ARMS[arm]
    table = found.table
    if floor is not None:
        table = table.select(np.flatnonzero(np.array(table["pmi"]) >= floor))
    if by_cluster:
        table = table.remove_columns("type").rename_column("cluster", "type")
    chosen, _ = curate(table, target_size=size, score=score, seed=seed)
    return chosen["row"][:]


def describe(found: Candidates, rows: Sequence[int]) -> dict[str, float]:
    """Of the pairs an arm trains on: how many, the share with each label, how many different texts and images."""
    chosen = set(rows)
    of = found.table.filter(lambda row: row in chosen, input_columns="row")
    texts = {(q[0]["content"], a[0]["content"]) for q, a in zip(of["prompt"], of["completion"])}
    shares = {name: float(found.labels[name][list(rows)].mean()) for name in LABELS}
    return {"pairs": len(rows), **shares, "texts": len(texts), "images": len(set(of["image_id"]))}


def make_questions(each: int, seed: int, shifted: bool) -> list[Asked]:
    """So many questions of every type, each about another scene of split `test`."""
    rng = np.random.default_rng([seed, 3])
    found: list[Asked] = []
    left = dict.fromkeys(QUESTION_TYPES, each)
    # Not every scene allows every question.
    for index, scene in enumerate(sample_scenes(100 * each * len(left), seed, "test", shifted)):
        type = QUESTION_TYPES[index % len(QUESTION_TYPES)]
        if left[type] and (pair := ask(scene, type, rng)):
            found.append(Asked(type, pair[0], scene))
            left[type] -= 1
        if not any(left.values()):
            break
    # A batch takes as long as its longest answer.
    return sorted(found, key=lambda one: QUESTION_TYPES.index(one.type))


def answer(model: PreTrainedModel, processor: ProcessorMixin, asked: Sequence[Asked]) -> Mapping[str, list]:
    """Greedy answers: for each question its type, whether the answer is true, and whether it is prior-driven."""
    images = [Image.fromarray(render(one.scene)) for one in asked]
    answers = answer_questions(model, processor, [one.question for one in asked], images)
    return {
        "type": [one.type for one in asked],
        "right": [check_pair(one.question, text, one.scene).true is True for one, text in zip(asked, answers)],
        "prior_driven": [prior_driven(one.question, text, one.scene) is True for one, text in zip(asked, answers)],
    }
