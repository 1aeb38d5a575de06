"""Options of the contrastive training, and which weights it trains by default."""

import re
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

import torch
from peft import LoraConfig
from torch import nn
from transformers import PreTrainedModel
from trl import SFTConfig

from c3l_hf.common.choices import check_choice, check_choices
from c3l_hf.models.control_tokens import ControlTokens
from c3l_hf.selection.token_weights import TokenWeights

__all__ = ["C3LConfig", "language_model_lora", "name_checkpointing_anew", "refuse_data_parallel"]


def language_model_lora(
    model: PreTrainedModel, r: int = 16, lora_alpha: int = 32, lora_dropout: float = 0.0
) -> LoraConfig:
    """LoRA on all linear layers of the language model's blocks; nothing on vision tower, projector and LM head.

    Args:
        model: The vision-language model, or one without weights of the same configuration.
        r: Rank of the adapters.
        lora_alpha: Their scale, times r.
        lora_dropout: Their dropout.

    Raises:
        ValueError: If its blocks have no linear layers, as where they are of a quantisation's own kind.
    """
    decoder = model.get_decoder()
    path = next(name for name, module in model.named_modules() if module is decoder)
    # Relative to the decoder, one of each kind: layers.<number>.self_attn.q_proj, ...
    kinds = {
        re.escape(re.sub(r"(?<=\.)\d+(?=\.)", "<number>", name)).replace("<number>", r"\d+")
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and re.search(r"\.\d+\.", name)
    }
    if not kinds:
        raise ValueError(f"the blocks of {type(decoder).__name__} have no linear layers; pass a peft_config instead")
    return LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=rf"(.*\.)?{re.escape(path.rpartition('.')[2])}\.({'|'.join(sorted(kinds))})",
    )


def name_checkpointing_anew(args: SFTConfig) -> None:
    """Give `activation_checkpointing` what its old name, `gradient_checkpointing`, says, where it is not set, and its
    kwargs likewise. `TrainingArguments` would do so with a warning, also for those who leave TRL's default alone."""
    for old, new in (
        ("gradient_checkpointing", "activation_checkpointing"),
        ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
    ):
        if getattr(args, new) is None:
            setattr(args, new, getattr(args, old, None))


def refuse_data_parallel(n_gpu: int) -> None:
    """Raises `ValueError` if one process has several GPUs: `Trainer` would cut batches into pieces for them, along the
    first dimension of every tensor, whatever that is."""
    if n_gpu > 1:
        raise ValueError(
            f"one process sees {n_gpu} GPUs: start one for each (`accelerate launch --num_processes {n_gpu} ...`), or "
            "let it see only one (CUDA_VISIBLE_DEVICES=0)"
        )


# Options that say how hidden states become a similarity.
_OF_HIDDEN_STATES = ("anchor", "pooling", "hidden_layer", "projection", "projection_dim")


