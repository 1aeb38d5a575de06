"""Question and answer of published rows, in whichever accepted layout these are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import Dataset

from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import Layout, layout_of
from c3l_hf.data.messages import MARKER, answer_text, messages_of
from c3l_hf.data.schema import PAIR_FEATURES
from c3l_hf.data.stored_rows import stored_rows

__all__ = ["plain_pairs", "question_and_answer", "text_layout"]

_BATCH = 1000
_MESSAGES = PAIR_FEATURES.arrow_schema.field("prompt").type


def text_layout(columns: Iterable[str]) -> Layout:
    """The layout of rows whose images may be stored apart.

    Raises:
        ValueError: If the columns are in no accepted layout.
    """
    columns = list(columns)
    return layout_of(columns if {"images", "image"} & set(columns) else [*columns, "images"])


def question_and_answer(row: Mapping[str, Any], layout: Layout) -> tuple[str, str] | None:
    """The texts that stand for a row, without its images and their places; None if a text column is null.

    Of a row of one answer the question is the last message of the user. Of a row of several it is all messages of the
    user, a line each, and the answer all answers that can be read.

    Args:
        row: With the text columns of the layout; its images are not looked at.
        layout: Of the dataset.

    Raises:
        RowError: If there is a pair that cannot be read.
    """
    if any(row[name] is None for name in layout.text):
        return None
    messages, first = messages_of(row, layout, _markers(row[layout.text[0]]))
    numbers = [number for number, message in enumerate(messages) if message["role"] == "assistant" and number >= first]
    answers, problems = [], []
    for number in numbers:
        try:
            answers.append(answer_text(messages[number]["content"]))
        except RowError as error:
            problems.append(error)
    if not answers:
        raise problems[0] if problems else RowError("there is no answer of the assistant")
    questions = [_text(message["content"]) for message in messages[: numbers[-1]] if message["role"] == "user"]
    if len(numbers) == 1:
        questions = questions[-1:]
    return "\n".join(questions), "\n".join(answers)


def plain_pairs(dataset: Dataset, columns: Sequence[str]) -> Dataset:
    """Some columns of a dataset, with `prompt` and `completion` as messages of plain texts.

    Args:
        dataset: Rows in any accepted layout.
        columns: Those that are wanted, beside `prompt` and `completion`.

    Raises:
        ValueError: If the dataset lacks one of them, is in no accepted layout, or a pair cannot be read; the message
            names the column or the row.
    """
    wanted = [name for name in columns if name not in ("prompt", "completion")]
    if missing := [name for name in wanted if name not in dataset.column_names]:
        raise ValueError(f"there are columns missing: {', '.join(missing)}; found {', '.join(dataset.column_names)}")
    layout = text_layout(dataset.column_names)
    texts = [*layout.text, *layout.further]
    table = dataset.select_columns(wanted).with_format("arrow")[:] if wanted else pa.table({})
    pairs = list(_pairs(dataset.select_columns(texts), layout))
    for place, (name, role) in enumerate((("prompt", "user"), ("completion", "assistant"))):
        messages = [None if pair is None else [{"role": role, "content": pair[place]}] for pair in pairs]
        table = table.append_column(name, pa.array(messages, _MESSAGES))
    return Dataset(table.replace_schema_metadata(None))


def _pairs(dataset: Dataset, layout: Layout) -> Iterator[tuple[str, str] | None]:
    stored, number = dataset.with_format("arrow"), 0
    for table in stored.iter(_BATCH) if len(dataset) else ():
        for row in stored_rows(table, dataset.features):
            try:
                yield question_and_answer(row, layout)
            except RowError as error:
                raise ValueError(f"row {number}: {error}") from None
            number += 1


def _markers(turns: Any) -> int:
    """How many images LLaVA's turns have places for."""
    turns = [turn for turn in turns if isinstance(turn, Mapping)] if isinstance(turns, list | tuple) else []
    texts = [turn.get("value", turn.get("content")) for turn in turns]
    return sum(text.count(MARKER) for text in texts if isinstance(text, str))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return _without_markers(content)
    texts = [item.get("text") for item in content or () if isinstance(item, Mapping)]
    return "".join(_without_markers(text) for text in texts if isinstance(text, str))


def _without_markers(text: str) -> str:
    if MARKER not in text:
        return text
    return "".join(part.strip("\n") for part in text.split(MARKER) if part.strip())
