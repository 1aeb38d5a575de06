"""Runs in processes of their own that are ended at moments that are counted, not timed.

A moment is the n-th step of a run within a stage: a file opened for writing, renamed or removed, a folder made, a pass
through a model. Processes are forked from one that has everything imported, so that a start costs no import. For many
more moments than the tests have: python tests/helpers/killed_runs.py FOLDER CHAINS ENDS_OF_EACH_STAGE
"""

import contextlib
import errno
import gc
import json
import multiprocessing
import os
import random
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as commands do, before they load PyTorch

import pyarrow.parquet as pq
import torch
from torch.distributed import TCPStore
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import PreTrainedModel

from c3l_hf.cli import entry
from c3l_hf.common import heartbeat
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.pipeline.options import STAGES

gc.freeze()  # what is imported is no garbage; each fork would have it copied

OPTIONS = "--config scenes --num_images 6 --pairs_per_image 2 --generation_batch_size 6 --target_size 4 --shard_size 3"
OPTIONS += " --max_steps 3 --warmup_steps 0 --per_device_train_batch_size 2 --save_strategy steps --save_steps 1"
FULL = 0  # in place of a signal: from here on the disk is full, or an accelerator's memory
ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, FULL)
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
# A process that another one's end does not end is the fault that is looked for; this only ends the test.
_HANGS = 120
_PERIOD = 0.25


@dataclass(frozen=True)
class Moment:
    """Step `number` of its kind ("change" of files, "pass" through a model) in a stage and a process, before which it
    gets a signal, or which fails (`FULL`); if there are fewer, the next stage begins so."""

    stage: str
    kind: str
    number: int
    signal: int
    rank: int = 0


@dataclass(frozen=True)
class Outcome:
    """How the processes of a run have ended, and what they have told."""

    codes: list[int]
    stage: str  # in which one of them was ended; "" if none was
    errors: list[str]


