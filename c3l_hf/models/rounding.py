"""How far two right ways to compute the same may be apart: measured at the model itself, as its rounding decides.

A constant would not do. In bfloat16 the log-probabilities of a small model with few tokens agree to a hundredth, those
of a language model of thirty layers and 50,000 tokens to a quarter: what is rounding in one is a mistake in another.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

import torch
from transformers import PreTrainedModel

__all__ = ["Rounding", "disturbed_runs"]

T = TypeVar("T")

# Differences of a log-probability, in nats, that need no measurement. In these precisions a sum taken in another order
# is off by more than the rounding of its terms, and mistakes are far above; in half precision they are not.
_NEGLIGIBLE = {torch.float64: 1e-6, torch.float32: 1e-4}

_RUNS = 3
# In bfloat16, ways that were right were as far apart as the disturbed runs at most. A token that leaks into all that
# follows made 2.5 times as much at the least, positions that are off by one 4.5 times (the families of the tests, and
# SmolLM2-135M). What a single token sees of another, or of a single one of padding, may be less than rounding.
_FACTOR = 2.0


class Rounding:
    """What rounding explains, measured when it is first asked about more than a negligible difference.

    Args:
        dtype: The model's.
        measure: Gives, for each of the `disturbed_runs` of the plain way, its largest difference from the plain way, in
            nats. Twice their median is what rounding explains.
    """

    def __init__(self, dtype: torch.dtype, measure: Callable[[], Sequence[float]]):
        self._negligible = _NEGLIGIBLE.get(dtype, torch.finfo(dtype).eps)
        self._measure = measure

    @cached_property
    def limit(self) -> float:
        """The largest difference that is explained, in nats; not a number if the model's predictions are none."""
        # The median is not moved by one run with an outlier, which would hide mistakes.
        measured = _FACTOR * torch.tensor(self._measure(), dtype=torch.float64).median().item()
        return measured if math.isnan(measured) else max(self._negligible, measured)

    def explains(self, difference: float) -> bool:
        """Whether a difference in nats is one of rounding; what is not a number never is."""
        return difference <= self._negligible or (math.isfinite(difference) and difference <= self.limit)


def disturbed_runs(
    model: PreTrainedModel,
    rows: Sequence[Mapping[str, torch.Tensor]],
    run: Callable[[list[dict[str, torch.Tensor]]], T],
) -> list[T]:
    """What a model computes if its inputs are disturbed by about as much as their rounding, three times.

    Embeddings of tokens and image tensors are multiplied by 1 + u, u uniform within one unit in the last place. What
    follows is then rounded differently everywhere, and the results are apart as those of two equally right ways are.
    Random rounding is how Monte Carlo arithmetic (Parker, 1997) and CESTAC (Vignes, 1993) measure it; here only the
    inputs are touched, so it works for any model, in its own precision and memory.

    Args:
        model: The model; a hook is on its input embeddings meanwhile.
        rows: Inputs of `run`, each row's by name.
        run: The plain way.

    Returns:
        Three results of `run`, the same at every call.
    """
    unit = torch.finfo(model.dtype).eps
    results = []
    for seed in range(_RUNS):
        generator = torch.Generator().manual_seed(seed)

        def disturbed(tensor: torch.Tensor, generator: torch.Generator = generator) -> torch.Tensor:
            u = unit * (2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 1)
            wide = torch.promote_types(tensor.dtype, torch.float32)
            return (tensor.to(wide) * (1 + u.to(tensor.device, wide))).to(tensor.dtype)

        hook = model.get_input_embeddings().register_forward_hook(lambda _, __, output: disturbed(output))
        try:
            inputs = [
                {
                    name: disturbed(tensor) if tensor.is_floating_point() else tensor  # its images
                    for name, tensor in row.items()
                }
                for row in rows
            ]
            results.append(run(inputs))
        finally:
            hook.remove()
    return results
