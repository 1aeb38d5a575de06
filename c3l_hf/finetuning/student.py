"""Fine-tuning of a vision-language student on instruction/answer pairs, with TRL's `SFTTrainer`."""

import logging
from dataclasses import dataclass, field

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, ProcessorMixin
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer

from c3l_hf.common.processes import process_state
from c3l_hf.finetuning.answer_weights import weigh_loss
from c3l_hf.finetuning.examples import DataCollatorForAnswers, Examples, encode_examples
from c3l_hf.models.batching import mixed_difference
from c3l_hf.models.parameters import projector_modules, train_parts
from c3l_hf.training.config import language_model_lora, name_checkpointing_anew, refuse_data_parallel
from c3l_hf.training.finite import ROW_NAMES, StopIfNotFinite
from c3l_hf.training.resuming import train_from
from c3l_hf.training.sharding import gathered_model, layers_to_shard

__all__ = ["StudentConfig", "StudentTrainer", "fine_tune", "max_length_of"]

logger = logging.getLogger(__name__)


@dataclass
class StudentConfig(SFTConfig):
    """TRL's `SFTConfig`, with which weights are trained. Without `max_length` the model's own limit holds.

    `bf16` and `activation_checkpointing`, both on in TRL, are for large models; on CPUs bf16 helps small ones too.
    """

    max_length: int | None = field(
        default=None, metadata={"help": "Longest sequence, image tokens included. Longer rows are left out, never cut."}
    )
    ddp_timeout: int = field(
        default=86400,  # as `common.processes` has it: whoever asks first decides for all
        metadata={"help": "Seconds that processes wait for one that reads or writes for all."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be False."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "'group_by_length' (less padding), 'random' or 'sequential'."}
    )
    train_language_model: bool = field(default=True, metadata={"help": "Train the language model."})
    use_lora: bool = field(
        default=True,
        metadata={"help": "Train it by LoRA adapters. If False, all its weights, with embeddings and head."},
    )
    lora_r: int = field(default=128, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=256, metadata={"help": "Scale of the adapters."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout of the adapters."})
    train_projector: bool = field(default=True, metadata={"help": "Train all weights of the projector."})
    projector_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the projector, if it has one of its own."}
    )
    train_vision_tower: bool = field(
        default=False, metadata={"help": "Train all weights of the vision tower. Not beside adapters."}
    )

    def __post_init__(self):
        if not torch.accelerator.is_available():
            # It would come to that, but processes launched together find each other on CPUs only if told so.
            self.use_cpu = True
        name_checkpointing_anew(self)
        super().__post_init__()
        refuse_data_parallel(self.n_gpu)
        # The dataset that the trainer gets holds no texts: see `StudentTrainer`.
        self.dataset_kwargs = {**(self.dataset_kwargs or {}), "skip_prepare_dataset": True}
        supported = {
            "remove_unused_columns": False,
            "packing": False,
            "padding_free": False,
            "assistant_only_loss": False,
            "eval_strategy": "no",
            "load_best_model_at_end": False,
            "push_to_hub": False,
            "hub_token": None,
            "chat_template_path": None,
        }
        for name, only in supported.items():
            if getattr(self, name) != only:
                raise ValueError(f"{name} is not supported here, leave it out (it must be {only!r})")
        if self.completion_only_loss is False:
            raise ValueError("completion_only_loss=False is not supported: the loss is on the answers only")
        if self.use_lora and self.train_language_model and self.train_vision_tower:
            raise ValueError("train_vision_tower=True needs use_lora=False")
        if not (self.train_language_model or self.train_projector or self.train_vision_tower):
            raise ValueError("nothing is left to train; set train_projector=True")
        if self.projector_learning_rate is not None and not self.train_projector:
            raise ValueError("projector_learning_rate needs train_projector=True")


class _LengthGroupedSampler(LengthGroupedSampler):
    """An order for every epoch that depends on the seed only, so that resuming within one goes on in the same order."""

    def __init__(self, sampler: LengthGroupedSampler, trainer: SFTTrainer):
        super().__init__(sampler.batch_size, lengths=list(sampler.lengths))
        self._trainer = trainer

    def __iter__(self):
        args, epoch = self._trainer.args, int(self._trainer.state.epoch or 0)
        seed = args.seed if args.data_seed is None else args.data_seed
        self.generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        return super().__iter__()


class StudentTrainer(SFTTrainer):
    """TRL's trainer over `Examples`: it sees their index, and the collator puts encoded rows into the batches.

    Args:
        model: The student; modified in place. What is trained of it is in float32 from here on, whatever the rest.
        examples: What it is trained on.
        args: How, and which weights.

    The loss is the mean over the answers' tokens of all micro-batches of a step, in all processes; that of each token
    times its weight, if `examples` have weights.
    """

    def __init__(self, model: PreTrainedModel, examples: Examples, args: StudentConfig):
        adapters = None
        if examples.weights is not None and (args.loss_type != "nll" or args.label_smoothing_factor):
            raise ValueError("weights of tokens or rows are for loss_type='nll' without label_smoothing_factor")
        _check_mixed(model, examples)
        self._dtype = model.dtype
        # A loss that is not finite ends the training; the filter would only hide it from the logs.
        args.logging_nan_inf_filter = False
        self._finite = StopIfNotFinite()
        if self._dtype != torch.float32 and not (args.bf16 or args.fp16):
            raise ValueError(f"the model is in {self._dtype}: set bf16=True, or load it in float32")
        self._projector = projector_modules(model) if args.train_projector else []
        if args.train_language_model and args.use_lora:
            adapters = language_model_lora(model, args.lora_r, args.lora_alpha, args.lora_dropout)
            adapters.modules_to_save = self._projector or None
        else:
            train_parts(
                model,
                language_model=args.train_language_model,
                projector=args.train_projector,
                vision_tower=args.train_vision_tower,
            )
        super().__init__(
            model=model,
            args=args,
            data_collator=DataCollatorForAnswers(examples, _always_picture(args), named=True),
            train_dataset=examples.index,
            processing_class=examples.encoder.processor,
            callbacks=[self._finite],
            peft_config=adapters,
        )
        if examples.weights is not None:
            weigh_loss(model)
        if self.is_fsdp_enabled:
            plugin = self.accelerator.state.fsdp_plugin
            plugin.transformer_cls_names_to_wrap = plugin.transformer_cls_names_to_wrap or layers_to_shard(model)
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            # The steps of a small learning rate are lost in bfloat16.
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of `SFTTrainer`, with the projector's own learning rate."""
        optimizer = super().create_optimizer(model)
        if self.args.projector_learning_rate is None:
            return optimizer
        named = (self.model if model is None else model).named_parameters()
        own = {id(weight) for name, weight in named if any(f".{part}." in f".{name}" for part in self._projector)}
        for group in list(optimizer.param_groups):
            chosen = [weight for weight in group["params"] if id(weight) in own]
            group["params"] = [weight for weight in group["params"] if id(weight) not in own]
            if chosen:
                optimizer.add_param_group({**group, "params": chosen, "lr": self.args.projector_learning_rate})
        return optimizer

    def _get_train_sampler(self, train_dataset: Dataset | None = None):
        sampler = super()._get_train_sampler(train_dataset)
        return _LengthGroupedSampler(sampler, self) if type(sampler) is LengthGroupedSampler else sampler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of one micro-batch, see `Trainer`."""
        inputs = dict(inputs)
        row_names = inputs.pop(ROW_NAMES, ())
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if model.training:
            self._finite.note(row_names, result[0] if return_outputs else result)
        return result

    def train_from(self, checkpoint: str | None) -> None:
        """Trains, from the beginning or from where a checkpoint was saved; no step more than was asked for."""
        if checkpoint is not None:
            self.load_weights(checkpoint)
        train_from(self, checkpoint)

    def load_weights(self, checkpoint: str) -> None:
        """Loads the weights of a checkpoint where `Trainer` would not do it."""
        if isinstance(self.model, PeftModel) or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return
        # `save_pretrained` writes the weights of many vision-language models under the names of older releases, which
        # `from_pretrained` translates. `Trainer` would not find them and go on with the weights it has.
        # In float32, as trained weights are kept: the dtype that a checkpoint names may be that of the frozen ones.
        saved = type(self.model).from_pretrained(checkpoint, dtype=torch.float32, use_safetensors=True)
        self.model.load_state_dict(saved.state_dict())

    def trained_model(self, merge: bool = True) -> PreTrainedModel | PeftModel | None:
        """The student as it was loaded: same class and dtype, no trace of the trainer; adapters merged, or not.

        The trainer cannot go on afterwards. Under FSDP and DeepSpeed all processes have to call it; the main process
        gets a merged copy, the others None.
        """
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            copy = gathered_model(self.accelerator, self.model, self.model_wrapped)
            return None if copy is None else copy.to(self._dtype)
        adapted = isinstance(self.model, PeftModel)
        del (self.model.get_base_model() if adapted else self.model).forward  # TRL's; the class's own is back
        model = self.model.merge_and_unload() if adapted and merge else self.model
        return model.to(self._dtype).eval()


def fine_tune(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    dataset: Dataset | Examples,
    args: StudentConfig,
    resume_from_checkpoint: str | None = None,
) -> PreTrainedModel:
    """Fine-tunes a student in memory.

    Args:
        model: The student; modified in place.
        processor: Its processor.
        dataset: Rows as for `encode_examples`, or what that made of them; rows that cannot be trained on are left out
            with a warning.
        args: How, and which weights.
        resume_from_checkpoint: Folder of a checkpoint of the same training.

    Returns:
        The model, adapters merged, in eval mode.

    Raises:
        ValueError: If there is nothing to train on.
    """
    if isinstance(dataset, Dataset):
        dataset = encode_examples(dataset, processor, args.max_length or max_length_of(model))
    if dataset.rejected or dataset.shortened:
        counts, lines = (len(dataset.rejected), len(dataset.shortened)), "; ".join(dataset.rejected_lines())
        logger.warning("%d rows are left out, and turns of %d; the first: %s", *counts, lines)
    trainer = StudentTrainer(model, dataset, args)
    trainer.train_from(resume_from_checkpoint)
    return trainer.trained_model()


def _always_picture(args: StudentConfig) -> bool:
    """Whether a batch of rows without images needs one all the same.

    Of several processes each has to use the same weights. In one process, too, what is trained between picture and
    text would have no gradient: momentum and weight decay would pass these steps over, as they do not where another
    process has a picture, and a training of the projector alone could not make the step at all.
    """
    return process_state().num_processes > 1 or args.train_projector or args.train_vision_tower


def _check_mixed(model: PreTrainedModel, examples: Examples) -> None:
    """That rows with and without images can be in one batch, where both are there.

    Raises:
        ValueError: If the model computes something else for them together than for each alone.
    """
    counts = examples.index["images"][:]
    if all(counts):
        return
    training = model.training
    model.eval()
    try:
        difference, exact = mixed_difference(model, examples.encoder.processor)
    finally:
        model.train(training)
    if not exact:
        raise ValueError(
            f"{counts.count(0):,} of {len(counts):,} examples have no image, and {type(model).__name__} is not exact "
            f"with both kinds in a batch (difference {difference:.1e}); leave these rows out"
        )


def max_length_of(model: PreTrainedModel) -> int:
    """The longest sequence that a model takes."""
    return model.config.get_text_config().max_position_embeddings
