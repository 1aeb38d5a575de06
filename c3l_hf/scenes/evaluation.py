"""How good a model is in the scenes world: true answers by question type, true pairs among generated ones."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from scipy.stats import binomtest
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.intervals import bootstrap_interval
from c3l_hf.data.row_texts import as_one, turns_of
from c3l_hf.scenes.checker import check_pair, described_objects
from c3l_hf.scenes.questions import ask
from c3l_hf.scenes.templates import QUESTION_TYPES
from c3l_hf.scenes.world import Scene, render, sample_scenes

__all__ = [
    "MAX_NEW_TOKENS",
    "Share",
    "answer_accuracy",
    "answer_questions",
    "judge_pairs",
    "pair_texts",
    "type_balanced",
]

# No pair that the small generator knows is longer.
MAX_NEW_TOKENS = 96


@dataclass(frozen=True)
class Share:
    """A proportion `hits` / `total` with its 95 % Wilson interval."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        return self.hits / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        if not self.total:
            return float("nan"), float("nan")
        found = binomtest(self.hits, self.total).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"


def type_balanced(
    types: Sequence[str], hits: Sequence[bool], images: Sequence[str], seed: int = 0
) -> tuple[float, float, float]:
    """The share of hits with every type counting the same, and its 95 % interval.

    Pairs about one image are not independent, so the interval is a percentile bootstrap over images (1,000 resamples).

    Args:
        types: Question type of each pair.
        hits: Whether the pair counts.
        images: Image id of each pair.
        seed: Seed of the resampling.

    Returns:
        (share, low, high), all NaN if there are no pairs; with a single image the interval is NaN.
    """
    if not len(types):
        return float("nan"), float("nan"), float("nan")
    type_names, type_index = np.unique(types, return_inverse=True)
    image_names, image_index = np.unique(images, return_inverse=True)
    counts = np.zeros((2, len(image_names), len(type_names)))
    np.add.at(counts, (0, image_index, type_index), np.asarray(hits, dtype=float))
    np.add.at(counts, (1, image_index, type_index), 1.0)

    def share(times: np.ndarray) -> np.ndarray:
        """How often each image is drawn → the share."""
        right, total = (np.tensordot(times, counts[part], axes=1) for part in (0, 1))
        with np.errstate(invalid="ignore"):
            return np.nanmean(right / total, axis=-1)

    value = float(share(np.ones(len(image_names))))
    if len(image_names) == 1:
        return value, float("nan"), float("nan")
    return value, *bootstrap_interval([len(image_names)], share, resamples=1000, seed=seed)


@torch.inference_mode()
def answer_questions(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    questions: Sequence[str],
    images: Sequence[Image.Image],
    batch_size: int = 128,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[str]:
    """Greedy answers of a vision-language model to one question about each image."""
    answers = []
    for start in range(0, len(questions), batch_size):
        part = slice(start, start + batch_size)
        conversations = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]
            for question, image in zip(questions[part], images[part])
        ]
        inputs = processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(model.device)
        output = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        texts = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answers.extend(text.strip() for text in texts)
    return answers


def answer_accuracy(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    n: int,
    seed: int = 0,
    split: str = "test",
    shifted: bool = False,
) -> dict[str, Share]:
    """Greedy answers to about `n` questions of each type about fresh scenes, judged by the checker.

    Returns:
        By question type, the share of true answers; and for descriptions also `description precision` (of the objects
        named, those that are there, by category and number) and `description recall` (of the objects there, those
        named).
    """
    rng = np.random.default_rng([seed, 2])
    asked: list[tuple[str, Scene, str]] = []
    for index, scene in enumerate(sample_scenes(2 * n * len(QUESTION_TYPES), seed, split, shifted)):
        type = QUESTION_TYPES[index % len(QUESTION_TYPES)]
        pair = ask(scene, type, rng)
        if pair and sum(item[0] == type for item in asked) < n:
            asked.append((type, scene, pair[0]))
    images = [Image.fromarray(render(scene)) for _, scene, _ in asked]
    answers = answer_questions(model, processor, [question for _, _, question in asked], images)

    total, hits = Counter(), Counter()
    for (type, scene, question), answer in zip(asked, answers):
        total[type] += 1
        hits[type] += check_pair(question, answer, scene).true is True
        if type == "description":
            named = Counter(name for name, _ in described_objects(answer) or ())
            right = (named & scene.counts()).total()
            total["description precision"] += named.total()
            total["description recall"] += len(scene.objects)
            hits["description precision"] += right
            hits["description recall"] += right
    return {type: Share(hits[type], total[type]) for type in total}


def pair_texts(pairs: Dataset) -> list[tuple[str, str] | None]:
    """(question, answer) of each row of `generate_pairs`, None where there is no pair."""
    rows = pairs.select_columns(["prompt", "completion"])[:]
    return [
        as_one(turns_of(prompt, completion)) if prompt else None
        for prompt, completion in zip(rows["prompt"], rows["completion"])
    ]


def judge_pairs(
    types: Sequence[str], pairs: Sequence[tuple[str, str] | None], scenes: Sequence[Scene]
) -> tuple[list[bool], list[bool]]:
    """Whether each generated pair is well-formed (of the type asked for, where one was) and whether it is true.

    Args:
        types: The type each pair was asked for; "general" allows any.
        pairs: (question, answer), or None where no pair could be read from the generated text.
        scenes: The scene of each pair.
    """
    well_formed, true = [], []
    for type, pair, scene in zip(types, pairs, scenes, strict=True):
        verdict = check_pair(*pair, scene) if pair else None
        fits = verdict is not None and verdict.well_formed and type in (verdict.type, "general")
        well_formed.append(fits)
        true.append(fits and verdict.true is True)
    return well_formed, true
