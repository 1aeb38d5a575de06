"""Encoded prompts → texts: sampling with given random numbers, each prompt computed once for all its texts."""

import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from c3l_hf.common.errors import said_by
from c3l_hf.generation.decoding import ColumnDecoder
from c3l_hf.generation.drawing import Draw
from c3l_hf.generation.plain import write_rows
from c3l_hf.generation.written import Prompt, Written, alike, apart, kind
from c3l_hf.models.checks import check_key, recall, remember
from c3l_hf.models.parameters import in_eval_mode
from c3l_hf.models.rounding import Rounding, disturbed_runs
from c3l_hf.prompts.parsing import IMAGE_MARKER

__all__ = ["NON_FINITE", "Text", "TextSampler", "end_tokens"]

logger = logging.getLogger(__name__)

NON_FINITE = "the model's predictions are not finite"  # the status of a text that breaks off

_TRIED_TEXTS = 2  # of a prompt: they must not see each other, and more would take the memory that a way saves

# Ways of writing, the fastest first.
_WAYS = {
    "columns": "all texts of a prompt in one row of a batch",
    "batches": "each text in a row of its own",
    "alone": "each text in a row of its own, one prompt at a time",
}


@dataclass(frozen=True)
class Text:
    """A text that a model wrote.

    Attributes:
        text: Without special tokens. Image tokens, which make a text unusable, are left visible in it.
        ended: Whether it ended within its longest length; None if it breaks off because predictions were no numbers.
        tokens: How many were written, with the one that ended it.
    """

    text: str
    ended: bool | None
    tokens: int


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the tokens that end a text: those of the model's generation settings, else the tokenizer's.

    Raises:
        ValueError: If there are none.
    """
    own = model.generation_config.eos_token_id
    eos = tokenizer.eos_token_id if own is None else own
    if eos is None:
        raise ValueError("neither model.generation_config nor the tokenizer has an eos_token_id: no text would end")
    return [eos] if isinstance(eos, int) else list(eos)


@dataclass(frozen=True)
class _Tried:
    """What was tried of the ways of writing.

    Attributes:
        way: The first one in which nothing was found wrong.
        tokens: Of the longest prompt with its texts that was tried.
        prompts: Most at once that were tried.
        texts: Most of one prompt that were tried.
        problems: Why not the ways before this one.
    """

    way: str = "columns"
    tokens: int = 0
    prompts: int = 0
    texts: int = 0
    problems: tuple[str, ...] = ()


class TextSampler:
    """Writes texts with an image-text-to-text model. Use it as a context manager.

    Within the context the model is in eval mode, and its own generation settings (repetition penalty, suppressed
    tokens, temperature, …) are set aside, except for the ids of its special tokens. What a call to `generate` leaves
    open is filled from `model.generation_config`: passing a configuration would not be enough to keep them out.

    All texts of a prompt share its computation, and its keys and values: see `generation.decoding`. Where this does not
    give the tokens that `generate` gives for this prompt alone with a row for each text (tried on the first prompts,
    and again on longer ones), it is `generate` that writes, each text with a copy of its prompt, and a warning says so;
    several prompts at once if at least that gives the same tokens. As equal ways differ by rounding, most in half
    precision, texts may part where the predictions up to there are alike (`written.alike`). What was tried holds in
    this process for models that differ in their weights only (`models.checks`); an error, or predictions that are no
    numbers, are not remembered.

    Args:
        model: The model, or a PEFT model around it.
        processor: Its processor.
        temperature: 0 takes the likeliest token.
        top_p: Samples from the smallest set of tokens with at least this probability.
        batch_size: Texts at once. Up to floating-point noise, it does not change them.

    Raises:
        ValueError: If no end-of-sequence token is known.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        temperature: float,
        top_p: float,
        batch_size: int,
    ):
        self.model = model.get_base_model() if isinstance(model, PeftModel) else model
        self.processor, self.batch_size = processor, batch_size
        self.draw = Draw(temperature, top_p)
        own, tokenizer = self.model.generation_config, processor.tokenizer
        self.eos = end_tokens(self.model, tokenizer)
        pad = next((id for id in (own.pad_token_id, tokenizer.pad_token_id) if id is not None), self.eos[0])
        self.settings = GenerationConfig(
            bos_token_id=own.bos_token_id,
            eos_token_id=self.eos,
            pad_token_id=pad,
            do_sample=False,
            use_cache=True,
            disable_compile=True,  # a cache of fixed size would set it off, anew for every prompt length
        )
        self._check = check_key("ways of writing", self.model, processor)
        self._tried: _Tried = recall(self._check) or _Tried()
        for number, problem in enumerate(self._tried.problems, 1):
            self._warn(list(_WAYS)[number], problem)

    @property
    def way(self) -> str:
        """How it writes: "columns", all texts of a prompt in one row; or a row for each text, of several prompts at
        once, "batches", or of one, "alone"."""
        return self._tried.way

    def __enter__(self) -> "TextSampler":
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(_in_place_of(self.model, self.settings))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def write(
        self, prompts: Iterable[tuple[Any, dict[str, torch.Tensor], np.ndarray]]
    ) -> Iterator[tuple[Any, list[Text]]]:
        """Write the texts of many prompts.

        Args:
            prompts: (key, encoded prompt with batch dimension 1, random numbers). The random numbers in [0, 1), float64
                of shape (texts, tokens), say how many texts are to be written, and how many tokens they may have; both
                may differ from prompt to prompt. At temperature 0 their values do not matter. Prompts are taken as
                there is room for their texts, and one ahead.

        Returns:
            Each key with its texts, as they are ready, in no order.

        Raises:
            ValueError: If the random numbers have not this shape.
        """
        queue = _Queue(Prompt(*prompt) for prompt in prompts)
        for writer in (self._in_columns, self._in_rows):  # the second one has what the first one leaves
            for prompt, written in writer(queue):
                yield prompt.key, [Text(self._decode(one.ids), one.ended, one.tokens) for one in written]

    def _in_columns(self, queue: "_Queue") -> Iterator[tuple[Prompt, list[Written]]]:
        decoder = self._decoder(self.batch_size)
        while self.way == "columns":
            batch = queue.take(decoder.room, whole=not decoder.live)
            if not batch and not decoder.live:
                return
            if untried := self._untried(batch):
                self._try(untried)
            if self.way == "columns":
                yield from self._run(decoder, batch, queue.wanted)
            else:
                queue.put_back(batch)
        queue.put_back(decoder.unfinished())

    def _run(
        self, decoder: ColumnDecoder, batch: Sequence[Prompt], wanted: int
    ) -> Iterator[tuple[Prompt, list[Written]]]:
        try:
            finished = decoder.run(batch, wanted)
        except Exception as error:  # what went well for the prompts that were tried
            self._settle("batches", _line(error))
            return
        for prompt, written in finished:
            yield prompt, self._rows([prompt])[0] if written is None else written

    def _in_rows(self, queue: "_Queue") -> Iterator[tuple[Prompt, list[Written]]]:
        while queue:
            batch = queue.take(self.batch_size if self.way == "batches" else 0, whole=True)
            if self.way == "batches" and (untried := self._untried(batch)):
                self._try(untried)
            if self.way == "alone" and len(batch) > 1:
                queue.put_back(batch)
                continue
            yield from zip(batch, self._rows(batch), strict=True)

    def _decoder(self, batch_size: int, watch: bool = False) -> ColumnDecoder:
        return ColumnDecoder(self.model, self.processor, self.draw, self.eos, batch_size, watch)

    def _columns(self, prompts: Sequence[Prompt], watch: bool) -> list[list[Written] | None]:
        decoder = self._decoder(sum(prompt.texts for prompt in prompts), watch)
        written = dict(decoder.run(prompts))
        while decoder.live:
            written.update(decoder.run([]))
        return [written[prompt] for prompt in prompts]

    def _rows(self, prompts: Sequence[Prompt], watch: bool = False) -> list[list[Written]]:
        groups: dict[tuple, list[Prompt]] = {}
        for prompt in prompts:
            groups.setdefault((kind(prompt.inputs), prompt.longest), []).append(prompt)
        written = {}
        for group in groups.values():
            texts = write_rows(self.model, self.processor, group, self.draw, self.eos, self.batch_size, watch)
            written.update(zip(group, texts, strict=True))
        return [written[prompt] for prompt in prompts]

    def _untried(self, batch: Sequence[Prompt]) -> list[Prompt]:
        """Of some prompts the longest, and of the others the one with the most texts, if there were none as long, as
        many at once, or with as many texts."""
        by_length = sorted(batch, key=_tokens)
        tried = by_length[-1:] + sorted(by_length[:-1], key=lambda prompt: -prompt.texts)[:1]
        if not tried:
            return []
        measures = (_tokens(tried[0]), len(tried), min(_TRIED_TEXTS, max(prompt.texts for prompt in tried)))
        known = (self._tried.tokens, self._tried.prompts, self._tried.texts)
        return tried if any(new > old for new, old in zip(measures, known)) else []

    def _try(self, prompts: Sequence[Prompt]) -> None:
        """Write two texts of each prompt alone and in the way that is taken, and take another way if they differ."""
        prompts = [replace(prompt, uniforms=prompt.uniforms[:_TRIED_TEXTS]) for prompt in prompts]
        alone = self._each(prompts)
        rounding = Rounding(self.model.dtype, lambda: self._rounded(prompts, alone))
        certain = all(text.ended is not None for texts in alone for text in texts)
        # Where all texts ended at once nothing but the prompts was read, and nothing is known of what follows them.
        if any(text.tokens > 1 or prompt.longest == 1 for prompt, texts in zip(prompts, alone) for text in texts):
            self._tried = replace(
                self._tried,
                tokens=max(self._tried.tokens, *map(_tokens, prompts)),
                prompts=max(self._tried.prompts, len(prompts)),
                texts=max(self._tried.texts, *(prompt.texts for prompt in prompts)),
            )
        for way, otherwise in (("columns", "batches"), ("batches", "alone")):
            if self.way != way:
                continue
            try:
                written = (self._columns if way == "columns" else self._rows)(prompts, watch=True)
                pairs = zip(written, alone, strict=True)
                if not all(alike(texts or own, own, rounding) for texts, own in pairs):
                    self._settle(otherwise, "the tokens differ")
            except Exception as error:  # model families fail in many ways where they do not support this
                self._settle(otherwise, _line(error))
                certain = False
        if certain:
            remember(self._check, self._tried)

    def _each(self, prompts: Sequence[Prompt]) -> list[list[Written]]:
        return [self._rows([prompt], watch=True)[0] for prompt in prompts]

    def _rounded(self, prompts: Sequence[Prompt], alone: Sequence[Sequence[Written]]) -> list[float]:
        """How far the predictions of the plain way are from themselves where they are rounded in other ways."""

        def write(inputs: Sequence[dict[str, torch.Tensor]]) -> float:
            disturbed = [replace(prompt, inputs=own) for prompt, own in zip(prompts, inputs)]
            texts, own = itertools.chain(*self._each(disturbed)), itertools.chain(*alone)
            return apart(list(texts), list(own))

        return disturbed_runs(self.model, [prompt.inputs for prompt in prompts], write)

    def _settle(self, way: str, problem: str) -> None:
        self._tried = replace(self._tried, way=way, problems=(*self._tried.problems, problem))
        self._warn(way, problem)

    def _warn(self, way: str, problem: str) -> None:
        before = list(_WAYS)[list(_WAYS).index(way) - 1]
        name = type(self.model).__name__
        logger.warning("%s cannot write %s (%s): it writes %s", name, _WAYS[before], problem, _WAYS[way])

    def _decode(self, ids: list[int]) -> str:
        full = self.processor.tokenizer.decode(ids, skip_special_tokens=False)
        if IMAGE_MARKER.search(full):
            return full
        return self.processor.tokenizer.decode(ids, skip_special_tokens=True)


class _Queue:
    """Prompts that are taken as they are needed, one ahead."""

    def __init__(self, prompts: Iterable[Prompt]):
        self._source = iter(prompts)
        self._ready: deque[Prompt] = deque()

    def __bool__(self) -> bool:
        if not self._ready:
            self._ready.extend(itertools.islice(self._source, 1))
        return bool(self._ready)

    @property
    def wanted(self) -> int:
        """The texts of the next prompt; 0 if there is none."""
        return self._ready[0].texts if self else 0

    def take(self, texts: int, whole: bool) -> list[Prompt]:
        """The next prompts with at most so many texts; if `whole`, the next one however many it has."""
        taken: list[Prompt] = []
        while self and (self._ready[0].texts <= texts or (whole and not taken)):
            taken.append(self._ready.popleft())
            texts -= taken[-1].texts
        return taken

    def put_back(self, prompts: Sequence[Prompt]) -> None:
        self._ready.extendleft(reversed(prompts))


def _tokens(prompt: Prompt) -> int:
    return prompt.length + prompt.longest


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {said_by(error)}"


@contextlib.contextmanager
def _in_place_of(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    own = model.generation_config
    model.generation_config = settings
    try:
        with in_eval_mode(model):
            yield
    finally:
        model.generation_config = own
