"""A rendered conversation held against what its chat template writes around any texts: control tokens made on the way.

A text without a control token can still bring one into the prompt: in two items that the template joins, with blanks
between them that it strips, or at the edge of what it writes itself. So the rendered prompt is looked at, whatever the
template does. What it writes itself is known from the same conversation with a word in the place of each text.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase, ProcessorMixin

from c3l_hf.common.errors import RowError, said_by
from c3l_hf.models.control_tokens import Control

__all__ = ["check_rendered", "refused"]

# Conversations whose outlines are kept for a tokenizer: those of a dataset have a few, but for very long ones.
_MOST = 4096


@dataclass(frozen=True)
class _Outline:
    """What a chat template makes of conversations of one structure.

    Attributes:
        tokens: The control tokens that it writes itself, counted.
        left_out: The role of a message of which it leaves a text out; None if there is none.
    """

    tokens: Counter[str]
    left_out: str | None


_OUTLINES: WeakKeyDictionary[PreTrainedTokenizerBase, dict[Any, _Outline]] = WeakKeyDictionary()


def check_rendered(
    processor: ProcessorMixin,
    known: Control,
    conversation: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = False,
) -> None:
    """That a conversation, as its chat template renders it, has the template's own control tokens and no other, and
    that the template leaves none of its texts out.

    What it costs beside encoding: the template rendered once more, and once without the texts for each structure.

    Args:
        processor: The processor that is to encode the conversation.
        known: The control tokens of the model's processor.
        conversation: Messages whose contents are lists of items of text and image. Their roles are known ones.
        add_generation_prompt: As for the chat template.

    Raises:
        RowError: If there is a further control token, or a text would be left out.
    """
    options = {"add_generation_prompt": add_generation_prompt}
    outline = _outline(processor, known, conversation, options)
    if outline.left_out:
        raise RowError(f"the model's chat template leaves {outline.left_out} messages out")
    rendered = _render(processor, conversation, options)
    if further := _tokens(processor, known, rendered) - outline.tokens:
        raise RowError(f"the control token {min(further)!r} appears where the chat template puts the texts together")


def refused(error: Exception) -> RowError:
    """The reason of a row at which a chat template or a processor fails."""
    return RowError(f"the processor refuses the row: {said_by(error)}")


def _outline(
    processor: ProcessorMixin, known: Control, conversation: Sequence[Mapping[str, Any]], options: dict[str, Any]
) -> _Outline:
    structure = tuple((message["role"], tuple(_kind(item) for item in message["content"])) for message in conversation)
    outlines = _OUTLINES.setdefault(processor.tokenizer, {})
    key = structure, str(processor.chat_template), known.tokens, *options.values()
    if key not in outlines:
        if len(outlines) >= _MOST:
            outlines.clear()
        outlines[key] = _made_outline(processor, known, conversation, options)
    return outlines[key]


def _made_outline(
    processor: ProcessorMixin, known: Control, conversation: Sequence[Mapping[str, Any]], options: dict[str, Any]
) -> _Outline:
    words: dict[str, str] = {}  # and the roles of their messages

    def word(role: str) -> str:
        # One is no part of another, nor of what templates write.
        new = f"Zq{len(words)}qz"
        words[new] = role
        return new

    outline = [
        {
            **message,
            "content": [
                {"type": "text", "text": word(message["role"])} if _kind(item) == "text" else item
                for item in message["content"]
            ],
        }
        for message in conversation
    ]
    rendered = _render(processor, outline, options)
    written = set(re.findall(r"zq\d+qz", rendered.casefold()))
    left_out = next((role for text, role in words.items() if text.casefold() not in written), None)
    return _Outline(_tokens(processor, known, rendered), left_out)


def _kind(item: Mapping[str, Any]) -> str:
    """What a template may look at: a blank text can be left out as one that is not there."""
    return "blank" if item["type"] == "text" and not item["text"].strip() else item["type"]


def _render(processor: ProcessorMixin, conversation: Sequence[Mapping[str, Any]], options: dict[str, Any]) -> str:
    try:
        return processor.apply_chat_template(list(conversation), tokenize=False, **options)
    except Exception as error:  # templates fail in many ways on odd rows
        raise refused(error) from error


def _tokens(processor: ProcessorMixin, known: Control, rendered: str) -> Counter[str]:
    tokens = Counter(known.pattern.findall(rendered))
    if known.normalized:
        # Of these the tokenizer makes tokens after it has normalized the text, as of full-width letters.
        normalized = processor.tokenizer.backend_tokenizer.normalizer.normalize_str(rendered)
        tokens += Counter(token for token in known.pattern.findall(normalized) if token in known.normalized)
    return tokens
