"""The text of each token of an answer, in time that grows as the answer does."""

import re

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, ProcessorMixin

from c3l_hf.common.thoughts import opened_thought

__all__ = ["opened_by_prompt", "token_texts"]

_LOST = "\ufffd"  # stands for bytes that are no character, or none yet
# How many characters before those that are asked for are decoded with them: the first of a text may lose a space.
_BEFORE = 4
# Most tokens that are decoded from the same beginning, but for the pieces of a character. With more there are fewer
# beginnings, but longer texts to decode.
_TOGETHER = 16
# Bytes of UTF-8 find their place again within four; each token has one at least.
_ENOUGH = 16
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_PROMPT_END = 16  # tokens at the end of a prompt that may open a thought


def opened_by_prompt(processor: ProcessorMixin, prompt: torch.Tensor) -> str:
    """The tag with which a prompt, (1, tokens), opens a thought at its end; "" if it does not. What a model writes is
    to be read behind it; see `thoughts.opened_thought`."""
    return opened_thought(processor.tokenizer.decode(prompt[0, -_PROMPT_END:]))


def token_texts(processor: ProcessorMixin, ids: list[int]) -> list[str]:
    """What each token adds to the text, so that the joined list is the answer as the tokenizer decodes it.

    A token alone may decode otherwise (a lost leading space, part of a character); a character of several tokens stands
    at its last.

    Args:
        processor: The model's processor.
        ids: Token ids of an answer.
    """
    tokenizer = processor.tokenizer
    texts = _in_windows(tokenizer, list(ids))
    return _by_prefixes(tokenizer, list(ids)) if texts is None else texts


def _by_prefixes(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """The texts by their definition: every beginning of the answer is decoded, which takes quadratic time."""
    texts, done = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        if end < len(ids) and text.endswith(_LOST):
            texts.append("")
        else:
            texts.append(text[len(done) :])
            done = text
    return texts


def _in_windows(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str] | None:
    """The texts, each decoded with a few tokens before it; None if these do not make the answer's text.

    What is read in windows is held against the whole answer's text, and counts only if it is the same: a tokenizer that
    decodes a token otherwise for something far away is found out.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    whole = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    # As `decode` does, without its detours in Python.
    backend: Tokenizer = tokenizer.backend_tokenizer
    broken = _in_broken_bytes(backend, ids)

    def decode(start: int, end: int) -> str:
        return backend.decode(ids[start:end], skip_special_tokens=False)

    texts: list[str] = []
    base = read = 0  # where decoding begins; how many tokens have their text
    starts: list[int] = []  # of tokens that begin with a character: where decoding may begin
    before, done = 0, 0  # how many letters those between have in the window, and all so far in the answer
    for end in range(1, len(ids) + 1):
        last = end == len(ids)
        if not last and (broken[end - 1] or (end - read > _ENOUGH and decode(end - _ENOUGH, end).endswith(_LOST))):
            texts.append("")
            continue
        window = decode(base, end)
        if not last and window.endswith(_LOST):
            texts.append("")
            continue
        text = window[before:]
        if not whole.startswith(text, done):
            return None
        texts.append(text)
        starts.append(read)
        read, before, done = end, len(window), done + len(text)
        if read - base > _TOGETHER and starts[-_BEFORE:][0] > base:
            base = starts[-_BEFORE:][0]
            before = len(decode(base, read))
    return texts if done == len(whole) else None


def _in_broken_bytes(backend: Tokenizer, ids: list[int]) -> list[bool]:
    """Whether each token is a byte (`<0xE6>`) in a row of bytes that make no text: then none of them is a character.

    So it is with tokenizers that fall back on bytes: one wrong byte spoils the row from its beginning.
    """
    broken = [False] * len(ids)
    if '"ByteFallback"' not in str(backend.decoder.__getstate__() if backend.decoder else ""):
        return broken
    start, row = 0, bytearray()
    for place, number in enumerate([*ids, None]):
        byte = _BYTE.fullmatch((number is not None and backend.id_to_token(number)) or "")
        if byte:
            row.append(int(byte[1], 16))
            continue
        try:
            row.decode()
        except UnicodeDecodeError:
            broken[start:place] = [True] * (place - start)
        start, row = place + 1, bytearray()
    return broken
