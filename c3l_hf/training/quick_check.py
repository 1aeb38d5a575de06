"""Whether a row of pseudo-labels can be encoded, told without its image tokens: before training every row is asked.

To encode a row for training is to prepare its pictures and to tokenise, three times for each candidate, a text with
hundreds of image tokens in it. To know whether that would work, and how long the sequences would be, much less is
needed, because

- the number of image tokens depends on the pictures' sizes only, which is tried at the start;
- a tokenizer cuts its text at added tokens (image tokens, ends of turns) and tokenises what is between them by itself.
  So the text in which a picture is one token has the same tokens behind the last picture as the one with all of them.

The one length follows from the other by a difference that is the same for all candidates of a prompt. It is taken from
the prompt encoded in full, once for each prompt and sizes of pictures.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import PIL.Image
import torch
from transformers import ProcessorMixin

from c3l_hf.common.errors import RowError
from c3l_hf.data.preferences import read_candidates
from c3l_hf.files.image import image_key, open_image
from c3l_hf.models.control_tokens import control_of
from c3l_hf.models.encoding import encode_prompt, encode_row, with_end, with_image_cache
from c3l_hf.training.collator import DataCollatorForC3L

__all__ = ["QuickCheck"]

logger = logging.getLogger(__name__)

Size = tuple[int, int]

_KEPT = 4096  # entries of a cache; rows of the same picture or prompt stand near each other
_KEPT_IMAGES = 16  # preprocessed ones are large
_TRIED_ROWS = 2
_TRIED_SIZES = ((96, 64), (64, 96))


class QuickCheck:
    """Tells rows that `DataCollatorForC3L.encode` takes. All others have to be encoded to know what is wrong with them.

    Where the number of image tokens depends on more than the pictures' sizes, and where one of the first rows is judged
    otherwise than by encoding it, no row is told, and a warning says why.

    Args:
        collator: The collator of the training.
    """

    def __init__(self, collator: DataCollatorForC3L):
        self.__setstate__({"collator": collator})

    def __getstate__(self) -> dict[str, Any]:
        # What it has learned is no part of what it is: `datasets` makes names of cached results of this.
        return {"collator": self.collator}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.collator: DataCollatorForC3L = state["collator"]
        processor = self.collator.processor
        self._short: Any = _ShortProcessor(processor)
        self._separators = set(processor.tokenizer.added_tokens_decoder)
        self._usable: bool | None = None
        self._left_to_try = _TRIED_ROWS
        self._sizes: dict[Any, Size | None] = {}
        self._extra: dict[tuple[str, tuple[Size, ...]], int | None] = {}
        self._images: dict[Size, PIL.Image.Image] = {}
        self._processor = with_image_cache(processor)

    def takes(self, row: Mapping[str, Any]) -> bool:
        """Whether the collator's `encode` takes a row; False if it does not, or if that is not known."""
        if self._usable is None:
            reason = _more_than_sizes(self.collator.processor)
            self._usable = reason is None
            if reason:
                logger.warning("each row is encoded in full to check it: %s", reason)
        if not self._usable:
            return False
        taken = self._takes(row)
        if taken and self._left_to_try:
            self._left_to_try -= 1
            try:
                self.collator.token_weights_of(row, self.collator.encode(row)[0])
            except RowError as error:
                self._usable = taken = False
                logger.warning("each row is encoded in full to check it: the quick check overlooks that %s", error)
        return taken

    def _takes(self, row: Mapping[str, Any]) -> bool:
        limit, how = self.collator.max_length, self.collator.control_tokens
        try:
            candidates = read_candidates(row)
            messages = candidates.prompt
            read = [self._size(image) for image in candidates.images]
            sizes = tuple(size for size in read if size is not None)
            if len(sizes) < len(read):
                return False
            extra = self._image_tokens(messages, sizes)
            if extra is None:
                return False
            images = [self._stand_in(size) for size in sizes]
            for number, answer in enumerate([candidates.chosen, *candidates.rejected]):
                encoded = encode_row(self._short, messages, answer, images, control_tokens=how)
                length = encoded.inputs["input_ids"].shape[1]
                if number == 0:
                    length = max(length, with_end(self._short, encoded).answer.stop)
                    self.collator.token_weights_of(row, encoded)
                if limit is not None and length + extra > limit:
                    return False
        except RowError:
            return False
        return True

    def _size(self, image: Any) -> Size | None:
        """The size of a picture that can be read; None of another. Its header alone would say too little."""
        key = None if isinstance(image, PIL.Image.Image) else image_key(image)
        if key is not None and key in self._sizes:
            return self._sizes[key]
        try:
            size = open_image(image).size
        except RowError:
            size = None
        if key is not None:
            _keep(self._sizes, key, size)
        return size

    def _stand_in(self, size: Size) -> PIL.Image.Image:
        """The same picture for all of a size: it is preprocessed once."""
        if size not in self._images:
            if len(self._images) == _KEPT_IMAGES:
                self._images.clear()
                self._processor = with_image_cache(self.collator.processor)
            self._images[size] = PIL.Image.new("RGB", size)
        return self._images[size]

    def _image_tokens(self, messages: Sequence[Mapping[str, Any]], sizes: tuple[Size, ...]) -> int | None:
        """How many tokens more a prompt has in full than with one token for each picture. None if what follows it would
        not have the same tokens in both.

        Raises:
            RowError: If it cannot be encoded.
        """
        key = json.dumps(messages, default=str), sizes
        if key not in self._extra:
            images = [self._stand_in(size) for size in sizes]
            short, full = (
                encode_prompt(processor, messages, images, control_tokens=self.collator.control_tokens)["input_ids"][
                    0
                ].tolist()
                for processor in (self._short, self._processor)
            )
            same = self._cut_alike(short, full)
            _keep(self._extra, key, len(full) - len(short) if same else None)
        return self._extra[key]

    def _cut_alike(self, short: list[int], full: list[int]) -> bool:
        """Whether both are cut at an added token behind which they are the same."""
        for one, other in zip(reversed(short), reversed(full)):
            if one in self._separators and other in self._separators:
                return True
            if one != other:
                return False
        return False


