"""Options of the contrastive training, and which weights it trains by default."""

from dataclasses import dataclass, field

import torch
from peft import LoraConfig
from trl import SFTConfig

__all__ = ["C3LConfig", "language_model_lora"]


def language_model_lora(r: int = 16, lora_alpha: int = 32, lora_dropout: float = 0.0) -> LoraConfig:
    """LoRA on all linear layers of the language model's blocks; nothing on vision tower, projector and LM head."""
    return LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        # `text_model` is its name in SmolVLM and Idefics3.
        target_modules=r".*\.?(language_model|text_model)\..*\.(q|k|v|o|gate|up|down)_proj",
    )


@dataclass
class C3LConfig(SFTConfig):
    r"""
    Configuration class for the [`C3LTrainer`].

    Only the parameters specific to C3L are listed; all of [`~trl.SFTConfig`] and [`~transformers.TrainingArguments`]
    apply as well, except those that `C3LTrainer` could not honour (`packing`, `padding_free`, `assistant_only_loss`,
    `completion_only_loss`, `label_smoothing_factor`, other `loss_type`s): these raise an error, they are not ignored.

    `per_device_train_batch_size` counts rows: one row is one image with its positive and N negatives. `bf16` and
    `gradient_checkpointing`, both on in TRL, are for large models; small models on CPU train faster, and reproducibly
    to the bit, without.

    Parameters:
        > Parameters that control which weights are trained

        use_lora (`bool`, *optional*, defaults to `True`):
            Train LoRA adapters on the language model ([`language_model_lora`]) when no `peft_config` is given. If
            `False`, all weights of the language model, with embeddings and LM head. Without effect on a `PeftModel`.
        train_vision_tower (`bool`, *optional*, defaults to `False`):
            Together with `use_lora=False`: also train vision tower and projector, which else are frozen.

        > Parameters that control the forward pass

        pack_candidates (`bool`, *optional*, defaults to `True`):
            Put all candidates of a row into one sequence that has its images and prompt once, instead of one sequence
            each: the same gradients for a fraction of time and memory. Where a few rows, tried at the start, show that
            it is not exact for the model, each has its own, and a warning says why.

    > Parameters that control the data

        max_length (`int`, *optional*):
            Longest allowed sequence in tokens, image tokens included. Defaults to the language model's own limit.
            Nothing is ever truncated: a longer row is an error that names it.
        weight_column (`str`, *optional*):
            Column with a number per row by which the row's NLL is multiplied (e.g. from its score). Weights with mean 1
            keep the scale of the loss. If `None`, all rows weigh the same.

        > Parameters that control the loss

        temperature (`float`, *optional*, defaults to `0.1`):
            τ of the contrastive loss: cosine similarities are divided by it.
        contrastive_weight (`float`, *optional*, defaults to `1.0`):
            λ: weight of the contrastive loss beside the NLL. 0 gives plain fine-tuning on the positives.
        projection_dim (`int`, *optional*, defaults to `256`):
            Output size of the projection head (linear + ReLU) between pooled hidden states and similarities.

    > [!NOTE]
    > These parameters have default values different from [`~trl.SFTConfig`]:
    > - `max_length`: Defaults to `None` instead of `1024`, since rows are rejected instead of truncated.
    > - `remove_unused_columns`: Defaults to `False` instead of `True`, since the collator needs columns that no model
    >   knows.
    """

    # Parameters whose default values are overridden from SFTConfig
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Longest allowed sequence in tokens, image tokens included. Defaults to the language model's own "
            "limit. Nothing is ever truncated: a longer row is an error that names it."
        },
    )
    remove_unused_columns: bool = field(
        default=False,
        metadata={"help": "Must be False: the collator reads columns that the model's forward does not know."},
    )

    # Parameters that control which weights are trained
    use_lora: bool = field(
        default=True,
        metadata={
            "help": "Train LoRA adapters on the language model when no `peft_config` is given. If False, all weights "
            "of the language model are trained."
        },
    )
    train_vision_tower: bool = field(
        default=False,
        metadata={
            "help": "Together with `use_lora=False`: also train vision tower and projector, which else are frozen."
        },
    )

    # Parameters that control the forward pass
    pack_candidates: bool = field(
        default=True,
        metadata={
            "help": "Put all candidates of a row into one sequence that has its images and prompt once, where that is "
            "exact for the model."
        },
    )

    # Parameters that control the data
    weight_column: str | None = field(
        default=None,
        metadata={
            "help": "Column with a number per row by which the row's NLL is multiplied. If None, all rows weigh the "
            "same."
        },
    )

    # Parameters that control the loss
    temperature: float = field(
        default=0.1,
        metadata={"help": "Temperature of the contrastive loss: cosine similarities are divided by it."},
    )
    contrastive_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of the contrastive loss beside the NLL. 0 gives plain fine-tuning on the positives."},
    )
    projection_dim: int = field(
        default=256,
        metadata={"help": "Output size of the projection head between pooled hidden states and similarities."},
    )

    def __post_init__(self):
        if not torch.accelerator.is_available():
            # It would come to that, but processes launched together find each other on CPUs only if told so.
            self.use_cpu = True
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        if not self.contrastive_weight >= 0:
            raise ValueError(f"contrastive_weight is {self.contrastive_weight}; it must be 0 or more")
        if self.projection_dim < 1:
            raise ValueError(f"projection_dim is {self.projection_dim}; it must be 1 or more")
        if self.use_lora and self.train_vision_tower:
            raise ValueError(
                "train_vision_tower=True needs use_lora=False; for LoRA on the vision tower pass a peft_config instead"
            )
        supported = {
            "remove_unused_columns": False,
            "packing": False,
            "padding_free": False,
            "assistant_only_loss": False,
            "completion_only_loss": None,
            "label_smoothing_factor": 0.0,
            "loss_type": "nll",
        }
        for name, only in supported.items():
            if getattr(self, name) != only:
                raise ValueError(f"{name} is {getattr(self, name)!r}; C3LTrainer supports {only!r} only, leave it out")
