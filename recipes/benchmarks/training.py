"""Speed and memory of the contrastive training: packed, with separate forwards, and beside plain SFT on the positives.

    python recipes/benchmarks/training.py                      # full training of the language model
    python recipes/benchmarks/training.py --use_lora true      # LoRA, the default of `C3LTrainer`

The model is that of `scoring.py`: random, about 100M parameters, 576 image tokens; float32, on CPUs. A row is one
image with a positive and k - 1 negatives, each of 15 to 60 tokens. `packed` and `separate` are `C3LTrainer` with and
without `pack_candidates`: speed and ratios are against `separate`. `SFT` is TRL's `SFTTrainer` on the images, prompts
and positives of the same rows. On CPUs TRL puts every token through the LM head, where there is Triton only those with
a loss: `SFT, answers` does the latter here, and costs are against it. All train the same weights, but for the
projection head of `C3LTrainer`.

Timed are steps of `Trainer.train`, data loading and optimizer included, but for the first of each turn. Each way has a
process of its own, and the processes take turns, so that the ratios are of one machine in one state; the fastest turn
counts.

Memory is told in two ways. `for backward` is what autograd keeps from the forward pass of a step, each storage once and
weights left out; it depends on the shapes alone. `peak` is the most that the process ever had resident, and
`activations` what is left of it without weights, gradients, optimizer states and the process before it had a model:
this has in it what the allocator keeps for reuse, and is not the same in every run.
"""

import multiprocessing
import resource
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import torch
from datasets import Dataset, Features, Image, List, Value, disable_progress_bars
from scoring import build, make_rows
from torch.nn import functional as F
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer, TrlParser

from c3l_hf.common.tables import format_table
from c3l_hf.training.config import C3LConfig, language_model_lora
from c3l_hf.training.trainer import C3LTrainer

SEPARATE, PACKED, SFT, SFT_ANSWERS = "separate", "packed", "SFT", "SFT, answers"
WAYS = (SEPARATE, PACKED, SFT, SFT_ANSWERS)
LOSSES = ("loss/nll", "loss/contrastive")


@dataclass
class TrainingBenchmarkArguments:
    rows: int = field(default=2, metadata={"help": "Rows to a step, each an image with its candidates."})
    k: int = field(default=5, metadata={"help": "Candidates of a row: one positive and k - 1 negatives."})
    steps: int = field(default=2, metadata={"help": "Timed steps of a turn; one more goes before them."})
    repeats: int = field(default=2, metadata={"help": "Turns of each way; the fastest counts."})
    use_lora: bool = field(default=False, metadata={"help": "Train LoRA adapters instead of the language model."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, images, texts and the order of rows."})


class AnswersSFTTrainer(SFTTrainer):
    """`SFTTrainer` with the LM head at the tokens that have a loss, as TRL itself does where there is Triton."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")[:, 1:]
        counted = labels != -100
        logits = model(**inputs, logits_to_keep=F.pad(counted, (0, 1)), use_cache=False).logits
        return F.cross_entropy(logits, labels[counted], reduction="sum") / num_items_in_batch


def make_dataset(images: int, k: int, seed: int) -> Dataset:
    """Pseudo-label rows; `completion` is `chosen` under the name that `SFTTrainer` has for it."""
    pairs = make_rows(images, k, seed)
    rows = []
    for start in range(0, len(pairs), k):
        answers = [[{"role": "assistant", "content": pair["answer"]}] for pair in pairs[start : start + k]]
        rows.append(
            {
                "images": [pairs[start]["image"]],
                "prompt": [{"role": "user", "content": pairs[start]["question"]}],
                "chosen": answers[0],
                "rejected": answers[1:],
                "completion": answers[0],
            }
        )
    messages = List({"role": Value("string"), "content": Value("string")})
    features = {"images": List(Image()), "prompt": messages, "chosen": messages, "completion": messages}
    return Dataset.from_list(rows, features=Features({**features, "rejected": List(messages)}))


def make_trainer(way: str, args: TrainingBenchmarkArguments, folder: str) -> SFTTrainer:
    model, processor = build(args.seed)
    dataset = make_dataset(args.rows * (1 + args.steps), args.k, args.seed)
    options = {
        "output_dir": folder,
        "per_device_train_batch_size": args.rows,
        "max_steps": 1 + args.steps,
        "max_length": None,
        "seed": args.seed,
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    if way in (SEPARATE, PACKED):
        kind, dataset = C3LTrainer, dataset.remove_columns("completion")
        config = C3LConfig(**options, use_lora=args.use_lora, pack_candidates=way == PACKED)
    else:
        kind, dataset = SFTTrainer if way == SFT else AnswersSFTTrainer, dataset.remove_columns(["chosen", "rejected"])
        config = SFTConfig(**options)
        # `C3LTrainer` does so by itself.
        model.model.vision_tower.requires_grad_(False)
        model.model.multi_modal_projector.requires_grad_(False)
    peft_config = language_model_lora(model) if args.use_lora else None
    trainer = kind(model, config, train_dataset=dataset, processing_class=processor, peft_config=peft_config)
    trainer.remove_callback(PrinterCallback)
    return trainer


class StepTimes(TrainerCallback):
    """When each step of the last `train` ended."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


def kept_for_backward(trainer: SFTTrainer) -> int:
    """Bytes that autograd keeps from the forward pass of one step: each storage once, without the weights."""
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(trainer.args.train_batch_size)])
    weights = {parameter.untyped_storage().data_ptr() for parameter in trainer.model.parameters()}
    kept: dict[int, int] = {}  # by address: what is kept is not freed, so that no other has it

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def give_back(tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    trainer.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, give_back):
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=1)
    return sum(kept.values())


