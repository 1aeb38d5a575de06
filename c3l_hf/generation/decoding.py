"""Prompts → tokens, many texts at once: each prompt is in memory once, and a text that ends makes room for the next.

The k texts of a prompt are k query tokens of one row over one prefix; the tokens of all rows go through the model one
after the other, as one sequence without padding (`prefix_cache`, `column_attention`).
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, ProcessorMixin

from c3l_hf.generation.column_attention import COLUMNS, attending
from c3l_hf.generation.drawing import Draw, tops
from c3l_hf.generation.prefix_cache import PrefixCache, Step
from c3l_hf.generation.written import Prompt, Written, kind, to_model
from c3l_hf.models.encoding import collate, position_ids

__all__ = ["ColumnDecoder"]

# Tokens of prompts that go through the model at once: as few as keep the device busy, as they need memory.
_PROMPT_TOKENS = {"cpu": 1024}
_PROMPT_TOKENS_ELSEWHERE = 4096
_REFILL = 4  # new prompts come when this part of the texts has ended: a few at once are read faster than one by one


@dataclass(eq=False)
class _Text:
    number: int  # within its row, from 1
    uniforms: np.ndarray
    ids: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    tops: list[torch.Tensor] = field(default_factory=list)
    ended: bool | None = False
    over: bool = False


@dataclass(eq=False)
class _Row:
    prompt: Prompt
    next_position: int  # of a text's first token
    live: list[_Text]
    texts: list[_Text]
    columns: int = 0  # that were taken
    free: list[int] = field(default_factory=list)  # of these, those of texts that have ended

    def column(self) -> int:
        """A place for a token."""
        if self.free:
            return self.free.pop()
        self.columns += 1
        return self.columns - 1


class ColumnDecoder:
    """Writes texts, in inference mode.

    Args:
        model: The model.
        processor: Its processor.
        draw: Takes tokens from predictions.
        end: Ids of the tokens that end a text.
        batch_size: Texts at once. A prompt with more has the model for itself.
        watch: Keep the `tops` of each text.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        draw: Draw,
        end: Sequence[int],
        batch_size: int,
        watch: bool = False,
    ):
        self.model, self.processor, self.draw, self.watch = model, processor, draw, watch
        self.end, self.batch_size = frozenset(end), batch_size
        self.rows: list[_Row | None] = []  # None: free
        self._finished: list[_Row] = []
        self._inside: dict[Prompt, None] = {}

    @functools.cached_property
    def window(self) -> int | None:
        return _sliding_window(self.model)

    @functools.cached_property
    def cache(self) -> PrefixCache:
        return PrefixCache(self.model.device, self.window)

    @property
    def live(self) -> int:
        """Texts that are being written."""
        return sum(len(row.live) for row in self.rows if row is not None)

    @property
    def room(self) -> int:
        """Texts that may come in now: none until some can together."""
        room = self.batch_size - self.live
        return room if room * _REFILL >= self.batch_size else 0

    def unfinished(self) -> list[Prompt]:
        """Prompts that have come in, and not out."""
        return list(self._inside)

    def run(self, prompts: Sequence[Prompt], wanted: int = 0) -> list[tuple[Prompt, list[Written] | None]]:
        """Take prompts in, and write until some are finished.

        Args:
            prompts: What comes in, at most with as many texts as there is `room` for.
            wanted: Return also when there is room for so many texts more; 0 for nothing more.

        Returns:
            What is finished, with its texts; None instead of them if some predictions for one of them were no numbers:
            as a row's texts are computed together, they may have got into the others.
        """
        self._inside.update(dict.fromkeys(prompts))
        with attending(self.model, COLUMNS):
            self._admit(prompts)
            while self.live and not self._finished and not 0 < wanted <= self.room:
                self._step()
        finished = []
        for row in self._finished:
            spoilt = len(row.texts) > 1 and any(text.ended is None and text.ids for text in row.texts)
            texts = [Written(text.ids, text.ended, text.tops) for text in row.texts]
            finished.append((row.prompt, None if spoilt else texts))
            del self._inside[row.prompt]
        self._finished = []
        return finished

    def _admit(self, prompts: Sequence[Prompt]) -> None:
        if not prompts:
            return
        # Buffers that grow are copied, so room is made for all prompts, and for texts that are as long as the prompts.
        longest = max(prompt.length for prompt in prompts)
        columns = max(prompt.texts * prompt.longest for prompt in prompts)
        rows = sum(row is not None for row in self.rows) + len(prompts)
        self.cache.reserve(max(rows, len(self.rows)), longest, min(columns, longest))
        most = _PROMPT_TOKENS.get(self.model.device.type, _PROMPT_TOKENS_ELSEWHERE)
        for _, alike in itertools.groupby(prompts, key=lambda prompt: kind(prompt.inputs)):
            group: list[Prompt] = []
            for prompt in alike:
                if group and (len(group) + 1) * max(one.length for one in [*group, prompt]) > most:
                    self._read(group)
                    group = []
                group.append(prompt)
            self._read(group)

    def _read(self, prompts: Sequence[Prompt]) -> None:
        """Let the model read prompts, and write the first token of their texts."""
        inputs = collate(self.processor, [prompt.inputs for prompt in prompts], padding_side="left")
        read = self.model.generate(
            **to_model(self.model, inputs),
            past_key_values=DynamicCache(),
            max_new_tokens=1,
            return_dict_in_generate=True,
            output_logits=True,
        )
        for number, layer in enumerate(read.past_key_values.layers):
            if layer.is_initialized and layer.get_seq_length() != inputs["input_ids"].shape[1]:
                kept = layer.get_seq_length()
                raise RuntimeError(f"layer {number} keeps {kept} of {inputs['input_ids'].shape[1]} tokens")
        rows = self._rows_of(prompts)
        which = torch.tensor([n for n, row in enumerate(rows) for _ in row.texts], device=read.logits[0].device)
        self._write([(row, text) for row in rows for text in row.texts], read.logits[0][which])
        self._finished += [row for row in rows if not row.live]
        staying = [number for number, row in enumerate(rows) if row.live]
        if not staying:
            return
        places = [place for place, row in enumerate(self.rows) if row is None][: len(staying)]
        places += range(len(self.rows), len(self.rows) + len(staying) - len(places))
        self.rows += [None] * (max(places) + 1 - len(self.rows))
        for place, number in zip(places, staying):
            self.rows[place] = rows[number]
        self.cache.put(read.past_key_values, staying, places, [rows[number].prompt.length for number in staying])

    def _rows_of(self, prompts: Sequence[Prompt]) -> list[_Row]:
        parts = position_ids(self.model, [prompt.inputs for prompt in prompts])
        self._parts = 0 if parts is None else len(parts[0])
        rows = []
        for number, prompt in enumerate(prompts):
            position = prompt.length if parts is None else int(parts[number].max()) + 1
            texts = [_Text(number, uniforms) for number, uniforms in enumerate(prompt.uniforms, 1)]
            rows.append(_Row(prompt, position, list(texts), texts))
        return rows

    def _step(self) -> None:
        """Write one token of each text."""
        self._close_gaps()
        rows = [row for row in self.rows if row is not None]
        live = [(row, text) for row in rows for text in row.live]
        for row, text in live:
            text.columns.append(row.column())
        counts = np.array([len(row.live) for row in rows])
        number = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(live)) - np.repeat(np.cumsum(counts) - counts, counts)
        written = np.array([len(text.ids) for _, text in live]) - 1
        step = Step(
            rows=number,
            texts=np.array([text.number for _, text in live]),
            columns=np.array([text.columns[-1] for _, text in live]),
            indices=np.repeat([row.prompt.length for row in rows], counts) + written,
            shape=(len(rows), int(counts.max())),
            places=number * counts.max() + within,
        )
        columns = max(row.columns for row in rows)
        self.cache.reserve(0, 0, columns)
        masks = self.cache.begin(step, max(row.prompt.length for row in rows), columns)
        positions = np.repeat([row.next_position for row in rows], counts) + written
        given = np.stack([[text.ids[-1] for _, text in live], positions])
        ids, positions = torch.from_numpy(given).to(self.model.device, non_blocking=True)[:, None]
        if self._parts:
            positions = positions.expand(self._parts, -1, -1)
        logits = self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._mask(masks),
            past_key_values=self.cache,
            use_cache=True,
            text_columns=step,
        ).logits
        self._write(live, logits[0])
        for place, row in enumerate(rows):
            if not row.live:
                self.rows[place] = None
                self._finished.append(row)
                if any(text.ended is None for text in row.texts):
                    self.cache.clear(place)

    def _write(self, texts: Sequence[tuple[_Row, _Text]], logits: torch.Tensor) -> None:
        """Draw the next token of each text."""
        logits = logits.float()
        if self.watch:
            for (_, text), top in zip(texts, tops(logits)):
                text.tops.append(top)
        uniforms = np.array([text.uniforms[len(text.ids)] for _, text in texts])
        tokens, broken = self.draw(logits, self.draw.numbers(uniforms, logits.device))
        changed: dict[int, _Row] = {}
        for (row, text), token in zip(texts, tokens.masked_fill(broken, -1).tolist()):  # the only wait of a step
            if token < 0 or token in self.end:
                text.ended = None if token < 0 else True
            else:
                text.ids.append(token)
                if len(text.ids) < len(text.uniforms):
                    continue
            text.over = True
            row.free += text.columns
            changed[id(row)] = row
        for row in changed.values():
            row.live = [text for text in row.live if not text.over]

    def _close_gaps(self) -> None:
        """Rows from the end to where others have left."""
        sources, targets = [], []
        for place in range(len(self.rows)):
            while self.rows and self.rows[-1] is None:
                self.rows.pop()
            if place < len(self.rows) and self.rows[place] is None:
                sources.append(len(self.rows) - 1)
                targets.append(place)
                self.rows[place] = self.rows.pop()
        if targets:
            self.cache.move(sources, targets)

    def _mask(self, masks: dict[str, torch.Tensor]) -> torch.Tensor | dict[str, torch.Tensor]:
        if self.window is None:
            return masks["full_attention"]
        kinds = getattr(self.model.config.get_text_config(decoder=True), "layer_types", None)
        return masks if kinds else masks["sliding_attention"]


def _sliding_window(model: PreTrainedModel) -> int | None:
    """How many tokens the layers of a sliding window see; None if there are none.

    Raises:
        NotImplementedError: If there are layers that see the past in another way.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    others = kinds - {"full_attention", "sliding_attention"}
    if others:
        raise NotImplementedError(f"it has layers of type {', '.join(sorted(others))}")
    window = getattr(config, "sliding_window", None)
    if kinds:
        return window if "sliding_attention" in kinds else None
    return window if getattr(config, "use_sliding_window", True) else None
