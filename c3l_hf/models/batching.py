"""Encoded rows → one batch: padding, image tensors, and rows without a picture among rows with pictures."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import PIL.Image
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.errors import said_by
from c3l_hf.models.rounding import Rounding, disturbed_runs

__all__ = ["PER_TOKEN", "collate", "collate_images", "has_picture", "mixed_difference", "picture_row", "with_picture"]

# One value per token; everything else that a processor returns belongs to images.
PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


def collate(
    processor: ProcessorMixin, rows: Sequence[Mapping[str, torch.Tensor]], padding_side: str = "right"
) -> dict[str, torch.Tensor]:
    """One batch from the inputs of several rows, with and without pictures.

    Per-token tensors are padded to the longest row. Image tensors are concatenated along their first dimension in row
    order; where their other dimensions differ (tiles, image sizes) they are filled with zeros, as the processors do
    within a batch. A row without pictures adds nothing to a tensor that has a line for each image or patch. Where a
    tensor has a line for each row (Idefics: `pixel_values` (rows, images, ...); LLaVA-OneVision: `batch_num_images`),
    it adds a line of zeros, which is how these models read "no image".

    A batch in which no row has a picture has no image tensors: the model's vision tower does not run. See
    `with_picture` for training in which that must not be.

    Raises:
        ValueError: If some rows have tensors that others lack, beyond those with pictures beside those without; or if
            there are such rows, and the processor does not tell which of its tensors have a line for each row.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    of_images = {name for name in names if name not in PER_TOKEN}
    for number, row in enumerate(rows):
        missing = set(names) - set(row)
        # Some processors give the types of tokens with images only: without, all tokens have type 0.
        if missing - {"token_type_ids", "mm_token_type_ids"} not in (set(), of_images):
            raise ValueError(
                f"row {number} of the batch has {sorted(row)}, others have {sorted(missing)} too; "
                "put them in separate batches"
            )
    longest = max(row["input_ids"].shape[1] for row in rows)
    pad_id = processor.tokenizer.pad_token_id
    batch = {}
    for name in (name for name in names if name in PER_TOKEN):
        value = (pad_id or 0) if name == "input_ids" else 0  # without a pad token any id does: it is masked
        tensors = [row[name] if name in row else torch.zeros_like(row["input_ids"]) for row in rows]
        lengths = [longest - tensor.shape[1] for tensor in tensors]
        padding = [(0, n) if padding_side == "right" else (n, 0) for n in lengths]
        batch[name] = torch.cat([F.pad(tensor, pad, value=value) for tensor, pad in zip(tensors, padding)])
    if of_images and not all(map(has_picture, rows)):
        rows = _with_empty_lines(rows, of_images & _with_a_line_per_row(processor))
    return {**batch, **collate_images(rows)}


def collate_images(rows: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The image tensors of several rows as one batch's: see `collate`."""
    batch = {}
    for name in dict.fromkeys(name for row in rows for name in row if name not in PER_TOKEN):
        tensors = [row[name] for row in rows if name in row]
        if len({tensor.shape[1:] for tensor in tensors}) > 1:
            shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors))]
            tensors = [_fill(tensor, shape) for tensor in tensors]
        batch[name] = torch.cat(tensors)
    return batch


def has_picture(row: Mapping[str, torch.Tensor]) -> bool:
    """Whether the inputs of a row, or of a batch, have image tensors."""
    return any(name not in PER_TOKEN and name != "labels" for name in row)


def picture_row(processor: ProcessorMixin) -> dict[str, torch.Tensor]:
    """The inputs of a short row with a small picture, of no meaning: see `with_picture`.

    Raises:
        ValueError: If the processor makes none.
    """
    return dict(_row(processor, 1))


def with_picture(
    processor: ProcessorMixin, rows: Sequence[Mapping[str, torch.Tensor]]
) -> list[Mapping[str, torch.Tensor]]:
    """The rows, and if none has a picture, `picture_row` as the last.

    For training on rows without pictures in several processes (DDP, FSDP, ZeRO). In a process whose batch has no
    picture, vision tower and projector would not run: they get no gradient there, and where their weights or gradients
    are gathered from all processes, the others wait for ever. The further row makes them run. Give it no labels (-100
    throughout): the loss does not see it, every gradient is what it is without, and that of the vision tower and the
    projector is zero instead of missing.

    Raises:
        ValueError: If the processor makes no such row.
    """
    rows = list(rows)
    return rows if any(map(has_picture, rows)) else [*rows, picture_row(processor)]