def trained_parameters(trainer: SFTTrainer) -> int:
    return sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)


def state_bytes(trainer: SFTTrainer) -> int:
    """Bytes of weights, gradients and optimizer states."""
    parameters = list(trainer.model.parameters())
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    tensors = [*parameters, *(parameter for parameter in parameters if parameter.requires_grad), *states]
    return sum(tensor.nbytes for tensor in tensors)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def worker(way: str, args: TrainingBenchmarkArguments, pipe: Connection) -> None:
    """Answers each turn with (seconds of a step, losses of each step), and the end with figures of memory."""
    disable_progress_bars()
    logging.set_verbosity_error()  # that special tokens of the random model were aligned with the tokenizer's
    before = peak_bytes()
    with tempfile.TemporaryDirectory() as folder:
        trainer, times = make_trainer(way, args, folder), StepTimes()
        trainer.add_callback(times)
        while pipe.recv():
            trainer.train()
            losses = [[log[name] for name in LOSSES if name in log] for log in trainer.state.log_history]
            pipe.send(((times.ends[-1] - times.ends[0]) / args.steps, losses[: 1 + args.steps]))
        peak = peak_bytes()
        activations = peak - state_bytes(trainer) - before
        pipe.send((kept_for_backward(trainer), peak, activations, trained_parameters(trainer)))


def main(args: TrainingBenchmarkArguments) -> None:
    if args.k < 2 or args.steps < 1 or args.repeats < 1:
        raise SystemExit("--k must be 2 or more, --steps and --repeats 1 or more")
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for way in WAYS:
        pipes[way], theirs = context.Pipe()
        context.Process(target=worker, args=(way, args, theirs), daemon=True).start()
        theirs.close()  # so that `recv` fails where the process did
    turns, losses, memory = {way: [] for way in WAYS}, {way: [] for way in WAYS}, {}
    for _ in range(args.repeats):
        for way, pipe in pipes.items():
            pipe.send(True)
            seconds, found = pipe.recv()
            turns[way].append(seconds)
            losses[way] += found
    for way, pipe in pipes.items():
        pipe.send(False)
        *memory[way], trained = pipe.recv()
        print(f"{way}: {trained / 1e6:.2f}M parameters trained")

    trains = "LoRA" if args.use_lora else "full training of the language model"
    print(f"\n{args.rows} rows to a step, k = {args.k}, {trains}, {torch.get_num_threads()} threads")
    best = {way: min(seconds) for way, seconds in turns.items()}
    table = [("way", "steps/s", "speed", "cost", "for backward", "ratio", "peak", "activations", "ratio")]
    for way in WAYS:
        kept, peak, activations = memory[way]
        table.append(
            (
                way,
                f"{1 / best[way]:.3f}",
                f"{best[SEPARATE] / best[way]:.2f}",
                f"{best[way] / best[SFT_ANSWERS]:.2f}",
                f"{kept / 1e9:.2f} GB",
                f"{kept / memory[SEPARATE][0]:.2f}",
                f"{peak / 1e9:.2f} GB",
                f"{activations / 1e9:.2f} GB",
                f"{activations / memory[SEPARATE][2]:.2f}",
            )
        )
    print(format_table(table))
    print_losses(losses[SEPARATE], losses[PACKED])


def print_losses(separate: list[list[float]], packed: list[list[float]]) -> None:
    """The losses of all steps, to be seen that both train the same thing."""
    table = [("step", *(f"{name}, {way}" for name in LOSSES for way in (SEPARATE, PACKED)))]
    for step, pair in enumerate(zip(separate, packed, strict=True)):
        table.append((str(1 + step), *(f"{value:.6f}" for values in zip(*pair, strict=True) for value in values)))
    print(f"\n{format_table(table)}")
    pairs = [pair for of_step in zip(separate, packed, strict=True) for pair in zip(*of_step, strict=True)]
    print(f"largest relative difference: {max(abs(b / a - 1) for a, b in pairs):.1e}")


if __name__ == "__main__":
    (arguments,) = TrlParser((TrainingBenchmarkArguments,)).parse_args_and_config()
    main(arguments)
