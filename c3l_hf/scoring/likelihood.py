"""Teacher-forced log-probabilities of answers with and without the image: the plain reference path and the packed one.

One pass with the image and one without give everything. The plain path gives every row a sequence of its own in a
padded batch, as the model's own processor would. The packed path puts rows about the same image into one sequence that
has the image and whatever else they begin with once (`models/packing.py`): it makes k answers to an image cheap.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.models.encoding import EncodedRow, collate, image_token_id, position_ids
from c3l_hf.models.packing import Pack, collate_packs, pack, plan_packs

__all__ = ["AnswerLogprobs", "Member", "answer_logprobs", "batch_tensors", "default_max_tokens", "plan_batches"]

# Most logits (answer tokens x vocabulary) of one pass: on a CPU 256 MB in float32; elsewhere 512 MB in bfloat16, where
# the answers about an image are to stay together with a vocabulary of 150,000, too.
_MAX_LOGITS, _MAX_LOGITS_CPU = 2**28, 2**26
# Most logits that are in float64 at once; on a CPU 1 MB for each of a handful of temporaries, which stay in its cache.
_CHUNK, _CHUNK_CPU = 2**22, 2**17
# Most tokens that a pack adds to its first sequence: attention within a pack is quadratic, so they should not grow
# without limit; with this many the shared beginning is negligible already.
_ROOM = 1024


@dataclass(frozen=True)
class AnswerLogprobs:
    """What the two passes say about one answer of N tokens; tensors of shape (N,) on the CPU, in nats.

    Attributes:
        with_image: ln p_t(a_t), p_t = P(. | image, question, a_<t).
        blind: ln q_t(a_t), q_t = P(. | question, a_<t).
        kl: sum over the vocabulary of p_t(v) ln(p_t(v) / q_t(v)).
        problem: Why there are no numbers, if the model fails at the row; see `passes.Passes`.
    """

    with_image: torch.Tensor
    blind: torch.Tensor
    kl: torch.Tensor
    problem: str | None = None


@dataclass(frozen=True)
class Member:
    """A sequence of a forward pass, for one row or several.

    Attributes:
        rows: The rows' numbers.
        pack: The sequence, and where in it each row's tokens are.
        answer_tokens: How many positions predict the answers' tokens.
    """

    rows: list[int]
    pack: Pack
    answer_tokens: int


def default_max_tokens(model: PreTrainedModel) -> int:
    """Most tokens in one pass of a model, with padding, where nobody has said how many."""
    # In bfloat16 a CPU rearranges the weights for every product: larger ones make it pay.
    return 8192 if model.device.type != "cpu" else 1024 if model.dtype == torch.float32 else 4096


@torch.inference_mode()
def answer_logprobs(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Sequence[EncodedRow],
    blind_rows: Sequence[EncodedRow],
    *,
    packed: bool = False,
    max_tokens: int = 4096,
) -> list[AnswerLogprobs]:
    """Log-probabilities of answers, each row with its blind row.

    Rows with the same images and tokens are run once. Rows of similar length come into a batch together; the longest
    come first, so that too little memory shows at once. The LM head runs at answer positions only, and the logits of at
    most one pass with and one without the image are in memory. The softmax is taken in float64 (float32 where the
    device has none), whatever the model's dtype: in float32 the two normalisers alone are off by some 3e-7, as much as
    a small divergence. The model should be in eval mode.

    Args:
        model: A model for `AutoModelForImageTextToText`, on any device.
        processor: Its processor, for padding.
        rows: The rows with their images.
        blind_rows: The same rows without (or with other images); their answers must have the same tokens.
        packed: Whether rows share what they begin with. Exact for models with full causal attention and ordinary
            positions only: see `self_check.py`.
        max_tokens: Most tokens, with padding, in one forward pass; a longer row gets one of its own.

    Raises:
        ValueError: If a row and its blind row have different answers.
    """
    for number, (row, blind) in enumerate(zip(rows, blind_rows, strict=True)):
        if row.answer_ids != blind.answer_ids:
            raise ValueError(f"row {number} has other answer tokens with its image than without")
    most = _MAX_LOGITS_CPU if model.device.type == "cpu" else _MAX_LOGITS
    limit = max(1, most // model.config.get_text_config().vocab_size)
    results: dict[int, AnswerLogprobs] = {}
    for batch in plan_batches(model, dict(enumerate(rows)), packed, max_tokens, limit):
        numbers = [number for member in batch for number in member.rows]
        some, some_blind = {n: rows[n] for n in numbers}, {n: blind_rows[n] for n in numbers}
        blind_batches = list(plan_batches(model, some_blind, packed, max_tokens, limit))
        # Both logits of a token are needed together for the divergence. Where a batch has more than may be in memory
        # (one very long answer) it goes through in pieces of the answers, with a pair of passes for each.
        longest = max(len(row.answer_ids) for row in some.values())
        count = longest if sum(m.answer_tokens for m in batch) <= limit else max(1, limit // len(some))
        pieces: dict[int, list[tuple[torch.Tensor, ...]]] = {number: [] for number in numbers}
        for first in range(0, longest, count):
            seen = _answer_logits(model, processor, some, batch, packed, first, count)
            for blind_batch in blind_batches:
                unseen = _answer_logits(model, processor, some_blind, blind_batch, packed, first, count)
                for number, (logits, places) in unseen.items():
                    ids = rows[number].answer_ids[first : first + count]
                    pieces[number].append(_compare(*seen[number], logits, places, ids))
        for number, parts in pieces.items():
            results[number] = AnswerLogprobs(*(torch.cat(part) for part in zip(*parts)))
    return [results[number] for number in range(len(rows))]


def plan_batches(
    model: PreTrainedModel,
    rows: Mapping[int, EncodedRow],
    packed: bool,
    max_tokens: int,
    limit: int,
    whole: bool = False,
) -> Iterator[list[Member]]:
    """The forward passes for some rows: by token budget, longest first, never rows with different numbers of images.

    Args:
        model: The model.
        rows: The rows by number.
        packed: Whether rows share what they begin with; else equal rows only.
        max_tokens: Most tokens of a pass, with padding.
        limit: Most answer tokens of a pass.
        whole: Whether a pack has the last token of an answer, too. It predicts nothing that scores ask for.
    """
    numbers = list(rows)
    # Without packs the sequence is what the processor made.
    cut = packed and not whole
    ids = {n: row.inputs["input_ids"][0].numpy()[: row.answer.stop - 1 if cut else None] for n, row in rows.items()}
    plan = plan_packs(
        list(ids.values()),
        groups=[row.images for row in rows.values()],
        needed=[_image_end(model, row) for row in rows.values()],
        room=min(_ROOM, limit // 2) if packed else 0,
    )
    members = []
    for indices in plan:
        together = [numbers[index] for index in indices]
        one = pack([ids[number] for number in together])
        places = [where[_predicting(rows[number])] for number, where in zip(together, one.where)]
        members.append(Member(together, one, len(np.unique(np.concatenate(places)))))

    def order(member: Member) -> tuple[int, int]:
        return len(rows[member.rows[0]].images), len(member.pack)

    batch: list[Member] = []
    for member in sorted(members, key=order, reverse=True):
        if batch and (
            order(member)[0] != order(batch[0])[0]
            or (len(batch) + 1) * len(batch[0].pack) > max_tokens
            or sum(m.answer_tokens for m in batch) + member.answer_tokens > limit
        ):
            yield batch
            batch = []
        batch.append(member)
    if batch:
        yield batch


def _image_end(model: PreTrainedModel, row: EncodedRow) -> int:
    """Where the last of a row's image tokens ends; the whole prompt if the model does not name its image token."""
    if not row.images:
        return 0
    places = np.flatnonzero(row.inputs["input_ids"][0].numpy() == image_token_id(model.config))
    return int(places[-1]) + 1 if places.size else row.answer.start


