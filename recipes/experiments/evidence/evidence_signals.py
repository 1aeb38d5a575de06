"""What does each signal beside the correspondence find? Pools for `evidence.py` with every signal, and AUCs.

All within the type of question: types differ in how many of their pairs are true, and a user shares places among them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from evidence_pools import Pool, kept, load_generator, scored, texts_of, written
from evidence_scores import LEAST_OF_TYPE, column, mean_auc, rankings
from selection_pools import labels_of

from c3l_hf.generation.in_process import ModelWriter
from c3l_hf.scenes.evaluation import MAX_NEW_TOKENS
from c3l_hf.scenes.questions import PLURAL, article
from c3l_hf.scenes.world import CATEGORIES
from c3l_hf.scoring.question import question_signal
from c3l_hf.scoring.replies import agreement_signal
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.scoring.yes_no import premise_signal, truth_signal
from c3l_hf.selection.combination import COMBINED, combine_scores

K = 5  # replies to each question, for `agreement`
# Signal → what it costs beyond the two passes of the scores, which every pool has.
SIGNALS = {
    **dict.fromkeys(("token_kl", "answer_kl", "pmi", "pmi_k", "logprob", "min_pmi"), "the scores: 2 passes"),
    "truth_logodds": "2 passes, of up to 8 words",
    "truth_gain": "2 passes, of up to 8 words",
    "premise_object": "2 passes, of up to 8 words, for each thing that is named",
    "premise_general": "2 passes, of up to 8 words",
    "question_logprob": "2 passes",
    "question_pmi": "2 passes",
    "pair_pmi": "2 passes",
    "agreement": f"{K} generated replies",
}
# With equal weights.
COMBINATIONS = (
    ("pmi", "question_pmi"),
    ("pmi", "question_logprob"),
    ("pmi_k", "question_pmi"),
    ("pmi", "premise_object"),
    ("pmi_k", "premise_object"),
)
CONTRASTS = {
    "true": "true over false",
    "prior": "others over prior-driven",
    "true over prior": "true over prior-driven",
    "premise": "others over premise absent",
}
_NAME_OF = {word: name for name in CATEGORIES for word in (name, PLURAL[name])}
_COLUMNS = ("truth_logodds", "truth_gain", "question_logprob", "question_pmi", "pair_pmi", "agreement")


def named(question: str | None) -> tuple[str | None, str | None]:
    """The first thing that a question names, and the last if it is another; with their articles."""
    found = [_NAME_OF[word] for word in re.findall(r"\w+", question or "") if word in _NAME_OF]
    if not found:
        return None, None
    return article(found[0]), article(found[-1]) if found[-1] != found[0] else None


def load_signals(folder: Path, pool: Pool) -> Dataset:
    """The pool with all signals in this folder, made and kept there if it is not there yet.

    Returns:
        Rows of `load_pool`; `object` and `second`, what the question names; and the numbers of `truth_signal`, of
        `premise_signal` with a general text (`premise`), about the object (`first`) and the second one (`second_one`),
        of `question_signal` and of `agreement_signal`.
    """
    return kept(folder, {**pool.identity(), "signals": K}, lambda: _make(pool))


def _make(pool: Pool) -> Dataset:
    model, processor = load_generator(pool.generator)
    pairs = written(pool, model, processor)
    found = texts_of(pairs)
    found["object"], found["second"] = map(list, zip(*map(named, found["question"])))
    pairs = pairs.add_column("object", found["object"]).add_column("second", found["second"])
    scorer = I2CScorer(model, processor)
    found |= scored(pairs, scorer)
    writer = ModelWriter(model, processor, batch_size=250, seed=pool.seed)
    for signal in (
        truth_signal(scorer),
        premise_signal(scorer),
        premise_signal(scorer, text="Is there {{ object }} in the picture?", name="first"),
        premise_signal(scorer, text="Is there {{ second }} in the picture?", name="second_one"),
        question_signal(scorer),
        agreement_signal(writer, k=K, max_new_tokens=MAX_NEW_TOKENS),
    ):
        columns = scored(pairs, signal)
        found |= {name: columns[name] for name in (*signal.numbers, signal.status)}
    return Dataset.from_dict(found)


def signals_of(rows: Mapping[str, Sequence], seed: int) -> dict[str, np.ndarray]:
    """Every signal of a pool's pairs, and the `COMBINATIONS`: higher for what is to be kept, NaN where a pair has none.

    `premise_object` is the lower of the log-odds of the two things that a question names. In combinations, a question
    that names nothing has the highest place in it: nothing can be absent.
    """
    ranked = rankings(rows, seed)
    found = {name: ranked[name] for name in SIGNALS if name in ranked}
    found |= {name: column(rows[name]) for name in _COLUMNS}
    found["premise_general"] = column(rows["premise_logodds"])
    found["premise_object"] = np.fmin(column(rows["first_logodds"]), column(rows["second_one_logodds"]))
    found = {name: found[name] for name in SIGNALS}
    nothing = np.array([bool(q) and not o for q, o in zip(rows["question"], rows["object"])])
    highest = np.nanmax(found["premise_object"], initial=0.0) + 1
    values = {**found, "premise_object": np.where(nothing, highest, found["premise_object"])}
    table = Dataset.from_dict({"type": rows["type"], **values})
    for names in COMBINATIONS:
        combined, _ = combine_scores(table, dict.fromkeys(names, 1.0))
        found[" + ".join(names)] = column(combined[COMBINED][:])
    return {**found, "random": ranked["random"]}


@dataclass(frozen=True)
class _Contrast:
    """The pairs that are asked for, and which of them are to be above the others."""

    asked: np.ndarray
    good: np.ndarray


def contrasts(labels: Mapping[str, np.ndarray]) -> dict[str, _Contrast]:
    """`CONTRASTS` of labels, see `selection_pools.labels_of`."""
    true, prior, premise = (labels[name] for name in ("true", "prior", "premise"))
    all_ = np.ones(len(true), bool)
    return {
        "true": _Contrast(all_, true),
        "prior": _Contrast(all_, ~prior),
        "true over prior": _Contrast(true | prior, true),
        "premise": _Contrast(all_, ~premise),
    }


def signal_results(folder: Path, pool: Pool) -> list[dict]:
    """One row for each signal and contrast: the mean over types of the AUC within a type.

    Only types with at least `LEAST_OF_TYPE` pairs of either kind count; `types` is their number. `n` pairs have the
    signal and a label, `bad` of these are what is to be below. `truth_mass` and `premise_mass` are medians: how likely
    the model says yes or no at all.
    """
    rows = load_signals(folder, pool).to_dict()
    labels = labels_of(rows, pool)
    pair, types = np.array([q is not None for q in rows["question"]]), np.array(rows["type"])
    about = {"kind": pool.kind, "seed": pool.seed, "images": pool.images, "pairs": int(pair.sum())}
    about |= {name: float(labels[name][pair].mean()) for name in ("true", "prior", "premise")}
    about |= {
        f"{name}_mass": float(np.nanmedian(column(rows[f"{of}_mass"])))
        for name, of in (("truth", "truth"), ("general", "premise"), ("object", "first"))
    }
    result = []
    for name, values in signals_of(rows, pool.seed).items():
        for contrast, of in contrasts(labels).items():
            use = pair & np.isfinite(values) & of.asked
            good = of.good[use]
            least = [min(good[types[use] == kind].sum(), (~good)[types[use] == kind].sum()) for kind in set(types)]
            result.append(
                {
                    **about,
                    "signal": name,
                    "contrast": contrast,
                    "n": int(use.sum()),
                    "bad": int((~good).sum()),
                    "types": int(sum(number >= LEAST_OF_TYPE for number in least)),
                    "auc": mean_auc(values[use], good, types[use], LEAST_OF_TYPE),
                }
            )
    return result
