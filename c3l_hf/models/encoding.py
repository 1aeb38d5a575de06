"""Rows → token ids, positions (M-RoPE) and answer span, with and without image: every difference of model families.

The processor's own chat template and tokenizer do all the work, through `apply_chat_template(tokenize=True)`, which is
what gets beginning-of-sequence tokens and image placeholders right in every family. The blind row is the template
rendered again without the image, not the ids with the image tokens cut out: what else goes (newlines,
begin/end-of-image tokens) differs by family.
"""

import copy
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import PIL.Image
import torch
from torch import nn
from transformers import BatchFeature, PreTrainedConfig, ProcessorMixin

from c3l_hf.common.errors import RowError
from c3l_hf.data.messages import message_problem
from c3l_hf.models.batching import PER_TOKEN, collate, collate_images
from c3l_hf.models.control_tokens import ControlTokens, control_of, settle_control_tokens
from c3l_hf.models.rendered import check_rendered, refused
from c3l_hf.models.token_texts import token_texts

__all__ = [
    "PER_TOKEN",
    "EncodedRow",
    "RowError",
    "collate",
    "collate_images",
    "encode_prompt",
    "encode_row",
    "image_token_id",
    "position_ids",
    "position_module",
    "token_texts",
    "with_answer",
    "with_end",
    "with_image_cache",
]


@dataclass(frozen=True)
class EncodedRow:
    """What a model takes for one row.

    Attributes:
        inputs: `input_ids`, `attention_mask`, ... of shape (1, length) without padding, and the image tensors if it has
            images.
        answer: Positions in `input_ids[0]` of the answer's tokens: no role header, no end-of-turn token, nothing after
            it.
        images: A key for each image: rows with equal keys have equal image tensors. Empty for a row without images.
    """

    inputs: dict[str, torch.Tensor]
    answer: slice
    images: tuple[Hashable, ...] = ()

    @property
    def answer_ids(self) -> list[int]:
        return self.inputs["input_ids"][0, self.answer].tolist()


def with_end(processor: ProcessorMixin, row: EncodedRow, max_length: int | None = None) -> EncodedRow:
    """The row as a model should learn to write it: nothing after the token that ends the answer, which is part of it.

    The end token is the one that the chat template writes. Where it writes none, as LLaVA-1.5's, it is the tokenizer's,
    as in LLaVA's own training.

    Raises:
        RowError: If neither has one, or the row has more than `max_length` tokens.
    """
    start, stop = row.answer.start, row.answer.stop
    inputs = {name: value[:, : stop + 1] if name in PER_TOKEN else value for name, value in row.inputs.items()}
    tokenizer = processor.tokenizer
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    if not set(inputs["input_ids"][0, stop:].tolist()) & special:
        if tokenizer.eos_token_id is None:
            raise RowError("the chat template writes no end token after the answer, and the tokenizer has none")
        values = {"input_ids": tokenizer.eos_token_id, "attention_mask": 1}
        for name in PER_TOKEN:
            if name in inputs:
                value = inputs[name].new_full((1, 1), values.get(name, 0))
                inputs[name] = torch.cat([inputs[name][:, :stop], value], dim=1)
    if max_length is not None and stop + 1 > max_length:
        raise RowError(f"the sequence is longer than {max_length} tokens; it has {stop + 1}")
    return replace(row, inputs=inputs, answer=slice(start, stop + 1))


def with_answer(row: EncodedRow, ids: Sequence[int]) -> EncodedRow:
    """The row with other tokens as its answer, and nothing after them."""
    start = row.answer.start
    inputs = dict(row.inputs)
    for name in inputs.keys() & set(PER_TOKEN):
        old = inputs[name]
        # Beside the ids every answer's tokens have the same values: seen, and of no image.
        new = torch.tensor([ids]) if name == "input_ids" else old[:, start : start + 1].expand(1, len(ids))
        inputs[name] = torch.cat([old[:, :start], new.to(old)], dim=1)
    return replace(row, inputs=inputs, answer=slice(start, start + len(ids)))


