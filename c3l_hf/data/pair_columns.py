"""A dataset in any layout → the columns that selection reads of its pairs: ids, kinds and texts, without the images.

Our own pair tables have these columns and are not copied. Of other rows the texts are read by `to_turns`, and what they
have no column for is made: ids from the images' contents or paths, one type and one template for all.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from tqdm.auto import tqdm

from c3l_hf.common.arrow import is_list, is_text
from c3l_hf.common.errors import RowError
from c3l_hf.data.layouts import Layout, layout_of, text_layout
from c3l_hf.data.places import MARKER
from c3l_hf.data.row_images import pictures_of
from c3l_hf.data.row_texts import RowTexts, conversation_of, question_and_answer
from c3l_hf.data.schema import number_id
from c3l_hf.data.stored_rows import stored_rows
from c3l_hf.files.image import image_key

__all__ = [
    "NO_TYPE",
    "UNREAD",
    "PairColumns",
    "is_plain",
    "read_pair_columns",
]

# The type of pairs for which none is given.
NO_TYPE = "general"
# Why the texts of a row cannot be used; a column that is there only if that is so of a row.
UNREAD = "unread"

_TEXTS = ("prompt", "completion")
# Rows that are in memory as Python objects at a time: without their images, and with them.
_BLOCK, _BATCH = 1 << 16, 100


@dataclass(frozen=True)
class PairColumns:
    """Columns of a dataset's pairs.

    Attributes:
        table: The columns asked for, a row for each of the dataset, and `UNREAD` if texts cannot be used. `prompt` and
            `completion` are messages of plain texts, both null where a row has no pair.
        assumed: What was made up for columns that are not there, a line each.
    """

    table: pa.Table
    assumed: list[str]


def read_pair_columns(dataset: Dataset, columns: Sequence[str], *, conversations: bool = False) -> PairColumns:
    """Some columns of the pairs of a dataset.

    What is made where the dataset has no such column: `image_id`, equal for rows whose images have the same content or,
    if they are paths, the same path, and numbered in the order in which the images appear; `pair_id`, numbered within
    the image; `type`, `NO_TYPE` of all rows, as of those whose type is null; `template`, null.

    A conversation has all its questions as one, and all its answers: near-duplicates and lengths then mean the whole of
    it. Answers that cannot be read are passed over. With `conversations` it has its turns.

    Args:
        dataset: In any layout of `data.layouts`; beside an `image_id` it needs no images. They are not decoded, and of
            datasets with an `image_id` not read.
        columns: `prompt`, `completion`, those above, and any others that the dataset has.
        conversations: Read the turns of a conversation one by one, as a pseudo-label has them (`conversation_of`):
            `completion` then has the answers and the further questions. A row of which a turn cannot be used has the
            reason in `UNREAD`.

    Raises:
        TypeError: If the dataset is streamed, or a `DatasetDict`.
        ValueError: If columns are missing that cannot be made, the texts are in no accepted layout, no row has an image
            where ids are to be made, or an id or kind is neither text nor number. The message says which.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"the dataset is {type(dataset).__name__}; give a Dataset: one split, loaded without streaming")
    columns, names = list(dict.fromkeys(columns)), dataset.column_names
    made = ("image_id", "pair_id", "type", "template", *_TEXTS)
    if missing := [name for name in columns if name not in names and name not in made]:
        raise ValueError(
            f"there are columns missing: {', '.join(missing)}; found {', '.join(names) or '(none)'}. "
            "Scores come from I2CScorer or c3l score"
        )
    plain = is_plain(dataset)
    table = _with_kinds(_stored(dataset, [name for name in columns if name in names and (plain or name not in _TEXTS)]))
    odd = _odd_rows(table, conversations) if plain else np.arange(len(dataset))
    with_pictures = "image_id" in columns and "image_id" not in names
    if with_pictures or len(odd):
        table = _with_readings(table, dataset, odd, with_pictures, conversations)
    assumed = []
    if "image_id" in columns and "image_id" not in names:
        assumed.append("no column image_id: rows with the same image, by content or path, are about one image")
    if "pair_id" in columns and "pair_id" not in names:
        table = table.append_column("pair_id", _pair_ids(table["image_id"]))
    if "type" in columns and "type" not in names:
        table = table.append_column("type", _repeated(NO_TYPE, len(dataset)))
        assumed.append("no column type: all pairs count as one type")
    elif "type" in columns and (untyped := _without_type(table)):
        place = table.column_names.index("type")
        table = table.set_column(place, "type", table["type"].cast(pa.string()).fill_null(NO_TYPE))
        assumed.append(f"{untyped:,} rows have no type: they count as {NO_TYPE}")
    if "template" in columns and "template" not in names:
        table = table.append_column("template", _repeated(None, len(dataset)))
    kept = [*columns, *[UNREAD] * (UNREAD in table.column_names)]
    return PairColumns(table.select(kept), assumed)


