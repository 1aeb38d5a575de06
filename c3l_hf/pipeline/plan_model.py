"""What a model's parts cost, by its configuration alone: weights that a token or a patch is multiplied with."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from c3l_hf.common.errors import RunError, said_by
from c3l_hf.models.parameters import projector_modules

__all__ = ["ModelCosts", "model_costs", "read_model"]


@dataclass(frozen=True)
class ModelCosts:
    """Sizes of a vision-language model. "Weights" are those in matrix products: each costs two operations a token.

    Attributes:
        parameters: All, embeddings too.
        decoder: Weights of the language model's blocks.
        active: Of these, what a token is multiplied with: less, if it goes through a few of many experts.
        head: Weights of the LM head.
        layers: Blocks with attention between all tokens.
        width: Of the attention's queries: heads times their size.
        cached: Numbers that a token keeps in the cache, in all blocks: keys and values.
        hidden, feed_forward, vocabulary: Sizes of the language model.
        inputs_and_outputs: Sum over the blocks' linear layers: an adapter of rank r has r times as many weights.
        projector: Weights between vision tower and language model.
        patching, tower: Weights of the vision tower: of its patch embedding, and of its blocks.
        tower_layers, tower_width: Blocks of the tower, and their width.
        windows: Of a tower that attends within windows the blocks that do, and the side of a window in patches.
        shares: Whether answers about an image can share its tokens in a sequence: see `scoring.self_check`, which
            tries it; here it is told from the kinds of attention.
    """

    parameters: int
    decoder: int
    active: float
    head: int
    layers: int
    width: int
    cached: int
    hidden: int
    feed_forward: int
    vocabulary: int
    inputs_and_outputs: int
    projector: int
    patching: int
    tower: int
    tower_layers: int
    tower_width: int
    windows: tuple[int, int]
    shares: bool

    def of_tokens(self, tokens: float, attended: float, predicted: float) -> float:
        """Operations of a forward pass of the language model.

        Args:
            tokens: How many go through its blocks.
            attended: Pairs of tokens, one of which attends to the other, counted as the kernels compute them: without
                the half that a causal mask would spare.
            predicted: At how many of them the LM head predicts.
        """
        products = 2 * (self.active * tokens + self.head * predicted)
        return products + self.of_attention(attended)

    def of_attention(self, attended: float) -> float:
        """The part of it that is attention: queries by keys, and weights by values."""
        return 4 * self.layers * self.width * attended

    def of_image(self, patches: int, sequence: int, attended: float, windowed: float, projected: int) -> float:
        """Operations of vision tower and projector for one image; see `plan_images.ImageCosts`."""
        in_windows = self.windows[0]
        attention = self.tower_width * ((self.tower_layers - in_windows) * attended + in_windows * windowed)
        products = self.patching * patches + self.tower * sequence + self.projector * projected
        return 2 * products + 4 * attention

    def adapter_weights(self, rank: int) -> int:
        """Weights of adapters of this rank on all linear layers of the blocks."""
        return rank * self.inputs_and_outputs


def read_model(folder: Path, name: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model without weights, by the configuration in a folder.

    Raises:
        RunError: If there is no configuration of a model for images and texts.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with init_empty_weights():
            return AutoModelForImageTextToText.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise RunError(f"model {name} has no configuration of a model for images and texts: {said_by(error)}") from None


def model_costs(model: PreTrainedModel) -> ModelCosts:
    """What the parts of a model cost.

    Args:
        model: With or without weights (on the device "meta").

    Raises:
        ValueError: If its parts cannot be told from each other.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    path = next(name for name, module in model.named_modules() if module is decoder)
    projectors = tuple(projector_modules(model))
    patching = tower = projector = blocks = experts = inputs_and_outputs = 0
    for name, module in model.named_modules():
        if module is head:
            continue
        own = sum(weight.numel() for weight in module.parameters(recurse=False) if weight.dim() > 1)
        if _within(name, (path,)):
            if isinstance(module, nn.Linear):
                blocks += own
                inputs_and_outputs += module.in_features + module.out_features
            elif any(weight.dim() == 3 for weight in module.parameters(recurse=False)):
                experts += own  # all experts' weights in one tensor
        elif _within(name, projectors):
            projector += own
        elif re.search(r"(^|\.)head(\.|$)", name):
            continue  # of SigLIP, which pools; no language model sees it
        elif isinstance(module, nn.Linear):
            tower += own
        elif isinstance(module, nn.Conv2d | nn.Conv3d):
            patching += own
    text, vision = model.config.get_text_config(), model.config.vision_config
    heads = text.num_attention_heads
    of_head = getattr(text, "head_dim", None) or text.hidden_size // heads
    layers = [kind for kind in _kinds_of_layers(text) if kind != "linear_attention"]
    depth = _first(vision, "depth", "num_hidden_layers")
    whole = getattr(vision, "fullatt_block_indexes", None)
    in_windows = (0, 0) if whole is None else (depth - len(whole), vision.window_size // vision.patch_size)
    return ModelCosts(
        parameters=sum(weight.numel() for weight in model.parameters()),
        decoder=blocks + experts,
        active=blocks + experts * _share_of_experts(text),
        head=0 if head is None else head.weight.numel(),
        layers=len(layers),
        width=heads * of_head,
        cached=2 * len(layers) * (getattr(text, "num_key_value_heads", None) or heads) * of_head,
        hidden=text.hidden_size,
        feed_forward=_first(text, "intermediate_size", "ffn_dim"),
        vocabulary=text.vocab_size,
        inputs_and_outputs=inputs_and_outputs,
        projector=projector,
        patching=patching,
        tower=tower,
        tower_layers=depth,
        tower_width=_first(vision, "embed_dim", "hidden_size"),
        windows=in_windows,
        shares=set(_kinds_of_layers(text)) == {"full_attention"},
    )


def _within(name: str, paths: tuple[str, ...]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def _kinds_of_layers(text: PreTrainedConfig) -> list[str]:
    return getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers


def _share_of_experts(text: PreTrainedConfig) -> float:
    used = getattr(text, "num_experts_per_tok", None)
    there = next((n for name in ("num_experts", "num_local_experts") if (n := getattr(text, name, None))), None)
    return used / there if used and there else 1.0


def _first(config: PreTrainedConfig, *names: str) -> Any:
    """The first of these that a configuration has: families name their sizes differently."""
    for name in names:
        if (value := getattr(config, name, None)) is not None:
            return value
    raise ValueError(f"the configuration {type(config).__name__} has none of the sizes {', '.join(names)}")
