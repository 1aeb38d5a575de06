"""Pools of `evidence.py`: pairs that a generator wrote about scenes, with every score."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset, Features, load_from_disk
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin

from c3l_hf.common.files import atomic_folder, files_digest
from c3l_hf.data.schema import SCORES
from c3l_hf.generation.pairs import PairGenerationConfig, generate_pairs
from c3l_hf.scenes import load_scenes
from c3l_hf.scenes.architecture import build_processor
from c3l_hf.scenes.evaluation import MAX_NEW_TOKENS, pair_texts
from c3l_hf.scoring.question import question_signal
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.scoring.signals import Signal

KINDS = ("usual", "shifted")
# The first is what every pool is scored with.
BASELINES = ("drop", "blank", "noise", "shuffle")
_SHUFFLE_IMAGES = 64


@dataclass(frozen=True)
class Pool:
    """What a pool is.

    Attributes:
        generator: Folder with the weights of a small generator.
        kind: "usual" or "shifted" scenes.
        images: Number of scenes, of split `validation`, five pairs of one type about each.
        baselines: What stands for the image in the pass without it, "drop" first.
        seed: Seed of the scenes and of all that is sampled.
        questions: Whether the questions are scored too, as the generator wrote them.
    """

    generator: str
    kind: str
    images: int
    baselines: tuple[str, ...]
    seed: int
    questions: bool = True

    def identity(self) -> dict:
        """As JSON reads it back; the generator by its weights."""
        weights = files_digest(Path(self.generator), "*.safetensors")
        return json.loads(json.dumps(asdict(self) | {"generator": weights}))


def load_generator(folder: str | Path) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A small model from a folder, such as a checkpoint of `pretrain_scenes.py`, in float32, and its processor."""
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval(), build_processor()


def load_pool(folder: Path, pool: Pool) -> Dataset:
    """The pool in this folder, made and kept there if it is not there yet.

    Returns:
        Rows of `generate_pairs` without the images: `image_id`, `pair_id`, `type`, `template`, `generation_status`,
        `question` and `answer` (null where there is no pair), the score columns of `I2CScorer` with the baseline
        "drop", `<score>_<baseline>` for the others, and if asked for `question_logprob` of `question_signal`.

    Raises:
        SystemExit: If the folder holds another pool.
    """
    return kept(folder, pool.identity(), lambda: _make(pool))


def kept(folder: Path, identity: dict, make: Callable[[], Dataset]) -> Dataset:
    """Rows in this folder, made and kept there if they are not there yet.

    Raises:
        SystemExit: If the folder holds what has another identity.
    """
    if not folder.exists():
        with atomic_folder(folder) as partial:
            make().save_to_disk(partial)
            (partial / "pool.json").write_text(json.dumps(identity))
    found = json.loads((folder / "pool.json").read_text())
    if found != identity:
        key = next(key for key in {**identity, **found} if found.get(key) != identity.get(key))
        raise SystemExit(
            f"evidence: {folder} was made with {key} {found.get(key)!r}, not {identity.get(key)!r}; give another "
            "--output_dir, or move that folder away"
        )
    return load_from_disk(folder)


def scenes_of(pool: Pool) -> Dataset:
    """The pool's scenes, with their pictures."""
    return load_scenes(pool.images, pool.seed, "validation", pool.kind == "shifted")


def written(pool: Pool, model: PreTrainedModel, processor: ProcessorMixin) -> Dataset:
    """What the generator writes about the pool's scenes: rows of `generate_pairs`."""
    config = PairGenerationConfig("scenes", max_new_tokens=MAX_NEW_TOKENS, seed=pool.seed, batch_size=250)
    images = scenes_of(pool).select_columns(["images", "image_id"])
    return generate_pairs(images, model, processor, config, progress=False)


def texts_of(pairs: Dataset) -> dict[str, list]:
    """The columns of these rows that a pool keeps, with `question` and `answer`."""
    texts = pair_texts(pairs)
    return {
        **pairs.select_columns(["image_id", "pair_id", "type", "template", "generation_status"]).to_dict(),
        "question": [text and text[0] for text in texts],
        "answer": [text and text[1] for text in texts],
    }


def _make(pool: Pool) -> Dataset:
    model, processor = load_generator(pool.generator)
    pairs = written(pool, model, processor)
    found = texts_of(pairs)
    for baseline in pool.baselines:
        # Not of the images that are scored, and the same for all pools of a kind and seed.
        others = load_scenes(_SHUFFLE_IMAGES, pool.seed, "train", pool.kind == "shifted")
        blind_images = [row["images"][0] for row in others] if baseline == "shuffle" else ()
        scorer = I2CScorer(model, processor, blind=baseline, blind_images=blind_images)
        if baseline == "drop":
            found |= scored(pairs, scorer)
            if pool.questions:
                found["question_logprob"] = scored(pairs, question_signal(scorer))["question_logprob"]
        else:
            scores = scored(pairs, scorer)
            found |= {f"{name}_{baseline}": scores[name] for name in SCORES}
    return Dataset.from_dict(found)


def scored(pairs: Dataset, scorer: I2CScorer | Signal) -> dict[str, list]:
    """The columns of a signal, for each pair."""
    features = Features(scorer.features)
    return pairs.map(
        scorer, batched=True, batch_size=500, remove_columns=pairs.column_names, features=features, desc="Scoring"
    ).to_dict()
