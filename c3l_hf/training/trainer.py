"""Contrastive training of a vision-language model on pseudo-labels: an ordinary subclass of TRL's `SFTTrainer`.

    L = ν · NLL(positive) + λ · ( -ln [ e^{s(a,p)/τ} / ( e^{s(a,p)/τ} + Σ_n e^{s(a,n)/τ} ) ] ),  ν = 1

C3L as implemented here: the paper (arXiv 2405.12752) names the loss, not the similarity s. The two that are offered, τ
and λ are this project's choices: hidden states after CLAPS (Lee et al., ICLR 2021), likelihoods after BRIO (Liu et al.,
ACL 2022).
"""

import logging
import os
import textwrap
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    TrainerCallback,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTTrainer

from c3l_hf import _compat
from c3l_hf.common.processes import gather_with_gradient
from c3l_hf.data.schema import CHOSEN_TOKENS
from c3l_hf.models.encoding import image_token_id, position_module
from c3l_hf.models.parameters import projector_modules, train_parts
from c3l_hf.scoring.blind import PairEncoder
from c3l_hf.scoring.self_check import check_paths
from c3l_hf.training.card import trainer_card
from c3l_hf.training.collator import DataCollatorForC3L
from c3l_hf.training.config import C3LConfig, language_model_lora
from c3l_hf.training.finite import ROW_NAMES, StopIfNotFinite
from c3l_hf.training.forward import HEAD, add_contrastive_forward, add_head, remove_head
from c3l_hf.training.losses import (
    CONTRASTIVE_LOSSES,
    cosine_similarities,
    masked_mean,
    sequence_means,
    token_logprobs,
)
from c3l_hf.training.row_checks import check_columns, check_rows, has_negatives
from c3l_hf.training.sharding import gathered_model, layers_to_shard, whole_weights, without_weights

__all__ = ["C3LTrainer"]

logger = logging.getLogger(__name__)

_HEAD_FILE = f"{HEAD}.safetensors"


