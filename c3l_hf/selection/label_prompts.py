"""What the generator is asked for the pairs of a table, and the form of its replies: what pseudo-labels are made of.

Rows that were generated say both themselves. What is asked for others, and how, is the templates of shipped sets.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from c3l_hf.common.arrow import is_list, is_text
from c3l_hf.common.names import listed
from c3l_hf.data.schema import PSEUDO_LABEL_FEATURES
from c3l_hf.generation.reply_forms import ReplyForm
from c3l_hf.generation.template_files import load_templates
from c3l_hf.generation.templates import GENERAL
from c3l_hf.selection.columns import ChunkedColumn, encode, pieces

__all__ = ["ASKED_COLUMNS", "Asked", "by_number"]

# What is read of a table if it is there.
ASKED_COLUMNS = ("generation_prompt", "reply_form")
# The set whose templates are asked with for pairs of which nothing is known, and the one that versions before these
# columns had, whose rows name the template.
_SET, _EARLIER_SET = "instruct", "scenes"

_MESSAGES = PSEUDO_LABEL_FEATURES.arrow_schema.field("prompt").type


class Asked:
    """What was asked for each row of a table, read by row.

    The `reply_form` of a row without `generation_prompt` does not count: the prompt that is made asks for another.

    Args:
        table: The column `template`, and those of `ASKED_COLUMNS` if they are there: `generation_prompt` messages,
            `reply_form` texts, either perhaps with dictionaries.

    Raises:
        ValueError: If these columns are of another type, or a form of a reply cannot be read; the message names the
            column.
    """

    def __init__(self, table: pa.Table):
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

    def forms(self, rows: np.ndarray) -> list[str | None]:
        """The form of the reply of each row (`ReplyForm.to_json`), few enough for one Arrow array; None of those that
        do not say."""
        if self._form is None:
            return [None] * len(rows)
        forms = self._form.take(rows).to_pylist()
        return [form if said else None for form, said in zip(forms, self._said[rows].tolist())]

    def prompts(self, rows: np.ndarray, turns: np.ndarray) -> tuple[pa.ChunkedArray, pa.ChunkedArray, list[str]]:
        """What is asked for some rows: as they say, or the text of a template.

        Args:
            rows: The rows.
            turns: How many turns each has: a conversation is asked for as one, with as many.

        Returns:
            Messages, the id of the template of each, and a line for each set whose templates were taken.

        Raises:
            ValueError: If a row that does not say what was asked has a template of no known name.
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
        found = [_prompt_for(names[name].as_py() if name >= 0 else None, count) for name, count in keys.T.tolist()]
        counts = np.bincount(which, minlength=len(found)).tolist()
        assumed = []
        for name in (_SET, _EARLIER_SET):
            ids = sorted({id for source, id, _ in found if source == name})
            total = sum(count for count, (source, *_) in zip(counts, found) if source == name)
            if ids:
                assumed.append(
                    f"no generation_prompt: {total:,} pseudo-labels ask with {listed(ids)} of the set {name}"
                )
        texts = pa.array([messages for *_, messages in found], _MESSAGES)
        return texts, pa.array([id for _, id, _ in found], pa.string()), which, assumed


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


@functools.cache
def _prompt_for(name: str | None, turns: int) -> tuple[str, str, Sequence[Mapping[str, str]]]:
    """The set, the id and the messages of the template for a row with so many turns that names a template, or none."""
    if name is not None:
        try:
            template = load_templates(_EARLIER_SET).get(name)
        except ValueError as error:
            raise ValueError(
                f"column 'template': {error}. Say what was asked in a column generation_prompt, or leave template out"
            ) from None
        if template.turns[0] <= turns <= template.turns[1]:
            return _EARLIER_SET, template.id, template.instruction({})
    templates = load_templates(_SET)
    template = templates.of_type(GENERAL if turns == 1 else "conversation")[0]
    return _SET, template.id, replace(template, turns=(turns, turns)).instruction({})


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
