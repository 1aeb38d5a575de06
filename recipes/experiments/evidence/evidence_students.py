"""Does selecting help? Students of `evidence.py`: the same model, fine-tuned on what each ranking keeps of one pool."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, concatenate_datasets
from evidence_pools import Pool, scenes_of
from evidence_scores import Labels, rankings
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.data.schema import STATUS
from c3l_hf.evaluation.answerer import PredictionConfig
from c3l_hf.evaluation.counts import ALL as ALL_GROUPS
from c3l_hf.evaluation.counts import count_answers
from c3l_hf.evaluation.predictions import predict
from c3l_hf.evaluation.questions import bare_questions
from c3l_hf.evaluation.world_questions import world_questions
from c3l_hf.finetuning.examples import Examples
from c3l_hf.finetuning.student import StudentConfig, fine_tune
from c3l_hf.scenes.evaluation import MAX_NEW_TOKENS
from c3l_hf.scenes.judge import judge_scene_answers
from c3l_hf.selection.curation import curate

ALL = "all"
# Arm → the ranking whose best pairs are kept, and its sign. `truth` is known here only; `all` keeps everything.
# The best of a ranking are alike. `<ranking>_half` only drops the lower half of each type and keeps any of the others;
# `<ranking>_image` keeps the best pair of each image, as pseudo-labels do. `<arm>_steps` keeps what the arm keeps, and
# goes over it again until it has had as many steps as `all`.
HALF, OF_IMAGE, STEPS = "_half", "_image", "_steps"
ARMS = {
    "random": ("random", 1),
    "pmi": ("pmi", 1),
    "pmi_k": ("pmi_k", 1),
    "logprob": ("logprob", 1),
    "pmi_k_half": ("pmi_k", 1),
    "pmi_k_image": ("pmi_k", 1),
    "token_kl": ("token_kl", 1),
    "answer_kl": ("answer_kl", 1),
    "min_pmi": ("min_pmi", 1),
    "bottom": ("pmi", -1),
    "longest": ("length", 1),
    "truth": ("truth", 1),
    "random_steps": ("random", 1),
    "pmi_k_image_steps": ("pmi_k", 1),
    "truth_steps": ("truth", 1),
    ALL: (None, 1),
}

# Benchmark and way of reading → group and figure that stand for it.
FIGURES = {
    ("pope", "generated"): ("mean over category", "accuracy"),
    ("seed", "generated"): (ALL_GROUPS, "accuracy"),
    ("seed", "likelihood"): (ALL_GROUPS, "accuracy"),
    ("mmbench", "generated"): (ALL_GROUPS, "accuracy"),
    ("llava_w", "judge"): (ALL_GROUPS, "relative_score"),
}
BENCHMARKS = ("pope", "seed", "mmbench", "llava_w")


@dataclass(frozen=True)
class Training:
    """How a student is fine-tuned, whatever its pairs.

    Attributes:
        rows: Pairs that are selected.
        epochs: Passes over them; the arm `all` makes the same number over everything.
        rows_per_step: Pairs in a step.
        learning_rate: Highest learning rate, cosine decay.
    """

    rows: int = 5000
    epochs: int = 1
    rows_per_step: int = 4
    learning_rate: float = 4e-4


def candidates(rows: Dataset, pool: Pool, labels: Labels) -> Dataset:
    """The pool's pairs with their pictures, as `curate` and a student's training take them.

    Further columns: `row`, the number in the pool, and the rankings of `ARMS`.
    """
    columns = rows.to_dict()
    ranked = rankings(columns, pool.seed)
    # True pairs first, in random order.
    ranked["truth"] = labels.true + 0.5 * ranked["random"]
    messages = {
        "prompt": [q and [{"role": "user", "content": q}] for q in columns["question"]],
        "completion": [a and [{"role": "assistant", "content": a}] for a in columns["answer"]],
    }
    kept = {name: columns[name] for name in ("image_id", "pair_id", "type", STATUS)}
    scores = {name: ranked[name].tolist() for name, _ in ARMS.values() if name}
    found = Dataset.from_dict(kept | messages | scores | {"row": range(len(rows))})
    images = scenes_of(pool)
    place = {image_id: number for number, image_id in enumerate(images["image_id"])}
    pictures = images.select_columns(["images"]).select([place[image_id] for image_id in columns["image_id"]])
    return concatenate_datasets([pictures, found], axis=1)


def select(found: Dataset, arm: str, training: Training, seed: int) -> list[int]:
    """The numbers of the pairs that an arm trains on: `curate`'s choice, types balanced; all pairs for `all`."""
    ranking, sign = ARMS[arm]
    arm = arm.removesuffix(STEPS)
    if ranking is None:
        return [number for number, status in zip(found["row"], found[STATUS]) if status == "ok"]
    if sign < 0:
        values = (sign * np.array(found[ranking], dtype=float)).tolist()
        found = found.remove_columns(ranking).add_column(ranking, values)
    if arm.endswith(HALF):
        found, _ = curate(found, target_size=len(found), score=ranking, min_quantile=0.5, balance_by=None)
        ranking = "random"
    per_image = 1 if arm.endswith(OF_IMAGE) else None
    chosen, _ = curate(found, target_size=training.rows, score=ranking, max_per_image=per_image, seed=seed)
    return chosen["row"][:]


