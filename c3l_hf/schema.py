"""Column names of the project's datasets, and the row layouts of other people's, turned into one.

A row is one instruction/answer pair about its images, in TRL's vision conventions: `images` beside `prompt` and
`completion` messages whose contents are plain strings. The names stand here and nowhere else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Features, Image, List, Value

__all__ = [
    "PAIR_FEATURES",
    "PSEUDO_LABEL_FEATURES",
    "SCORES",
    "SCORE_COLUMNS",
    "SCORE_FEATURES",
    "STATUS",
    "STATUS_OK",
    "TOKEN_COLUMNS",
    "Pair",
    "RowError",
    "is_batch",
    "layout_of",
    "to_pair",
]

SCORES = ("answer_kl", "token_kl", "pmi", "ppl_ratio", "logprob", "logprob_blind")
TOKEN_COLUMNS = ("answer_tokens", "token_kl_per_token", "logprob_per_token", "logprob_blind_per_token")
STATUS, STATUS_OK = "i2c_status", "ok"
SCORE_COLUMNS = ("i2c", *SCORES, *TOKEN_COLUMNS, STATUS)

_MESSAGES = List({"role": Value("string"), "content": Value("string")})

# Types of the score columns: give them to `map` together with the dataset's own, `features={**ds.features,
# **SCORE_FEATURES}`, so that a shard in which no row has a score gets the same types as the others.
SCORE_FEATURES = Features(
    {
        **{name: Value("float32") for name in ("i2c", *SCORES)},
        "answer_tokens": List(Value("string")),
        **{name: List(Value("float32")) for name in TOKEN_COLUMNS[1:]},
        STATUS: Value("string"),
    }
)

# One generated pair; `prompt` and `completion` are null where `generation_status` is not "ok".
PAIR_FEATURES = Features(
    {
        "images": List(Image()),
        "image_id": Value("string"),
        "pair_id": Value("string"),
        "template": Value("string"),
        "type": Value("string"),
        "prompt": _MESSAGES,
        "completion": _MESSAGES,
        "raw": Value("string"),
        "generation_status": Value("string"),
    }
)

# One image with its best pair and some others, for the contrastive training of the generator.
PSEUDO_LABEL_FEATURES = Features(
    {
        "images": List(Image()),
        "image_id": Value("string"),
        "prompt": _MESSAGES,
        "chosen": _MESSAGES,
        "rejected": List(_MESSAGES),
        "chosen_score": Value("float32"),
        "rejected_scores": List(Value("float32")),
        "type": Value("string"),
        "template": Value("string"),
    }
)

# The columns that hold the text in each accepted layout; the first one decides whether a value is a row or a batch.
_LAYOUTS = (("prompt", "completion"), ("messages",), ("question", "answer"), ("conversations",))
_ACCEPTED = (
    "prompt + completion + images (or image); messages + images (or image); "
    "question + answer + images (or image); LLaVA conversations + image (or images)"
)
_LLAVA_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class RowError(ValueError):
    """A row that cannot be used; `str(error)` is the reason that stands in its status column."""


@dataclass(frozen=True)
class Pair:
    """One instruction and its answer.

    Attributes:
        prompt: Messages up to the answer; contents are strings or lists of {"type": "text"/"image"} items.
        answer: The assistant's answer, a string that is not blank.
        images: The images as the row has them (PIL images, `datasets` dicts with bytes or path, or paths), at least
            one.
    """

    prompt: list[dict[str, Any]]
    answer: str
    images: list[Any]


def layout_of(columns: Iterable[str]) -> tuple[str, ...]:
    """The columns a scorer has to read: the text columns of the layout, and the image column last.

    Raises:
        ValueError: If the columns are in none of the accepted layouts; the message names both.
    """
    columns = list(columns)
    image = next((name for name in ("images", "image") if name in columns), None)
    text = next((names for names in _LAYOUTS if all(name in columns for name in names)), None)
    if image is None or text is None:
        raise ValueError(
            f"cannot find pairs in the columns {', '.join(columns) or '(none)'}; accepted are: {_ACCEPTED}"
        )
    return (*text, image)


def is_batch(rows: Mapping[str, Any]) -> bool:
    """Whether a mapping holds many rows (lists of values, as `map(batched=True)` gives) or one.

    Decided by the first text column of the layout. A row has a string there, or a list of messages (dicts); a batch has
    a list of such values. An empty list counts as a batch of no rows when every column is empty.

    Raises:
        ValueError: If the columns are in none of the accepted layouts.
    """
    layout = layout_of(rows.keys())
    value = rows[layout[0]]
    if not isinstance(value, list | tuple):
        return False
    if not value:
        return all(isinstance(rows[name], list | tuple) and not rows[name] for name in layout)
    return not all(isinstance(item, Mapping) for item in value)


def to_pair(row: Mapping[str, Any]) -> Pair:
    """One row of any accepted layout as prompt, answer and images.

    `<image>` markers in LLaVA conversations are removed, as the images stand beside the text.

    Raises:
        ValueError: If the columns are in none of the accepted layouts.
        RowError: If this row has no text, no image, no answer, or several answers.
    """
    *text_columns, image_column = layout_of(row.keys())
    if text_columns == ["prompt", "completion"] or text_columns == ["question", "answer"]:
        messages = _messages(row, text_columns[0], "user") + _messages(row, text_columns[1], "assistant")
    elif text_columns == ["messages"]:
        messages = _messages(row, "messages", "user")
    else:
        messages = _llava_messages(row)
    return Pair(prompt=messages[:-1], answer=_answer(messages), images=_images(row[image_column], image_column))


def _messages(row: Mapping[str, Any], column: str, role: str) -> list[dict[str, Any]]:
    value = row[column]
    if value is None:
        raise RowError(f"{column} is null")
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list | tuple):
        raise RowError(f"{column} is {type(value).__name__} {value!r:.40}, not a text or a list of messages")
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise RowError(f"{column} has a message without role and content: {message!r:.60}")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _llava_messages(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    turns = row["conversations"]
    if turns is None:
        raise RowError("conversations is null")
    messages = []
    for turn in turns:
        if not isinstance(turn, Mapping) or not {"from", "value"} <= set(turn):
            raise RowError(f"conversations has a turn without from and value: {turn!r:.60}")
        role = _LLAVA_ROLES.get(turn["from"])
        if role is None:
            raise RowError(f"conversations has a turn from {turn['from']!r}; known are {', '.join(_LLAVA_ROLES)}")
        value = turn["value"]
        if role == "user" and isinstance(value, str):
            for marker in ("<image>\n", "\n<image>", "<image>"):
                value = value.replace(marker, "")
        messages.append({"role": role, "content": value})
    return messages


def _answer(messages: list[dict[str, Any]]) -> str:
    """The text of the one assistant message, which must be the last."""
    turns = [message["role"] for message in messages]
    if turns.count("assistant") > 1:
        raise RowError(f"{turns.count('assistant')} assistant turns; only rows with one answer can be scored")
    if not turns or turns[-1] != "assistant":
        raise RowError(
            f"the last message is not the assistant's answer (roles: {', '.join(map(str, turns)) or 'none'})"
        )
    if "user" not in turns:
        raise RowError("there is no user message before the answer")
    content = messages[-1]["content"]
    if isinstance(content, list | tuple):
        if any(not isinstance(item, Mapping) or item.get("type") != "text" for item in content):
            raise RowError("the answer has items that are not text")
        texts = [item.get("text") for item in content]
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(content, str):
        raise RowError(f"the answer is not a text but {type(content).__name__}")
    if not content.strip():
        raise RowError("the answer is empty")
    return content


def _images(value: Any, column: str) -> list[Any]:
    images = list(value) if isinstance(value, list | tuple) else [value]
    images = [image for image in images if image is not None]
    if not images:
        raise RowError(f"the row has no image (column {column})")
    return images
