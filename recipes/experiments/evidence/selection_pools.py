"""Pools of `selection_experiment.py`: what a generator wrote about shifted scenes, with labels and clusters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from evidence_pools import Pool, load_generator, load_pool, scenes_of
from evidence_scores import label, rankings
from scipy.cluster.vq import kmeans2
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.files import atomic_write
from c3l_hf.common.words import normal_text
from c3l_hf.data.schema import STATUS
from c3l_hf.finetuning.examples import Examples, encode_examples
from c3l_hf.models.batching import collate
from c3l_hf.scenes.evaluation import MAX_NEW_TOKENS
from c3l_hf.scenes.priors import premise_absent
from c3l_hf.scenes.world import sample_scenes

# The scores by which pairs are chosen.
SCORES = ("pmi", "pmi_k", "token_kl", "answer_kl", "logprob", "random")
# What is known of a pair: see `labels_of`.
LABELS = ("true", "prior", "premise", "blind")
_BATCH = 64


@dataclass(frozen=True)
class Candidates:
    """The pairs of a pool that a student can be trained on.

    Attributes:
        table: Their columns as `curate` takes them, `SCORES`, `truth`, `truth_seen`, `cluster`, and the `row` they are.
        examples: The pool's rows, encoded.
        labels: `LABELS`, each an array with an element for every row of the pool.
    """

    table: Dataset
    examples: Examples
    labels: Mapping[str, np.ndarray]


def load_candidates(folder: Path, pool: Pool, clusters: int) -> Candidates:
    """The pool in this folder, made and kept there if it is not there yet, with labels and clusters."""
    rows = load_pool(folder, pool)
    columns = rows.to_dict()
    messages = {
        "prompt": [q and [{"role": "user", "content": q}] for q in columns["question"]],
        "completion": [a and [{"role": "assistant", "content": a}] for a in columns["answer"]],
    }
    pictures = scenes_of(pool)
    place = {image_id: number for number, image_id in enumerate(pictures["image_id"])}
    pictures = pictures.select_columns(["images"]).select([place[image_id] for image_id in columns["image_id"]])
    texts = Dataset.from_dict({name: columns[name] for name in ("image_id", "pair_id", "type", STATUS)} | messages)
    found = concatenate_datasets([pictures, texts], axis=1)
    model, processor = load_generator(pool.generator)
    examples = encode_examples(found, processor, keep=True)
    extra = folder / "extra.npz"
    if not extra.is_file():
        blind = blind_answers(model, processor, sorted({q for q in columns["question"] if q}))
        same = [
            bool(a) and normal_text(a) == normal_text(blind[q]) for q, a in zip(columns["question"], columns["answer"])
        ]
        with atomic_write(extra) as partial, open(partial, "wb") as file:
            np.savez(file, blind=np.array(same), embeddings=embed(model, examples, len(found)))
    stored = np.load(extra)
    labels = labels_of(columns, pool) | {"blind": stored["blind"]}
    ranked = rankings(columns, pool.seed)
    usable = np.zeros(len(rows), bool)
    usable[sorted(set(examples.index["row"]))] = True
    usable &= np.isfinite(ranked["pmi"])
    scores = {name: ranked[name] for name in SCORES}
    # True pairs first, in random order.
    scores["truth"] = labels["true"] + 0.5 * ranked["random"]
    # Of these first what needs the picture.
    scores["truth_seen"] = scores["truth"] + (labels["true"] & ~labels["blind"])
    numbers = np.flatnonzero(usable)
    table = found.remove_columns("images").select(numbers)
    for name, values in scores.items():
        table = table.add_column(name, values[numbers].tolist())
    table = table.add_column("cluster", cluster(stored["embeddings"][numbers], clusters, pool.seed))
    return Candidates(table.add_column("row", numbers.tolist()), examples, labels)


def labels_of(rows: Mapping[str, Sequence], pool: Pool) -> dict[str, np.ndarray]:
    """What is true about a pool's pairs, false where there is no pair.

    `true`: well-formed, of the type asked for, and true by the checker. `prior`: false, and what a bias of the usual
    scenes would have said. `premise`: the question takes for granted what is not in the picture.
    """
    scenes = {
        scene.image_id: scene for scene in sample_scenes(pool.images, pool.seed, "validation", pool.kind == "shifted")
    }
    of_rows = [scenes[image_id] for image_id in rows["image_id"]]
    found = label(rows, pool)
    premise = [bool(q and premise_absent(q, scene)) for q, scene in zip(rows["question"], of_rows)]
    return {"true": found.true, "prior": found.prior, "premise": np.array(premise)}


@torch.inference_mode()
def blind_answers(model: PreTrainedModel, processor: ProcessorMixin, questions: Sequence[str]) -> dict[str, str]:
    """What a model answers greedily to each question without any picture."""
    found = {}
    for start in range(0, len(questions), _BATCH):
        part = questions[start : start + _BATCH]
        inputs = processor.apply_chat_template(
            [[{"role": "user", "content": [{"type": "text", "text": question}]}] for question in part],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
        output = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        texts = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        found |= {question: text.strip() for question, text in zip(part, texts)}
    return found


@torch.inference_mode()
def embed(model: PreTrainedModel, examples: Examples, rows: int) -> np.ndarray:
    """(rows, hidden): a pair's mean last hidden state over its text tokens, with the picture; zero without a pair."""
    processor = examples.encoder.processor
    image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    found = np.zeros((rows, model.config.text_config.hidden_size), np.float32)
    order = sorted(examples.index, key=lambda one: one["length"])
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        batch = collate(processor, [examples.encoded(one["row"], one["turn"]).inputs for one in part])
        hidden = model.model(**batch, use_cache=False).last_hidden_state
        text = ((batch["input_ids"] != image) & batch["attention_mask"].bool())[..., None]
        found[[one["row"] for one in part]] = ((hidden * text).sum(1) / text.sum(1)).numpy()
    return found


def cluster(embeddings: np.ndarray, clusters: int, seed: int) -> list[str]:
    """The k-means cluster of each pair, of embeddings with length 1."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    _, numbers = kmeans2(unit, clusters, minit="++", seed=np.random.default_rng(seed), missing="warn")
    return [f"cluster-{number}" for number in numbers]
