"""A loss or gradients that are not finite end a training, before the step that would spoil the weights."""

from collections.abc import Iterable, Sequence

import torch
from accelerate.utils import gather, gather_object
from peft import PeftModel
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback, TrainingArguments

from c3l_hf.common.names import listed
from c3l_hf.models.batching import picture_row

__all__ = ["ROW_NAMES", "StopIfNotFinite", "refuse_spoiled"]

# In a batch: what its rows are called, for messages. The model does not get it.
ROW_NAMES = "row_names"

_SHOWN = 8  # rows that are named
# Steps in a row that float16's loss scaling may leave out: it halves its scale each time, from 2^16 down to nothing.
_LEFT_OUT = 50


class StopIfNotFinite(TrainerCallback):
    """Raises `FloatingPointError` on all processes, naming the step and its rows.

    Losses and gradients are looked at once a step, after they were added up over micro-batches and processes and before
    the optimizer uses them; under DeepSpeed, whose engine has made the step by then, the losses alone. That one look
    waits for the device, which our trainers otherwise do for every micro-batch, to log its loss. With float16, whose
    loss scaling leaves out steps of too large gradients, it ends only after 50 of these in a row. A checkpoint of
    weights that are not finite is refused as well: the step before may have spoiled them.
    """

    def __init__(self) -> None:
        self._noted: list[tuple[Sequence[str], torch.Tensor]] = []
        self._left_out = 0

    def note(self, rows: Sequence[str], losses: torch.Tensor) -> None:
        """A micro-batch.

        Args:
            rows: What its rows are called.
            losses: Of each row, (B,), or of all together, ().
        """
        self._noted.append((rows, losses.detach()))

    def on_step_begin(self, args, state, control, **_):
        self._noted.clear()

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        losses = [values.reshape(-1).float() for _, values in self._noted]
        device = losses[0].device if losses else args.device
        finite = [torch.cat(losses).isfinite().all() if losses else torch.ones((), dtype=torch.bool, device=device)]
        finite.append(_gradients_are_finite(model, device))
        # (processes, 2): a loss is one process's, and so is a part of the gradients where these are sharded.
        loss_is, gradients_are = gather(torch.stack(finite).int()[None]).all(dim=0).tolist()
        self._left_out = 0 if gradients_are else self._left_out + 1
        if loss_is and (gradients_are or (args.fp16 and self._left_out < _LEFT_OUT)):
            return
        step = state.global_step + 1
        if not loss_is:
            what = f"the loss is not finite at step {step}"
        elif args.fp16:
            what = f"the gradients were not finite in {_LEFT_OUT} steps of float16 in a row, up to step {step}"
        else:
            what = f"the gradients are not finite at step {step}"
        rows = self._rows()
        raise FloatingPointError(f"{what}{rows}. {_remedy(args, look=bool(rows))}")

    def on_save(self, args, state, control, model=None, **_):
        spoiled = _not_finite(weight for weight in model.named_parameters() if weight[1].requires_grad)
        spoiled = gather_object(spoiled)
        if spoiled:
            names = listed(list(dict.fromkeys(spoiled)), 2)
            raise FloatingPointError(f"weights are not finite after step {state.global_step}: {names}. {_remedy(args)}")

    def _rows(self) -> str:
        """The rows of this step whose loss is not finite, or else all of them; on all processes."""
        bad: list[str] = []
        for rows, losses in self._noted:
            each = losses.isfinite().reshape(-1).tolist()
            # A loss of its own for each row, or one for all.
            bad += [name for name, good in zip(rows, each * len(rows) if len(each) == 1 else each) if not good]
        every = [(bad, [name for rows, _ in self._noted for name in rows])]
        every = gather_object(every)
        bad, all_rows = ([name for part in every for name in part[place]] for place in (0, 1))
        names = list(dict.fromkeys(bad or all_rows))
        if not names:
            return ""
        more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        return f", {'in' if bad else 'among'} {'; '.join(names[:_SHOWN])}{more}"


def refuse_spoiled(model: PreTrainedModel | PeftModel, processor: ProcessorMixin, training: TrainingArguments) -> None:
    """Raises `FloatingPointError` if a trained model cannot be used: a weight is not finite, or what it predicts for a
    small picture. The last step may have done that, after which no loss was computed.

    Args:
        model: As it is saved: the dtype may be a smaller one than in training.
        processor: Its processor.
        training: How it was trained, for the message.
    """
    spoiled = _not_finite(model.named_parameters())
    if spoiled:
        raise FloatingPointError(
            f"weights of the trained model are not finite: {listed(spoiled, 2)}. {_remedy(training)}"
        )
    try:
        row = picture_row(processor)
    except ValueError:  # a processor that makes no such row; weights of usual size tell less, but something
        return
    dtypes = {name: model.dtype if tensor.is_floating_point() else None for name, tensor in row.items()}
    with torch.no_grad():
        logits = model(**{name: tensor.to(model.device, dtypes[name]) for name, tensor in row.items()}).logits
    if not logits.isfinite().all():
        raise FloatingPointError(f"what the trained model predicts is not finite. {_remedy(training)}")


def _not_finite(weights: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """The names of weights that are not finite, in this process's part of them."""
    return [name for name, weight in weights if not _local(weight.detach()).isfinite().all()]


def _gradients_are_finite(model: nn.Module, device: torch.device) -> torch.Tensor:
    """Whether this process's part of all gradients is finite, as a tensor: it is not waited for."""
    parts = [_local(weight.grad) for weight in model.parameters() if weight.grad is not None]
    if not parts:
        return torch.ones((), dtype=torch.bool, device=device)
    # NaN and inf stay in a sum of squares, which is the fastest look at all of them: 1 ms for 5 million on a CPU.
    return nn.utils.get_total_norm(parts).isfinite().to(device)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _remedy(args: TrainingArguments, look: bool = False) -> str:
    precision = "float16 (fp16): train in bfloat16 or float32" if args.fp16 else "bfloat16 (bf16)" if args.bf16 else ""
    rate = f"Lower learning_rate, which is {args.learning_rate:g},{' look at these rows,' * look}"
    return f"{rate} and see whether the model was finite before{f'; training is in {precision}' if precision else ''}"
