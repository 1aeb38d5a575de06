"""What the generator is asked for the pairs of a table, and the form of its replies: what pseudo-labels are made of.

Rows that were generated say both themselves. For others a template is taken.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from c3l_hf.common.arrow import is_list, is_text
from c3l_hf.common.names import listed
from c3l_hf.data.schema import PSEUDO_LABEL_FEATURES
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.prompts.taken import taken
from c3l_hf.prompts.templates import TemplateSet
from c3l_hf.selection.columns import ChunkedColumn, encode, pieces

__all__ = ["ASKED_COLUMNS", "Asked", "by_number"]

# What is read of a table if it is there.
ASKED_COLUMNS = ("generation_prompt", "reply_form")

_MESSAGES = PSEUDO_LABEL_FEATURES.arrow_schema.field("prompt").type


class Asked:
    """What was asked for each row of a table, read by row.

    The `reply_form` of a row without `generation_prompt` does not count: the prompt that is made may ask for another.

    Args:
        table: The column `template`, and those of `ASKED_COLUMNS` if they are there: `generation_prompt` messages,
            `reply_form` texts, either perhaps with dictionaries.
        templates: Rows that do not say what was asked, nor name a template of earlier versions, are asked for by these:
            by the first that asks for as many turns, of the type `GENERAL` if there is one, and has no fields. Where
            there is none, and by default, by those of the set "instruct".

    Raises:
        ValueError: If these columns are of another type, or a form of a reply cannot be read; the message names the
            column.
    """

    def __init__(self, table: pa.Table, templates: TemplateSet | None = None):
        self._templates = templates
        self._template = ChunkedColumn(table["template"])
        self._prompt = self._form = None
        self._said = np.zeros(len(table), bool)
        if "generation_prompt" in table.column_names:
            column = table["generation_prompt"]
            _check_prompts(column.type)
            if not pa.types.is_null(column.type):
                self._prompt = ChunkedColumn(column)
                self._said = pc.greater(pc.list_value_length(column), 0).fill_null(False).to_numpy()
        if "reply_form" in table.column_names:
            column = table["reply_form"]
            if not pa.types.is_null(column.type):
                _check_forms(column)
                self._form = ChunkedColumn(column)

    def forms(self, rows: np.ndarray, turns: Sequence[int]) -> list[str | None]:
        """The form of the reply of each row (`ReplyForm.to_json`), few enough for one Arrow array; None of those that
        say what was asked, and not how the reply is written.

        Args:
            rows: The rows.
            turns: How many turns each has.
        """
        said = self._said[rows].tolist()
        own = [None] * len(rows) if self._form is None else self._form.take(rows).to_pylist()
        if all(said):
            return own
        names = self._template.take(rows).to_pylist()
        return [
            form if known else taken(self._templates, name, count).form
            for form, known, name, count in zip(own, said, names, turns)
        ]

    def prompts(self, rows: np.ndarray, turns: np.ndarray) -> tuple[pa.ChunkedArray, pa.ChunkedArray, list[str]]:
        """What is asked for some rows: as they say, or the text of a template.

        Args:
            rows: The rows.
            turns: How many turns each has: a conversation is asked for as one, with as many.

        Returns:
            Messages, the id of the template of each, and what was assumed, a line each.
        """
        said = self._said[rows]
        texts, ids, which, assumed = self._by_template(rows[~said], turns[~said])
        number = np.full(len(rows), -1)
        number[~said] = which
        prompts, templates = by_number(number, texts), by_number(number, ids)
        if self._prompt is not None and said.any():
            prompts = _put(prompts, said, rows, self._prompt)
            templates = _put(templates, said, rows, self._template)
        return prompts, templates, assumed

    def _by_template(self, rows: np.ndarray, turns: np.ndarray) -> tuple[pa.Array, pa.Array, np.ndarray, list[str]]:
        """The different prompts of rows that do not say what was asked, the id of each one's template, which of them is
        each row's, and what is to be told of them."""
        template, names = encode(pa.chunked_array([self._template.take(rows).cast(pa.string())]))
        keys, which = np.unique(np.stack([template, turns]), axis=1, return_inverse=True)
        found = [
            taken(self._templates, names[name].as_py() if name >= 0 else None, count) for name, count in keys.T.tolist()
        ]
        counts = np.bincount(which, minlength=len(found)).tolist()
        assumed = []
        for source in sorted({one.source for one in found}):
            ids = sorted({one.id for one in found if one.source == source})
            total = sum(count for count, one in zip(counts, found) if one.source == source)
            assumed.append(f"no generation_prompt: {total:,} pseudo-labels ask with {listed(ids)} of the set {source}")
        if unknown := sorted({one.unknown for one in found if one.unknown}):
            total = sum(count for count, one in zip(counts, found) if one.unknown)
            assumed.append(f"{total:,} of them name a template that is not known: {listed(unknown)}")
        texts = pa.array([one.messages for one in found], _MESSAGES)
        return texts, pa.array([one.id for one in found], pa.string()), which, assumed


def by_number(numbers: np.ndarray, values: pa.Array) -> pa.ChunkedArray:
    """For each number the value that it is the place of; null for -1."""
    chunks = [values.take(pa.array(numbers[piece], mask=numbers[piece] < 0)) for piece in pieces(len(numbers))]
    return pa.chunked_array(chunks, values.type)


def _put(made: pa.ChunkedArray, said: np.ndarray, rows: np.ndarray, column: ChunkedColumn) -> pa.ChunkedArray:
    """What was made, and in the places where the rows say it themselves what they say."""
    chunks = [
        pc.if_else(pa.array(said[piece]), column.take(rows[piece]).cast(made.type), chunk)
        for piece, chunk in zip(pieces(len(rows)), made.chunks)
    ]
    return pa.chunked_array(chunks, made.type)


def _check_prompts(kind: pa.DataType) -> None:
    fields: dict[str, pa.DataType] = {}
    if is_list(kind) and pa.types.is_struct(kind.value_type):
        fields = {field.name: field.type for field in kind.value_type}
    if not pa.types.is_null(kind) and not all(_holds_text(fields.get(name)) for name in ("role", "content")):
        raise ValueError(f"column 'generation_prompt' has values of type {kind}; it must have lists of messages")


def _check_forms(column: pa.ChunkedArray) -> None:
    if not _holds_text(column.type):
        raise ValueError(f"column 'reply_form' has values of type {column.type}; it must have texts")
    # Chunk by chunk: the dictionaries of different chunks may differ.
    for form in {form for chunk in column.chunks for form in pc.unique(chunk).drop_null().to_pylist()}:
        try:
            ReplyForm.from_json(form)
        except ValueError as error:
            raise ValueError(f"column 'reply_form': {error}") from None


def _holds_text(kind: pa.DataType | None) -> bool:
    return kind is not None and is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)
