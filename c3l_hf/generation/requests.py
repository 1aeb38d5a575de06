"""What a generator is asked and what it replies: what writers of replies share, in this process or on a server."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from c3l_hf.prompts.templates import Template

__all__ = ["CUT_OFF", "Reply", "Request", "Writer", "derived", "seed_of", "uniforms_of"]

CUT_OFF = "cut off at max_new_tokens"  # the problem of a reply that did not end


@dataclass(frozen=True)
class Request:
    """One image with one template, to which several replies are wanted.

    Attributes:
        row: The row of the image among those that the writer was given.
        image_id: The image's id.
        template: What is asked.
        ks: The numbers of the wanted replies among all of this image, ascending; each has random numbers of its own.
        messages: What is asked, as chat messages: contents are lists of {"type": "text", "text": ...} and
            {"type": "image"} items, the latter one for each of `images`, in their order.
        images: The images as they are stored: structs of "bytes" and "path". Those of the template's examples first.
        max_new_tokens: Longest reply, in tokens.
    """

    row: int
    image_id: str
    template: Template
    ks: tuple[int, ...]
    messages: Sequence[Mapping[str, Any]]
    images: Sequence[Mapping[str, Any]]
    max_new_tokens: int


@dataclass(frozen=True)
class Reply:
    """One text of a generator.

    Attributes:
        text: The text as it came, special tokens left out; "" if there is none.
        problem: Why the text is no whole one, or there is none; None if it ended by itself.
        served_model: The model's name as its server reported it; None in this process.
        prompt_tokens: Tokens of the prompt, as the writer counted them. Of several replies to one request the first
            has all of them, the others None, so that sums are right.
        completion_tokens: Tokens of the text; where a server counts those of a request together, the first has all.
    """

    text: str
    problem: str | None = None
    served_model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


# Requests → each with its replies, one for each of `ks`, in whatever order they are ready. A request that cannot be
# answered has replies with a `problem`; what no request can be answered after raises a `RunError`.
Writer = Callable[[Iterable[Request]], Iterator[tuple[Request, list[Reply]]]]


def derived(*parts: object) -> bytes:
    """16 bytes that every random choice comes from, by the parts (seed, stage, row id, ...) it depends on."""
    # Lengths keep ("a", "bc") apart from ("ab", "c").
    text = "".join(f"{len(str(part))}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def uniforms_of(seed: int, request: Request) -> np.ndarray:
    """Numbers in [0, 1), (replies, max_new_tokens), float64, each row from the seed and its own (image_id, k)."""
    keys = [np.frombuffer(derived(seed, "sample", request.image_id, k), dtype="<u8") for k in request.ks]
    raw = np.stack([np.random.Philox(key=key).random_raw(request.max_new_tokens) for key in keys])
    return (raw >> np.uint64(11)) * 2.0**-53


def seed_of(seed: int, request: Request, k: int) -> int:
    """A seed for a server, which makes its random numbers itself: 31 bits, from the seed and (image_id, k)."""
    return int.from_bytes(derived(seed, "sample", request.image_id, k)[:4], "little") >> 1
