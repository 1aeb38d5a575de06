"""A small finished run as `recipes/c3l.py` leaves it: rows whose scores follow from their tokens, a tiny generator."""

import atexit
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import Dataset, Features
from tiny_models import tiny_llava

from c3l_hf.data.schema import PAIR_FEATURES, SCORE_FEATURES, STATUS
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.publishing.cards import TRAINING_FACTS, RunFacts
from c3l_hf.publishing.export import example_pictures, write_dataset, write_generator
from c3l_hf.publishing.figures import dataset_figures, token_sums
from c3l_hf.scoring.formulas import scores_from_logprobs
from c3l_hf.selection.pseudo_labels import select_pseudo_labels
from c3l_hf.training.config import C3LConfig

FEATURES = Features({**PAIR_FEATURES, **SCORE_FEATURES})
IMAGE_FEATURES = Features({name: PAIR_FEATURES[name] for name in ("image_id", "images")})
# As a run without options of its own has it.
TRAINING = {field.name: field.default for field in dataclasses.fields(C3LConfig) if field.name in TRAINING_FACTS}
TRAINING["temperature"] = 0.3  # follows from the similarity
HIDDEN = {"similarity": "hidden", "temperature": 0.1}


def picture(number: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8))


def row(number: int, pair: int = 0) -> dict:
    """One of the pairs about one image: a higher `pair` has a better score."""
    lists = ([-0.1, -0.2 - number / 100], [-0.5 - pair / 3, -0.9 - number / 50], [0.3, 0.4 + number / 10])
    scores = scores_from_logprobs(*lists)
    scores["i2c"] = scores["pmi"]
    question = f"How many dogs are there in {number}, {'if any' if pair else 'please'}?"
    return {
        "images": [picture(number)],
        "image_id": str(number),
        "pair_id": f"{number}/{pair}",
        "template": "count-1",
        "type": ("count", "where")[number % 2],
        "language": ("en", "de")[number % 2],
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": "two" + " or three" * (number % 3)}],
        "raw": "Question: How many dogs are there?\nAnswer: two",
        "generation_status": "ok",
        "generation_prompt": [{"role": "user", "content": f"Ask about picture {number}, and answer."}],
        "reply_form": ReplyForm().to_json(),
        "usage": {"served_model": "served", "prompt_tokens": None if pair else 90, "completion_tokens": 7 + number},
        **scores,
        "answer_tokens": ["t", "wo"],
        **dict(zip(("logprob_per_token", "logprob_blind_per_token", "token_kl_per_token"), lists)),
        "turns": [{**scores, "tokens": 2, "status": "ok"}],
        STATUS: "ok",
    }


def unscored_row(number: int) -> dict:
    empty = dict.fromkeys(("prompt", "completion", *SCORE_FEATURES))
    return {**row(number), "pair_id": f"{number}/none", **empty, "generation_status": "no answer", STATUS: "no pair"}


def pairs(n: int) -> Dataset:
    return Dataset.from_list([row(number) for number in range(n)], features=FEATURES)


def configs(n: int = 6) -> dict[str, Dataset]:
    """The parts of a run's dataset, about n images with two pairs each, the second one kept, and one without a pair."""
    rows = [row(number, pair) for number in range(n) for pair in range(2)] + [unscored_row(n)]
    pool = Dataset.from_list(rows, features=FEATURES)
    kept = Dataset.from_list([row(number, 1) for number in range(n)], features=FEATURES)
    images = [{"image_id": str(number), "images": [picture(number)]} for number in range(n + 1)]
    return {
        "default": kept,
        "images": Dataset.from_list(images, features=IMAGE_FEATURES),
        "scored": pool.remove_columns("images"),
        "pseudo_labels": select_pseudo_labels(pool)[0].remove_columns("images"),
    }


def facts(**changes) -> RunFacts:
    full = RunFacts(
        title="C3L pairs",
        generator="org/vlm",
        generator_revision="0123abc",
        images="scenes, 3,000 images",
        images_digest="c0ffee",
        images_license="Apache-2.0",
        images_source="https://images.example/set",
        license="apache-2.0",
        rows=5000,
        seed=7,
        ranking="pmi",
        options={"images": "scenes", "types": ("count", "where"), "temperature": 1.0},
        training=TRAINING,
        near_duplicate_scope="image",
        stages=[("generate", [("pairs", 15_000), ("ok", 14_801)]), ("curate", [("kept", 5000)])],
        synthetic_images=True,
        config_file="recipes/configs/scenes.yaml",
        templates="scenes",
        tokens=[("generate", "served", 1_350_000, None), ("regenerate", None, 90_000, 12_345)],
        token_prices=(0.5, None),
        languages=["en"],
        type_shares={"count": 0.25, "where": 0.75},
        score_quantiles={"5 %": -0.5, "50 %": np.float32(1.25)},
        length_correlation=(0.118, 5000),
        histogram=[(0.0, 0.5, 300, 0), (0.5, 1.0, 600, 200)],
        truth=[("generated", 14_801, 0.8, 0.79, 0.81), ("generated again", 5000, 0.9, 0.89, 0.91)],
        examples=[("How many dogs?", "two", "count", 1.5, "0/0")],
    )
    return dataclasses.replace(full, **changes)


@functools.cache
def _generator() -> Path:
    """A tiny generator's files, written once: most of the time of a run."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    for part in tiny_llava():
        part.save_pretrained(folder)
    return folder


class _Saved:
    """Stands in for a model whose files are there."""

    def save_pretrained(self, folder: Path) -> None:
        shutil.copytree(_generator(), folder, dirs_exist_ok=True)


def tokens_of(pool: Dataset) -> list[tuple]:
    """What is told of the tokens of a second round."""
    return [("regenerate", *row) for row in token_sums([pool.data.table["usage"]])]


def write_run(folder, n: int = 6, **changes):
    """A finished run's folder, with `dataset` and `generator`."""
    parts = configs(n)
    figures = dataset_figures(parts["default"], parts["scored"]["i2c"][:])
    told = facts(**{**figures, "tokens": tokens_of(parts["scored"]), **changes})
    pictures = example_pictures(parts["default"], told.examples)
    write_dataset(parts, folder / "dataset", told, pictures)
    write_generator(_Saved(), _Saved(), folder / "generator", told, pictures)
    return folder


def finished_run(folder, n=6, **changes):
    """`write_run` with the counts that follow from its rows, beside others that do not."""
    stages = [
        ("generate", [("pairs", 50), ("ok", 49), ("no answer", 1)]),
        ("score", [("ok", 49), ("no pair", 1)]),
        ("select", [("images", 10), ("pairs", 50), ("pseudo-labels", n)]),
        ("train", [("steps", 3)]),
        ("regenerate", [("pairs", 2 * n + 1), ("ok", 2 * n), ("no answer", 1)]),
        ("rescore", [("ok", 2 * n), ("no pair", 1)]),
        ("curate", [("pairs", 2 * n + 1), ("dropped: no pair", 1), ("dropped: beyond the quota", n), ("kept", n)]),
    ]
    pools = {"generated": 50, "pseudo-labels, chosen": n, "generated again": 2 * n + 1, "curated: the dataset": n}
    truth = [(pool, pairs, 0.8, 0.7, 0.9) for pool, pairs in pools.items()]
    return write_run(folder, n, **{"stages": stages, "truth": truth, **changes})
