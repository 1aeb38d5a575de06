"""Contrastive training of a vision-language model on pseudo-labels: an ordinary subclass of TRL's `SFTTrainer`.

    L = NLL(positive) + λ · ( -ln [ e^{s(a,p)/τ} / ( e^{s(a,p)/τ} + Σ_n e^{s(a,n)/τ} ) ] )

C3L as implemented here: the paper (arXiv 2405.12752) names the loss; pooling, projection head, τ and λ are this
project's choices, after CLAPS (Lee et al., ICLR 2021).
"""

import functools
import os
import textwrap
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin, TrainerCallback
from transformers.data.data_collator import DataCollatorMixin
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTTrainer

from .image_io import open_image
from .losses import contrastive_loss, cosine_similarities, masked_mean, sequence_nll
from .processing import EncodedRow, RowError, collate, encode_row, with_image_cache
from .trainer_config import C3LConfig, language_model_lora

__all__ = ["C3LConfig", "C3LTrainer", "DataCollatorForC3L", "language_model_lora"]

# The projection head is a submodule of the model under this name; in checkpoints it is a file of its own.
_HEAD = "contrastive_head"
_HEAD_FILE = f"{_HEAD}.safetensors"


@dataclass
class DataCollatorForC3L(DataCollatorMixin):
    """
    Data collator for pseudo-label rows: one padded batch with all candidates of all rows.

    Each row has an `"images"` list, a `"prompt"` (messages), the `"chosen"` answer (one assistant message) and a list
    of `"rejected"` answers (each like `"chosen"`; their number may vary and be 0). Every candidate becomes one sequence
    of images, prompt and answer; row after row, the chosen one first. B rows give R = Σ (1 + N_row) sequences:
    - `"candidate_mask"`: `(B, 1 + N)` bool, which candidates each row has; its True values are the R sequences in
    order. It comes first, because the `Trainer` takes the batch size from the first tensor.
    - `"positive_index"`: `(B,)`, which of the R sequences is each row's chosen one.
    - `"weight"`: `(B,)` float32, only with `weight_column`.
    - `"prompt_mask"`: `(R, T)` bool, all before the answer: image, instruction and the template's tokens around them.
    - `"answer_mask"`: `(R, T)` bool, the answer's content.
    - `"label_mask"`: `(R, T)` bool, tokens of the NLL: the chosen answers, with the end-of-turn token if the chat
    template writes one, because a generator has to learn to stop.
    - what the model takes, over R sequences: `"input_ids"`, `"attention_mask"`, `"pixel_values"`, ...

    Args:
        processor ([`~transformers.ProcessorMixin`]):
            The model's processor, with a chat template.
        max_length (`int`, *optional*):
            Longest allowed sequence. If `None`, there is no limit.
        weight_column (`str`, *optional*):
            Column with the weight of each row.
        return_tensors (`str`, *optional*, defaults to `"pt"`):
            Type of Tensor to return. Only `"pt"` is currently supported.

    Raises:
        ValueError: if a row cannot be encoded; names the row by its `pair_id` or `image_id`.

    Example:
    ```python
    >>> from PIL import Image
    >>> from transformers import AutoProcessor
    >>> from c3l_hf.trainer import DataCollatorForC3L

    >>> processor = AutoProcessor.from_pretrained("llava-hf/llava-1.5-7b-hf")
    >>> collator = DataCollatorForC3L(processor)
    >>> row = {
    ...     "images": [Image.new("RGB", (64, 64), "red")],
    ...     "image_id": "red",
    ...     "prompt": [{"role": "user", "content": "Ask about a colour in this picture, and answer the question."}],
    ...     "chosen": [{"role": "assistant", "content": "Question: What colour is it?\\nAnswer: red"}],
    ...     "rejected": [[{"role": "assistant", "content": "Question: What colour is it?\\nAnswer: blue"}]],
    ... }
    >>> batch = collator([row, {**row, "image_id": "no negatives", "rejected": []}])
    >>> batch["candidate_mask"]
    tensor([[ True,  True],
            [ True, False]])
    >>> batch["positive_index"]
    tensor([0, 2])
    >>> print(processor.decode(batch["input_ids"][1][batch["answer_mask"][1]]))
    Question: What colour is it?
    Answer: blue
    >>> batch["label_mask"].any(dim=1)
    tensor([ True, False,  True])

    ```
    """

    processor: ProcessorMixin
    max_length: int | None = None
    weight_column: str | None = None
    return_tensors: str = "pt"

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        processor = with_image_cache(self.processor)  # the candidates of a row share its images
        encoded, candidates = [], []
        for row in examples:
            column = "images"
            try:
                images = [open_image(image) for image in row["images"] or ()]
                if not images:
                    raise RowError("there is none")
                answers = [row["chosen"], *row["rejected"]]
                for number, answer in enumerate(answers):
                    column = "chosen" if number == 0 else f"rejected[{number - 1}]"
                    text = _answer_text(answer)
                    encoded.append(encode_row(processor, row["prompt"], text, images, max_length=self.max_length))
            except RowError as error:
                raise ValueError(f"{_row_name(row)}, {column}: {error}") from error
            candidates.append(len(answers))

        inputs = collate(self.processor, [row.inputs for row in encoded], padding_side="right")
        counts = torch.tensor(candidates)
        positive_index = counts.cumsum(0) - counts
        batch = {
            "candidate_mask": torch.arange(max(candidates)) < counts[:, None],
            "positive_index": positive_index,
        }
        if self.weight_column is not None:
            batch["weight"] = torch.tensor([float(row[self.weight_column]) for row in examples])

        position = torch.arange(inputs["input_ids"].shape[1])
        start = torch.tensor([row.answer.start for row in encoded])[:, None]
        stop = torch.tensor([row.answer.stop for row in encoded])[:, None]
        learnt_stop = torch.zeros_like(stop)  # no NLL on rejected answers
        for index in positive_index.tolist():
            learnt_stop[index] = encoded[index].answer.stop + self._ends_with_special_token(encoded[index])
        batch["prompt_mask"] = position < start
        batch["answer_mask"] = (start <= position) & (position < stop)
        batch["label_mask"] = (start <= position) & (position < learnt_stop)
        return {**batch, **inputs}

    def _ends_with_special_token(self, row: EncodedRow) -> bool:
        after = row.inputs["input_ids"][0, row.answer.stop :]
        token = self.processor.tokenizer.added_tokens_decoder.get(int(after[0])) if len(after) else None
        return token is not None and token.special