def _predicting(row: EncodedRow, first: int = 0, count: int | None = None) -> slice:
    """The positions whose logits predict answer tokens first, ..., first + count - 1: each predicts the next token."""
    begin = row.answer.start + first
    end = row.answer.stop if count is None else min(begin + count, row.answer.stop)
    return slice(begin - 1, max(begin, end) - 1)


def batch_tensors(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Mapping[int, EncodedRow],
    batch: Sequence[Member],
    packed: bool,
) -> dict[str, torch.Tensor]:
    """What the model takes for one of the passes of `plan_batches`, on its device and in its dtype."""
    if packed:
        inputs = [[rows[number].inputs for number in member.rows] for member in batch]
        pad_id = processor.tokenizer.pad_token_id or 0
        positions = position_ids(model, itertools.chain(*inputs))
        tensors = collate_packs([member.pack for member in batch], inputs, pad_id, model.dtype, positions)
    else:
        tensors = collate(processor, [rows[member.rows[0]].inputs for member in batch], padding_side="right")
    return {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in tensors.items()
    }


def _answer_logits(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Mapping[int, EncodedRow],
    batch: Sequence[Member],
    packed: bool,
    first: int,
    count: int,
) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Row number → (logits of the batch, (positions, vocabulary); which of them predict the row's answer tokens)."""
    tensors = batch_tensors(model, processor, rows, batch, packed)
    # The model's own forward, told to project only these positions. A base model plus `get_output_embeddings` would
    # allow smaller chunks, but leaves out what some families do around the head (capping, scaling), and a wrapped model
    # (PEFT) has another base model. A boolean mask keeps a different number of positions in each row.
    keep = torch.zeros(tensors["input_ids"].shape, dtype=torch.bool)
    where = {}
    for line, member in enumerate(batch):
        for number, places in zip(member.rows, member.pack.where):
            where[number] = line, torch.from_numpy(places[_predicting(rows[number], first, count)])
            keep[where[number]] = True
    logits = model(**tensors, logits_to_keep=keep.to(model.device), use_cache=False).logits
    if logits.shape[:-1] != (int(keep.sum()),):
        raise ValueError(
            f"{type(model).__name__} gave logits of shape {tuple(logits.shape)} for {int(keep.sum())} kept positions"
        )
    index = (keep.flatten().cumsum(0) - 1).view(keep.shape)
    return {number: (logits, index[place].to(logits.device)) for number, place in where.items()}


def _compare(
    logits: torch.Tensor,
    places: torch.Tensor,
    blind_logits: torch.Tensor,
    blind_places: torch.Tensor,
    ids: list[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ln p(a), ln q(a) and KL(p || q) at N answer positions, from the (N, vocabulary) logits at these places."""
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64
    chunk_size = max(1, (_CHUNK_CPU if logits.device.type == "cpu" else _CHUNK) // logits.shape[-1])
    target = torch.tensor(ids, device=logits.device)[:, None]
    parts = []
    for chunk, blind_chunk, chosen in zip(*(tensor.split(chunk_size) for tensor in (places, blind_places, target))):
        x, y = logits[chunk].to(dtype), blind_logits[blind_chunk].to(dtype)
        x, y = x - x.amax(-1, keepdim=True), y - y.amax(-1, keepdim=True)
        p = x.exp()
        total, blind_norm = p.sum(-1), y.exp().sum(-1).log()
        norm = total.log()
        with_image, blind = x.gather(-1, chosen)[:, 0] - norm, y.gather(-1, chosen)[:, 0] - blind_norm
        difference = x.sub_(y)
        expected = torch.einsum("nv,nv->n", p, difference)
        if expected.isnan().any():
            # A token that p rules out (-inf) adds nothing, also where q rules it out too.
            expected = torch.einsum("nv,nv->n", p, difference.masked_fill_(p == 0, 0))
        parts.append((with_image, blind, expected / total - norm + blind_norm))
    return tuple(torch.cat(part).cpu() for part in zip(*parts))
