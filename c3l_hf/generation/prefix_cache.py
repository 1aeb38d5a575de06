"""The keys and values of several prompts, each once, with those of all texts that continue it: one row a prompt.

    row 0:        [  prompt 0 | a1 b1 c1 a2 c2 a3 ...        ]     texts a, b, c; b has ended after its first token
    row 1:  [       prompt 1  | a1 b1 a2 b2 a3 b3 a4 b4 ...  ]
                              ^ origin

A new token takes any free column of its prompt's row, one of a text that has ended or the next. Who sees a column is a
matter of the mask: prompts are seen by all texts of their row, other columns by their own text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

__all__ = ["PrefixCache", "Step"]

_FREE, _PROMPT = -1, 0  # owners of columns beside the texts, which are 1, 2, ...
_MULTIPLE = 8  # of columns in what attention gets: kernels on GPUs want aligned masks
_AT_ONCE = 64  # columns that a buffer grows by at least


@dataclass
class Step:
    """Where the tokens of one step stand. On the host, but for `mask`.

    Attributes:
        rows: Each token's row, (tokens,), ascending.
        texts: The number of its text within the row, from 1, (tokens,).
        columns: Its column, from the origin, (tokens,).
        indices: Its number in its own sequence, (tokens,).
        shape: Rows, and most tokens of a row.
        places: Each token's place in a (rows, most tokens) matrix, (tokens,).
        window: First and last column (exclusive) that anybody sees.
    """

    rows: np.ndarray
    texts: np.ndarray
    columns: np.ndarray
    indices: np.ndarray
    shape: tuple[int, int]
    places: np.ndarray
    window: tuple[int, int] = (0, 0)
    _on: dict[torch.device, torch.Tensor] = field(default_factory=dict)

    def on(self, device: torch.device) -> torch.Tensor:
        """`rows`, `texts`, `columns`, `indices` and `places` on a device, (5, tokens): one transfer to each."""
        if device not in self._on:
            host = np.stack([self.rows, self.texts, self.columns, self.indices, self.places])
            self._on[device] = torch.from_numpy(host).to(device, non_blocking=True)
        return self._on[device]


@dataclass
class _Extent:
    """What all layers have in common. Not the cache itself, which would then live on, with all keys and values, until
    Python looks for circles."""

    rows: int = 0
    origin: int = 0
    room: int = 0  # columns from the origin on
    step: Step = field(init=False)  # by `PrefixCache.begin`


class _Layer(CacheLayerMixin):
    """Keys and values of one layer, (rows, heads, columns, size): see the module."""

    def __init__(self, extent: _Extent):
        super().__init__()
        self.extent = extent

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        # Zeros: what is masked is multiplied by 0, and must be a number.
        shape = self.extent.rows, self.extent.origin + self.extent.room
        self.keys, self.values = (
            states.new_zeros(shape[0], states.shape[1], shape[1], states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a step's keys and values, (1, heads, tokens, size); all that its tokens may see is returned."""
        step = self.extent.step
        rows, _, columns, _, _ = step.on(key_states.device)
        first, last = step.window
        seen = []
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            buffer[rows, :, columns] = states[0].transpose(0, 1)
            seen.append(buffer[: step.shape[0], :, first:last])
        return seen[0], seen[1]

    def get_seq_length(self) -> int:
        first, last = self.extent.step.window
        return last - first

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length(), 0

    def get_max_length(self) -> int:
        return -1


