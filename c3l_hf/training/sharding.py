"""Models whose weights several processes hold in parts: FSDP and DeepSpeed ZeRO-3."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from accelerate import Accelerator, DeepSpeedPlugin, init_empty_weights
from peft import PeftModel
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

from c3l_hf import _compat
from c3l_hf.training.forward import HEAD

__all__ = ["gathered_model", "layers_to_shard", "whole_weights", "without_weights"]


def layers_to_shard(model: PreTrainedModel) -> list[str]:
    """The classes of the layers that FSDP is to hold one by one.

    A model's class lists them with some that not every model of it has (the text encoder's of a CLIP whose vision tower
    alone is used); accelerate takes the list as it is, and ends with an error.
    """
    present = {type(module).__name__ for module in model.modules()}
    return sorted(present.intersection(_compat.layers_to_keep_whole(model)))


def whole_weights(model: PreTrainedModel) -> AbstractContextManager:
    """A context in which a model can be called that ZeRO-3 has loaded in parts, and that is not wrapped yet.

    Raises:
        ValueError: If it has more weights than a GPU takes beside the rest.
    """
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed  # not among our dependencies

    size = sum(weight.ds_numel * weight.element_size() for weight in model.parameters())
    # Of all memory, not of what is free: all processes have to come to the same.
    if torch.cuda.is_available() and size > 0.6 * torch.cuda.get_device_properties(0).total_memory:
        raise ValueError(f"its {size / 1e9:.0f} GB of weights do not fit into one GPU, where it would be tried")
    return deepspeed.zero.GatheredParameters(list(model.parameters()))


@contextmanager
def without_weights(plugin: DeepSpeedPlugin | None) -> Iterator[None]:
    """A context in which models are made without weights.

    Args:
        plugin: DeepSpeed's, if it is used: with ZeRO-3 transformers shards each model as it is made, but not here.
    """
    if plugin is not None:
        unset_hf_deepspeed_config()
    try:
        with init_empty_weights():
            yield
    finally:
        if plugin is not None:
            plugin.set_deepspeed_weakref()


def gathered_model(
    accelerator: Accelerator, model: PreTrainedModel | PeftModel, wrapped: nn.Module
) -> PreTrainedModel | None:
    """A copy of a sharded model as it was before, on the CPU, with its adapters merged and without projection head.

    All processes have to call it; the main process gets the copy, the others None.

    Args:
        accelerator: Has prepared the model.
        model: The model, which stays as it is.
        wrapped: What the accelerator made of it.
    """
    weights = accelerator.get_state_dict(wrapped)
    if not accelerator.is_main_process:
        return None
    vlm = model.get_base_model() if isinstance(model, PeftModel) else model
    # FSDP makes a class of its own from a model's.
    original = next(base for base in type(vlm).__mro__ if not issubclass(base, FSDPModule))
    with without_weights(accelerator.state.deepspeed_plugin):
        copy = original(vlm.config)
        copy.generation_config = vlm.generation_config
        if isinstance(model, PeftModel):
            copy = PeftModel(copy, model.peft_config[model.active_adapter], model.active_adapter)
    copy.load_state_dict({name: weight for name, weight in weights.items() if f"{HEAD}." not in name}, assign=True)
    copy.tie_weights()
    return (copy.merge_and_unload() if isinstance(copy, PeftModel) else copy).eval()