@torch.no_grad()
def mixed_difference(model: PreTrainedModel, processor: ProcessorMixin) -> tuple[float, bool]:
    """How far a model's predictions for rows with and without pictures in one batch are from those of each row alone.

    `collate` cannot know what a model makes of a row without pictures beside rows with them: this tries it, with three
    short rows of our own. Call it in eval mode, before the weights are sharded.

    Returns:
        The largest absolute difference of log-probabilities of the next token, over the 100 likeliest, in nats: about
        1e-5 in float32 where mixed batches are exact, not a number where the model's predictions are none. And whether
        rounding explains it, see `models.rounding`.

    Raises:
        ValueError: If the processor makes no such rows, or the model takes no such batch.
    """
    rows = [_row(processor, 0, "Why?"), _row(processor, 1), _row(processor, 0, "Is there a dog in the picture? " * 8)]

    def each(rows: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
        return torch.cat([_next_token(model, collate(processor, [row])) for row in rows])

    def apart(predictions: torch.Tensor) -> float:
        return (predictions - alone).gather(-1, likeliest).abs().max().item()

    try:
        together = _next_token(model, collate(processor, rows))
        alone = each(rows)
    except Exception as error:  # the model's own code
        raise ValueError(
            f"{type(model).__name__} takes no batch of rows with and without pictures: "
            f"{type(error).__name__}: {said_by(error, 200)}"
        ) from error
    likeliest = alone.topk(min(100, alone.shape[-1])).indices
    rounding = Rounding(model.dtype, lambda: [apart(run) for run in disturbed_runs(model, rows, each)])
    difference = apart(together)
    return difference, rounding.explains(difference)


def _next_token(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Log-probabilities of what follows each row of a batch, (rows, vocabulary), on the CPU."""
    batch = {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in batch.items()
    }
    lengths = batch["attention_mask"].sum(dim=1) - 1
    keep = torch.arange(batch["input_ids"].shape[1], device=model.device) == lengths[:, None]
    logits = model(**batch, logits_to_keep=keep, use_cache=False).logits
    return logits.float().cpu().double().log_softmax(-1).reshape(len(lengths), -1)


@functools.lru_cache(maxsize=32)
def _row(processor: ProcessorMixin, pictures: int, text: str = "a") -> Mapping[str, torch.Tensor]:
    # Not all of one colour, least of all black: models take a picture of zeros for padding. Not the same one twice.
    images = [PIL.Image.linear_gradient("L").convert("RGB").resize((56 + 8 * number, 56)) for number in range(pictures)]
    items: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    conversation = [{"role": "user", "content": [*items, {"type": "text", "text": text}]}]
    try:
        return dict(
            processor.apply_chat_template(
                conversation, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
            )
        )
    except Exception as error:  # templates and image processors of all kinds
        raise ValueError(
            f"{type(processor).__name__} makes no row with {pictures} small picture(s) of ours, which is needed to put "
            f"rows with and without pictures together: {said_by(error, 200)}"
        ) from error


def _with_a_line_per_row(processor: ProcessorMixin) -> set[str]:
    """Image tensors whose first dimension counts rows, not images or patches: they have one line for two pictures."""
    return {
        name
        for name, tensor in _row(processor, 2).items()
        if name not in PER_TOKEN and isinstance(tensor, torch.Tensor) and tensor.shape[0] == 1
    }


def _with_empty_lines(rows: Sequence[Mapping[str, torch.Tensor]], names: set[str]) -> list[Mapping[str, torch.Tensor]]:
    """The rows, those without pictures with a line of zeros in some of the image tensors."""
    first = next(row for row in rows if has_picture(row))
    empty = {name: torch.zeros_like(first[name][:1]) for name in names}
    return [row if has_picture(row) else {**row, **empty} for row in rows]


def _fill(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    padding = [pad for size, full in zip(tensor.shape[:0:-1], shape[::-1]) for pad in (0, full - size)]
    return F.pad(tensor, padding)