class PrefixCache(Cache):
    """The cache that a model gets for a `Step`, whose tokens stand one after the other in one row of a batch.

    Args:
        device: Where masks are made.
        window: How many tokens, with itself, a token sees in the layers of a sliding window; None if there are none.
    """

    layers: list[Any]

    def __init__(self, device: torch.device, window: int | None = None):
        super().__init__(layers=[])
        self.extent = _Extent()
        self.sliding_window = window
        self.owners = self.indices = torch.empty(0, 0, dtype=torch.int32, device=device)

    def reserve(self, rows: int, prompt: int, columns: int) -> None:
        """Have room for so many rows, tokens of a prompt, and columns after it."""
        if rows <= self.extent.rows and prompt <= self.extent.origin and columns <= self.extent.room:
            return
        old_rows, old_origin = self.extent.rows, self.extent.origin
        self.extent.rows = max(rows, self.extent.rows)
        self.extent.origin = max(_rounded(prompt), self.extent.origin)
        if columns > self.extent.room:
            self.extent.room = max(_rounded(columns), 2 * self.extent.room)
        shift = self.extent.origin - old_origin

        def grown(old: torch.Tensor, dim: int, value: int) -> torch.Tensor:
            shape = list(old.shape)
            shape[0], shape[dim] = self.extent.rows, self.extent.origin + self.extent.room
            new = (
                old.new_full(shape, value) if value else old.new_zeros(shape)
            )  # zeros cost nothing until they are used
            new.narrow(0, 0, old_rows).narrow(dim, shift, old.shape[dim]).copy_(old)
            return new

        for layer in self.layers:  # one after the other, so that only one of them is in memory twice
            if layer.is_initialized:
                layer.keys = grown(layer.keys, 2, 0)
                layer.values = grown(layer.values, 2, 0)
        self.owners = grown(self.owners, 1, _FREE)
        self.indices = grown(self.indices, 1, 0)

    def put(self, prompts: Cache, places: Sequence[int], rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Take over prompts that the model has read, padded on the left. Needs `reserve`.

        Args:
            prompts: Their keys and values, which are let go of.
            places: Their rows in `prompts`.
            rows: Their rows here.
            lengths: Their tokens.

        Raises:
            RuntimeError: If a layer does not keep every token's keys and values.
        """
        layers = prompts.layers
        if not self.layers:
            self.layers = [_Layer(self.extent) for _ in layers]
        for number, (layer, own) in enumerate(zip(layers, self.layers, strict=True)):
            if type(layer) is not DynamicLayer:
                raise RuntimeError(f"layer {number} keeps no keys and values of all tokens")
            if not layer.is_initialized:
                continue  # it uses those of another layer
            if not own.is_initialized:
                own.lazy_initialization(layer.keys, layer.values)
            for place, row, length in zip(places, rows, lengths):
                for buffer, states in ((own.keys, layer.keys), (own.values, layer.values)):
                    buffer[row, :, self.extent.origin - length : self.extent.origin] = states[place, :, -length:]
            layer.reset()
        for row, length in zip(rows, lengths):
            begin = self.extent.origin - length
            self.owners[row] = _FREE
            self.owners[row, begin : self.extent.origin] = _PROMPT
            self.indices[row, begin : self.extent.origin] = torch.arange(length, dtype=torch.int32)

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Rows to other places."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys[targets] = layer.keys[sources]
                layer.values[targets] = layer.values[sources]
        self.owners[targets] = self.owners[sources]
        self.indices[targets] = self.indices[sources]

    def clear(self, row: int) -> None:
        """Forget what is in a row, which may be no numbers: what nobody sees counts 0 times, and must be a number."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys[row] = layer.values[row] = 0

    def begin(self, step: Step, longest: int, columns: int) -> dict[str, torch.Tensor]:
        """Make a step the next one.

        Args:
            step: Where its tokens stand. Columns are counted from the origin; `window` is set here.
            longest: Most tokens of a prompt in these rows.
            columns: Most columns that one of them has taken.

        Returns:
            The masks of full attention and of a sliding window, if there are such layers, bool, (rows, 1, most tokens,
            columns). Tokens that fill a row up see its prompt.
        """
        step.columns = step.columns + self.extent.origin
        first = (self.extent.origin - longest) // _MULTIPLE * _MULTIPLE
        last = -(-(self.extent.origin + columns) // _MULTIPLE) * _MULTIPLE
        step.window, self.extent.step = (first, last), step
        rows, texts, columns, indices, places = step.on(self.owners.device)
        self.owners[rows, columns] = texts.to(torch.int32)
        owners = self.owners[: step.shape[0], None, first:last]
        asking = self._in_matrix(step, texts, places)
        masks = {"full_attention": ((owners == asking) | (owners == _PROMPT))[:, None]}
        if self.sliding_window is not None:
            self.indices[rows, columns] = indices.to(torch.int32)
            distance = self._in_matrix(step, indices, places) - self.indices[: step.shape[0], None, first:last]
            filling = asking == _PROMPT
            near = (distance < self.sliding_window) | filling
            masks["sliding_attention"] = masks["full_attention"] & near[:, None]
        return masks

    def _in_matrix(self, step: Step, values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        matrix = torch.zeros(step.shape[0] * step.shape[1], dtype=torch.int32, device=values.device)
        return matrix.index_copy_(0, places, values.to(torch.int32)).view(*step.shape, 1)


def _rounded(columns: int) -> int:
    return -(-columns // _AT_ONCE) * _AT_ONCE
