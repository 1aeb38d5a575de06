"""Teacher-forced log-probabilities of answers with and without the image: the plain reference path.

One pass with the image and one without give everything. Both sets of logits are needed together for the divergence over
the vocabulary, so both passes of a group of rows run before either is reduced.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, ProcessorMixin

from .processing import EncodedRow, collate

__all__ = ["AnswerLogprobs", "answer_logprobs"]

# Most logits (answer tokens x vocabulary) that one pass may return: 256 MB in float32, 128 MB in bfloat16.
_MAX_LOGITS = 2**26
# Most logits that are in float64 at once: 32 MB for each of a handful of temporaries.
_CHUNK = 2**22


@dataclass(frozen=True)
class AnswerLogprobs:
    """What the two passes say about one answer of N tokens; tensors of shape (N,) on the CPU, in nats.

    Attributes:
        with_image: ln p_t(a_t), p_t = P(. | image, question, a_<t).
        blind: ln q_t(a_t), q_t = P(. | question, a_<t).
        kl: sum over the vocabulary of p_t(v) ln(p_t(v) / q_t(v)).
    """

    with_image: torch.Tensor
    blind: torch.Tensor
    kl: torch.Tensor


@torch.inference_mode()
def answer_logprobs(
    model: PreTrainedModel, processor: ProcessorMixin, rows: Sequence[EncodedRow], blind_rows: Sequence[EncodedRow]
) -> list[AnswerLogprobs]:
    """Log-probabilities of the answers of a batch of rows, each with its blind row, from one pair of passes.

    Blind rows with the same tokens are run once. The softmax is taken in float64 (float32 where the device has none),
    whatever the model's dtype: in float32 the two normalisers alone are off by some 3e-7, as much as a small
    divergence. The model should be in eval mode.

    Args:
        model: A model for `AutoModelForImageTextToText`, on any device.
        processor: Its processor, for padding.
        rows: The rows with their images.
        blind_rows: The same rows without; their answers must have the same tokens.

    Raises:
        ValueError: If a row and its blind row have different answers.
    """
    for number, (row, blind) in enumerate(zip(rows, blind_rows, strict=True)):
        if row.answer_ids != blind.answer_ids:
            raise ValueError(f"row {number} has other answer tokens with its image than without")
    lengths = [row.answer.stop - row.answer.start for row in rows]
    limit = max(1, _MAX_LOGITS // model.config.get_text_config().vocab_size)
    if sum(lengths) > limit and len(rows) > 1:
        half = len(rows) // 2
        return answer_logprobs(model, processor, rows[:half], blind_rows[:half]) + answer_logprobs(
            model, processor, rows[half:], blind_rows[half:]
        )
    unique, blind_of = [], []
    known: dict[tuple[int, ...], int] = {}
    for blind in blind_rows:
        ids = tuple(blind.inputs["input_ids"][0].tolist())
        if ids not in known:
            known[ids] = len(unique)
            unique.append(blind)
        blind_of.append(known[ids])
    # An answer whose logits alone exceed the limit is scored in pieces, at the price of a pair of passes for each.
    count = min(limit, max(lengths))
    pieces = []
    for first in range(0, max(lengths), count):
        logits = _answer_logits(model, processor, rows, first, count)
        blind_logits = _answer_logits(model, processor, unique, first, count)
        ids = [row.answer_ids[first : first + count] for row in rows]
        pieces.append([_compare(logits[i], blind_logits[j], ids[i]) for i, j in enumerate(blind_of)])
    return [AnswerLogprobs(*(torch.cat(parts) for parts in zip(*row_pieces))) for row_pieces in zip(*pieces)]


def _answer_logits(
    model: PreTrainedModel, processor: ProcessorMixin, rows: Sequence[EncodedRow], first: int, count: int
) -> list[torch.Tensor]:
    """Per row the logits, (tokens, vocabulary), that predict its answer tokens first, ..., first + count - 1."""
    batch = collate(processor, [row.inputs for row in rows], padding_side="right")
    # The model's own forward, told to project only these positions. A base model plus `get_output_embeddings` would
    # allow smaller chunks, but leaves out what some families do around the head (capping, scaling), and a wrapped model
    # (PEFT) has another base model. A boolean mask keeps a different number of positions in each row.
    keep = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
    counts = []
    for number, row in enumerate(rows):
        begin, end = row.answer.start + first, min(row.answer.start + first + count, row.answer.stop)
        keep[number, begin - 1 : end - 1] = True  # the logits at a position predict the next token
        counts.append(end - begin)
    inputs = {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in batch.items()
    }
    logits = model(**inputs, logits_to_keep=keep.to(model.device), use_cache=False).logits
    if logits.shape[:-1] != (sum(counts),):
        raise ValueError(
            f"{type(model).__name__} gave logits of shape {tuple(logits.shape)} for {sum(counts)} kept positions"
        )
    return list(logits.split(counts))


def _compare(
    logits: torch.Tensor, blind_logits: torch.Tensor, ids: list[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ln p(a), ln q(a) and KL(p || q) at each answer position, from (N, vocabulary) logits."""
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64
    target = torch.tensor(ids, device=logits.device)[:, None]
    parts = []
    for chunk, blind_chunk, chosen in zip(
        *(tensor.split(max(1, _CHUNK // logits.shape[-1])) for tensor in (logits, blind_logits, target))
    ):
        p, q = chunk.to(dtype).log_softmax(-1), blind_chunk.to(dtype).log_softmax(-1)
        # a token that p rules out adds nothing, also where q rules it out too
        kl = (p.exp() * (p - q).masked_fill(p == -torch.inf, 0)).sum(-1)
        parts.append((p.gather(-1, chosen)[:, 0], q.gather(-1, chosen)[:, 0], kl))
    with_image, blind, kl = (torch.cat(part).cpu() for part in zip(*parts))
    return with_image, blind, kl
