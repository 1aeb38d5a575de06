"""C3L: generate, score and select vision-language instruction-tuning data by how much the image matters.

One pair, and a dataset; `c3l --help` has the commands, for the whole method too:

    scorer = c3l_hf.I2CScorer.from_pretrained("llava-hf/llava-1.5-7b-hf")
    scorer.score(image="cat.jpg", question="What is on the sofa?", answer="A cat.")
    scored = c3l_hf.score_dataset(dataset, scorer)
    compact, report = c3l_hf.curate(scored, target_size=1000)
"""

import importlib
from typing import Any

# Loaded when they are asked for: the scorer does not wait for the trainer's imports.
_MODULES = {
    "C3LConfig": "training.config",
    "C3LTrainer": "training.trainer",
    "I2CScorer": "scoring.scorer",
    "PairEmbedder": "scoring.embeddings",
    "PairGenerationConfig": "generation.pairs",
    "agreement_signal": "scoring.replies",
    "benchmark_contents": "selection.decontamination",
    "cal_weights": "selection.token_weights",
    "cluster_pairs": "selection.clusters",
    "combine_scores": "selection.combination",
    "curate": "selection.curation",
    "download_images": "files.downloads",
    "embed_dataset": "scoring.embeddings",
    "generate_pairs": "generation.pairs",
    "join_images": "data.join",
    "judge_signal": "scoring.replies",
    "metric_path": "metrics",
    "premise_signal": "scoring.yes_no",
    "question_signal": "scoring.question",
    "random_selection": "selection.random_choice",
    "rank_agreement": "scoring.formulas",
    "score_dataset": "scoring.dataset",
    "select_pseudo_labels": "selection.pseudo_labels",
    "token_f1": "scoring.replies",
    "truth_signal": "scoring.yes_no",
    "vig_weights": "selection.token_weights",
}
__all__ = sorted(_MODULES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