class _ShortProcessor:
    """What `encode_row` needs of a processor: this one leaves one token in the place of each picture."""

    def __init__(self, processor: ProcessorMixin):
        self.tokenizer = processor.tokenizer
        self.chat_template = processor.chat_template
        self.all_special_multimodal_tokens = processor.all_special_multimodal_tokens
        self.image_processor = None
        self.control = control_of(processor)
        self._render = processor.apply_chat_template
        self._known: dict[tuple, str | list[int]] = {}

    def apply_chat_template(
        self, conversation: list[dict[str, Any]], *, tokenize: bool = False, **options: Any
    ) -> str | dict[str, torch.Tensor]:
        options = {name: value for name, value in options.items() if name not in ("return_dict", "return_tensors")}
        # All candidates of a row have the same prompt.
        key = json.dumps(conversation, default=lambda image: "image"), tokenize, *sorted(options.items())
        if key not in self._known:
            text = self._render(conversation, tokenize=False, **options)
            _keep(self._known, key, self._ids(text) if tokenize else text)
        result = self._known[key]
        return result if isinstance(result, str) else {"input_ids": torch.tensor([result])}

    def _ids(self, text: str) -> list[int]:
        # As processors do: a template that writes the beginning of the sequence has written it.
        bos = self.tokenizer.bos_token
        return self.tokenizer(text, add_special_tokens=bos is None or not text.startswith(bos))["input_ids"]


def _keep(cache: dict, key: Any, value: Any) -> None:
    if len(cache) >= _KEPT:
        cache.clear()
    cache[key] = value


def _more_than_sizes(processor: ProcessorMixin) -> str | None:
    """Why the tokens of pictures do not follow from their sizes alone; None if they do, for an even picture and noise
    of two sizes."""
    prompt = [{"role": "user", "content": "a"}]
    for size in _TRIED_SIZES:
        even, noise = PIL.Image.new("RGB", size), PIL.Image.effect_noise(size, 100).convert("RGB")
        try:
            one, other = (encode_prompt(processor, prompt, [image]) for image in (even, noise))
        except RowError as error:
            return f"a picture of {size[0]} x {size[1]} could not be tried: {error}"
        if one["input_ids"].tolist() != other["input_ids"].tolist():
            return f"{type(processor).__name__} gives pictures of the same size different tokens"
    return None
