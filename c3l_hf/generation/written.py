"""What goes in and out of the ways of writing: prompts, and texts as tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from c3l_hf.models.encoding import PER_TOKEN
from c3l_hf.models.rounding import Rounding

__all__ = ["Prompt", "Written", "alike", "apart", "kind", "to_model"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """What some texts are to continue.

    Attributes:
        key: Whatever the caller knows it by.
        inputs: The encoded prompt, batch dimension 1.
        uniforms: Random numbers, float64, (texts, most new tokens).

    Raises:
        ValueError: If no text is wanted, or none may have a token.
    """

    key: Any
    inputs: dict[str, torch.Tensor]
    uniforms: np.ndarray

    def __post_init__(self) -> None:
        if self.uniforms.ndim != 2 or not self.uniforms.size:
            raise ValueError(f"random numbers must be given for (texts, tokens), not of shape {self.uniforms.shape}")

    @property
    def length(self) -> int:
        return self.inputs["input_ids"].shape[1]

    @property
    def texts(self) -> int:
        return self.uniforms.shape[0]

    @property
    def longest(self) -> int:
        return self.uniforms.shape[1]


@dataclass(frozen=True)
class Written:
    """A text as tokens.

    Attributes:
        ids: Without the token that ended it.
        ended: Whether it ended by itself; None if it breaks off because predictions were no numbers.
        tops: Of each step, if somebody watches: see `drawing.tops`.
    """

    ids: list[int]
    ended: bool | None
    tops: list[torch.Tensor] = field(default_factory=list, compare=False)

    @property
    def tokens(self) -> int:
        return len(self.ids) + (self.ended is True)


def kind(inputs: Mapping[str, torch.Tensor]) -> tuple:
    """Equal for prompts whose tensors can be put together as they are, with nothing but pad tokens to fill up."""
    return tuple((name, tensor.shape[1:]) for name, tensor in sorted(inputs.items()) if name not in PER_TOKEN)


def to_model(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs where the model wants them, in its precision."""
    return {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in inputs.items()
    }


def alike(one: Sequence[Written], other: Sequence[Written], rounding: Rounding) -> bool:
    """Whether texts are the same, or part only where the same predictions were rounded in another way: up to there, and
    there, their `tops` differ by no more than rounding explains. A draw near the border between two tokens may fall on
    either side."""
    pairs = zip(one, other, strict=True)
    return all(text == other_text or rounding.explains(apart([text], [other_text])) for text, other_text in pairs)


def apart(one: Sequence[Written], other: Sequence[Written]) -> float:
    """The largest difference of a log-probability in the `tops` of texts, each up to where they part, and there, in
    nats. Not a number if one of them is none."""
    differences = []
    for text, other_text in zip(one, other, strict=True):
        steps = 1 + next(
            (step for step, pair in enumerate(zip(text.ids, other_text.ids)) if pair[0] != pair[1]),
            min(len(text.ids), len(other_text.ids)),
        )
        differences.extend(map(_apart, text.tops[:steps], other_text.tops[:steps]))
    return torch.stack(differences).amax().item()


def _apart(top: torch.Tensor, other_top: torch.Tensor) -> torch.Tensor:
    (logprobs, ids), (other_logprobs, other_ids) = top.T, other_top.T
    shared = ids[:, None] == other_ids
    # A token that is not among the other's highest is below them there.
    missing = logprobs[~shared.any(dim=1)] - other_logprobs.amin()
    other_missing = other_logprobs[~shared.any(dim=0)] - logprobs.amin()
    both = (logprobs[:, None] - other_logprobs)[shared].abs()
    return torch.cat([both, missing.clamp(min=0), other_missing.clamp(min=0)]).amax()
