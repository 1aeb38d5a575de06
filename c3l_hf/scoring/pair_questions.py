"""A question about a pair: the pair's own question gives way to a text in which it and its answer stand."""

from collections.abc import Mapping, Sequence
from typing import Any

from c3l_hf.common.errors import RowError
from c3l_hf.common.names import listed
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.turns import Pair
from c3l_hf.prompts.template_texts import fields_of, render

__all__ = ["about_pair", "columns_for"]


def columns_for(text: str, names: Sequence[str]) -> tuple[str, ...]:
    """The columns that a question about the pairs of a dataset with these takes: of its layout, and those of the text.

    Raises:
        ValueError: If they are in no accepted layout, or one that the text names is missing.
    """
    columns = layout_of(names).columns
    further = sorted(fields_of(text) - {"question", "answer"})
    if missing := [name for name in further if name not in names]:
        raise ValueError(f"the text names the column {listed(missing)}; there are {', '.join(names)}")
    return (*columns, *(name for name in further if name not in columns))


def about_pair(pair: Pair, text: str, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages that ask about a pair: those before its question, and in the question's place the text.

    Images stay where they are.

    Args:
        pair: The pair.
        text: Jinja; `question` and `answer` are the pair's, other fields are columns of the row.
        row: The pair's row.

    Raises:
        RowError: If the last message is not the user's, has an image between its texts, or a field has no value.
    """
    *before, last = pair.prompt
    if last["role"] != "user":
        raise RowError(f"the message before the answer is the {last['role']}'s, not the user's")
    content = last["content"]
    items = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
    texts = [place for place, item in enumerate(items) if item.get("type") == "text" and str(item["text"]).strip()]
    if not texts:
        raise RowError("the question has no text")
    first, end = texts[0], texts[-1] + 1
    if any(item.get("type") != "text" for item in items[first:end]):
        raise RowError("the question has an image between its texts")
    question = "\n".join(items[place]["text"].strip() for place in texts)
    asked = render(text, {**row, "question": question, "answer": pair.answer.strip()})
    if isinstance(content, str):
        return [*before, {"role": "user", "content": asked}]
    return [*before, {"role": "user", "content": [*items[:first], {"type": "text", "text": asked}, *items[end:]]}]