def is_plain(dataset: Dataset) -> bool:
    """Whether the pairs are messages of plain strings, in `prompt` and `completion`."""
    types = {field.name: field.type for field in dataset.features.arrow_schema}
    return all(name in types and _are_messages(types[name]) for name in _TEXTS)


def _stored(dataset: Dataset, columns: Sequence[str]) -> pa.Table:
    """Some columns as they are, other columns (images) untouched."""
    if not columns:  # a table without columns would have no rows
        return pa.table({"row": pa.array(np.arange(len(dataset)))})
    selected = dataset.select_columns(list(columns)).with_format("arrow")
    if not len(selected):
        return pa.Table.from_batches([], selected.features.arrow_schema).replace_schema_metadata()
    # A dataset with shuffled or selected rows gives a chunk for every row.
    return pa.concat_tables(
        table if table.column(0).num_chunks == 1 else table.combine_chunks() for table in selected.iter(_BLOCK)
    ).replace_schema_metadata()


def _are_messages(kind: pa.DataType) -> bool:
    if pa.types.is_null(kind):
        return True
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return False
    fields = {field.name: field.type for field in kind.value_type}
    return all(is_text(fields.get(name, pa.null())) for name in ("role", "content"))


def _without_type(table: pa.Table) -> int:
    """How many pairs have no type. Rows without a pair need none."""
    missing = pc.is_null(table["type"])
    for name in set(_TEXTS) & set(table.column_names):
        missing = pc.and_(missing, pc.is_valid(table[name]))
    return pc.sum(missing).as_py() or 0


def _with_kinds(table: pa.Table) -> pa.Table:
    """The table, types and templates being texts."""
    for number, name in enumerate(table.column_names):
        kind = table.schema.field(name).type
        if name not in ("image_id", "pair_id", "type", "template") or is_text(kind) or pa.types.is_null(kind):
            continue
        if not pa.types.is_primitive(kind) or isinstance(kind, pa.BaseExtensionType):
            raise ValueError(f"column {name!r} has values of type {kind}; it must have texts or numbers")
        if name in ("type", "template"):
            table = table.set_column(number, name, table[name].cast(pa.string()))
    return table


def _odd_rows(table: pa.Table, conversations: bool) -> np.ndarray:
    """The rows whose plain messages are not simply a question and its answer: with image markers, without content, with
    several messages, or, if `conversations`, with blank texts."""
    odd = [np.empty(0, np.int64)]
    start = 0
    for batch in table.select(_TEXTS).to_batches():
        is_odd = np.zeros(len(batch), bool)
        for messages in batch.columns:
            if not pa.types.is_null(messages.type):
                contents = pc.struct_field(messages.flatten(), "content")
                strange = pc.match_substring(contents, MARKER)
                if conversations:
                    strange = pc.or_(strange, pc.equal(pc.utf8_trim_whitespace(contents), ""))
                strange = strange.fill_null(True).to_numpy(zero_copy_only=False)
                is_odd[pc.list_parent_indices(messages).to_numpy()[strange]] = True
                is_odd |= pc.list_value_length(messages).fill_null(1).to_numpy() != 1
        odd.append(start + np.flatnonzero(is_odd))
        start += len(batch)
    return np.concatenate(odd)


