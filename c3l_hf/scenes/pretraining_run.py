"""The small generator's training, from scratch to the shipped model: three phases, seeded and resumable.

The vision tower learns the words of its patches; the whole model answers, describes and generates; then it is mostly
asked for what is found last.
"""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin, Trainer, TrainerCallback, TrainingArguments, set_seed

from c3l_hf.common.files import atomic_folder
from c3l_hf.scenes.architecture import build_model, build_processor
from c3l_hf.scenes.evaluation import answer_accuracy
from c3l_hf.scenes.pretraining import (
    ALL_TYPES,
    HARD_TYPES,
    AnsweringTrainer,
    PackedScenes,
    PatchNames,
    TowerTrainer,
)
from c3l_hf.training.finite import StopIfNotFinite
from c3l_hf.training.resuming import train_from_last

__all__ = ["PretrainingOptions", "keep_batch", "pretrain", "run_phase", "save_final"]

logger = logging.getLogger(__name__)


@dataclass
class PretrainingOptions:
    """How the small generator, or a student that has only described pictures, is trained from scratch."""

    output_dir: str = field(metadata={"help": "Folder for checkpoints, logs and the trained model."})
    seed: int = field(default=0, metadata={"help": "Seed of the weights and of the scenes."})
    tower_steps: int = field(default=600, metadata={"help": "Steps of 64 pictures in the tower's warm-up."})
    steps: int = field(default=2500, metadata={"help": "Steps of the joint phase."})
    hard_steps: int = field(default=5000, metadata={"help": "Steps of the last phase."})
    images_per_step: int = field(
        default=16, metadata={"help": "Pictures in a step of the joint phase; half of it in the last."}
    )
    learning_rate: float = field(default=1.2e-3, metadata={"help": "Peak learning rate."})
    tower_scale: float = field(
        default=0.15,
        metadata={"help": "Factor on the tower's learning rate in the last two phases; at 1 it forgets its patches."},
    )
    bridges: float = field(
        default=0.4, metadata={"help": "Share of the answers about presence and number in the form learned earlier."}
    )
    save_steps: int = field(default=500, metadata={"help": "Steps between checkpoints and evaluations."})
    eval_questions: int = field(default=60, metadata={"help": "Questions of each type in an evaluation on the way."})
    text_steps: int = field(default=800, metadata={"help": "Steps of a student's last phase."})
    descriptions_only: bool = field(
        default=False,
        metadata={"help": "Train on descriptions only: a student that has not learned to answer questions."},
    )
    bf16: bool = field(default=True, metadata={"help": "bf16 autocast; the weights stay float32."})


class _AnswerAccuracy(TrainerCallback):
    """Answers questions about validation scenes at every checkpoint and appends the figures to `evaluations.jsonl`."""

    def __init__(self, processor: ProcessorMixin, questions: int, path: Path):
        self.processor, self.questions, self.path = processor, questions, path

    def on_save(self, args, state, control, model=None, **kwargs):
        was_training = model.training
        model.eval()
        shares = answer_accuracy(model, self.processor, self.questions, split="validation")
        model.train(was_training)
        figures = {type: round(share.value, 3) for type, share in shares.items()}
        logger.info("step %d: %s", state.global_step, figures)
        with self.path.open("a") as file:
            file.write(json.dumps({"step": state.global_step, **figures}) + "\n")


def _arguments(options: PretrainingOptions, phase: str, steps: int, learning_rate: float) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(Path(options.output_dir) / phase),
        max_steps=steps,
        # A dataset item is a whole batch.
        per_device_train_batch_size=1,
        learning_rate=learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": int(0.6 * steps), "decay_type": "cosine"},
        warmup_steps=min(100, steps // 10),
        weight_decay=0.01,
        max_grad_norm=1.0,
        bf16=options.bf16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=50,
        save_steps=options.save_steps,
        remove_unused_columns=False,
        report_to="none",
        seed=options.seed,
    )


