"""C3L: generate, score and select vision-language instruction-tuning data by how much the image matters."""

from .curation import curate
from .generation import PairGenerationConfig, generate_pairs
from .i2c import I2CScorer
from .pseudo_labels import select_pseudo_labels
from .trainer import C3LTrainer
from .trainer_config import C3LConfig

__all__ = [
    "C3LConfig",
    "C3LTrainer",
    "I2CScorer",
    "PairGenerationConfig",
    "curate",
    "generate_pairs",
    "select_pseudo_labels",
]
__version__ = "0.1.0"