class _Counted:
    """Counts the steps of this process, and ends it at one of them."""

    def __init__(self, folder: Path, moment: Moment | None) -> None:
        self.folder, self.moment = str(folder), moment
        self.stage, self.steps, self.left, self.full = "", Counter[str](), False, ""

    def install(self) -> None:
        complete = RunFolder.complete

        def begun(folder: RunFolder, name: str, *rest: Any) -> Any:
            self.stage = name
            self.step("change")
            return complete(folder, name, *rest)

        RunFolder.complete = begun
        sys.addaudithook(self.audit)
        register_module_forward_pre_hook(self.forward)

    def audit(self, event: str, args: tuple) -> None:
        if event == "open":
            path, mode, flags = args
            counts = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) and isinstance(path, str)
        else:
            counts = event in _CHANGES
        if counts and str(args[0]).startswith(self.folder):
            self.step("change")
            if self.full == "change" and event in ("open", "os.mkdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))

    def forward(self, module: torch.nn.Module, _: tuple) -> None:
        if isinstance(module, PreTrainedModel):
            self.step("pass")
            if self.full == "pass":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def step(self, kind: str) -> None:
        if self.left or not self.stage:
            return
        step = f"{self.stage} {kind}"
        self.steps[step] += 1
        moment = self.moment
        if moment is None:
            return
        late = STAGES.index(self.stage) > STAGES.index(moment.stage)
        if late or (step == f"{moment.stage} {moment.kind}" and self.steps[step] == moment.number):
            self.left = True
            Path(f"{self.folder}.stage").write_text(self.stage)
            if moment.signal != FULL:
                os.kill(os.getpid(), moment.signal)
            else:  # from here on
                self.full = kind


def _process(folder: Path, rank: int, processes: int, port: int, moment: Moment | None, options: str) -> None:
    """What runs in a forked process."""
    log = os.open(f"{folder}.{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # Whoever started the tests may ignore them: nohup, a shell's background jobs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.environ["HF_HUB_OFFLINE"] = "1"
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    torch.set_num_threads(1)
    heartbeat._PERIOD = _PERIOD
    counted = _Counted(folder, moment if moment is not None and moment.rank == rank else None)
    counted.install()
    try:
        entry(["run", *options.split(), "--output_dir", str(folder)])
    finally:
        counted.left, counted.full = True, ""
        if moment is None:
            Path(f"{folder}.{rank}.json").write_text(json.dumps(counted.steps))


def run(folder: Path, processes: int = 1, moment: Moment | None = None, options: str = OPTIONS) -> Outcome:
    """A run in so many processes, which ends by itself or at a moment.

    Raises:
        TimeoutError: If a process does not end.
    """
    Path(f"{folder}.stage").write_text("")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as `accelerate launch` has one
    made = [
        _server().Process(target=_process, args=(folder, rank, processes, store.port, moment, options))
        for rank in range(processes)
    ]
    for process in made:
        process.start()
    try:
        for process in made:
            process.join(_HANGS)
            if process.exitcode is None:
                raise TimeoutError(f"a process has not ended after {moment}")
    finally:
        for process in made:
            with contextlib.suppress(ValueError):
                process.kill()
    errors = [Path(f"{folder}.{rank}.log").read_text() for rank in range(processes)]
    return Outcome([process.exitcode or 0 for process in made], Path(f"{folder}.stage").read_text(), errors)


def _server() -> multiprocessing.context.ForkServerContext:
    """Forks processes; it is started once, and has this module's imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_runs"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # Python 3.11 does not tell it the paths
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


def moments(steps: list[Counter[str]], of_each_stage: int, seed: int) -> list[Moment]:
    """Moments at random of each stage, in the stages' order, with each signal as often.

    Args:
        steps: Of a run that nothing has ended: of each process, by stage and kind.
        of_each_stage: How many.
        seed: Of the chance.
    """
    chance = random.Random(seed)
    made = []
    for stage in STAGES:
        of_stage = [(rank, step) for rank, counted in enumerate(steps) for step in counted if step.split()[0] == stage]
        for _ in range(of_each_stage):
            rank, step = chance.choice(of_stage)
            end = ENDS[len(made) % len(ENDS)]
            made.append(Moment(*step.split(), chance.randint(1, steps[rank][step]), end, rank))
    return made


def steps_of(folder: Path, processes: int) -> list[Counter[str]]:
    """The steps of each process of a run that nothing has ended."""
    return [Counter(json.loads(Path(f"{folder}.{rank}.json").read_text())) for rank in range(processes)]


def chain(folder: Path, planned: list[Moment], processes: int = 1) -> list[Outcome]:
    """A run that is ended at one moment after the other, and goes on in between, until it is complete: how each of its
    starts has ended, the last one by itself."""
    outcomes = []
    for moment in [*planned, None]:
        outcomes.append(run(folder, processes, moment))
        if not outcomes[-1].stage:
            break
    return outcomes


def differences(folder: Path, reference: Path) -> list[str]:
    """In what a run's results are not those of another one."""
    there, wanted = _files(folder), _files(reference)
    found = [f"{name} is left over" for name in sorted(there - wanted)]
    found += [f"{name} is missing" for name in sorted(wanted - there)]
    for name in sorted(there & wanted):
        if name.endswith(".parquet"):
            ours, theirs = (pq.read_table(path / name) for path in (folder, reference))
            found += [f"{name}: {column}" for column in theirs.column_names if not ours[column].equals(theirs[column])]
        elif name.endswith(".safetensors") and (folder / name).read_bytes() != (reference / name).read_bytes():
            found.append(name)
    return found


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def main(folder: Path, chains: int, of_each_stage: int) -> None:
    """Chains of runs, every third one of two processes; prints what is not as in a run that nothing ends."""
    folder.mkdir(parents=True)
    counted: Counter[str] = Counter()
    for processes in (1, 2):
        run(folder / f"whole-{processes}", processes)
    for seed in range(chains):
        processes = 2 if seed % 3 == 2 else 1
        whole, ended = folder / f"whole-{processes}", folder / f"ended-{seed}"
        planned = moments(steps_of(whole, processes), of_each_stage, seed)
        outcomes = chain(ended, planned, processes)
        counted.update(f"{processes} processes: {outcome.stage}" for outcome in outcomes[:-1])
        told = [outcome for outcome in outcomes if "Traceback" in "".join(outcome.errors)]
        wrong = differences(ended, whole) if not any(outcomes[-1].codes) else outcomes[-1].errors
        print(f"chain {seed}: {len(outcomes) - 1} ends, {len(told)} tracebacks, {wrong or 'equal'}", flush=True)
        for outcome in told:
            print("".join(outcome.errors)[-2000:])
    print(*sorted(counted.items()), f"{sum(counted.values())} ends", sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
