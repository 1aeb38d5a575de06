"""Questions and answers of pairs, read from the columns `prompt` and `completion` by row."""

import functools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from c3l_hf.data.pair_columns import UNREAD
from c3l_hf.data.row_texts import EARLIER_TURNS, as_one, turns_of
from c3l_hf.selection.columns import ChunkedColumn, pieces

__all__ = ["PairTexts", "with_earlier_turns_unread"]


class PairTexts:
    """The texts of a table of pairs: few rows are Python strings at a time, in whatever order they are asked for.

    Args:
        table: With the columns `prompt` and `completion`, lists of messages with `role` and `content`; null where a row
            has no pair.

    Raises:
        ValueError: If these columns are of another type.
    """

    def __init__(self, table: pa.Table):
        for name in ("prompt", "completion"):
            _check_messages(name, table.schema.field(name).type)
        self._prompt = ChunkedColumn(table["prompt"])
        self._completion = ChunkedColumn(table["completion"])

    def conversations(self, rows: np.ndarray) -> list[list[tuple[str, str]]]:
        """The turns of each row, as `turns_of` reads them; a row without an answer has one, with "" for it.

        Args:
            rows: Some 10^5 at most, all with a pair.

        Raises:
            ValueError: If one of these messages has no content; the text names the row.
        """
        questions = _last_contents(self._prompt, rows, "prompt", "user")
        answers = _last_contents(self._completion, rows, "completion", "assistant")
        conversations = [[turn] for turn in zip(questions, answers)]
        if len(rows):
            completions = self._completion.take(rows)
            several = pc.greater(pc.list_value_length(completions), 1).fill_null(False).to_numpy(zero_copy_only=False)
            for number in np.flatnonzero(several).tolist():
                messages = completions[number].as_py()
                if any(message["content"] is None for message in messages):
                    raise ValueError(f"column 'completion', row {rows[number]}: a message has no content (null)")
                prompt = [{"role": "user", "content": questions[number]}]
                conversations[number] = turns_of(prompt, messages) or conversations[number]
        return conversations

    def questions(self, rows: np.ndarray) -> list[str]:
        """The questions of each row, a line each; see `conversations`."""
        return [as_one(turns)[0] for turns in self.conversations(rows)]

    def answers(self, rows: np.ndarray) -> list[str]:
        """The answers of each row, a line each; see `conversations`."""
        return [as_one(turns)[1] for turns in self.conversations(rows)]

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """The bytes of the texts of each row of the table, int64."""
        return self._prompt.per_chunk(_text_sizes) + self._completion.per_chunk(_text_sizes)

    def pieces(self, rows: np.ndarray) -> Iterator[slice]:
        """Cuts rows into pieces whose texts may be in memory together; see `columns.pieces`."""
        return pieces(len(rows), self.sizes[rows])

    def answer_words(self, rows: np.ndarray) -> np.ndarray:
        """Lengths of the answers in words (separated by whitespace), int64; of any number of rows."""
        words = [np.empty(0, np.int64)]
        for piece in self.pieces(rows):
            words.append(np.array([len(answer.split()) for answer in self.answers(rows[piece])], np.int64))
        return np.concatenate(words)


def with_earlier_turns_unread(table: pa.Table) -> pa.Table:
    """The table with `UNREAD` for rows whose prompt has an answer: their question follows earlier turns."""
    reasons = []
    for chunk in table["prompt"].chunks:
        earlier = np.zeros(len(chunk), bool)
        if not pa.types.is_null(chunk.type):
            said = pc.equal(pc.struct_field(chunk.flatten(), "role"), "assistant").fill_null(False)
            earlier[pc.list_parent_indices(chunk).filter(said).to_numpy()] = True
        reasons.append(pc.if_else(pa.array(earlier), EARLIER_TURNS, pa.scalar(None, pa.string())))
    column = pa.chunked_array(reasons, pa.string())
    if column.null_count == len(table):
        return table
    if UNREAD not in table.column_names:
        return table.append_column(UNREAD, column)
    column = pc.coalesce(table[UNREAD].cast(pa.string()), column)
    return table.set_column(table.column_names.index(UNREAD), UNREAD, column)


def _text_sizes(messages: pa.Array) -> np.ndarray:
    """The bytes of the contents in each list of messages."""
    if pa.types.is_null(messages.type):
        return np.zeros(len(messages), np.int64)
    sizes = pc.binary_length(pc.struct_field(messages.flatten(), "content")).fill_null(0).to_numpy(zero_copy_only=False)
    rows = pc.list_parent_indices(messages).to_numpy()
    return np.bincount(rows, weights=sizes, minlength=len(messages)).astype(np.int64)


def _check_messages(name: str, kind: pa.DataType) -> None:
    if pa.types.is_null(kind):
        return
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        message = kind.value_type
        if pa.types.is_struct(message) and {"role", "content"} <= {field.name for field in message}:
            content = message.field("content").type
            if pa.types.is_string(content) or pa.types.is_large_string(content):
                return
    raise ValueError(f"column {name!r} must have lists of messages with the texts `role` and `content`, not {kind}")


def _last_contents(column: ChunkedColumn, rows: np.ndarray, name: str, role: str) -> list[str]:
    """The content of the last message of this role, "" if there is none."""
    if not len(rows):
        return []
    messages = column.take(rows)
    flat = messages.flatten()
    has_role = pc.equal(pc.struct_field(flat, "role"), role).fill_null(False).to_numpy(zero_copy_only=False)
    at = np.flatnonzero(has_role)
    last = np.full(len(rows), -1)
    # Of several messages of one row the last assignment stays.
    last[pc.list_parent_indices(messages).to_numpy()[at]] = at
    contents = pc.struct_field(flat, "content").take(pa.array(last, mask=last < 0))
    if contents.null_count > (last < 0).sum():
        empty = contents.is_null().to_numpy(zero_copy_only=False) & (last >= 0)
        row = rows[empty.argmax()]
        raise ValueError(f"column {name!r}, row {row}: the last message of the {role} has no content (null)")
    return contents.fill_null("").to_pylist()
