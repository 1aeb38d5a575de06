"""Control tokens written out in a text: which tokens are control, and a row that has them, refused or escaped.

A tokenizer reads `</s>` in somebody's HTML as its own end of sequence, and `<image>` as the place of a picture. Other
added tokens are what a model writes as content, as Qwen-VL's `<|box_start|>` before the corners of a box: a text that
has them is to be read so.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import PIL.Image
from tokenizers import normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, ProcessorMixin

from c3l_hf.common.choices import check_choice
from c3l_hf.common.errors import RowError

__all__ = ["Control", "ControlTokens", "control_of", "settle_control_tokens"]

ControlTokens = Literal["refuse", "escape"]

# Beside the structure, the name: of tokens that mark sequences, turns and images, but that no probe below meets, as
# another template's turns, or those that were never trained. Models write none of them within an answer.
_CONTROL_NAME = re.compile(
    r"(?<![a-z])(?:image|img|vision|video|audio|patch|frame|tile|pad|padding|bos|eos|bot|eot|eom|eop|sos|unk|im|turn"
    r"|utterance|header|message|channel|text|endoftext|startoftext|sentence|system|user|assistant|reserved|unused)"
    r"(?![a-z])",
    re.IGNORECASE,
)
# Put between the letters of what is to be read as letters; those that a row's texts have are not taken.
_MARKS = tuple(map(chr, range(0xEE80, 0xEE90)))


@dataclass(frozen=True)
class Control:
    """The control tokens of a processor.

    Attributes:
        tokens: As they are written.
        ids: Those that the tokenizer has.
        pattern: Finds them in a text, the longest first.
        normalized: Those that the tokenizer looks for in normalised texts.
    """

    tokens: frozenset[str]
    ids: frozenset[int]
    pattern: re.Pattern[str]
    normalized: frozenset[str]


_KNOWN: WeakKeyDictionary[PreTrainedTokenizerBase, dict[Any, Control]] = WeakKeyDictionary()
_READERS: WeakKeyDictionary[PreTrainedTokenizerBase, dict[str, PreTrainedTokenizerFast]] = WeakKeyDictionary()


def control_of(processor: ProcessorMixin) -> Control:
    """The tokens of a processor that must not be written out in a text.

    Those of images and other media; beginning, end, padding and the like of a sequence; every special token that the
    processor puts around a conversation with a picture (turns, roles, tiles), that its chat template has, or that has
    the form of one of these but for its numbers (`<row_3_col_4>`); and special tokens whose names say that they are of
    this kind. The other added tokens are content: boxes, points, references, places.
    """
    # What stands in for a processor, and does not do all that it does, brings the answer along.
    if isinstance(brought := getattr(processor, "control", None), Control):
        return brought
    tokenizer = processor.tokenizer
    known = _KNOWN.setdefault(tokenizer, {})
    named = *processor.all_special_multimodal_tokens, *tokenizer.special_tokens_map.values()
    key = type(processor), named, str(processor.chat_template), len(tokenizer)
    if key not in known:
        tokens = _find_tokens(processor)
        longest_first = sorted(tokens, key=lambda token: (-len(token), token))
        added = {number: token for number, token in tokenizer.added_tokens_decoder.items() if str(token) in tokens}
        normalizes = isinstance(tokenizer, PreTrainedTokenizerFast) and tokenizer.backend_tokenizer.normalizer
        known[key] = Control(
            tokens,
            frozenset(added),
            re.compile("|".join(map(re.escape, longest_first)) or r"(?!)"),
            frozenset(str(token) for token in added.values() if token.normalized and normalizes),
        )
    return known[key]


def settle_control_tokens(
    processor: ProcessorMixin, prompt: Sequence[Mapping[str, Any]], answer: str, how: ControlTokens
) -> tuple[ProcessorMixin, Sequence[Mapping[str, Any]], str]:
    """A row whose texts have no control tokens, or none that are read as such.

    Args:
        processor: The processor that is to encode the row.
        prompt: Messages, with contents that are texts or lists of items.
        answer: The assistant's answer.
        how: What becomes of a control token in a text: "refuse" refuses the row; "escape" has it read as the letters
            that it is written with, exactly as by the same tokenizer without this token.

    Returns:
        Processor, prompt and answer, to be encoded in place of those given. They are the same if there is no control
        token in the texts. Otherwise the letters of those in the texts have a mark between them, and the processor has
        a tokenizer that drops the mark after it has looked for added tokens: the rest of the row is encoded as ever,
        and nothing that looks for `<image>` on the way sees one.

    Raises:
        RowError: If there are control tokens, and they are to be refused or cannot be escaped.
    """
    check_choice("control_tokens", how, get_args(ControlTokens))
    known = control_of(processor)
    pattern = known.pattern
    # Templates may put the texts of a message together without anything between them.
    messages = [_texts(message["content"]) for message in prompt]
    texts = [answer, *(text for parts in messages for text in dict.fromkeys([*parts, "".join(parts)]))]
    for message in prompt:
        if control := pattern.search(str(message["role"])):
            raise RowError(f"the role of a message contains the control token {control[0]!r}")
    hits = [hit for text in texts if (hit := pattern.search(text))]
    normalized = None if hits else _in_normalized(processor.tokenizer, known, texts)
    if not hits and normalized is None:
        return processor, prompt, answer
    if how == "refuse" or normalized is not None:
        token = hits[0][0] if hits else f"{normalized} (as the tokenizer normalizes it)"
        raise RowError(f"the text contains the control token {token!r}")
    mark = next((mark for mark in _MARKS if not any(mark in text for text in texts)), None)
    if mark is None:
        raise RowError(f"the control token {hits[0][0]!r} cannot be escaped in a text that has all of our marks")
    reader = _reader(processor.tokenizer, mark)

    def escape(text: str) -> str:
        return pattern.sub(lambda control: "".join(letter + mark for letter in control[0]), text)

    for parts in [*messages, [answer]]:
        whole = "".join(map(escape, parts))
        read = reader.encode(whole, add_special_tokens=False) if mark in whole else []
        if control := pattern.search(whole):
            raise RowError(
                f"the control token {control[0]!r} cannot be escaped: it is a single letter, or it begins in one text "
                "of a message and ends in the next"
            )
        if bad := known.ids.intersection(read):
            token = processor.tokenizer.convert_ids_to_tokens(min(bad))
            raise RowError(f"the control token {token!r} cannot be escaped: the tokenizer makes it of letters too")
    escaping = copy.copy(processor)
    escaping.tokenizer = reader
    escaped = [{**message, "content": _escaped(message["content"], escape)} for message in prompt]
    return escaping, escaped, escape(answer)


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [item["text"] for item in content or () if isinstance(item.get("text"), str)]


def _escaped(content: Any, escape: Callable[[str], str]) -> Any:
    if isinstance(content, str):
        return escape(content)
    return [
        {**item, "text": escape(item["text"])} if isinstance(item.get("text"), str) else item for item in content or ()
    ]


def _in_normalized(tokenizer: PreTrainedTokenizerBase, known: Control, texts: Sequence[str]) -> str | None:
    """A control token that the tokenizer finds in the texts after it has normalised them, as in full-width letters."""
    if not known.normalized:
        return None
    normalize = tokenizer.backend_tokenizer.normalizer.normalize_str
    hits = (control[0] for text in texts if text for control in known.pattern.finditer(normalize(text)))
    return next((token for token in hits if token in known.normalized), None)


def _reader(tokenizer: PreTrainedTokenizerBase, mark: str) -> PreTrainedTokenizerFast:
    """The tokenizer, which drops the mark from texts after it has looked for added tokens in them."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise RowError(f"control tokens cannot be escaped for a {type(tokenizer).__name__}, which is no fast tokenizer")
    known = _READERS.setdefault(tokenizer, {})
    if mark not in known:
        reader = copy.deepcopy(tokenizer)
        backend = reader.backend_tokenizer
        drop = normalizers.Replace(mark, "")
        backend.normalizer = drop if backend.normalizer is None else normalizers.Sequence([drop, backend.normalizer])
        known[mark] = reader
    return known[mark]


