"""Attention of texts to their own rows, and how a model is told to attend so."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_llava
from transformers import LlamaConfig, LlavaConfig, Qwen2_5OmniThinkerConfig

from c3l_hf import _compat
from c3l_hf.generation.column_attention import COLUMNS, _at, _attend, attending
from c3l_hf.generation.prefix_cache import Step


def step() -> Step:
    """Three tokens of the first row, one of the second."""
    arrays = [np.array(values) for values in ([0, 0, 0, 1], [1, 2, 3, 1], [0, 1, 2, 0], [5, 5, 5, 7])]
    return Step(*arrays, shape=(2, 3), places=np.array([0, 1, 2, 3]))


@pytest.mark.parametrize("heads, groups, size_of_values", [(4, 4, 8), (6, 2, 8), (4, 1, 5)])
def test_every_token_attends_to_the_columns_of_its_row(heads, groups, size_of_values):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, heads, 4, 8, generator=generator)
    key = torch.randn(2, groups, 9, 8, generator=generator)
    value = torch.randn(2, groups, 9, size_of_values, generator=generator)
    mask = torch.rand(2, 1, 3, 9, generator=generator) < 0.6
    mask[..., 0] = True
    found, _ = _attend(torch.nn.Module(), query, key, value, mask, scaling=0.3, text_columns=step())
    assert found.shape == (1, 4, heads, size_of_values)
    for token, (row, place) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0)]):
        for head in range(heads):
            group = head // (heads // groups)
            scores = (key[row, group].double() @ query[0, head, token].double()) * 0.3
            weights = scores.masked_fill(~mask[row, 0, place], -torch.inf).softmax(0)
            assert torch.allclose(found[0, token, head].double(), weights @ value[row, group].double(), atol=1e-5)


def test_attention_that_is_another():
    query, states = torch.randn(1, 2, 4, 8), torch.randn(2, 2, 9, 8)
    mask = torch.ones(2, 1, 3, 9, dtype=torch.bool)
    for more in ({"softcap": 50.0}, {"s_aux": torch.zeros(2)}, {"position_bias": torch.zeros(1)}):
        with pytest.raises(NotImplementedError, match=f"its attention has {next(iter(more))}"):
            _attend(torch.nn.Module(), query, states, states, mask, text_columns=step(), **more)
    for other_mask, other_states in ((None, states), (mask, states[:1])):
        with pytest.raises(NotImplementedError, match="does not take the mask and the cache"):
            _attend(torch.nn.Module(), query, other_states, other_states, other_mask, text_columns=step())


def test_where_the_language_model_stands_in_a_configuration():
    for config, expected in (
        (LlamaConfig(), {"": "x"}),
        (LlavaConfig(), {"text_config": "x"}),
        (Qwen2_5OmniThinkerConfig(), {"text_config": "x"}),
    ):
        assert _at(config, config.get_text_config(decoder=True), "x") == expected
    with pytest.raises(NotImplementedError, match="not among its parts"):
        _at(LlavaConfig(), LlamaConfig(), "x")


def test_only_the_language_model_attends_so():
    model, _ = tiny_llava()
    parts = model.config.text_config, model.config.vision_config
    with pytest.raises(ValueError, match="stop"):
        with attending(model, COLUMNS):
            assert list(map(_compat.attention_implementation, parts)) == [COLUMNS, "sdpa"]
            with attending(model, "eager"):
                assert list(map(_compat.attention_implementation, parts)) == ["eager", "sdpa"]
            assert list(map(_compat.attention_implementation, parts)) == [COLUMNS, "sdpa"]
            raise ValueError("stop")
    assert list(map(_compat.attention_implementation, parts)) == ["sdpa", "sdpa"]
