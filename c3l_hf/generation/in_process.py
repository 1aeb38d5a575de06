"""A writer of replies in this process: a vision-language model of transformers, with one seed for each reply."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.ahead import ahead
from c3l_hf.common.errors import RowError
from c3l_hf.common.files import digest
from c3l_hf.common.versions import versions
from c3l_hf.data.status import publishable
from c3l_hf.files.image import open_image
from c3l_hf.generation.requests import CUT_OFF, Reply, Request, uniforms_of
from c3l_hf.generation.sampling import NON_FINITE, TextSampler
from c3l_hf.models.checks import model_state
from c3l_hf.models.encoding import encode_prompt
from c3l_hf.models.loading import digest_weights
from c3l_hf.models.token_texts import opened_by_prompt

__all__ = ["ModelWriter"]

_AHEAD = 8  # prompts that are encoded while the model works: about as many as come in at once


@dataclass(frozen=True)
class ModelWriter:
    """Replies of a model in this process; see `requests.Writer`.

    Args:
        model: Any image-text-to-text model with `generate`. Its own generation settings (repetition penalty, …) are not
            used, except for the ids of its special tokens.
        processor: The model's processor; it must have a chat template.
        temperature: Sampling temperature; 0 takes the likeliest token.
        top_p: Samples from the smallest set of tokens with at least this probability; 1 samples from all.
        seed: With the image's id and the reply's number it determines each reply.
        batch_size: Replies written at once. Up to floating-point noise, it does not change them.

    Raises:
        ValueError: If the processor has no chat template.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not self.processor.chat_template:
            raise ValueError(
                f"{type(self.processor).__name__} has no chat template, so instructions cannot be put to the model: "
                "set processor.chat_template"
            )

    def identity(self) -> str:
        """What the replies depend on beside the requests, as a hex digest; of the weights it takes about 0.1 s per
        gigabyte."""
        drawing = (self.temperature, self.top_p, self.seed)
        code = versions()["c3l-hf"], versions()["transformers"]
        return digest(*model_state(self.model, self.processor), digest_weights(self.model), drawing, *code)

    def __call__(self, requests: Iterable[Request]) -> Iterator[tuple[Request, list[Reply]]]:
        sampler = TextSampler(
            self.model, self.processor, temperature=self.temperature, top_p=self.top_p, batch_size=self.batch_size
        )
        unread: list[tuple[Request, str]] = []

        def prompts() -> Iterator[tuple[tuple[Request, torch.Tensor], dict[str, torch.Tensor], np.ndarray]]:
            # Encoded ahead of the model, which leaves the tokenizer to them, but for the decoding of its texts.
            made = ((request, self._encode(request)) for request in requests)
            with contextlib.closing(ahead(made, _AHEAD)) as encoded:
                for request, inputs in encoded:
                    if isinstance(inputs, str):
                        unread.append((request, inputs))
                    else:
                        yield (request, inputs["input_ids"]), inputs, uniforms_of(self.seed, request)

        with sampler:
            for (request, prompt), texts in sampler.write(prompts()):
                begun = opened_by_prompt(self.processor, prompt)
                replies = []
                for number, text in enumerate(texts):
                    problem = {True: None, False: CUT_OFF, None: NON_FINITE}[text.ended]
                    length = None if number else prompt.shape[1]
                    replies.append(Reply(begun + text.text, problem, None, length, text.tokens))
                yield request, replies
                yield from _without_text(unread)
            yield from _without_text(unread)

    def _encode(self, request: Request) -> dict[str, torch.Tensor] | str:
        """The model's inputs for a request, or the reason why there are none."""
        opened = []
        try:
            for image in request.images:
                opened.append(open_image(image))
            inputs = encode_prompt(self.processor, request.messages, opened)
            longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
            if longest is not None and inputs["input_ids"].shape[1] >= longest:
                # Many models would go on, and write nonsense.
                raise RowError(f"the prompt leaves no room for a reply in the model's {longest} tokens")
            return inputs
        except RowError as error:
            own = sum(item["type"] == "image" for item in request.messages[-1]["content"])
            number = len(opened) - (len(request.images) - own)  # the images of the template's examples come first
            which = f"images[{number}]" if own > 1 else "the image"
            return publishable(str(error), which)


def _without_text(unread: list[tuple[Request, str]]) -> Iterator[tuple[Request, list[Reply]]]:
    while unread:
        request, problem = unread.pop()
        yield request, [Reply("", problem) for _ in request.ks]
