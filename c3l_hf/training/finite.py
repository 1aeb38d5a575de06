"""A loss or gradients that are not finite end a training, before the step that would spoil the weights."""

from collections.abc import Sequence

import torch
from accelerate.utils import gather, gather_object
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from c3l_hf.common.names import listed
from c3l_hf.common.processes import process_state

__all__ = ["ROW_NAMES", "StopIfNotFinite", "refuse_weights"]

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
        finite.append(_all_finite([weight.grad for weight in model.parameters() if weight.grad is not None], device))
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
        raise FloatingPointError(f"{what}{self._rows()}. {_remedy(args)}")

    def on_save(self, args, state, control, model=None, **_):
        refuse_weights(model, f"after step {state.global_step}", f". {_remedy(args)}", trained=True)

    def _rows(self) -> str:
        """The rows of this step whose loss is not finite, or else all of them; on all processes."""
        bad: list[str] = []
        for rows, losses in self._noted:
            each = losses.isfinite().reshape(-1).tolist()
            # A loss of its own for each row, or one for all.
            bad += [name for name, good in zip(rows, each * len(rows) if len(each) == 1 else each) if not good]
        every = [(bad, [name for rows, _ in self._noted for name in rows])]
        every = gather_object(every) if process_state().num_processes > 1 else every
        bad, all_rows = ([name for part in every for name in part[place]] for place in (0, 1))
        names = list(dict.fromkeys(bad or all_rows))
        if not names:
            return ""
        more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        return f", {'in' if bad else 'among'} {'; '.join(names[:_SHOWN])}{more}"


def refuse_weights(model: nn.Module, when: str, remedy: str = "", *, trained: bool = False) -> None:
    """Raises `FloatingPointError` if weights of a model are not finite; every process calls this.

    Args:
        model: Whole, or this process's part of it.
        when: For the message.
        remedy: The end of the message.
        trained: Whether only weights that are trained are looked at.
    """
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad or not trained]
    spoiled = [name for name, weight in named if not bool(_all_finite([weight.detach()], weight.device))]
    spoiled = gather_object(spoiled) if trained and process_state().num_processes > 1 else spoiled
    if spoiled:
        names = listed(list(dict.fromkeys(spoiled)), 2)
        raise FloatingPointError(f"weights are not finite {when}: {names}{remedy}")


def _all_finite(tensors: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Whether all values of this process's parts of tensors are finite, as a tensor: it is not waited for."""
    parts = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    parts = [part for part in parts if part.is_floating_point() and part.numel()]
    if not parts:
        return torch.ones((), dtype=torch.bool, device=device)
    # The largest size of a value: one pass, and no copy of them. NaN and inf stay what they are.
    return nn.utils.get_total_norm(parts, norm_type=float("inf")).isfinite().to(device)


def _remedy(args) -> str:
    precision = "float16 (fp16): train in bfloat16 or float32" if args.fp16 else "bfloat16 (bf16)" if args.bf16 else ""
    return (
        f"Lower learning_rate, which is {args.learning_rate:g}, look at these rows, and see whether the model was "
        f"finite before{f'; training is in {precision}' if precision else ''}"
    )
