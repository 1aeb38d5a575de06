"""Encoded prompts → texts: sampling with given random numbers, each prompt computed once for all its texts."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    StaticCache,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from c3l_hf.generation.parsing import IMAGE_MARKER
from c3l_hf.models.checks import TOLERANCE, check_key, recall, remember
from c3l_hf.models.encoding import collate

__all__ = ["NON_FINITE", "SeededSampling", "TextSampler", "end_tokens"]

logger = logging.getLogger(__name__)

NON_FINITE = "the model's predictions are not finite"  # the status of a text that breaks off

# New tokens, and whether they end before the longest length; None if they break off.
_Written = tuple[list[int], bool | None]


class SeededSampling(LogitsProcessor):
    """Sampling with given random numbers, for `generate(do_sample=False)`: leaves one token possible per row.

    Token t of row i is the inverse of the cumulative distribution (in token order, float64) at `uniforms[i, t]`, so a
    row's text does not depend on the rows beside it, as it does with one random stream for the batch.

    Args:
        uniforms: Numbers in [0, 1), float64, shape (rows, new tokens), on a device that knows float64.
        prompt_length: Length of the padded prompts.
    """

    def __init__(self, uniforms: torch.Tensor, prompt_length: int):
        self.uniforms = uniforms
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        cumulative = scores.to(self.uniforms.device).double().softmax(dim=-1).cumsum(dim=-1)
        # A hair below 1: where sums run in parallel (GPU), tokens of probability 0 at the end may differ in a last bit.
        position = self.uniforms[:, input_ids.shape[1] - self.prompt_length, None] * (1 - 2**-40) * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, position, right=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, token.to(scores.device), 0.0)


class _EndsNonFinite(LogitsProcessor):
    """Ends a text where the model's predictions are no numbers, as float16 gives when it overflows.

    Args:
        end: Id of the token that ends it.
    """

    def __init__(self, end: int):
        self.end = end
        self._broken: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        broken = ~scores.amax(dim=-1, keepdim=True).isfinite()  # one NaN is enough
        self._broken.append(broken)
        end = torch.full_like(scores, -torch.inf)
        end[:, self.end] = 0.0
        return torch.where(broken, end, scores)

    def first(self) -> list[int]:
        """For each row the number of the first new token that could not be predicted, or -1."""
        broken = torch.cat(self._broken, dim=1)
        return torch.where(broken.any(dim=1), broken.int().argmax(dim=1), -1).tolist()


class _Tops(LogitsProcessor):
    """Keeps the highest log-probabilities of every step."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.steps.append(scores.float().log_softmax(dim=-1).topk(min(5, scores.shape[-1])).values)
        return scores


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
class _Sharing:
    """What was tried of computing a prompt once for all its texts.

    Attributes:
        tokens: Of the longest prompt that was tried.
        prompts: Most at once that were tried.
        problem: Why it does not work; None if it did.
    """

    tokens: int = 0
    prompts: int = 0
    problem: str | None = None


