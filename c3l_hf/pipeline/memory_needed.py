"""The memory that a run needs at least, by its number of parameters, and what this machine has."""

from pathlib import Path

import psutil
import torch
from huggingface_hub import get_local_safetensors_metadata

from c3l_hf.common.processes import process_state
from c3l_hf.models.loading import Source, model_folder, resolve_dtype
from c3l_hf.pipeline.inputs import Inputs
from c3l_hf.pipeline.settings import Settings

__all__ = ["bytes_of_weight", "memory_free", "memory_needed", "parameters_of"]

_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
# Of a parameter that is trained: its gradient and the two moments of Adam, in float32.
_BYTES_OF_TRAINING = 12.0


def parameters_of(generator: Source) -> int:
    """Parameters of a generator in a folder here; of adapters, those of their base model.

    Quantised weights count as they are stored; a folder whose index names files that are not there has 0.
    """
    return _parameters(Path(model_folder(generator.base_model or generator.model_id)))


def _parameters(folder: Path) -> int:
    try:
        files = get_local_safetensors_metadata(folder).files_metadata
    except (OSError, ValueError, KeyError):
        return 0
    return sum(count for file in files.values() for count in file.parameter_count.values())


def memory_needed(settings: Settings, inputs: Inputs, training: bool) -> float:
    """Bytes of the weights, and in a training of all weights of gradients and optimizer: without the activations, whose
    size depends on pictures, texts and batches. With adapters what is trained is small beside the weights."""
    of_training = _BYTES_OF_TRAINING if training and not settings.training.use_lora else 0.0
    return parameters_of(inputs.generator) * (bytes_of_weight(settings) + of_training)


def bytes_of_weight(settings: Settings) -> float:
    """Bytes of a weight as it is loaded."""
    options = settings.model
    if options.load_in_4bit or options.load_in_8bit:
        return 0.5 if options.load_in_4bit else 1.0
    return _BYTES.get(resolve_dtype(options.dtype), 4.0)


def memory_free() -> tuple[int, str]:
    """Bytes that are free where the model comes to be, and what that is called."""
    if process_state().device.type == "cpu":
        return psutil.virtual_memory().available, "the machine's memory"
    free, _ = torch.accelerator.get_memory_info(process_state().device)
    return free, "the accelerator"