class C3LTrainer(SFTTrainer):
    """
    Trainer for C3L: NLL of the positive pseudo-label plus a contrastive loss over positive and negatives.

    All candidates of a row share one sequence that has its images and prompt once (`args.pack_candidates`), where a few
    rows tried at the start show that this is exact for the model.

    The similarity s(a, c) of anchor and candidate is, with `similarity="likelihood"`, the mean log-likelihood of the
    candidate's tokens given images and instruction; or, with `"hidden"`, with h the last hidden states: anchor a =
    head(mean of h over image and instruction tokens), candidate = head(mean of h over its answer tokens), s = cosine;
    [`C3LConfig`] has the alternatives. One forward serves all candidates. The NLL of a row is the mean over the
    positive's tokens; the loss is the mean over rows. Under gradient accumulation and over several processes all
    micro-batches count alike, so n micro-batches of b rows equal one batch of n · b rows (but for `in_batch_negatives`,
    which are those of one micro-batch on all processes).

    Logged beside what every `Trainer` logs: `num_tokens` seen in training and, as means over rows, `loss/nll`,
    `loss/contrastive` (without λ), `similarity/positive`, and over the rows that have negatives of their own
    `similarity/negative` and `contrastive_accuracy`: how often the positive is closer to the anchor than every one of
    these; for hidden states also `alignment` = ‖a/‖a‖ - p/‖p‖‖² = 2 - 2 s(a,p) of anchor and positive (Wang and Isola,
    ICML 2020). In evaluation all have the prefix `eval_`.

    The projection head, which only hidden states have, belongs to training: checkpoints hold it; `save_model`,
    `save_pretrained` and `push_to_hub` leave it out.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The vision-language model, or its name or path. It is modified in place.
        args ([`C3LConfig`]):
            Configuration.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Pseudo-label rows with the columns `images`, `prompt`, `chosen` and `rejected`, see [`DataCollatorForC3L`].
        eval_dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or `dict` of these, *optional*):
            Rows for evaluation.
        processing_class ([`~transformers.ProcessorMixin`], *optional*):
            The model's processor. If `None`, it is loaded from the model's name or path.
        data_collator (*optional*):
            Defaults to [`DataCollatorForC3L`].
        callbacks (list of [`~transformers.TrainerCallback`], *optional*):
            Callbacks besides the default ones.
        optimizers (`tuple`, *optional*):
            Optimizer and scheduler, instead of those that `args` describe.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapter configuration. If `None`, `args` say what is trained.

    A loss or gradients that are not finite end the training before the weights are spoiled, with a `FloatingPointError`
    that names step and rows (`training.finite`).

    Raises:
        TypeError: if `args` is not a `C3LConfig`.
        ValueError: if a dataset lacks a column, has rows that cannot be trained on (see `args.invalid_rows`), or no
            row with a rejected answer though the contrastive loss needs them; if an option does not fit the model.

    Example:
    ```python
    >>> args = C3LConfig("out", learning_rate=1e-4)
    >>> trainer = C3LTrainer("llava-hf/llava-1.5-7b-hf", args, train_dataset=pseudo_labels)
    >>> trainer.train()
    >>> trainer.merged_model().save_pretrained("generator")
    >>> trainer.processing_class.save_pretrained("generator")
    ```
    """

    _tag_names = ["trl", "c3l"]
    _name = "C3L"
    _paper = {
        "title": "C3L: Content Correlated Vision-Language Instruction Tuning Data Generation via Contrastive Learning",
        "id": "2405.12752",
        # docstyle-ignore
        "citation": textwrap.dedent("""\
            @inproceedings{ma2024c3l,
                title     = {{C3L: Content Correlated Vision-Language Instruction Tuning Data Generation via Contrastive Learning}},
                author    = {Ji Ma and Wei Suo and Peng Wang and Yanning Zhang},
                year      = 2024,
                booktitle = {Proceedings of the Thirty-Third International Joint Conference on Artificial Intelligence, IJCAI 2024},
            }"""),  # noqa: E501
    }

    # `compute_loss` returns the mean over the rows of one micro-batch, not a sum divided by a count over the whole
    # accumulated batch: the `Trainer` has to divide it by the number of accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: C3LConfig,
        train_dataset: Dataset | IterableDataset,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset | IterableDataset] | None = None,
        processing_class: ProcessorMixin | None = None,
        data_collator: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LRScheduler | None] = (None, None),
        peft_config: PeftConfig | None = None,
    ):
        if not isinstance(args, C3LConfig):
            raise TypeError(f"args is a {type(args).__name__}; C3LTrainer needs a C3LConfig")
        several = isinstance(eval_dataset, dict)
        evaluated: dict[str, Any] = {} if eval_dataset is None else {"eval_dataset": eval_dataset}
        if isinstance(eval_dataset, dict):
            evaluated = eval_dataset
        for name, dataset in [("train_dataset", train_dataset), *evaluated.items()]:
            check_columns(name, dataset, args.weight_column, CHOSEN_TOKENS if args.token_weights else None)

        if processing_class is None:
            processing_class = AutoProcessor.from_pretrained(
                model if isinstance(model, str) else model.name_or_path,
                revision=(args.model_init_kwargs or {}).get("revision"),
                trust_remote_code=args.trust_remote_code,
            )
        if isinstance(model, str):
            kwargs = {"revision": (args.model_init_kwargs or {}).get("revision")}
            config = AutoConfig.from_pretrained(model, trust_remote_code=args.trust_remote_code, **kwargs)
            args.model_init_kwargs = {"use_safetensors": True, **(args.model_init_kwargs or {})}
        else:
            config = model.config
        layers = config.get_text_config().num_hidden_layers
        if not -1 <= args.hidden_layer <= layers:
            raise ValueError(f"hidden_layer is {args.hidden_layer}; the language model has 0 (embeddings) to {layers}")
        if args.anchor != "prompt" and image_token_id(config) is None:
            raise ValueError(f"anchor={args.anchor!r} needs a model whose configuration names its image token")
        if data_collator is None:
            data_collator = DataCollatorForC3L(
                processing_class,
                max_length=args.max_length or config.get_text_config().max_position_embeddings,
                weight_column=args.weight_column,
                token_weights=args.token_weights,
                anchor=args.anchor,
                image_token_id=image_token_id(config),
                control_tokens=args.control_tokens,
                all_logits=args.similarity == "likelihood",
            )
        if isinstance(data_collator, DataCollatorForC3L):
            data_collator.named = True
            options = {"drop": args.invalid_rows == "drop", "num_proc": args.dataset_num_proc}
            train_dataset = check_rows("train_dataset", train_dataset, data_collator, **options)
            evaluated = {name: check_rows(name, rows, data_collator, **options) for name, rows in evaluated.items()}
        if args.contrastive_weight and not args.in_batch_negatives and not has_negatives(train_dataset):
            raise ValueError(
                "train_dataset has no row with a rejected answer, so there is nothing to contrast with: set "
                "contrastive_weight=0 for plain fine-tuning, or in_batch_negatives=True"
            )
        if peft_config is not None or isinstance(model, PeftModel):
            if args.train_projector or args.train_vision_tower or not args.train_language_model:
                raise ValueError(
                    "what is trained is said by the adapter: leave out train_projector, train_vision_tower and "
                    "train_language_model, and name further modules in the modules_to_save of its configuration"
                )
        elif args.use_lora and args.train_language_model:
            skeleton = model
            if isinstance(model, str):
                with without_weights(args.deepspeed_plugin):
                    code = {"trust_remote_code": args.trust_remote_code}
                    skeleton = AutoModelForImageTextToText.from_config(config, **code)
            peft_config = language_model_lora(skeleton, args.lora_r, args.lora_alpha)
            if args.train_projector:
                peft_config.modules_to_save = projector_modules(skeleton)

        if any(isinstance(rows, IterableDataset) for rows in evaluated.values()):
            # As TRL does for a stream to train on: the main process would cut up the batches of all by their rows.
            args.accelerator_config.dispatch_batches = False
        # Without a column of images TRL would tokenise the rows itself: their pictures may be in the prompt.
        args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}
        # A loss that is not finite ends the training; the filter would only hide it from the logs.
        args.logging_nan_inf_filter = False
        self._finite = StopIfNotFinite()
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=evaluated if several else evaluated.get("eval_dataset"),
            processing_class=processing_class,
            callbacks=[*(callbacks or ()), self._finite],
            optimizers=optimizers,
            peft_config=peft_config,
        )

        vlm = self._vlm
        if self.is_fsdp_enabled:
            plugin = self.accelerator.state.fsdp_plugin
            plugin.transformer_cls_names_to_wrap = plugin.transformer_cls_names_to_wrap or layers_to_shard(vlm)
        if vlm is self.model:
            # With adapters, PEFT has chosen what is trained.
            train_parts(
                vlm,
                language_model=args.train_language_model,
                projector=args.train_projector,
                vision_tower=args.train_vision_tower,
            )
        # What is trained beside adapters is left by PEFT in the model's precision, in which small steps would be lost.
        self._raised = []
        if (
            vlm is not self.model
            and (args.bf16 or args.fp16)
            and not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        ):
            trained = [weight for weight in self.model.parameters() if weight.requires_grad]
            self._raised = [(weight, weight.dtype) for weight in trained if weight.dtype != torch.float32]
            for weight, _ in self._raised:
                weight.data = weight.data.float()
        if any(weight.requires_grad and weight.dtype == torch.float16 for weight in self.model.parameters()):
            # Adam's second moments and its ε are 0 there: the loss explodes, and nothing says why.
            raise ValueError("the trained weights are in float16: load the model in float32 or bfloat16 (dtype)")
        if args.pack_candidates and isinstance(data_collator, DataCollatorForC3L):
            data_collator.packed = self._can_pack(vlm)
            data_collator.position_module = position_module(vlm) if data_collator.packed else None
        # Without a use for the head it would be a part that is never trained, which DDP refuses.
        projection = args.projection if args.similarity == "hidden" else "none"
        add_head(vlm, projection, args.projection_dim, args.seed)
        add_contrastive_forward(vlm, args.hidden_layer, args.pooling)

    @property
    def _vlm(self) -> PreTrainedModel:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def _can_pack(self, vlm: PreTrainedModel) -> bool:
        """Whether one sequence for all candidates of a row is exact for this model, tried on a few rows; if not, says
        why."""
        training, problem = vlm.training, None
        vlm.eval()
        try:
            if _compat.attention_implementation(vlm.config.get_text_config()) != "sdpa":
                problem = "it needs attn_implementation='sdpa'"
            else:
                with whole_weights(vlm):
                    encoder = PairEncoder(self.processing_class, None)
                    problem = check_paths(vlm, self.processing_class, encoder).not_packed
        except ValueError as error:
            problem = str(error)
        finally:
            vlm.train(training)
        if problem:
            name = type(vlm).__name__
            logger.warning("%s: each candidate gets a sequence with images and prompt of its own: %s", name, problem)
        return problem is None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of one micro-batch, see the class; with `return_outputs`, also what the forward returned."""
        inputs = dict(inputs)
        candidate_mask, weight = inputs.pop("candidate_mask"), inputs.pop("weight", 1.0)
        label_mask, num_tokens = inputs.pop("label_mask"), inputs.pop("num_tokens")
        answer_key, label_logits = inputs.pop("answer_key"), inputs.pop("label_logits")
        answer_logits, token_weight = inputs.pop("answer_logits", None), inputs.pop("token_weight", None)
        row_names = inputs.pop(ROW_NAMES, ())
        tokens = inputs["input_ids"][inputs["line"]]  # of each sequence, (R, T)
        answer_mask, positive_index = inputs["answer_mask"], inputs["positive_index"]
        if answer_logits is not None:
            for name in ("line", "anchor_mask", "answer_mask", "positive_index"):
                del inputs[name]
        outputs = model(**inputs, use_cache=False)

        logprobs = token_logprobs(outputs["logits"], label_logits, tokens[label_mask])
        nll = -sequence_means(logprobs, label_mask[positive_index], token_weight)
        if answer_logits is None:
            similarities, mask = self._cosines(outputs, candidate_mask, answer_key)
        else:
            logprobs = token_logprobs(outputs["logits"], answer_logits, tokens[answer_mask])
            likelihoods = sequence_means(logprobs, answer_mask)
            # Sequences come row after row, as the True values of `candidate_mask` do.
            similarities = likelihoods.new_zeros(candidate_mask.shape).masked_scatter(candidate_mask, likelihoods)
            mask = candidate_mask
        contrastive = CONTRASTIVE_LOSSES[self.args.contrastive_loss](similarities, mask, self.args.temperature)
        losses = self.args.nll_weight * weight * nll + self.args.contrastive_weight * contrastive
        loss = losses.mean()

        if self._mode == "train":
            self._finite.note(row_names, losses)
        own = similarities[:, : candidate_mask.shape[1]].detach()
        self._log_rows(own, candidate_mask, nll.detach(), contrastive.detach())
        self._log_tokens(num_tokens)
        return (loss, outputs) if return_outputs else loss

    def _cosines(self, outputs, candidate_mask, answer_key) -> tuple[torch.Tensor, torch.Tensor]:
        """Similarities of hidden states, the row's own candidates first, and which of them there are."""
        anchor, projected = outputs["anchor"], outputs["candidates"]
        candidates = projected.new_zeros(*candidate_mask.shape, projected.shape[-1])
        candidates, mask = candidates.masked_scatter(candidate_mask[..., None], projected), candidate_mask
        if self.args.in_batch_negatives:
            others, keys = gather_with_gradient(candidates[:, 0]), self.accelerator.gather(answer_key)
            candidates = torch.cat([candidates, others.expand(len(anchor), -1, -1)], dim=1)
            # A text that is right for two images is no negative; this leaves out the row's own positive as well.
            mask = torch.cat([mask, keys != answer_key[:, None]], dim=1)
            # Zeroed before the cosine, not only masked after it: backwards 0 · NaN would reach the anchor.
            candidates = candidates.masked_fill(~mask[..., None], 0.0)
        return cosine_similarities(anchor, candidates), mask

    def _log_rows(self, similarities, candidate_mask, nll, contrastive) -> None:
        positive, negatives, negative_mask = similarities[:, 0], similarities[:, 1:], candidate_mask[:, 1:]
        best_negative = negatives.masked_fill(~negative_mask, -torch.inf)
        won = (positive[:, None] > best_negative).all(dim=1).to(nll.dtype)
        none = ~negative_mask.any(dim=1)
        rows = {
            "loss/nll": nll,
            "loss/contrastive": contrastive,
            "similarity/positive": positive,
            "similarity/negative": masked_mean(negatives, negative_mask).masked_fill(none, torch.nan),
            "contrastive_accuracy": won.masked_fill(none, torch.nan),
        }
        if self.args.similarity == "hidden":
            rows["alignment"] = 2 - 2 * positive
        # The values of all rows rather than one mean per micro-batch, so that the mean over them is exact.
        values = self.accelerator.gather_for_metrics(torch.stack(list(rows.values()), dim=1)).cpu()
        for name, column in zip(rows, values.T):
            if not column.isnan().all():
                self._metrics[self._mode][name].extend(column[~column.isnan()].tolist())

    def _log_tokens(self, num_tokens) -> None:
        if self._mode == "train":
            self._total_train_tokens += self.accelerator.gather(num_tokens.sum()).sum().item()
        self._metrics[self._mode]["num_tokens"] = [self._total_train_tokens]

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def merged_model(self) -> PreTrainedModel | None:
        """The trained model as it is used and published: adapters merged, projection head and training forward removed.

        Works in place: the trainer cannot train or evaluate afterwards. Under FSDP and DeepSpeed, where each process
        may hold a part of the weights, all processes have to call it; the main process gets a copy with all weights, on
        the CPU, the others get None.
        """
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return gathered_model(self.accelerator, self.model, self.model_wrapped)
        for weight, dtype in self._raised:
            weight.data = weight.data.to(dtype)
        model = self.model.merge_and_unload() if isinstance(self.model, PeftModel) else self.model
        remove_head(model)
        return model.eval()

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Writes the card of what is trained into `args.output_dir`; TRL's is one of a text model."""
        if self.is_world_process_zero():
            self._write_card(Path(self.args.output_dir), model_name, dataset_name, tags)

    def _write_card(
        self,
        folder: Path,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        card = trainer_card(
            base=self._vlm.name_or_path,
            name=self.hub_model_id or self.args.hub_model_id or str(folder.absolute()),
            adapters=isinstance(self.model, PeftModel),
            paper=self._paper,
            model_name=model_name,
            dataset=dataset_name,
            tags=[*self._tag_names, *([tags] if isinstance(tags, str) else tags or ())],
        )
        folder.mkdir(parents=True, exist_ok=True)
        card.save(folder / "README.md")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model, or its adapters alone, with processor and card."""
        super().save_model(output_dir, _internal_call)
        # PEFT writes a card of its own beside adapters, with the path of a local model in it.
        if isinstance(self.model, PeftModel) and self.is_world_process_zero():
            self._write_card(Path(output_dir or self.args.output_dir))

    # The methods below are the only places that lean on how `Trainer` writes and reads checkpoints.
    def _save_checkpoint(self, model, trial) -> None:
        # Before the rest, which ends with the removal of older checkpoints. What FSDP and DeepSpeed write of their own
        # has the head.
        if self.args.should_save and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            folder = Path(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
            folder.mkdir(parents=True, exist_ok=True)
            save_file(getattr(self._vlm, HEAD).state_dict(), folder / _HEAD_FILE)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        file = os.path.join(resume_from_checkpoint, _HEAD_FILE)
        if not os.path.isfile(file):
            raise ValueError(f"{resume_from_checkpoint} has no {_HEAD_FILE}: it is not a checkpoint of C3LTrainer")
        vlm, head = self._vlm, load_file(file)
        if isinstance(self.model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            getattr(vlm, HEAD).load_state_dict(head)
        else:
            # `save_pretrained` writes the weights of many vision-language models under the names of older releases,
            # which `from_pretrained` translates. `Trainer` would not find them and go on with the weights it has.
            saved = (
                type(vlm).from_pretrained(resume_from_checkpoint, dtype=vlm.dtype, use_safetensors=True).state_dict()
            )
            vlm.load_state_dict({**saved, **{f"{HEAD}.{key}": value for key, value in head.items()}})

    def _load_best_model(self) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(self.state.best_model_checkpoint)
