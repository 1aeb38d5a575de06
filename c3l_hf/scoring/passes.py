"""The passes of a scorer in a long run: rows at which the model fails are found, one without numbers ends the run."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.errors import RowError, RunError
from c3l_hf.common.memory_errors import is_out_of_memory
from c3l_hf.models.encoding import EncodedRow
from c3l_hf.scoring.likelihood import AnswerLogprobs, answer_logprobs

__all__ = ["Passes", "check_numbers"]

# A model is given up when more than these of its answers have no numbers, after so many about so many images.
_MOST, _ANSWERS, _IMAGES = 0.9, 64, 8
_REMEDY = (
    "the weights are broken (a training that failed, a damaged file), or too large for float16: try another dtype "
    "(bfloat16, float32)"
)
# What a model raises at inputs that it cannot take.
_OF_ROWS = (ValueError, TypeError, LookupError, AssertionError, RuntimeError)

_Ours = Callable[[], tuple[Sequence[EncodedRow], Sequence[EncodedRow]]]


def check_numbers(model: PreTrainedModel, processor: ProcessorMixin, ours: _Ours) -> None:
    """That a model gives numbers for a row of our own, before it is asked about others for days.

    Args:
        model: The model, in eval mode.
        processor: Its processor.
        ours: Rows that every model can be asked about, and the blind ones.

    Raises:
        RunError: If it gives none.
    """
    answers = answer_logprobs(model, processor, *ours(), packed=False, max_tokens=1)
    if any(not _has_numbers(answer) for answer in answers):
        raise RunError(
            f"{type(model).__name__} in {str(model.dtype).removeprefix('torch.')} gives no numbers (NaN) for an answer "
            f"of our own: {_REMEDY}"
        )


@dataclass
class Passes:
    """What a model says about batches of answers, as `likelihood.answer_logprobs`, for runs of days.

    Where the model fails at a batch, each row gets a pass of its own, and those at which it still fails have
    `AnswerLogprobs.problem`. It is not taken for theirs if the model fails at a row of our own, too: then the error is
    raised, as is any of too little memory or of the accelerator.

    Attributes:
        answers: How many the model was asked about.
        without: How many of them have no numbers.
    """

    answers: int = 0
    without: int = 0
    _images: set[Hashable] = field(default_factory=set, repr=False)

    def __call__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        rows: Sequence[EncodedRow],
        blind_rows: Sequence[EncodedRow],
        *,
        packed: bool,
        max_tokens: int,
        ours: _Ours,
    ) -> list[AnswerLogprobs]:
        """See `likelihood.answer_logprobs`; `ours` as for `check_numbers`.

        Raises:
            RunError: If nearly all answers so far have no numbers.
        """
        try:
            answers = answer_logprobs(model, processor, rows, blind_rows, packed=packed, max_tokens=max_tokens)
        except _OF_ROWS as error:
            if not _may_be_of_rows(error):
                raise
            answers = [_alone(model, processor, row, blind) for row, blind in zip(rows, blind_rows, strict=True)]
            if any(answer.problem for answer in answers):
                answer_logprobs(model, processor, *ours(), packed=False, max_tokens=1)
        self._count(rows, answers, model)
        return answers

    def _count(self, rows: Sequence[EncodedRow], answers: Sequence[AnswerLogprobs], model: PreTrainedModel) -> None:
        self.answers += len(answers)
        self.without += sum(not _has_numbers(answer) for answer in answers)
        if len(self._images) < _IMAGES:
            self._images.update(key for row in rows for key in row.images)
        if self.answers >= _ANSWERS and len(self._images) >= _IMAGES and self.without > _MOST * self.answers:
            raise RunError(
                f"{type(model).__name__} gives no numbers (NaN) for {self.without:,} of the first {self.answers:,} "
                f"answers: {_REMEDY}"
            )


def _alone(model: PreTrainedModel, processor: ProcessorMixin, row: EncodedRow, blind: EncodedRow) -> AnswerLogprobs:
    try:
        return answer_logprobs(model, processor, [row], [blind], packed=False, max_tokens=1)[0]
    except _OF_ROWS as error:
        if not _may_be_of_rows(error):
            raise
        nothing = torch.full((len(row.answer_ids),), torch.nan, dtype=torch.float64)
        problem = RowError(f"the model fails at the row: {type(error).__name__}: {error}")
        return AnswerLogprobs(nothing, nothing, nothing, str(problem))


def _may_be_of_rows(error: Exception) -> bool:
    """Not where memory is short, nor where the accelerator has failed, at which all that follows fails."""
    return not (is_out_of_memory(error) or isinstance(error, torch.AcceleratorError))


def _has_numbers(answer: AnswerLogprobs) -> bool:
    return answer.problem is not None or not torch.stack([answer.with_image, answer.blind]).isnan().any().item()