def _row_name(row: dict[str, Any]) -> str:
    for column in ("pair_id", "image_id"):
        if row.get(column) is not None:
            return f"row with {column} {row[column]!r}"
    return f"row without pair_id and image_id (prompt {str(row['prompt'])[:80]!r})"


def _answer_text(messages: Sequence[dict[str, str]] | None) -> str:
    """The text of an answer given as one assistant message."""
    if messages is None or len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = None if messages is None else [message["role"] for message in messages]
        raise RowError(f"found messages with the roles {roles}; give exactly one message, of the assistant")
    if not isinstance(messages[0]["content"], str):
        raise RowError(f"the content is of type {type(messages[0]['content']).__name__}; give a string")
    if not messages[0]["content"].strip():
        raise RowError("the text is empty")
    return messages[0]["content"]


def _add_contrastive_forward(model: PreTrainedModel) -> None:
    """Let `model(**inputs, prompt_mask=…, answer_mask=…, label_mask=…, positive_index=…)` return the labels' logits and
    the projected anchors and candidates; without these arguments the forward is the model's own.

    All of it happens inside the forward, and the head is a submodule of the model, because wrappers such as DDP and
    FSDP only know of parameters that are used there. TRL adds its fused LM head in the same way; a module around the
    model would lose all that `Trainer` and `save_pretrained` do with a `PreTrainedModel`.
    """
    original = model.forward

    @functools.wraps(type(model).forward)  # `generate` checks its arguments against the signature
    def forward(self, *args, prompt_mask=None, answer_mask=None, label_mask=None, positive_index=None, **kwargs):
        if prompt_mask is None:
            return original(*args, **kwargs)
        # Logits at position t predict token t + 1, and are computed nowhere else.
        predicts = torch.zeros_like(label_mask)
        predicts[:, :-1] = label_mask[:, 1:]
        outputs = original(*args, logits_to_keep=predicts, output_hidden_states=True, **kwargs)
        hidden = outputs.hidden_states[-1]  # the others live in training anyway, for the backward pass
        # The head is small and its outputs are compared with each other: float32, also under bf16 autocast.
        with torch.autocast(hidden.device.type, enabled=False):
            head = getattr(self, _HEAD)
            anchor = head(masked_mean(hidden[positive_index], prompt_mask[positive_index]))
            candidates = head(masked_mean(hidden, answer_mask))
        return {"logits": outputs.logits, "anchor": anchor, "candidates": candidates}

    model.forward = types.MethodType(forward, model)


