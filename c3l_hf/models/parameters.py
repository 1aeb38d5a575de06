"""The parts of a vision-language model: which weights are the language model's, the projector's, the vision tower's."""

import contextlib
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

__all__ = ["in_eval_mode", "projector_modules", "train_parts"]

# What stands between vision tower and language model: in LLaVA, InternVL and Gemma 3; in Idefics3 and SmolVLM; in
# Qwen-VL, within the tower; and of Qwen3-VL's further levels.
_PROJECTORS = ("multi_modal_projector", "connector", "merger", "deepstack_merger_list")


def projector_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules that make up the projector.

    Raises:
        ValueError: If there is none under a known name.
    """
    found = []
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _PROJECTORS:
            # PEFT copies modules that can be called, which a list of modules is not.
            found += [f"{name}.{i}" for i in range(len(module))] if isinstance(module, nn.ModuleList) else [name]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no projector under a known name ({', '.join(_PROJECTORS)}): leave "
            "train_projector out, and name its modules in the modules_to_save of a peft_config"
        )
    return found


def train_parts(model: PreTrainedModel, *, language_model: bool, projector: bool, vision_tower: bool) -> None:
    """Have some parts of a model that has no adapters trained, and the others frozen.

    Args:
        model: The model.
        language_model: Its blocks, embeddings and LM head.
        projector: What maps image features into the language model.
        vision_tower: All the rest.

    Raises:
        ValueError: If the projector is to be treated otherwise than the vision tower and cannot be told from it.
    """
    model.requires_grad_(vision_tower)
    if projector != vision_tower:
        for name in projector_modules(model):
            model.get_submodule(name).requires_grad_(projector)
    for module in (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()):
        module.requires_grad_(language_model)


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """A context in which a model is in eval mode; after it, in the mode in which it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
