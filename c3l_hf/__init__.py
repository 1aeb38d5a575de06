"""C3L: generate, score and select vision-language instruction-tuning data by how much the image matters."""

import importlib
from typing import Any

# Loaded when they are asked for, so that `python -m c3l_hf.i2c` finds its module fresh, and the scorer does not wait
# for the trainer's imports.
_MODULES = {
    "C3LConfig": "trainer_config",
    "C3LTrainer": "trainer",
    "I2CScorer": "i2c",
    "PairGenerationConfig": "generation",
    "curate": "curation",
    "generate_pairs": "generation",
    "rank_agreement": "scores",
    "score_dataset": "scoring",
    "select_pseudo_labels": "pseudo_labels",
}
__all__ = sorted(_MODULES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