class C3LTrainer(SFTTrainer):
    """
    Trainer for C3L: NLL of the positive pseudo-label plus a contrastive loss over positive and negatives.

    With h the last hidden states of one forward over all candidates: anchor a = head(mean of h over image and
    instruction tokens), candidate = head(mean of h over its answer tokens), s = cosine. The NLL of a row is the mean
    over the positive's tokens; the loss is the mean over rows. Under gradient accumulation and over several processes
    all micro-batches count alike, so n micro-batches of b rows equal one batch of n · b rows.

    Logged beside what every `Trainer` logs: `num_tokens` seen in training and, as means over rows, `loss/nll`,
    `loss/contrastive` (without λ), `similarity/positive`, and over the rows that have negatives `similarity/negative`
    and `contrastive_accuracy`: how often the positive is closer to the anchor than every negative. In evaluation all
    have the prefix `eval_`.

    The projection head belongs to training: checkpoints hold it; `save_model`, `save_pretrained` and `push_to_hub`
    leave it out.

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
            Adapter configuration. If `None`, [`language_model_lora`] is used when `args.use_lora`.

    Raises:
        TypeError: if `args` is not a `C3LConfig`.
        ValueError: if a dataset lacks a column.

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
        eval_datasets = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
        for name, dataset in {"train_dataset": train_dataset, **eval_datasets}.items():
            if dataset is not None:
                _check_columns(name, dataset, args.weight_column)

        if processing_class is None:
            processing_class = AutoProcessor.from_pretrained(
                model if isinstance(model, str) else model.name_or_path,
                revision=(args.model_init_kwargs or {}).get("revision"),
                trust_remote_code=args.trust_remote_code,
            )
        if data_collator is None:
            data_collator = DataCollatorForC3L(processing_class, args.max_length, args.weight_column)
        if peft_config is None and args.use_lora and not isinstance(model, PeftModel):
            peft_config = language_model_lora()

        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
        )

        vlm = self._vlm
        if vlm is self.model:
            # Full training. With adapters, PEFT has chosen what is trained.
            vlm.requires_grad_(args.train_vision_tower)
            vlm.get_decoder().requires_grad_(True)
            vlm.get_output_embeddings().requires_grad_(True)
        if isinstance(data_collator, DataCollatorForC3L) and data_collator.max_length is None:
            data_collator.max_length = vlm.config.get_text_config().max_position_embeddings
        self._add_head(vlm)
        _add_contrastive_forward(vlm)

    @property
    def _vlm(self) -> PreTrainedModel:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def _add_head(self, vlm: PreTrainedModel) -> None:
        # Random numbers of its own: the head's first weights depend on the seed alone, and nothing depends on the head.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.args.seed)
            linear = nn.Linear(vlm.config.get_text_config().hidden_size, self.args.projection_dim)
        head = nn.Sequential(linear, nn.ReLU())
        setattr(vlm, _HEAD, head.to(vlm.device))
        # What `save_pretrained` leaves out; a transformers internal, guarded by a test of the saved files.
        vlm._keys_to_ignore_on_save.update(f"{_HEAD}.{key}" for key in head.state_dict())

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of one micro-batch, see the class; with `return_outputs`, also what the forward returned."""
        inputs = dict(inputs)
        candidate_mask, weight = inputs.pop("candidate_mask"), inputs.pop("weight", 1.0)
        positive_index, label_mask = inputs["positive_index"], inputs["label_mask"]
        outputs = model(**inputs, use_cache=False)

        nll = sequence_nll(outputs["logits"], inputs["input_ids"][label_mask], label_mask[positive_index])
        # Sequences come row after row, as the True values of `candidate_mask` do.
        projected = outputs["candidates"]
        candidates = projected.new_zeros(*candidate_mask.shape, projected.shape[-1])
        candidates = candidates.masked_scatter(candidate_mask[..., None], projected)
        contrastive = contrastive_loss(
            outputs["anchor"], candidates[:, 0], candidates[:, 1:], candidate_mask[:, 1:], self.args.temperature
        )
        loss = (weight * nll + self.args.contrastive_weight * contrastive).mean()

        similarities = cosine_similarities(outputs["anchor"].detach(), candidates.detach())
        self._log_rows(similarities, candidate_mask, nll.detach(), contrastive.detach())
        self._log_tokens(inputs["attention_mask"])
        return (loss, outputs) if return_outputs else loss

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
        # The values of all rows rather than one mean per micro-batch, so that the mean over them is exact.
        values = self.accelerator.gather_for_metrics(torch.stack(list(rows.values()), dim=1)).cpu()
        for name, column in zip(rows, values.T):
            if not column.isnan().all():
                self._metrics[self._mode][name].extend(column[~column.isnan()].tolist())

    def _log_tokens(self, attention_mask) -> None:
        if self._mode == "train":
            self._total_train_tokens += self.accelerator.gather(attention_mask.sum()).sum().item()
        self._metrics[self._mode]["num_tokens"] = [self._total_train_tokens]

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def merged_model(self) -> PreTrainedModel:
        """The trained model as it is used and published: adapters merged, projection head and training forward removed.

        Works in place: the trainer cannot train or evaluate afterwards.
        """
        model = self.model.merge_and_unload() if isinstance(self.model, PeftModel) else self.model
        delattr(model, _HEAD)
        del model.forward  # also TRL's fused LM head; the class's own forward is back
        return model.eval()

    # The methods below are the only places that lean on how `Trainer` writes and reads checkpoints.
    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            head = getattr(self._vlm, _HEAD).state_dict()
            save_file(head, os.path.join(self._get_output_dir(trial=trial), folder, _HEAD_FILE))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        file = os.path.join(resume_from_checkpoint, _HEAD_FILE)
        if not os.path.isfile(file):
            raise ValueError(f"{resume_from_checkpoint} has no {_HEAD_FILE}: it is not a checkpoint of C3LTrainer")
        vlm, head = self._vlm, load_file(file)
        if isinstance(self.model, PeftModel) or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            getattr(vlm, _HEAD).load_state_dict(head)
        else:
            # `save_pretrained` writes the weights of many vision-language models under the names of older releases,
            # which `from_pretrained` translates. `Trainer` would not find them and go on with the weights it has.
            saved = type(vlm).from_pretrained(resume_from_checkpoint, dtype=vlm.dtype).state_dict()
            vlm.load_state_dict({**saved, **{f"{_HEAD}.{key}": value for key, value in head.items()}})

    def _load_best_model(self) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(self.state.best_model_checkpoint)


def _check_columns(name: str, dataset: Dataset | IterableDataset, weight_column: str | None) -> None:
    needed = ["images", "prompt", "chosen", "rejected", *([weight_column] if weight_column else [])]
    missing = [column for column in needed if column not in (dataset.column_names or needed)]
    if missing:
        found = ", ".join(dataset.column_names)
        raise ValueError(
            f"{name} has no column {', '.join(map(repr, missing))}; it has {found}. C3LTrainer takes pseudo-label "
            "rows, as c3l_hf.pseudo_labels.select_pseudo_labels makes them from scored pairs."
        )
