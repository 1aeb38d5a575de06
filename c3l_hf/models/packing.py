"""Token sequences that begin alike, in one sequence: the shared beginning stands once.

    [shared beginning | rest of 1 | rest of 2 | ...]

A token sees what stands before it in its own sequence, and has the position that it has there. A transformer with full
causal attention then computes for every token what it would compute for that token's sequence alone. For one image and
k answers this is one image and one question, once, instead of k times.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from c3l_hf.models.encoding import PER_TOKEN, collate_images

__all__ = ["Pack", "collate_packs", "pack", "plan_packs"]


@dataclass(frozen=True)
class Pack:
    """Several sequences in one.

    Attributes:
        ids: Token ids, (length,).
        positions: Each token's position in its own sequence, (length,).
        where: For each sequence the places of its tokens in the pack, (sequence length,); a shared token has one place.
    """

    ids: np.ndarray
    positions: np.ndarray
    where: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    def visible(self) -> np.ndarray:
        """Whether token i attends to token j, (length, length)."""
        mask = np.zeros((len(self), len(self)), dtype=bool)
        done = np.zeros(len(self), dtype=bool)
        for places in self.where:
            new = np.flatnonzero(~done[places])  # a shared token sees the same in every sequence
            mask[places[new, None], places] = np.arange(len(places)) <= new[:, None]
            done[places] = True
        return mask


def pack(sequences: Sequence[np.ndarray]) -> Pack:
    """The smallest pack of some sequences of token ids, each (sequence length,)."""
    # In lexicographic order the longest beginning that a sequence shares with any earlier one is that with the last.
    where: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(sequences)
    ids, positions = [], []
    length, last, path = 0, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for number in sorted(range(len(sequences)), key=lambda number: sequences[number].tolist()):
        sequence = sequences[number]
        shared = _shared(last, sequence)
        added = len(sequence) - shared
        path = np.concatenate([path[:shared], np.arange(length, length + added)])
        ids.append(sequence[shared:])
        positions.append(np.arange(shared, len(sequence)))
        where[number], last, length = path, sequence, length + added
    return Pack(np.concatenate(ids), np.concatenate(positions), where)


def plan_packs(
    sequences: Sequence[np.ndarray], groups: Sequence[Hashable], needed: Sequence[int], room: int
) -> list[list[int]]:
    """Which sequences to put into one pack, as lists of their numbers.

    Args:
        sequences: Token ids, each (sequence length,).
        groups: Only sequences of equal groups (same images) share a pack.
        needed: How long a beginning a sequence must have in common with the others of its pack: that with its image
            tokens, as the pack has the images once.
        room: Most tokens that the second to last sequence of a pack may add to its first. With 0, only equal sequences
            come together.
    """
    rank = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    order = sorted(range(len(sequences)), key=lambda number: (rank[groups[number]], sequences[number].tolist()))
    packs: list[list[int]] = []
    added = 0
    for number in order:
        if packs and groups[(last := packs[-1][-1])] == groups[number]:
            shared = _shared(sequences[last], sequences[number])
            more = len(sequences[number]) - shared
            if shared >= max(needed[last], needed[number]) and added + more <= room:
                packs[-1].append(number)
                added += more
                continue
        packs.append([number])
        added = 0
    return packs


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the beginning that two sequences have in common."""
    shortest = min(len(a), len(b))
    different = np.flatnonzero(a[:shortest] != b[:shortest])
    return int(different[0]) if different.size else shortest


def collate_packs(
    packs: Sequence[Pack],
    inputs: Sequence[Sequence[dict[str, torch.Tensor]]],
    pad_id: int,
    dtype: torch.dtype,
    positions: Sequence[torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """One batch from several packs.

    Args:
        packs: The packs.
        inputs: For each pack the inputs of its sequences as a processor made them; all have the same images.
        pad_id: Fills `input_ids` up to the longest pack; no token attends to it.
        dtype: The model's, for a mask that is added to the attention scores; or bool, for one of what is attended to.
        positions: For models whose positions have parts, as `processing.position_ids` gives them: those of all
            sequences, pack after pack, (parts, sequence length).

    Returns:
        `input_ids` (packs, length), `position_ids` (packs, length) or (parts, packs, length), `attention_mask`
        (packs, 1, length, length), further per-token tensors of the processor, and the image tensors.
    """
    length = max(map(len, packs))
    batch = {"input_ids": [], "position_ids": [], "attention_mask": []}
    extra = [name for name in inputs[0][0] if name in PER_TOKEN and name not in ("input_ids", "attention_mask")]
    parted = iter(positions or ())
    for one in packs:
        missing = length - len(one)
        batch["input_ids"].append(F.pad(torch.from_numpy(one.ids), (0, missing), value=pad_id))
        places = torch.from_numpy(one.positions)
        if positions is not None:
            places = torch.zeros(len(positions[0]), len(one), dtype=torch.long)
            for where, of_sequence in zip(one.where, parted):
                places[:, torch.from_numpy(where)] = of_sequence[:, : len(where)]
        batch["position_ids"].append(F.pad(places, (0, missing)))
        visible = torch.eye(length, dtype=torch.bool)  # padding sees itself: a row of nothing would be not a number
        visible[: len(one), : len(one)] = torch.from_numpy(one.visible())
        mask = visible
        if dtype != torch.bool:
            mask = torch.full(visible.shape, torch.finfo(dtype).min, dtype=dtype).masked_fill_(visible, 0)
        batch["attention_mask"].append(mask[None])
    for name in extra:
        batch[name] = []
        for one, rows in zip(packs, inputs):
            values = torch.zeros(length, dtype=rows[0][name].dtype)
            for places, row in zip(one.where, rows):
                values[torch.from_numpy(places)] = row[name][0, : len(places)]
            batch[name].append(values)
    stacked = {name: torch.stack(values, dim=-2 if name == "position_ids" else 0) for name, values in batch.items()}
    return {**stacked, **collate_images([rows[0] for rows in inputs])}