def _with_readings(
    table: pa.Table, dataset: Dataset, odd: np.ndarray, with_pictures: bool, conversations: bool
) -> pa.Table:
    """The table with the texts of the odd rows as they are read, and the images' ids if these are to be made."""
    # Texts alone will do where ids say which images they are about.
    layout = (layout_of if with_pictures else text_layout)(dataset.column_names)
    rows = np.arange(len(dataset)) if with_pictures else odd
    needed = dataset if len(rows) == len(dataset) else dataset.select(rows)
    is_odd = np.zeros(len(dataset), bool)
    is_odd[odd] = True
    texts = RowTexts()
    image_of = np.full(len(dataset), -1)
    numbers: dict[Hashable, int] = {}
    reasons: dict[int, str] = {}
    shown = tqdm(_rows(needed, layout, with_pictures), "Reading pairs", len(rows), unit="row", delay=5)
    for number, row in zip(rows.tolist(), shown):
        turns = None
        try:
            if with_pictures:
                key = tuple(map(image_key, pictures_of(row, layout)))
                image_of[number] = numbers.setdefault(key, len(numbers))
            if is_odd[number]:
                turns = conversation_of(row, layout) if conversations else _as_one(row, layout)
        except RowError as error:
            reasons[number] = str(error)
        if is_odd[number]:
            texts.add(turns)
    if with_pictures:
        if len(dataset) and not numbers:
            raise ValueError(
                f"no row has an image, nor is there a column image_id, so which pairs are about one image cannot be "
                f"told; row 0: {reasons[0]}"
            )
        ids = pa.array(list(map(number_id, range(len(numbers)))), pa.string())
        pieces = (image_of[piece] for piece in _pieces(len(dataset)))
        chunks = [ids.take(pa.array(numbers, mask=numbers < 0)) for numbers in pieces]
        table = table.append_column("image_id", pa.chunked_array(chunks, pa.string()))
    for name, arrays in zip(_TEXTS, texts.arrays()):
        if name not in table.column_names:
            table = table.append_column(name, arrays)
        elif len(odd):
            column = table.column_names.index(name)
            table = table.set_column(column, name, _replaced(table[name], odd, arrays))
    if reasons:
        chunks = [
            pa.array(map(reasons.get, range(piece.start, piece.stop)), pa.string()) for piece in _pieces(len(dataset))
        ]
        table = table.append_column(UNREAD, pa.chunked_array(chunks))
    return table


def _as_one(row: Mapping[str, Any], layout: Layout) -> list[tuple[str, str]] | None:
    text = question_and_answer(row, layout)
    return None if text is None else [text]


def _rows(dataset: Dataset, layout: Layout, with_pictures: bool) -> Iterator[dict[str, Any]]:
    """The rows; instead of images that nobody asks for only whether they are there."""
    features = dataset.features
    if not len(dataset):
        return
    for table in dataset.select_columns(list(layout.columns)).with_format("arrow").iter(_BATCH):
        marked = [] if with_pictures else [name for name in layout.images if not _has_paths(table[name].type)]
        rows = stored_rows(table.drop_columns(marked), features)
        for name in marked:
            for row, mark in zip(rows, _marks(table[name])):
                row[name] = mark
        yield from rows


def _has_paths(kind: pa.DataType) -> bool:
    while is_list(kind):
        kind = kind.value_type
    return is_text(kind) or isinstance(kind, pa.BaseExtensionType)


def _marks(images: pa.ChunkedArray) -> list[Any]:
    """True for each image that is there, without reading it."""
    kind = images.type
    if not is_list(kind):
        return [True if valid else None for valid in images.is_valid().to_pylist()]
    marks: list[Any] = []
    for chunk in images.chunks:
        values = iter(_marks(pa.chunked_array([chunk.flatten()])))
        lengths = pc.list_value_length(chunk).to_pylist()
        marks += [None if length is None else [next(values) for _ in range(length)] for length in lengths]
    return marks


def _replaced(column: pa.ChunkedArray, rows: np.ndarray, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column with other values in some rows (ascending)."""
    chunks, start = [], 0
    for chunk in column.chunks:
        first, last = np.searchsorted(rows, (start, start + len(chunk)))
        if first < last:
            places = np.arange(len(chunk))
            places[rows[first:last] - start] = len(chunk) + np.arange(last - first)
            new = pa.array(values.slice(first, last - first).to_pylist(), chunk.type)
            chunk = pa.concat_arrays([chunk, new]).take(pa.array(places))
        chunks.append(chunk)
        start += len(chunk)
    return pa.chunked_array(chunks, column.type)


def _pair_ids(image_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids of pairs, numbered within the image; null where the image is."""
    counts: Counter[Any] = Counter()
    chunks = []
    for chunk in image_ids.chunks:
        ids: list[str | None] = []
        for image in chunk.to_pylist():
            ids.append(None if image is None else f"{image}/{counts[image]}")
            counts[image] += 1
        chunks.append(pa.array(ids, pa.string()))
    return pa.chunked_array(chunks, pa.string())


def _repeated(value: str | None, count: int) -> pa.ChunkedArray:
    pieces = (piece.stop - piece.start for piece in _pieces(count))
    return pa.chunked_array([pa.repeat(pa.scalar(value, pa.string()), length) for length in pieces], pa.string())


def _pieces(length: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK))
