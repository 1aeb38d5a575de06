"""A generator that leans on its language prior: the shipped one, whose language model goes on reading without pictures.

The regime of C3L's claim. The errors of a pretrained vision-language model come from what its language model has read;
those of the shipped small generator are mostly sampling noise. This makes a small one of the former kind.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import TrainingArguments, set_seed

from c3l_hf.models.loading import Source, load
from c3l_hf.models.parameters import train_parts
from c3l_hf.scenes import GENERATOR
from c3l_hf.scenes.pretraining import ALL_TYPES, AnsweringTrainer, PackedScenes
from c3l_hf.scenes.pretraining_run import keep_batch, run_phase, save_final

__all__ = ["PriorHeavyOptions", "make_prior_heavy"]


@dataclass
class PriorHeavyOptions:
    """How long the language model reads about usual scenes without seeing them."""

    output_dir: str = field(metadata={"help": "Folder for the checkpoint and the trained model."})
    steps: int = field(default=150, metadata={"help": "Gradient steps; 25 give a milder prior."})
    images_per_step: int = field(default=16, metadata={"help": "Scenes in a step, some texts about each."})
    learning_rate: float = field(default=4e-4, metadata={"help": "Learning rate, constant after 20 steps of warm-up."})
    seed: int = field(default=0, metadata={"help": "Seed of the scenes."})
    bf16: bool = field(default=True, metadata={"help": "bf16 autocast; the weights stay float32."})


def make_prior_heavy(options: PriorHeavyOptions) -> Path:
    """Continues the shipped generator's language model on answers and generated pairs about usual scenes, without any
    picture in the prompt; vision tower and projector stay.

    What is read is true of the usual scenes, whose biases (see `priors.py`) it so learns to expect everywhere.

    Returns:
        The folder of the trained model, with its processor: `<output_dir>/final`.
    """
    set_seed(options.seed)
    model, processor = load(Source(GENERATOR, dtype="float32"))
    train_parts(model, language_model=True, projector=False, vision_tower=False)
    # Scenes that the shipped generator was not trained on.
    seed = options.seed + 10
    texts = PackedScenes(
        processor, options.steps, options.images_per_step, seed, ALL_TYPES, 2, bridges=0.0, blind=1.0, blind_pairs=1.0
    )
    args = TrainingArguments(
        output_dir=str(Path(options.output_dir) / "text"),
        max_steps=options.steps,
        per_device_train_batch_size=1,  # an item is a whole batch
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=20,
        bf16=options.bf16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=25,
        save_steps=options.steps,
        remove_unused_columns=False,
        report_to="none",
        seed=options.seed,
    )
    run_phase(AnsweringTrainer(model, args, keep_batch, texts))
    return save_final(model, Path(options.output_dir))
