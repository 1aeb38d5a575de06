"""What the losses need of a model's forward: logits of answers, and projected vectors of anchors and candidates.

All of it happens inside the forward, and the projection head is a submodule of the model, because wrappers such as DDP
and FSDP only know of parameters that are used there. TRL adds its fused LM head in the same way; a module around the
model would lose all that `Trainer` and `save_pretrained` do with a `PreTrainedModel`.
"""

import functools
import types

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from c3l_hf import _compat
from c3l_hf.training.losses import pool

__all__ = ["HEAD", "add_contrastive_forward", "add_head", "remove_head"]

# The projection head is a submodule of the model under this name; in checkpoints it is a file of its own.
HEAD = "contrastive_head"


def add_head(model: PreTrainedModel, projection: str, dim: int, seed: int) -> None:
    """Give a model a projection head, from its language model's hidden states to `dim` numbers.

    Args:
        model: Gets the submodule `HEAD`; what it had under that name is replaced.
        projection: "none", "linear", "linear_relu" or "mlp": see `C3LConfig`.
        dim: Output size; without effect for "none".
        seed: Of its first weights, which depend on nothing else; and no other random number depends on the head.
    """
    hidden = model.config.get_text_config().hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if projection == "none":
            layers = []
        elif projection == "mlp":
            layers = [nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim)]
        else:
            layers = [nn.Linear(hidden, dim), nn.ReLU()][: 1 + (projection == "linear_relu")]
    head = nn.Sequential(*layers)
    # In float32, but under ZeRO-3, which wants all weights of one dtype.
    setattr(model, HEAD, head.to(model.device, model.dtype if is_deepspeed_zero3_enabled() else torch.float32))
    _compat.ignore_on_save(model, [f"{HEAD}.{key}" for key in head.state_dict()])


def remove_head(model: PreTrainedModel) -> None:
    """Undo `add_head` and `add_contrastive_forward`."""
    delattr(model, HEAD)
    del model.forward  # also TRL's fused LM head; the class's own forward is back


def add_contrastive_forward(model: PreTrainedModel, hidden_layer: int, pooling: str) -> None:
    """Let `model(**inputs, predict_mask=…)` return the logits at these places, and with `line`, `anchor_mask`,
    `answer_mask` and `positive_index` also the projected anchors and candidates; without `predict_mask` the forward is
    the model's own.

    Args:
        model: Has a head.
        hidden_layer: Which hidden states are pooled: 0 the embeddings, i the output of block i, -1 the last.
        pooling: "mean" or "last".
    """
    original = model.forward

    @functools.wraps(type(model).forward)  # `generate` checks its arguments against the signature
    def forward(
        self, *args, line=None, anchor_mask=None, answer_mask=None, predict_mask=None, positive_index=None, **kwargs
    ):
        if predict_mask is None:
            return original(*args, **kwargs)
        if kwargs["attention_mask"].dtype == torch.bool:
            kwargs["attention_mask"] = _additive(kwargs["attention_mask"], self.dtype)
        if anchor_mask is None:
            return {"logits": original(*args, logits_to_keep=predict_mask, **kwargs).logits}
        kwargs["output_hidden_states"] = True  # a `PeftModel` with a task type passes None
        outputs = original(*args, logits_to_keep=predict_mask, **kwargs)
        hidden = outputs.hidden_states[hidden_layer]  # all of them live in training anyway, for the backward pass
        # The head is small and its outputs are compared with each other: float32, also under bf16 autocast.
        with torch.autocast(hidden.device.type, enabled=False):
            head = getattr(self, HEAD)
            anchor = pool(hidden, line[positive_index], anchor_mask, pooling)
            candidates = pool(hidden, line, answer_mask, pooling)
            # FSDP and DeepSpeed compute with all weights in bf16, the head's among them.
            dtype = next(head.parameters(), anchor).dtype
            anchor, candidates = head(anchor.to(dtype)), head(candidates.to(dtype))
        return {"logits": outputs.logits, "anchor": anchor, "candidates": candidates}

    model.forward = types.MethodType(forward, model)


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask of what is attended to, as numbers that are added to the attention scores in their precision.

    Attention would make them of a mask of booleans in every layer, and keep each for the backward pass: (lines, T, T).
    """
    if torch.is_autocast_enabled(mask.device.type):
        dtype = torch.get_autocast_dtype(mask.device.type)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
