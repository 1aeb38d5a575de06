"""Attention of the tokens of many texts, given one after the other, each to the columns of its own row.

It is scaled dot-product attention, and told to transformers as an implementation beside its own. The tokens of a row go
to the kernel together, and so do all heads that share keys and values: these are read once for all of them.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from c3l_hf import _compat
from c3l_hf.generation.prefix_cache import Step

__all__ = ["COLUMNS", "attending"]

COLUMNS = "c3l_columns"
# What some models add to attention, and this cannot.
_ELSE = ("softcap", "s_aux", "position_bias")


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    text_columns: Step | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """The attention that transformers calls. Without `text_columns` that of `sdpa`.

    Args:
        module: The layer's attention.
        query: (1, heads, tokens, size).
        key: (rows, heads of keys, columns, size).
        value: As `key`; its size may be another.
        attention_mask: (rows, 1, most tokens of a row, columns).
        scaling: Of the products of queries and keys.
        text_columns: Where the tokens stand.
        kwargs: What else a model says.

    Returns:
        (1, tokens, heads, size of values).

    Raises:
        NotImplementedError: If the model's attention is not this one.
    """
    others = [name for name in _ELSE if kwargs.get(name) is not None]
    if others:
        raise NotImplementedError(f"its attention has {', '.join(others)}")
    if text_columns is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if attention_mask is None or key.shape[0] != text_columns.shape[0]:
        raise NotImplementedError("its attention does not take the mask and the cache that it is given")
    (rows, most), (heads, groups) = text_columns.shape, (query.shape[1], key.shape[1])
    places = text_columns.on(query.device)[-1]
    matrix = query.new_zeros(rows * most, heads, query.shape[3])
    matrix.index_copy_(0, places, query[0].transpose(0, 1))
    # Head h has the keys of head h // (heads / groups).
    matrix = matrix.view(rows, most, groups, heads // groups, -1).permute(0, 2, 3, 1, 4)
    mask = attention_mask
    if heads > groups:
        mask = mask[:, :, None].expand(-1, -1, heads // groups, -1, -1).flatten(2, 3)
    attended = F.scaled_dot_product_attention(matrix.flatten(2, 3), key, value, attn_mask=mask, scale=scaling)
    attended = attended.view(rows, groups, heads // groups, most, -1).permute(0, 3, 1, 2, 4)
    return attended.reshape(rows * most, heads, -1).index_select(0, places)[None], None


AttentionInterface.register(COLUMNS, _attend)
AttentionMaskInterface.register(COLUMNS, sdpa_mask)


@contextlib.contextmanager
def attending(model: PreTrainedModel, implementation: str | None) -> Iterator[None]:
    """Within it, the layers of the language model attend in this way; those of the vision tower as before.

    Args:
        model: The model.
        implementation: As transformers names it, or `COLUMNS`: as described above where a forward pass is given
            `text_columns`, and as "sdpa" where it is not.
    """
    text = model.config.get_text_config(decoder=True)
    before = _compat.attention_implementation(text)
    model.set_attn_implementation(_at(model.config, text, implementation))
    try:
        yield
    finally:
        model.set_attn_implementation(_at(model.config, text, before))


def _at(config: PreTrainedConfig, text: PreTrainedConfig, name: str | None) -> dict:
    """The argument that names the attention of the language model only, wherever its configuration stands."""
    if config is text:
        return {"": name}
    for key in config.sub_configs:
        part = getattr(config, key, None)
        if part is not None and part.get_text_config(decoder=True) is text:
            return {key: _at(part, text, name)} if part is not text else {key: name}
    raise NotImplementedError("the configuration of its language model is not among its parts")