def encode_row(
    processor: ProcessorMixin,
    prompt: Sequence[Mapping[str, Any]],
    answer: str,
    images: Sequence[PIL.Image.Image],
    *,
    max_length: int | None = None,
    end_of_turn: bool = True,
    image_keys: Sequence[Hashable] | None = None,
    control_tokens: ControlTokens = "refuse",
) -> EncodedRow:
    """Token ids of a prompt with its answer, and where the answer stands in them.

    The answer begins where the tokens of the prompt (with the generation prompt) end, and ends where the tokens of the
    conversation cut off after the answer (`continue_final_message`) end, so that nothing depends on what the end of a
    turn looks like.

    Args:
        processor: The model's processor, with a chat template.
        prompt: Messages before the answer. Images stand where {"type": "image"} items are, or before the first user
            message's text.
        answer: The assistant's answer.
        images: The images; [] gives the blind row, in which image items are left out.
        max_length: The longest sequence the model takes. Nothing is ever truncated.
        end_of_turn: Whether what the template puts after the answer (end-of-turn token, newline) is in `inputs`.
            Training needs it, to learn to stop; scoring does not.
        image_keys: One for each image, equal only for equal images: rows with equal keys can share their images. By
            default no row shares its images with another.
        control_tokens: What becomes of a row in whose texts control tokens are written out: "refuse", or "escape", so
            that they are read as letters. See `models.control_tokens`.

    Raises:
        RowError: If the row cannot be encoded so that the answer's tokens are known.
    """
    control = control_of(processor)
    processor, prompt, answer = settle_control_tokens(processor, prompt, answer, control_tokens)
    processor = with_image_cache(processor)  # the images go through it several times below
    conversation = _conversation(prompt, images)
    conversation_with_answer = [*conversation, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    check_rendered(processor, control, conversation_with_answer)
    start = _tokenize(processor, conversation, add_generation_prompt=True)["input_ids"]
    inputs = _tokenize(processor, conversation_with_answer, continue_final_message=True)
    whole_turn: Callable[[], dict[str, Any]] = functools.partial(_tokenize, processor, conversation_with_answer)
    begin = start.shape[1]
    if not torch.equal(inputs["input_ids"][:, :begin], start):
        inputs, whole_turn = _after_prompt(processor, conversation, conversation_with_answer, answer) or (
            inputs,
            whole_turn,
        )
    ids = inputs["input_ids"]
    end = ids.shape[1]
    if not torch.equal(ids[:, :begin], start):
        raise RowError(
            "the tokens of the prompt are not the first tokens of prompt + answer, so the answer has no clear beginning"
        )
    if begin == end:
        raise RowError("the answer has no tokens")
    if control.ids.intersection(ids[0, begin:].tolist()):
        raise RowError("the chat template or the tokenizer puts a control token among the answer's tokens")
    if end_of_turn:
        inputs = whole_turn()
        if not torch.equal(inputs["input_ids"][:, :end], ids):
            raise RowError("the answer's last token merges with what the chat template puts after it")
    length = inputs["input_ids"].shape[1]
    if max_length is not None and length > max_length:
        raise RowError(f"{length} tokens, but the model takes at most {max_length}")
    keys = [object() for _ in images] if image_keys is None else image_keys
    return EncodedRow(inputs=inputs, answer=slice(begin, end), images=tuple(keys))


def encode_prompt(
    processor: ProcessorMixin,
    prompt: Sequence[Mapping[str, Any]],
    images: Sequence[PIL.Image.Image],
    *,
    control_tokens: ControlTokens = "refuse",
) -> dict[str, torch.Tensor]:
    """What a model takes to answer a prompt: ids with the generation prompt, batch dimension 1, and the image tensors.

    The arguments are those of `encode_row`.

    Raises:
        RowError: If the prompt cannot be encoded.
    """
    control = control_of(processor)
    processor, prompt, _ = settle_control_tokens(processor, prompt, "", control_tokens)
    conversation = _conversation(prompt, images)
    check_rendered(processor, control, conversation, add_generation_prompt=True)
    return _tokenize(processor, conversation, add_generation_prompt=True)


def position_ids(model: nn.Module, rows: Iterable[Mapping[str, torch.Tensor]]) -> list[torch.Tensor] | None:
    """The positions of each row's tokens, (parts, length), where a model's positions have parts; else None.

    Qwen-VL's M-RoPE has three (time, height, width), which depend on the images' shapes. Other models count 0, 1, ...
    """
    module = next((module for module in model.modules() if hasattr(module, "get_rope_index")), None)
    if module is None:
        return None
    texts_and_grids = ({name: value for name, value in row.items() if name != "pixel_values"} for row in rows)
    return [module.get_rope_index(**tensors)[0][:, 0] for tensors in texts_and_grids]


def position_module(model: nn.Module) -> nn.Module | None:
    """What `position_ids` needs of a model, without its weights: it can go to other processes. None if nothing."""
    module = next((module for module in model.modules() if hasattr(module, "get_rope_index")), None)
    if module is None:
        return None
    with torch.device("meta"):
        return type(module)(module.config)


def image_token_id(config: PreTrainedConfig) -> int | None:
    """The id of the tokens in whose places a model puts the image's features; None if it does not name it."""
    return getattr(config, "image_token_id", getattr(config, "image_token_index", None))


def _conversation(prompt: Sequence[Mapping[str, Any]], images: Sequence[PIL.Image.Image]) -> list[dict[str, Any]]:
    """Messages whose contents are lists of items, with the images in their places (or without any)."""
    left = list(images)
    placed = any(
        item.get("type") == "image"
        for message in prompt
        if not isinstance(message["content"], str)
        for item in message["content"] or ()
    )
    conversation = []
    for number, message in enumerate(prompt, 1):
        if problem := message_problem(message):
            raise RowError(problem)
        content = message["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        items: list[dict[str, Any]] = []
        if message["role"] == "user" and not placed:
            items, left, placed = [{"type": "image", "image": image} for image in left], [], True
        for item in content or ():
            if item.get("type") == "text" and isinstance(item.get("text"), str):
                items.append({"type": "text", "text": item["text"]})
            elif item.get("type") == "image":
                if not images:
                    continue
                if not left:
                    raise RowError(f"the messages have places for more than the row's {len(images)} images")
                items.append({"type": "image", "image": left.pop(0)})
            else:
                raise RowError("a message has an item that is neither text nor image")
        if not any(item["type"] == "text" and item["text"].strip() for item in items):
            article = "an" if str(message["role"])[:1] in "aeio" else "a"
            but = ", only an image" if any(item["type"] == "image" for item in items) else ""
            place = f" (message {number} of {len(prompt)})" if len(prompt) > 1 else ""
            raise RowError(f"{article} {message['role']} message has no text{but}{place}")
        conversation.append({"role": message["role"], "content": items})
    if left:
        raise RowError(f"the messages have no place for {len(left)} of the row's {len(images)} images")
    return conversation


def _tokenize(processor: ProcessorMixin, conversation: list[dict[str, Any]], **options: Any) -> dict[str, torch.Tensor]:
    try:
        encoded = processor.apply_chat_template(
            conversation, tokenize=True, return_dict=True, return_tensors="pt", **options
        )
    except Exception as error:  # templates and image processors fail in many ways on odd rows
        raise refused(error) from error
    return dict(encoded)


def _after_prompt(
    processor: ProcessorMixin,
    conversation: list[dict[str, Any]],
    conversation_with_answer: list[dict[str, Any]],
    answer: str,
) -> tuple[dict[str, torch.Tensor], Callable[[], dict[str, torch.Tensor]]] | None:
    """The answer put directly after the generation prompt, and what makes the same with the end of the turn.

    For templates in which an assistant turn begins with other white space than the generation prompt ends with
    (LLaVA-OneVision: "assistant \\n" and "assistant\\n"): a model answers after the latter. None for other differences,
    as a generation prompt that opens a block of thoughts, where an answer does not belong.
    """

    def render(messages: list[dict[str, Any]], **options: Any) -> str:
        return processor.apply_chat_template(messages, tokenize=False, **options)

    prompt = render(conversation, add_generation_prompt=True)
    cut = render(conversation_with_answer, continue_final_message=True)
    place = cut.rfind(answer.strip())
    if place < 0 or "".join(cut[:place].split()) != "".join(prompt.split()):
        return None
    tail = render(conversation_with_answer).removeprefix(cut)
    template = processor.chat_template
    template = template["default"] if isinstance(template, dict) else template
    # Jinja drops one newline at the end of a template, but not in front of what is appended.
    template = template.removesuffix("\n") + "{{ answer_and_tail }}"

    def encode(text: str) -> dict[str, torch.Tensor]:
        options = {"chat_template": template, "answer_and_tail": text}
        return _tokenize(processor, conversation, add_generation_prompt=True, **options)

    return encode(cut[place:]), functools.partial(encode, cut[place:] + tail)


class _ImageCache:
    """Stands in for a processor's image processor and preprocesses each image object once."""

    def __init__(self, image_processor: Any):
        self._image_processor = image_processor
        self._known: dict[Any, tuple[Any, BatchFeature]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._image_processor, name)

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        key = (_identity(images), repr(options))
        if key not in self._known:
            # the images are kept beside the result, so that no other object can get their identity
            self._known[key] = (images, self._image_processor(images, **options))
        return copy.copy(self._known[key][1])  # processors take entries out of what they get


def _identity(images: Any) -> Any:
    return tuple(map(_identity, images)) if isinstance(images, list | tuple) else id(images)


def with_image_cache(processor: ProcessorMixin) -> ProcessorMixin:
    """A shallow copy of a processor that preprocesses each image object once, however many rows have it.

    It keeps every image it has seen: make one per batch. A processor that is such a copy is returned as it is.
    """
    if isinstance(processor.image_processor, _ImageCache):
        return processor
    cached = copy.copy(processor)
    cached.image_processor = _ImageCache(processor.image_processor)
    return cached
