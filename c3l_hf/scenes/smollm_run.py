"""The training of the generator with a pretrained language model: resumable, and a model in the end.

The projector learns the words of the tower's patches; then it learns, and LoRA adapters of the language model, to
answer, describe and generate, on packed sequences as the small generator did.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights
from transformers import LlavaForConditionalGeneration, LlavaProcessor, TrainingArguments, set_seed

from c3l_hf.common.files import atomic_write
from c3l_hf.scenes.pretraining import ALL_TYPES, AnsweringTrainer, PackedScenes, PatchNames, TowerTrainer
from c3l_hf.scenes.pretraining_run import keep_batch
from c3l_hf.scenes.smollm import build_smollm
from c3l_hf.training.resuming import train_from_last

__all__ = ["SmolLMOptions", "train_smollm"]

logger = logging.getLogger(__name__)

_ADAPTED = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass
class SmolLMOptions:
    """How a pretrained language model learns to see and to write pairs."""

    language_model: str = field(metadata={"help": "GGUF file, folder or Hub id of SmolLM2-135M-Instruct."})
    output_dir: str = field(metadata={"help": "Folder for checkpoints and the trained model."})
    seed: int = field(default=0, metadata={"help": "Seed of the projector, the adapters and the scenes."})
    align_steps: int = field(default=150, metadata={"help": "Steps of 64 pictures in the projector's warm-up."})
    steps: int = field(default=1500, metadata={"help": "Steps of the training proper."})
    images_per_step: int = field(default=2, metadata={"help": "Pictures in a step, each with 7 to 16 segments."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    rank: int = field(default=16, metadata={"help": "Rank of the adapters."})
    bridges: float = field(
        default=0.3, metadata={"help": "Share of the answers about presence and number in the form learned earlier."}
    )
    save_steps: int = field(default=100, metadata={"help": "Steps between checkpoints."})
    merge_step: int | None = field(
        default=None, metadata={"help": "Train nothing: save the model as it was at this checkpoint."}
    )
    bf16: bool = field(default=True, metadata={"help": "bf16 autocast; what is trained stays float32."})


def _arguments(options: SmolLMOptions, phase: str, steps: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(Path(options.output_dir) / phase),
        max_steps=steps,
        per_device_train_batch_size=1,  # a dataset item is a whole batch
        learning_rate=options.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": int(0.4 * steps), "decay_type": "cosine"},
        warmup_steps=min(50, steps // 10),
        max_grad_norm=1.0,
        bf16=options.bf16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=10,
        save_steps=options.save_steps,
        remove_unused_columns=False,
        report_to="none",
        seed=options.seed,
    )


def _align(model: LlavaForConditionalGeneration, processor: LlavaProcessor, options: SmolLMOptions) -> None:
    """Each patch's projected feature, near the embeddings of its words: what a language model can read at once."""
    done = Path(options.output_dir) / "align" / "projector.pt"
    projector = model.model.multi_modal_projector
    if not done.exists():
        model.requires_grad_(False)
        projector.requires_grad_(True)
        # The tower has seen its patches; their names are new.
        patches = PatchNames(processor, options.align_steps, 64, options.seed)
        TowerTrainer(model, _arguments(options, "align", options.align_steps), keep_batch, patches).train()
        done.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(done) as part:
            torch.save(projector.state_dict(), part)
    projector.load_state_dict(torch.load(done, weights_only=True))


def train_smollm(options: SmolLMOptions) -> Path:
    """Trains the generator, going on from the last checkpoint, and saves it.

    Returns:
        The folder of the model in bfloat16, adapters merged, with its processor: `<output_dir>/final`, or
        `<output_dir>/step-<n>` with `merge_step`.

    Raises:
        FileNotFoundError: If there is no checkpoint of that step.
    """
    output = Path(options.output_dir)
    set_seed(options.seed)

    # Model
    model, processor = build_smollm(options.language_model, options.seed)
    _align(model, processor, options)

    # Adapters and projector
    set_seed(options.seed)
    lora = LoraConfig(
        r=options.rank,
        lora_alpha=2 * options.rank,
        target_modules=_ADAPTED,
        modules_to_save=["multi_modal_projector"],
    )
    model = get_peft_model(model, lora)
    name, folder = "final", output / "joint"
    if options.merge_step is not None:
        name = f"step-{options.merge_step}"
        weights = load_peft_weights(str(folder / f"checkpoint-{options.merge_step}"), device="cpu")
        set_peft_model_state_dict(model, weights)
    else:
        scenes = PackedScenes(
            processor, options.steps, options.images_per_step, options.seed + 2, ALL_TYPES, 2, options.bridges
        )
        trainer = AnsweringTrainer(model, _arguments(options, "joint", options.steps), keep_batch, scenes)
        train_from_last(trainer)

    # Save
    final = output / name
    model.merge_and_unload().to(torch.bfloat16).save_pretrained(final)
    processor.save_pretrained(final)
    logger.info("the model is in %s", final)
    return final
