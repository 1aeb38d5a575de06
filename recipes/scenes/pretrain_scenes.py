"""Train the small generator of the scenes world from scratch.

    python recipes/pretrain_scenes.py --output_dir runs/generator

Three phases, seeded and resumable (run the same command again after an interruption): the vision tower learns the
words of its patches; the whole model answers, describes and generates; then it is mostly asked for what is found last.
Every checkpoint stays in `<output_dir>/joint` and `<output_dir>/hard`: earlier ones are weaker generators. The result,
in `<output_dir>/final`, is what `c3l_hf/scenes/generator` ships; `recipes/evaluate_scenes.py` measures it.

    python recipes/pretrain_scenes.py --descriptions_only --bridges 0.5 --output_dir runs/student

makes a student instead: the same architecture and tower, which only ever described pictures. In its last phase it also
reads questions and answers, without pictures.
"""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from trl import TrlParser

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
from c3l_hf.training.checkpoints import last_checkpoint

logger = logging.getLogger(__name__)


@dataclass
class PretrainArguments:
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


class AnswerAccuracy(TrainerCallback):
    """Answers questions about validation scenes at every checkpoint and appends the figures to `evaluations.jsonl`."""

    def __init__(self, processor, questions: int, path: Path):
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


def arguments(args: PretrainArguments, phase: str, steps: int, learning_rate: float) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(Path(args.output_dir) / phase),
        max_steps=steps,
        # A dataset item is a whole batch.
        per_device_train_batch_size=1,
        learning_rate=learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": int(0.6 * steps), "decay_type": "cosine"},
        warmup_steps=min(100, steps // 10),
        weight_decay=0.01,
        max_grad_norm=1.0,
        bf16=args.bf16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=50,
        save_steps=args.save_steps,
        remove_unused_columns=False,
        report_to="none",
        seed=args.seed,
    )


def keep_batch(items: list[dict]) -> dict:
    """Collator: an item of the datasets is a batch already."""
    return items[0]


def tower_slowly(model, training: TrainingArguments, scale: float) -> torch.optim.Optimizer:
    """AdamW with a smaller learning rate for the vision tower."""
    tower = {id(parameter) for parameter in model.model.vision_tower.parameters()}
    groups = [
        {"params": [parameter for parameter in model.parameters() if id(parameter) not in tower]},
        {"params": list(model.model.vision_tower.parameters()), "lr": training.learning_rate * scale},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate, weight_decay=training.weight_decay)


def run(trainer: Trainer) -> None:
    checkpoint = last_checkpoint(Path(trainer.args.output_dir))
    if checkpoint:
        # LLaVA checkpoints have other names for the weights than the model in memory. `from_pretrained` translates
        # them; `Trainer` alone would load none of them, and say so in a warning only.
        weights = type(trainer.model).from_pretrained(checkpoint, dtype=torch.float32).state_dict()
        trainer.model.load_state_dict(weights)
    trainer.train(resume_from_checkpoint=checkpoint)


def main(args: PretrainArguments) -> None:
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    set_seed(args.seed)

    # Model
    processor = build_processor()
    model = build_model(processor, args.seed)

    # The tower learns the words of its patches; the language model's embeddings are the targets and stay.
    tower = [model.model.vision_tower, model.model.multi_modal_projector]
    model.requires_grad_(False)
    for module in tower:
        module.requires_grad_(True)
    patches = PatchNames(processor, args.tower_steps, 64, args.seed)
    run(TowerTrainer(model, arguments(args, "tower", args.tower_steps, args.learning_rate), keep_batch, patches))

    # All together, then what is found last
    model.requires_grad_(True)
    evaluate = AnswerAccuracy(processor, args.eval_questions, output / "evaluations.jsonl")
    images, seed = args.images_per_step, args.seed
    options = {"bridges": args.bridges, "descriptions_only": args.descriptions_only}
    phases = [("joint", PackedScenes(processor, args.steps, images, seed, ALL_TYPES, 2, **options), args.learning_rate)]
    if args.descriptions_only:
        text = PackedScenes(processor, args.text_steps, images // 2, seed + 2, ALL_TYPES, 4, **options, text_only=0.6)
        phases.append(("text", text, args.learning_rate / 2))
    else:
        hard = PackedScenes(processor, args.hard_steps, images // 2, seed + 2, HARD_TYPES, 4, **options)
        phases.append(("hard", hard, args.learning_rate / 2))
    for phase, dataset, learning_rate in phases:
        training = arguments(args, phase, len(dataset), learning_rate)
        optimizers = (tower_slowly(model, training, args.tower_scale), None)
        run(AnsweringTrainer(model, training, keep_batch, dataset, callbacks=[evaluate], optimizers=optimizers))

    # Save
    final = output / "final"
    model.to(torch.float16).save_pretrained(final)
    # A new one: the one that was used keeps the padding of its last batch.
    build_processor().save_pretrained(final)
    logger.info("the trained model is in %s", final)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    (arguments_,) = TrlParser((PretrainArguments,)).parse_args_and_config()
    main(arguments_)