def _find_tokens(processor: ProcessorMixin) -> frozenset[str]:
    tokenizer = processor.tokenizer
    added = {str(token): token for token in tokenizer.added_tokens_decoder.values()}
    # What tokenizer and processor call by a name; a mere list of further special tokens says nothing about them.
    control = {*processor.all_special_multimodal_tokens, *tokenizer.special_tokens_map.values()}
    control.update(str(value) for value in vars(processor).values() if isinstance(value, str) and value in added)
    special = {token for token, about in added.items() if about.special}
    template = repr(processor.chat_template)
    control.update(token for token in special if token in template or _CONTROL_NAME.search(token))
    ids = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
    control.update({ids[number] for number in _written(processor) if number in ids} & special)
    forms = {_form(token) for token in control}
    return frozenset(control | {token for token in special if _form(token) in forms})


def _form(token: str) -> str:
    return re.sub(r"\d+", "0", token)


def _written(processor: ProcessorMixin) -> set[int]:
    """The ids of some conversations of our own that have a picture, or not."""
    text = [{"type": "text", "text": "a"}]
    # Large enough for several tiles, whose places have tokens.
    picture = [{"type": "image", "image": PIL.Image.new("RGB", (512, 384), (90, 120, 150))}]
    user, answer = {"role": "user", "content": text}, {"role": "assistant", "content": text}
    system, seeing = {"role": "system", "content": text}, {"role": "user", "content": picture + text}
    ids: set[int] = set()
    for conversation in ([user], [user, answer, user], [system, user, answer], [seeing], [seeing, answer]):
        for options in ({"add_generation_prompt": True}, {}):
            try:
                encoded = processor.apply_chat_template(
                    conversation, tokenize=True, return_dict=True, return_tensors="pt", **options
                )
            except Exception:  # not every template takes all of these; rows that it refuses say so
                continue
            ids.update(encoded["input_ids"].flatten().tolist())
    return ids
