"""Predictions → tokens, with given random numbers."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

__all__ = ["Draw", "SeededSampling", "tops"]

_AT_ONCE = 2**24  # probabilities in float64, 128 MB


@dataclass(frozen=True)
class Draw:
    """Takes a token from each row of predictions.

    It is the inverse of the cumulative distribution (in token order, float64) at a given number, so a text does not
    depend on those beside it, as it does with one random stream for the batch.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: Samples from the smallest set of tokens with at least this probability.
    """

    temperature: float
    top_p: float

    def __call__(self, logits: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens, (rows,), and which rows have none, (rows,), because the predictions are no numbers, as float16 gives
        when it overflows.

        Args:
            logits: (rows, vocabulary), float32.
            uniforms: Numbers in [0, 1), float64, (rows,); on the CPU for devices without float64. Not used at
                temperature 0.
        """
        broken = ~logits.amax(dim=-1).isfinite()  # one NaN is enough
        if self.temperature == 0:
            return logits.argmax(dim=-1), broken
        parts = zip(
            logits.split(max(1, _AT_ONCE // logits.shape[-1])), uniforms.split(max(1, _AT_ONCE // logits.shape[-1]))
        )
        return torch.cat([self._sample(*part) for part in parts]).to(logits.device), broken

    def _sample(self, scores: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        if self.temperature != 1:
            scores = TemperatureLogitsWarper(float(self.temperature))(None, scores)
        if self.top_p < 1:
            scores = TopPLogitsWarper(self.top_p)(None, scores)
        cumulative = scores.to(uniforms.device).double().softmax(dim=-1).cumsum(dim=-1)
        # A hair below 1: where sums run in parallel (GPU), tokens of probability 0 at the end may differ in a last bit.
        position = uniforms[:, None] * (1 - 2**-40) * cumulative[:, -1:]
        return torch.searchsorted(cumulative, position, right=True)[:, 0]

    def numbers(self, uniforms: np.ndarray, device: torch.device) -> torch.Tensor:
        """Random numbers where `__call__` wants them."""
        return torch.from_numpy(uniforms).to("cpu" if device.type == "mps" else device)  # there is no float64 on MPS


class SeededSampling(LogitsProcessor):
    """Draws for `generate(do_sample=False)`: leaves one token possible per row, the end where there is none.

    Args:
        draw: How.
        uniforms: Numbers in [0, 1), float64, (rows, new tokens).
        prompt_length: Length of the padded prompts.
        end: Id of the token that ends a text whose predictions are no numbers.
        watch: Keep the `tops` of each step.
    """

    def __init__(self, draw: Draw, uniforms: torch.Tensor, prompt_length: int, end: int, watch: bool = False):
        self.draw, self.uniforms, self.prompt_length, self.end, self.watch = draw, uniforms, prompt_length, end, watch
        self.tops: list[torch.Tensor] = []
        self._broken: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self.watch:
            self.tops.append(tops(scores))
        tokens, broken = self.draw(scores, self.uniforms[:, input_ids.shape[1] - self.prompt_length])
        self._broken.append(broken)
        tokens = tokens.masked_fill(broken, self.end)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)

    def broken(self) -> list[int]:
        """For each row the number of the first new token that could not be predicted, or -1."""
        broken = torch.stack(self._broken, dim=1)
        return torch.where(broken.any(dim=1), broken.int().argmax(dim=1), -1).tolist()


def tops(logits: torch.Tensor) -> torch.Tensor:
    """The five highest log-probabilities of each row and whose they are, float64, (rows, 5, 2), on the CPU."""
    highest = logits.float().log_softmax(dim=-1).topk(min(5, logits.shape[-1]))
    return torch.stack([highest.values.cpu().double(), highest.indices.cpu().double()], dim=-1)