def steps_of(arm: str, chosen: int, pool: int, training: Training) -> int:
    """The gradient steps of an arm that trains on so many of the pool's pairs."""
    return training.epochs * -(-(pool if arm.endswith(STEPS) else chosen) // training.rows_per_step)


def train(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    examples: Examples,
    rows: Sequence[int],
    steps: int,
    training: Training,
    seed: int,
) -> PreTrainedModel:
    """The student, modified in place, fine-tuned on some of the pool's pairs."""
    chosen = examples.select(rows)
    with tempfile.TemporaryDirectory() as folder:
        args = StudentConfig(
            output_dir=folder,
            seed=seed,
            max_steps=steps,
            per_device_train_batch_size=training.rows_per_step,
            learning_rate=training.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.03,
            use_lora=False,
            bf16=True,
            activation_checkpointing=False,
            logging_steps=50,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        return fine_tune(model, processor, chosen, args)


def questions(seed: int, kind: str, images: int) -> dict[str, Dataset]:
    """The four scenes benchmarks, in bare questions: nothing in a student's pairs has taught it about letters."""
    return {
        benchmark: bare_questions(
            world_questions(
                "scenes-shifted" if kind == "shifted" else "scenes", benchmark, images, seed=seed, circular=False
            )
        )
        for benchmark in BENCHMARKS
    }


def evaluate(model: PreTrainedModel, processor: ProcessorMixin, asked: Mapping[str, Dataset]) -> list[dict]:
    """The main figure of every benchmark: POPE's mean accuracy over its categories, accuracy by the written answer
    (SEED-Bench by likelihood, too), and LLaVA-Bench's relative score, by the scenes' truth."""
    found = []
    for benchmark, rows in asked.items():
        config = PredictionConfig(
            max_new_tokens=MAX_NEW_TOKENS, batch_size=128, part_size=512, likelihood=benchmark == "seed"
        )
        predictions = predict(rows, model, processor, config, progress=False)
        if benchmark == "llava_w":
            predictions = judge_scene_answers(predictions)
        for way in count_answers(benchmark, predictions):
            if (benchmark, way.by) in FIGURES:
                measure = next(one for one in way.measures() if (one.group, one.figure) == FIGURES[benchmark, way.by])
                value = float(measure.statistic(measure.counts.sum(axis=0)))
                found.append({"benchmark": benchmark, "by": way.by, "figure": measure.figure, "value": value})
                found[-1] |= {"questions": len(way.ids), "unreadable": len(way.unread)}
    return found


def describe(rows: Sequence[int], labels: Labels, pool: Mapping[str, Sequence]) -> dict[str, float]:
    """Of the pairs an arm trains on: how many, which share is true, and prior-driven, types counting the same; how many
    different texts, and images."""
    chosen = np.array(rows)
    of = np.array([pool["type"][row] for row in rows])
    balanced = {
        name: float(np.mean([values[chosen][of == type].mean() for type in np.unique(of)]))
        for name, values in (("true", labels.true), ("prior", labels.prior))
    }
    texts = {(pool["question"][row], pool["answer"][row]) for row in rows}
    images = {pool["image_id"][row] for row in rows}
    return {"pairs": len(rows), **balanced, "texts": len(texts), "images": len(images)}
