"""When checkpoints are saved beside the trainer's own times, and how they are sealed."""

import time
from collections.abc import Callable
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from c3l_hf.common.checksums import seal
from c3l_hf.common.processes import process_state

__all__ = ["SaveInTime", "SealCheckpoints"]

_MOST = 900.0  # seconds of training that an interruption may cost
_SHARE = 20  # so many times what a checkpoint takes lie between two of them


class SealCheckpoints(TrainerCallback):
    """Notes the checksums of a checkpoint's files once all processes have written theirs: see `last_checkpoint`.

    It has to be the last callback of a trainer that writes into checkpoints.
    """

    def on_save(self, args, state, control, **_):
        process_state().wait_for_everyone()
        if process_state().is_main_process:
            seal(Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"))


class SaveInTime(TrainerCallback):
    """Saves a checkpoint where the next of `save_steps` is far, so that an interruption costs minutes, not hours.

    The main process measures how long steps take, and all save at the same step. Where a checkpoint takes long, they
    lie further apart: 20 times as long as it takes to write one. Nothing is saved with `save_strategy="no"`.

    Args:
        seconds: Of training between two checkpoints.
        clock: Seconds since some moment.
    """

    def __init__(self, seconds: float = _MOST, clock: Callable[[], float] = time.monotonic):
        self._seconds, self._between, self._clock = seconds, seconds, clock

    def on_train_begin(self, args, state, control, **_):
        self._begin(state)

    def on_step_begin(self, args, state, control, **_):
        if self._saved:  # now the seal is written, too
            self._between = max(self._seconds, _SHARE * (self._clock() - self._ended))
            self._begin(state)

    def on_step_end(self, args, state, control, **_):
        self._ended = self._clock()
        if args.save_strategy == "no" or control.should_save or state.global_step < self._look_at:
            return
        since = self._ended - self._since
        left, step = self._between - since, since / max(1, state.global_step - self._step)
        # Steps may come to take longer: the next look is after half of those that seem to be left.
        plan = [left < step, max(1, int(left / step / 2)) if step else 1]
        due, steps = broadcast_object_list(plan)
        control.should_save |= due
        self._look_at = state.global_step + steps

    def on_save(self, args, state, control, **_):
        self._saved = True

    def _begin(self, state) -> None:
        self._since, self._saved = self._clock(), False
        self._step, self._look_at = state.global_step, state.global_step + 1
