"""What a check of a model found, kept for the process: what may be done with a model does not depend on its weights."""

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from c3l_hf import _compat
from c3l_hf.common.files import digest

__all__ = ["check_key", "model_state", "recall", "remember", "tokenizer_state"]

# Of a configuration: where it came from, and what the tensors say themselves.
_NO_MATTER = {"_name_or_path", "architectures", "dtype", "transformers_version"}

_OUTCOMES: dict[str, Any] = {}


def check_key(check: str, model: PreTrainedModel, processor: ProcessorMixin, *options: object) -> str | None:
    """What the outcome of a check depends on, as a digest.

    The model's configuration, its modules, their attention, the shapes, types and kinds of device of its tensors; how
    exactly torch multiplies; the processor with its chat template and tokenizer; and the options. Not the values of the
    weights: a check asks whether the code computes the same in two ways. That rounding, up to which it compares
    (`models.rounding`), depends on them is taken not to change this. Nor does it matter whether the model is in
    training.

    Args:
        check: Its name.
        model: The model.
        processor: Its processor.
        options: What else the outcome depends on; their `repr` counts.

    Returns:
        None if it cannot be told what the model computes, as it has hooks or a `forward` of its own: the check has to
        run each time.
    """
    tokenizer = processor.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or any(map(_is_changed, model.modules())):
        return None
    modules = [(name, type(module).__module__, type(module).__qualname__) for name, module in model.named_modules()]
    attention = [
        _compat.attention_implementation(part.config) for part in model.modules() if isinstance(part, PreTrainedModel)
    ]
    tensors = [
        (name, tuple(tensor.shape), tensor.dtype, tensor.device.type)
        for named in (model.named_parameters(), model.named_buffers())
        for name, tensor in named
    ]
    return digest(
        check,
        _essence(model.config.to_dict()),
        modules,
        attention,
        tensors,
        torch.get_float32_matmul_precision(),
        type(processor).__qualname__,
        processor.to_json_string(),
        processor.chat_template,
        type(tokenizer).__qualname__,
        tokenizer_state(tokenizer),
        repr(options),
    )


def recall(key: str | None) -> Any:
    """What the check with this key found earlier in this process; None if it has not run."""
    return None if key is None else _OUTCOMES.get(key)


def remember(key: str | None, outcome: Any) -> None:
    """Keep what a check found. Not for one that failed, or met numbers that are not finite: that may be a matter of the
    weights, or of the moment."""
    if key is not None:
        _OUTCOMES[key] = outcome


def model_state(model: PreTrainedModel, processor: ProcessorMixin) -> list[str]:
    """All that the outputs of a model depend on but its weights."""
    return [
        type(model).__name__,
        str(model.dtype),
        model.config.to_json_string(),
        processor.to_json_string(),
        tokenizer_state(processor.tokenizer),
        str(processor.chat_template),
    ]


def tokenizer_state(tokenizer: PreTrainedTokenizerFast) -> str:
    """All of a tokenizer as text, the same before its first use and after."""
    # Padding and truncation are settings of single calls: every call sets them anew, and leaves them.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer.backend_tokenizer.to_str()


def _essence(config: Any) -> Any:
    """A configuration, with those within it, without what does not matter."""
    if isinstance(config, dict):
        return {name: _essence(value) for name, value in config.items() if name not in _NO_MATTER}
    return config


def _is_changed(module: torch.nn.Module) -> bool:
    """Whether somebody has put something around a module. What transformers hangs there as the model is first used only
    looks at outputs."""
    return _compat.has_foreign_hooks(module) or "forward" in vars(module)
