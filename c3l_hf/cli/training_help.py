"""The options of the trainers that matter most; `--help` shows these, `--help_all` all the others."""

__all__ = ["SHOWN_GENERATOR", "SHOWN_STUDENT"]

_SHOWN = (
    "output_dir",
    "seed",
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "use_lora",
    "lora_r",
    "bf16",
    "gradient_checkpointing",
    "trust_remote_code",
)
SHOWN_GENERATOR = (*_SHOWN, "temperature", "contrastive_weight", "weight_column")
SHOWN_STUDENT = (*_SHOWN, "train_projector", "projector_learning_rate", "max_length")
