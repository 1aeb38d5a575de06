"""How much each token of a student's answers counts in its loss: weights of tokens and of rows."""

import functools
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.choices import check_choice
from c3l_hf.data.schema import TURNS
from c3l_hf.models.encoding import EncodedRow, token_texts
from c3l_hf.models.token_spans import carry_over
from c3l_hf.selection.token_weights import GAIN_COLUMNS, TokenWeights, answer_weights, row_weight, turn_gains

__all__ = ["TOKEN_WEIGHT", "AnswerWeights", "weigh_loss"]

# In a batch beside the labels: the weight of each token, (rows, tokens), float32.
TOKEN_WEIGHT = "token_weight"


@dataclass(frozen=True)
class AnswerWeights:
    """Which weights a student's rows have.

    Attributes:
        token_weights: Of tokens, by what the picture adds to each: "cal" or "vig", see `selection.token_weights`. The
            scorer's tokens may be others than the student's: their weights are carried over by the characters that both
            spell, and made to have mean 1 over the answer. The token that ends it has the weight 1.
        weight_column: A column of numbers that are not negative, by which the weights of all of a row's tokens are
            multiplied. They are taken as they are: give them a mean of 1.

    Raises:
        ValueError: If `token_weights` is another word.
    """

    token_weights: TokenWeights | None = None
    weight_column: str | None = None

    def __post_init__(self) -> None:
        if self.token_weights is not None:
            check_choice("token_weights", self.token_weights, get_args(TokenWeights))

    def columns(self, there: Iterable[str]) -> list[str]:
        """The columns that are read, beside those of the layout.

        Raises:
            ValueError: If one is missing; the message names it.
        """
        there = list(there)
        found = f"the dataset has {', '.join(there)}"
        if self.weight_column is not None and self.weight_column not in there:
            raise ValueError(f"no column {self.weight_column!r} (weight_column); {found}")
        columns = [] if self.weight_column is None else [self.weight_column]
        if self.token_weights is not None:
            if missing := [name for name in GAIN_COLUMNS if name not in there]:
                names = ", ".join(map(repr, missing))
                raise ValueError(f"no column {names}, which token_weights needs and c3l score makes; {found}")
            columns += [*GAIN_COLUMNS, *[TURNS] * (TURNS in there)]
        return list(dict.fromkeys(columns))

    def of(self, row: Mapping[str, Any], turn: int, encoded: EncodedRow, processor: ProcessorMixin) -> torch.Tensor:
        """The weights of an encoded answer's tokens and of the one that ends it, float32.

        Raises:
            RowError: If the row does not have them, or its scores are those of another answer.
        """
        weights = torch.ones(len(encoded.answer_ids), dtype=torch.float64)
        if self.token_weights is not None:
            texts, gains = turn_gains(row, turn)
            ours = token_texts(processor, encoded.answer_ids[:-1])
            carried = carry_over(texts, answer_weights(gains, self.token_weights).tolist(), ours)
            weights[:-1] = torch.tensor(carried, dtype=torch.float64)
            # All are 0 where what counts is a space that the student's tokens do not have: then all count alike.
            mean = weights[:-1].mean()
            weights[:-1] = weights[:-1] / mean if mean > 0 else 1.0
        if self.weight_column is not None:
            weights *= row_weight(row, self.weight_column)
        return weights.float()


def weigh_loss(model: PreTrainedModel) -> None:
    """Let a student's forward take the weights of its labels, and give its log-probabilities times these.

    `SFTTrainer` then adds them up and divides by the number of labels in all micro-batches of all processes, as it does
    without weights: weights of tokens have mean 1 over an answer, so that number is also their sum. Without weights in
    the inputs the forward is as it was.

    Args:
        model: A model whose forward TRL has given its fused LM head (`trl.trainer.add_fused_lm_head`): what it returns
            has `log_probs`, (rows, tokens - 1), of each token but the first.
    """
    fused = model.forward

    @functools.wraps(type(model).forward)  # `generate` checks its arguments against the signature
    def forward(self, *args, **inputs):
        weight = inputs.pop(TOKEN_WEIGHT, None)
        outputs = fused(*args, **inputs)
        if weight is None:
            return outputs
        if inputs.get("shift_labels") is not None:  # cut up for several processes, as the weights are not
            raise ValueError("weights of tokens or rows are not supported with sequence or context parallelism")
        outputs.log_probs = outputs.log_probs * weight[:, 1:].to(outputs.log_probs.device)
        return outputs

    model.forward = types.MethodType(forward, model)