class TextSampler:
    """Writes texts with an image-text-to-text model. Use it as a context manager.

    Within the context the model is in eval mode, and its own generation settings (repetition penalty, suppressed
    tokens, temperature, …) are set aside, except for the ids of its special tokens. What a call to `generate` leaves
    open is filled from `model.generation_config`: passing a configuration would not be enough to keep them out.

    Several texts for one prompt share its computation: the prompt goes through the model once, and its key-value cache
    is copied to the rows. Where this does not give the same tokens as the plain way (tried on the first prompts, and
    again on longer ones), the plain way is used and a warning says so. In half precision, where equal ways differ by
    rounding, the predictions up to the first other token have to be alike. What was tried holds in this process for
    models that differ in their weights only (`models.checks`); an error, or predictions that are no numbers, are not
    remembered.

    Args:
        model: The model, or a PEFT model around it.
        processor: Its processor.
        temperature: 0 takes the likeliest token.
        top_p: Samples from the smallest set of tokens with at least this probability.
        max_new_tokens: Longest text.

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
        max_new_tokens: int,
    ):
        self.model = model.get_base_model() if isinstance(model, PeftModel) else model
        self.processor = processor
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
            max_new_tokens=max_new_tokens,
        )
        self.temperature, self.top_p = temperature, top_p
        self._check = check_key("sharing of prompts", self.model, processor, max_new_tokens)
        self._tried: _Sharing = recall(self._check) or _Sharing()
        self.shares_prompts = True
        if self._tried.problem is not None:
            self._share_no_longer(self._tried.problem)

    def __enter__(self) -> "TextSampler":
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(_in_place_of(self.model, self.settings))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def __call__(
        self, prompts: Sequence[dict[str, torch.Tensor]], which: Sequence[int], uniforms: torch.Tensor
    ) -> list[tuple[str, bool | None]]:
        """One text per row.

        Args:
            prompts: Encoded prompts, each with batch dimension 1.
            which: For each row the number of its prompt.
            uniforms: Random numbers, float64, shape (rows, max_new_tokens); not used at temperature 0.

        Returns:
            For each row its text, without special tokens, and whether it ended before `max_new_tokens`; None instead
            if the text breaks off because the model's predictions were no numbers. Image tokens, which make a text
            unusable, are left visible in it.
        """
        if self.shares_prompts and len(prompts) < len(which):
            longest = max(prompt["input_ids"].shape[1] for prompt in prompts)
            several = min(2, len(prompts))
            if longest > self._tried.tokens or several > self._tried.prompts:
                self._try(prompts, which, uniforms)
        written = None
        if self.shares_prompts and len(prompts) < len(which):
            try:
                written = self._shared(prompts, which, uniforms)
            except Exception as error:  # what went well for the prompts that were tried
                self._share_no_longer(f"{type(error).__name__}: {error}")
        if written is None:
            written = self._plain(prompts, which, uniforms)
        return [(self._decode(ids), ended) for ids, ended in written]

    def _plain(
        self, prompts: Sequence[dict], which: Sequence[int], uniforms: torch.Tensor, tops: _Tops | None = None
    ) -> list[_Written]:
        inputs = self._to_model(collate(self.processor, [prompts[number] for number in which], padding_side="left"))
        return self._continue(inputs, uniforms, tops)

    def _shared(
        self, prompts: Sequence[dict], which: Sequence[int], uniforms: torch.Tensor, tops: _Tops | None = None
    ) -> list[_Written]:
        inputs = self._to_model(collate(self.processor, prompts, padding_side="left"))
        prefix = self.model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True).past_key_values
        rows = torch.tensor(which, device=self.model.device)
        text_inputs = {name: inputs[name][rows] for name in ("input_ids", "attention_mask")}
        # Of fixed size: a cache that grows copies all rows' keys and values at every token, most of the time on a CPU.
        length = inputs["input_ids"].shape[1]
        cache = StaticCache(self.model.config, max_cache_len=length + self.settings.max_new_tokens)
        for number, layer in enumerate(prefix.layers):
            if layer.keys.shape[2] != length:  # writing past the end would be an unrecoverable fault on a GPU
                raise RuntimeError(f"layer {number} keeps {layer.keys.shape[2]} of {length} tokens")
            # Without the last token: the first step needs something to compute.
            cache.update(layer.keys[:, :, : length - 1][rows], layer.values[:, :, : length - 1][rows], number)
        # Qwen-VL keeps there how far the positions of each prompt's text are from its tokens' places.
        for module in self.model.modules():
            if isinstance(deltas := getattr(module, "rope_deltas", None), torch.Tensor):
                module.rope_deltas = deltas[rows]
        return self._continue({**text_inputs, "past_key_values": cache}, uniforms, tops)

    def _continue(self, inputs: dict, uniforms: torch.Tensor, tops: _Tops | None) -> list[_Written]:
        prompt_length = inputs["input_ids"].shape[1]
        non_finite = _EndsNonFinite(self.eos[0])
        processors = LogitsProcessorList([non_finite] if tops is None else [non_finite, tops])
        if self.temperature > 0:
            if self.temperature != 1:
                processors.append(TemperatureLogitsWarper(float(self.temperature)))
            if self.top_p < 1:
                processors.append(TopPLogitsWarper(self.top_p))
            device = self.model.device
            uniforms = uniforms.to("cpu" if device.type == "mps" else device)  # there is no float64 on MPS
            processors.append(SeededSampling(uniforms, prompt_length))
        written = self.model.generate(**inputs, logits_processor=processors)[:, prompt_length:].tolist()
        return list(map(self._cut, written, non_finite.first()))

    def _try(self, prompts: Sequence[dict], which: Sequence[int], uniforms: torch.Tensor) -> None:
        """Compare both ways on two prompts, the longest one and another."""
        longest = max(range(len(prompts)), key=lambda number: prompts[number]["input_ids"].shape[1])
        other = next((number for number in range(len(prompts)) if number != longest), longest)
        rows = [row for row, number in enumerate(which) if number in (other, longest)]
        tried = [prompts[number] for number in dict.fromkeys(which[row] for row in rows)]
        numbers = {number: position for position, number in enumerate(dict.fromkeys(which[row] for row in rows))}
        arguments = tried, [numbers[which[row]] for row in rows], uniforms[rows]
        problem, certain = None, True
        try:
            tops = _Tops(), _Tops()
            shared, plain = self._shared(*arguments, tops[0]), self._plain(*arguments, tops[1])
            if shared != plain and not self._by_rounding(shared, plain, *tops):
                problem = "the tokens differ"
            certain = all(ended is not None for _, ended in (*shared, *plain))
        except Exception as error:  # model families fail in many ways where they do not support this
            problem, certain = f"{type(error).__name__}: {error}", False
        tokens, count = prompts[longest]["input_ids"].shape[1], min(2, len(prompts))
        self._tried = _Sharing(max(tokens, self._tried.tokens), max(count, self._tried.prompts), problem)
        if certain:
            remember(self._check, self._tried)
        if problem is not None:
            self._share_no_longer(problem)

    def _by_rounding(self, one: list[_Written], other: list[_Written], tops_one: _Tops, tops_other: _Tops) -> bool:
        """Whether texts part only where the same predictions were rounded in another way, as in bfloat16: up to there,
        and there, the predictions are alike."""
        if self.model.dtype not in (torch.float16, torch.bfloat16):
            return False
        for row, ((ids, _), (other_ids, _)) in enumerate(zip(one, other)):
            parted = next((t for t, pair in enumerate(zip(ids, other_ids)) if pair[0] != pair[1]), None)
            if parted is None and len(ids) == len(other_ids):
                continue
            steps = 1 + (min(len(ids), len(other_ids)) if parted is None else parted)
            for top, other_top in zip(tops_one.steps[:steps], tops_other.steps[:steps]):
                if not (top[row] - other_top[row]).abs().amax() < TOLERANCE[self.model.dtype]:
                    return False
        return True

    def _share_no_longer(self, problem: str) -> None:
        self.shares_prompts = False
        logger.warning(
            "%s: computing each prompt once for all its texts does not work (%s); each text computes its own",
            type(self.model).__name__,
            problem,
        )

    def _to_model(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        model = self.model
        return {
            name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }

    def _cut(self, ids: list[int], broken: int) -> _Written:
        end = next((position for position, id in enumerate(ids) if id in self.eos), None)
        return ids[:end], None if end == broken else end is not None

    def _decode(self, ids: list[int]) -> str:
        full = self.processor.tokenizer.decode(ids, skip_special_tokens=False)
        if IMAGE_MARKER.search(full):
            return full
        return self.processor.tokenizer.decode(ids, skip_special_tokens=True)


@contextlib.contextmanager
def _in_place_of(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    own, training = model.generation_config, model.training
    model.generation_config = settings
    model.eval()
    try:
        yield
    finally:
        model.generation_config = own
        model.train(training)