@dataclass
class C3LConfig(SFTConfig):
    r"""
    Configuration class for the [`C3LTrainer`].

    Only the parameters specific to C3L are listed; all of [`~trl.SFTConfig`] and [`~transformers.TrainingArguments`]
    apply as well, except those that `C3LTrainer` could not honour (`packing`, `padding_free`, `assistant_only_loss`,
    `completion_only_loss`, `label_smoothing_factor`, other `loss_type`s, `chat_template_path`): these raise an error,
    they are not ignored.

    `per_device_train_batch_size` counts rows: one row is one image with its positive and N negatives. `bf16` and
    `activation_checkpointing`, both on in TRL, are for large models; small models on CPU train faster, and reproducibly
    to the bit, without.

    Parameters:
        > Parameters that control which weights are trained

        train_language_model (`bool`, *optional*, defaults to `True`):
            Train the language model. If `False` it is frozen, and something else has to be trained. Without effect on a
            `PeftModel` or when a `peft_config` is given, as are the five that follow.
        use_lora (`bool`, *optional*, defaults to `True`):
            Train it by LoRA adapters ([`language_model_lora`]). If `False`, all its weights, with embeddings and LM
            head.
        lora_r (`int`, *optional*, defaults to `16`):
            Rank of these adapters.
        lora_alpha (`int`, *optional*, defaults to `32`):
            Their scale: `lora_alpha / lora_r` times their product is added to the weights.
        train_projector (`bool`, *optional*, defaults to `False`):
            Train all weights of the projector between vision tower and language model. With adapters, they are saved
            and merged with them.
        train_vision_tower (`bool`, *optional*, defaults to `False`):
            Train all weights of the vision tower. Not beside adapters.

        > Parameters that control the forward pass

        pack_candidates (`bool`, *optional*, defaults to `True`):
            Put all candidates of a row into one sequence that has its images and prompt once, instead of one sequence
            each: the same gradients for a fraction of time and memory. Where a few rows, tried at the start, show that
            it is not exact for the model, each has its own, and a warning says why.

        > Parameters that control several processes

        ddp_timeout (`int`, *optional*, defaults to `86400`):
            Seconds that processes wait for one that selects, curates or writes for all of them.

        > Parameters that control the data

        max_length (`int`, *optional*):
            Longest allowed sequence in tokens, image tokens included. Defaults to the language model's own limit.
            Nothing is ever truncated: a longer row is an invalid one.
        weight_column (`str`, *optional*):
            Column with a number per row by which the row's NLL is multiplied, as `"weight"` of pseudo-labels, which
            comes from their scores and has mean 1. If `None`, all rows weigh the same.
        token_weights (`str`, *optional*):
            Weigh the tokens of the chosen answers in the NLL by what the image adds to each, from the column
            `chosen_tokens` of pseudo-labels: `"cal"`, more for more, or `"vig"`, the better half of them only; see
            `selection.token_weights`. A row's NLL is Σ w_t nll_t / Σ w_t. The answers' weights have mean 1; all else
            that is learned (the question, the token that ends the reply) weighs 1. If `None`, all weigh the same.
        invalid_rows (`str`, *optional*, defaults to `"raise"`):
            What happens to rows that cannot be trained on (an image that is missing, an empty text, a rejected answer
            equal to the chosen one, a sequence longer than `max_length`, ...): `"raise"` an error before the first
            step, which names them, or `"drop"` them with a warning that says how many and why. Rows of an
            `IterableDataset` are judged when they come.
        control_tokens (`str`, *optional*, defaults to `"refuse"`):
            What becomes of control tokens that are written out in a text, as `</s>` in HTML: `"refuse"` the row, which
            is an invalid one, or `"escape"` them, so that they are read as the letters they are. See
            `models.control_tokens`.

        > Parameters that control the loss

        contrastive_loss (`str`, *optional*, defaults to `"infonce"`):
            `"infonce"`: -ln [ e^{s(a,p)/τ} / ( e^{s(a,p)/τ} + Σ_n e^{s(a,n)/τ} ) ], or `"sigmoid"`, each candidate by
            itself (needs `similarity="hidden"`): -( ln σ(s(a,p)/τ) + Σ_n ln σ(-s(a,n)/τ) ) / (1 + N); s is the
            similarity, a the anchor, p the positive, n a negative.
        similarity (`str`, *optional*, defaults to `"likelihood"`):
            s(a, c) of a row's anchor, its images and instruction, and a candidate c. `"likelihood"`: how likely the
            model itself finds it, (1/N) Σ_t ln p(c_t | images, instruction, c_<t), the mean over its N tokens without
            the one that ends it; or `"hidden"`: the cosine of projected hidden states. The paper names the loss, not
            the similarity. Likelihoods helped where most rejected answers are wrong, and harmed where most are right:
            look at them first, or lower `contrastive_weight`.
        temperature (`float`, *optional*):
            τ. Defaults to 0.3 for likelihoods and 0.1 for cosines.
        nll_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the NLL of the positive (mean per token). 0 trains by the contrastive loss alone.
        contrastive_weight (`float`, *optional*, defaults to `1.0`):
            λ: weight of the contrastive loss beside the NLL. 0 gives plain fine-tuning on the positives.
        in_batch_negatives (`bool`, *optional*, defaults to `False`):
            Use the positives of all other rows of the batch, over all processes, as further negatives n: all but those
            with the same text as the row's own. The gradient goes through them too. They are those of one forward pass:
            gradient accumulation does not add to them. This and the options that follow need `similarity="hidden"`.
        anchor (`str`, *optional*, defaults to `"prompt"`):
            The tokens whose hidden states make the anchor: all before the answer (`"prompt"`, with the image),
            `"text"`, those of them that are no image tokens, or `"image"`, the image tokens.
        pooling (`str`, *optional*, defaults to `"mean"`):
            The vector of anchor and candidates: the `"mean"` of h over their tokens, or h at the `"last"` of them.
        hidden_layer (`int`, *optional*, defaults to `-1`):
            h: 0 for the embeddings, i for the output of block i, -1 for the last, which is normalised.
        projection (`str`, *optional*, defaults to `"linear_relu"`):
            The projection head: `"none"` (h itself), `"linear"` (Wh + b), `"linear_relu"` (max(0, Wh + b)) or `"mlp"`
            (W' max(0, Wh + b) + b', as wide within as h).
        projection_dim (`int`, *optional*, defaults to `256`):
            Output size of the projection head.

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
            "help": "Train the language model by LoRA adapters. If False, all its weights, with embeddings and LM head."
        },
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the adapters."})
    train_language_model: bool = field(
        default=True, metadata={"help": "Train the language model. If False, it is frozen."}
    )
    train_projector: bool = field(
        default=False,
        metadata={"help": "Train all weights of the projector between vision tower and language model."},
    )
    train_vision_tower: bool = field(
        default=False,
        metadata={"help": "Train all weights of the vision tower. Not beside adapters."},
    )

    # Parameters that control the forward pass
    pack_candidates: bool = field(
        default=True,
        metadata={
            "help": "Put all candidates of a row into one sequence that has its images and prompt once, where that is "
            "exact for the model."
        },
    )

    # Parameters that control several processes
    ddp_timeout: int = field(
        default=86400,  # as `common.processes` has it: whoever asks first decides for all
        metadata={"help": "Seconds that processes wait for one that selects, curates or writes for all."},
    )

    # Parameters that control the data
    weight_column: str | None = field(
        default=None,
        metadata={
            "help": "Column with a number per row by which the row's NLL is multiplied, e.g. `weight`. If None, all "
            "rows weigh the same."
        },
    )
    token_weights: TokenWeights | None = field(
        default=None,
        metadata={
            "help": "Weigh the answers' tokens in the NLL by what the image adds to each: 'cal' (more for more) or "
            "'vig' (the better half only). If None, all weigh the same."
        },
    )
    invalid_rows: Literal["raise", "drop"] = field(
        default="raise",
        metadata={"help": "Rows that cannot be trained on: 'raise' an error before the first step, or 'drop' them."},
    )
    control_tokens: ControlTokens = field(
        default="refuse",
        metadata={"help": "Control tokens written in a text: 'refuse' the row, or 'escape': read them as letters."},
    )

    # Parameters that control the loss
    contrastive_loss: Literal["infonce", "sigmoid"] = field(
        default="infonce", metadata={"help": "'infonce', or 'sigmoid': each candidate judged by itself."}
    )
    similarity: Literal["likelihood", "hidden"] = field(
        default="likelihood",
        metadata={
            "help": "Similarity of anchor and candidate: the candidate's mean log-'likelihood' per token, or the "
            "cosine of 'hidden' states."
        },
    )
    temperature: float | None = field(
        default=None,
        metadata={
            "help": "Temperature of the contrastive loss: similarities are divided by it. By default 0.3 for "
            "likelihoods, 0.1 for hidden states."
        },
    )
    nll_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of the NLL of the positive. 0 trains by the contrastive loss alone."},
    )
    contrastive_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of the contrastive loss beside the NLL. 0 gives plain fine-tuning on the positives."},
    )
    in_batch_negatives: bool = field(
        default=False,
        metadata={"help": "The positives of all other rows of the batch, over all processes, as further negatives."},
    )
    anchor: Literal["prompt", "text", "image"] = field(
        default="prompt",
        metadata={"help": "Tokens that make the anchor: the 'prompt' with its image, its 'text', or the 'image'."},
    )
    pooling: Literal["mean", "last"] = field(
        default="mean", metadata={"help": "'mean' of the hidden states over the tokens, or that of the 'last' one."}
    )
    hidden_layer: int = field(
        default=-1, metadata={"help": "Which hidden states: 0 the embeddings, i the output of block i, -1 the last."}
    )
    projection: Literal["none", "linear", "linear_relu", "mlp"] = field(
        default="linear_relu", metadata={"help": "Projection head: 'none', 'linear', 'linear_relu' or 'mlp'."}
    )
    projection_dim: int = field(default=256, metadata={"help": "Output size of the projection head."})

    def __post_init__(self):
        if not torch.accelerator.is_available():
            # It would come to that, but processes launched together find each other on CPUs only if told so.
            self.use_cpu = True
        name_checkpointing_anew(self)
        super().__post_init__()
        refuse_data_parallel(self.n_gpu)
        if self.temperature is None:
            self.temperature = 0.3 if self.similarity == "likelihood" else 0.1
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        for name in ("nll_weight", "contrastive_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.nll_weight == self.contrastive_weight == 0:
            raise ValueError("nll_weight and contrastive_weight are both 0: there is nothing to train by")
        for name in ("token_weights", "weight_column"):
            if self.nll_weight == 0 and getattr(self, name) is not None:
                raise ValueError(f"{name} weights the NLL, and nll_weight is 0: it would change nothing")
        if self.projection_dim < 1:
            raise ValueError(f"projection_dim is {self.projection_dim}; it must be 1 or more")
        check_choices(self)
        if self.token_weights is not None:
            check_choice("token_weights", self.token_weights, get_args(TokenWeights))
        if self.similarity == "likelihood":
            defaults = {one.name: one.default for one in fields(C3LConfig)}
            for name in ("contrastive_loss", "in_batch_negatives", *_OF_HIDDEN_STATES):
                if getattr(self, name) != defaults[name]:
                    raise ValueError(f"{name}={getattr(self, name)!r} needs similarity='hidden': likelihoods have none")
        if self.use_lora and self.train_language_model and self.train_vision_tower:
            raise ValueError(
                "train_vision_tower=True needs use_lora=False; for LoRA on the vision tower pass a peft_config instead"
            )
        if not (self.train_language_model or self.train_projector or self.train_vision_tower):
            raise ValueError("train_language_model=False leaves nothing to train; set train_projector=True")
        supported = {
            "remove_unused_columns": False,
            "packing": False,
            "padding_free": False,
            "assistant_only_loss": False,
            "completion_only_loss": None,
            "label_smoothing_factor": 0.0,
            "loss_type": "nll",
            "chat_template_path": None,  # rows are encoded with the processor's own before TRL would change it
        }
        for name, only in supported.items():
            if getattr(self, name) != only:
                raise ValueError(f"{name} is {getattr(self, name)!r}; C3LTrainer supports {only!r} only, leave it out")