def keep_batch(items: list[dict]) -> dict:
    """Collator: an item of the datasets is a batch already."""
    return items[0]


def _tower_slowly(model: PreTrainedModel, training: TrainingArguments, scale: float) -> torch.optim.Optimizer:
    """AdamW with a smaller learning rate for the vision tower."""
    tower = {id(parameter) for parameter in model.model.vision_tower.parameters()}
    groups = [
        {"params": [parameter for parameter in model.parameters() if id(parameter) not in tower]},
        {"params": list(model.model.vision_tower.parameters()), "lr": training.learning_rate * scale},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate, weight_decay=training.weight_decay)


def run_phase(trainer: Trainer) -> None:
    """Trains, going on from the last whole checkpoint in the trainer's folder."""

    def load(checkpoint: str) -> None:
        # LLaVA checkpoints have other names for the weights than the model in memory. `from_pretrained` translates
        # them; `Trainer` alone would load none of them, and say so in a warning only.
        weights = (
            type(trainer.model).from_pretrained(checkpoint, dtype=torch.float32, use_safetensors=True).state_dict()
        )
        trainer.model.load_state_dict(weights)

    trainer.add_callback(StopIfNotFinite())
    train_from_last(trainer, load)


def save_final(model: PreTrainedModel, output: Path) -> Path:
    """Saves a trained model in float16, with its processor, to `<output>/final`, whole or not at all; returns that
    folder."""
    final = output / "final"
    model.half()
    with atomic_folder(final) as folder:
        model.save_pretrained(folder)
        # A new one: the one that was used keeps the padding of its last batch.
        build_processor().save_pretrained(folder)
    logger.info("the trained model is in %s", final)
    return final


def pretrain(options: PretrainingOptions) -> Path:
    """Trains the small model, going on from the last checkpoint of each phase.

    Every checkpoint stays in `<output_dir>/joint` and `<output_dir>/hard`: earlier ones are weaker generators. Answers
    to questions about validation scenes at each of them go to `<output_dir>/evaluations.jsonl`.

    Returns:
        The folder of the trained model in float16, with its processor: `<output_dir>/final`.
    """
    output = Path(options.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    set_seed(options.seed)

    # Model
    processor = build_processor()
    model = build_model(processor, options.seed)

    # The tower learns the words of its patches; the language model's embeddings are the targets and stay.
    tower = [model.model.vision_tower, model.model.multi_modal_projector]
    model.requires_grad_(False)
    for module in tower:
        module.requires_grad_(True)
    patches = PatchNames(processor, options.tower_steps, 64, options.seed)
    run_phase(
        TowerTrainer(
            model, _arguments(options, "tower", options.tower_steps, options.learning_rate), keep_batch, patches
        )
    )

    # All together, then what is found last
    model.requires_grad_(True)
    evaluate = _AnswerAccuracy(processor, options.eval_questions, output / "evaluations.jsonl")
    images, seed = options.images_per_step, options.seed
    asked: dict[str, Any] = {"bridges": options.bridges, "descriptions_only": options.descriptions_only}
    phases = [
        ("joint", PackedScenes(processor, options.steps, images, seed, ALL_TYPES, 2, **asked), options.learning_rate)
    ]
    if options.descriptions_only:
        text = PackedScenes(processor, options.text_steps, images // 2, seed + 2, ALL_TYPES, 4, **asked, text_only=0.6)
        phases.append(("text", text, options.learning_rate / 2))
    else:
        hard = PackedScenes(processor, options.hard_steps, images // 2, seed + 2, HARD_TYPES, 4, **asked)
        phases.append(("hard", hard, options.learning_rate / 2))
    for phase, dataset, learning_rate in phases:
        training = _arguments(options, phase, len(dataset), learning_rate)
        optimizers = (_tower_slowly(model, training, options.tower_scale), None)
        run_phase(AnsweringTrainer(model, training, keep_batch, dataset, callbacks=[evaluate], optimizers=optimizers))

    return save_final(model, output)
