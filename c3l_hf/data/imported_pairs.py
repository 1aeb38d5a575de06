"""Pairs that somebody has, in any accepted layout → images, each once, and a pair table as generation makes it."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, List, Value

from c3l_hf.common.arrow import take_rows
from c3l_hf.common.errors import RowError, RunError
from c3l_hf.common.files import digest
from c3l_hf.data.file_states import with_file_states
from c3l_hf.data.image_files import located
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.pair_columns import NO_TYPE
from c3l_hf.data.places import places
from c3l_hf.data.row_images import images_as_stored, pictures_of
from c3l_hf.data.schema import PAIR_TABLE_FEATURES, number_id
from c3l_hf.data.sources import Images, image_column, images_digest
from c3l_hf.data.status import count_reasons
from c3l_hf.data.stored_rows import stored_rows
from c3l_hf.data.turns import to_turns, turn_reason
from c3l_hf.files.image import image_key

__all__ = ["ImportedPairs", "import_pairs"]

logger = logging.getLogger(__name__)

_BATCH = 1000
# What generation writes beside its pairs.
_SAID = ("raw", "language", "generation_status", "generation_prompt", "reply_form", "usage", "attempt")
_ELSEWHERE = "the image's path does not lead into the folder of the images"


@dataclass(frozen=True)
class ImportedPairs:
    """Somebody's pairs as a run takes them.

    Attributes:
        images: The images that the pairs are about, each once, in the order in which they first appear.
        table: Rows of `PAIR_TABLE_FEATURES`, by image. A row that is no pair has its reason in `generation_status`.
        first_rows: (images + 1,): where the pairs of each image begin in the table.
        digest: What identifies texts and images.
        without_image: How many rows have no image, by the reason: nothing that could be scored, so they have no place
            in the table.
    """

    images: Images
    table: pa.Table
    first_rows: list[int]
    digest: str
    without_image: Mapping[str, int]

    def tables(self, first: int, last: int) -> Iterator[pa.Table]:
        """The pairs about the images first, ..., last - 1."""
        start, stop = self.first_rows[first], self.first_rows[last]
        yield self.table.slice(start, stop - start)


def import_pairs(dataset: Dataset, inventory: Path | None = None, image_folder: str | None = None) -> ImportedPairs:
    """Read the pairs of a dataset.

    Memory grows with the texts, as Arrow holds them, not with the pictures.

    Args:
        dataset: Rows in one of the layouts of `data.layouts`. The columns `image_id`, `pair_id`, `type` and
            `template` are used where they are there, and what generation writes beside its pairs. Rows about one image
            are those of one `image_id`, or, without this column, those whose image has the same content or path. Of
            several images of one `image_id`, as of copies, the first is taken, with a warning. Images may be stored by
            `datasets`, or be paths (see `image_folder`) or structs of "bytes" and "path", as other tools write them.
        inventory: See `data.sources.images_digest`.
        image_folder: Where images are that the rows name by a relative path; by default the working folder. A row with
            a path that leaves it is left out, and counted.

    Raises:
        RunError: If the columns are in no accepted layout, a `pair_id` or `image_id` is missing or not unique, or there
            are no rows with an image.
    """
    try:
        layout = layout_of(dataset.column_names)
    except ValueError as error:
        raise RunError(f"pairs: {error}") from None
    for name in layout.images:
        kind = getattr(dataset.features[name], "dtype", "")
        if "int" in kind or "float" in kind or "bool" in kind:
            raise RunError(f"pairs: column {name!r} holds {kind}; it must hold images, paths, or lists of them")
    named = "image_id" in dataset.column_names
    extra = [name for name in ("image_id", "pair_id", "type", "template") if name in dataset.column_names]
    said = [name for name in _SAID if name in dataset.column_names]
    if others := [name for name in said if not _fits(dataset.features[name], PAIR_TABLE_FEATURES[name])]:
        logger.warning("pairs: %s not read: what c3l generate writes there is of another type", ", ".join(others))
    extra += [name for name in said if name not in others]
    numbers: dict[Any, int] = {}  # an image's id or content → its number
    contents: dict[Any, tuple] = {}  # an image's id → its content or path
    differing: list[int] = []  # rows with another image than the first of their id
    first_rows: list[int] = []  # the first row about each image
    pairs_of: list[int] = []  # how many rows there are about each image
    image_of = np.full(len(dataset), -1)
    without_image: Counter[str] = Counter()
    sha, tables, schema = hashlib.sha256(), [], PAIR_TABLE_FEATURES.arrow_schema
    stored = dataset.select_columns([*layout.columns, *extra]).with_format("arrow")
    for start, table in zip(range(0, len(dataset), _BATCH), stored.iter(_BATCH)):
        rows = []
        for row, values in enumerate(stored_rows(table, stored.features), start):
            try:
                images = pictures_of(values, layout)
            except RowError as error:
                without_image[str(error)] += 1
                continue
            if not all(_followed(picture, image_folder) for picture in images):
                without_image[_ELSEWHERE] += 1
                continue
            if named and values["image_id"] is None:
                raise RunError(f"pairs: row {row} has no image_id")
            content = tuple(map(image_key, images))
            key = str(values["image_id"]) if named else content
            if contents.setdefault(key, content) != content:
                differing.append(row)
            image = numbers.setdefault(key, len(numbers))
            if image == len(first_rows):
                first_rows.append(row)
                pairs_of.append(0)
            image_id = key if named else number_id(image)
            pair_id = values.get("pair_id")
            pair_id = f"{image_id}/{pairs_of[image]}" if pair_id is None else str(pair_id)
            place = {"image_row": image, "image_id": image_id, "pair_id": pair_id}
            pair = {**_said(values), **place, **_kind(values), **_pair(values)}
            pairs_of[image] += 1
            image_of[row] = image
            sha.update(digest(*pair.items()).encode())
            rows.append(pair)
        tables.append(pa.Table.from_pylist(rows, schema=schema))
    if not numbers:
        reason = without_image.most_common(1)[0][0]
        raise RunError(f"pairs: none of the {len(dataset):,} rows has an image; most often {reason}")
    if differing:
        logger.warning(
            "pairs: %d rows have another image than the first row of their image_id (row %d is the first of them): all "
            "are taken for copies of that row's. If image_id names something else than the image, rename it",
            len(differing),
            differing[0],
        )
    ids = list(numbers) if named else list(map(number_id, range(len(numbers))))
    images = images_as_stored(dataset, layout, first_rows, ids, image_folder)
    known = images_digest(images, inventory)
    return ImportedPairs(
        Images(with_file_states(images, image_column(images)), known),
        _by_image(tables, image_of[image_of >= 0]),
        [0, *np.cumsum(pairs_of).tolist()],
        digest(sha.hexdigest(), known, *sorted(without_image.items())),
        dict(count_reasons(without_image.elements())),
    )


def _followed(picture: Any, folder: str | None) -> bool:
    """Whether an image is no path, or one that stays in the folder: what lies elsewhere is not read, nor published."""
    try:
        located(picture, folder)
    except RowError:
        return False
    return True


def _by_image(tables: list[pa.Table], image_of: np.ndarray) -> pa.Table:
    """The pairs, those about one image together, in their order.

    Raises:
        RunError: If a `pair_id` is there twice.
    """
    table = pa.concat_tables(tables)
    pair_ids = table["pair_id"]
    if pc.count_distinct(pair_ids).as_py() < len(pair_ids):
        counts = pc.value_counts(pair_ids)
        repeated = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise RunError(f"pairs: column 'pair_id' must be unique; {repeated} is there more than once")
    order = np.argsort(image_of, kind="stable")
    if (order[1:] > order[:-1]).all():
        return table
    return pa.concat_tables(take_rows(tables, order[start : start + 10_000]) for start in range(0, len(order), 10_000))


def _pair(values: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt and completion of a row, a pair or a conversation, or why it has none."""
    said = values.get("generation_status")
    if said not in (None, "ok") and values.get("prompt") is None and values.get("completion") is None:
        return {"prompt": None, "completion": None, "generation_status": str(RowError(said))}
    try:
        turns = to_turns(values)
        pairs = []
        for number, turn in enumerate(turns):
            if isinstance(turn, RowError):
                raise RowError(turn_reason(turn, number, len(turns)))
            pairs.append(turn)
        first = len(pairs[0].prompt)
        messages = [*pairs[-1].prompt, {"role": "assistant", "content": pairs[-1].answer}]
        if sum(message["role"] == "assistant" for message in messages[first:]) > len(pairs):
            raise RowError("an answer between others is not asked for (weight 0 or loss false)")
        roles = [message["role"] for message in messages]
        if any(roles[number - 1 : number + 1] == ["assistant"] * 2 for number in range(first + 1, len(roles))):
            raise RowError("two answers follow each other without a question between them")
        asked = [number for number, role in enumerate(roles) if role == "user"]
        if any(map(places, messages[asked[0] + 1 :])):
            raise RowError("an image comes after the first question; a pair's images come first")
        plain = [{"role": message["role"], "content": _text(message["content"])} for message in messages]
        return {"prompt": plain[:first], "completion": plain[first:], "generation_status": "ok"}
    except RowError as error:
        return {"prompt": None, "completion": None, "generation_status": str(error)}


def _text(content: Any) -> str:
    """The text of a message whose images come first, where the pair table has them too."""
    if isinstance(content, str):
        return content
    kinds = [item.get("type") for item in content or ()]
    texts = [item.get("text") for item in content or () if item.get("type") == "text"]
    if not all(isinstance(text, str) for text in texts) or set(kinds) - {"text", "image"}:
        raise RowError("the prompt has items that are neither text nor image")
    if "image" in kinds[kinds.index("text") if "text" in kinds else len(kinds) :]:
        raise RowError("the prompt has an image after a text; a pair's images come first")
    return "".join(texts)


def _kind(values: Mapping[str, Any]) -> dict[str, Any]:
    template = values.get("template")
    return {"type": str(values.get("type") or NO_TYPE), "template": None if template is None else str(template)}


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values.get(name) for name in _SAID}


def _fits(found: Any, expected: Any) -> bool:
    """Whether a column is of a type; nulls, of which a file may have nothing else, are of any."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        return found.keys() == expected.keys() and all(_fits(found[name], expected[name]) for name in expected)
    if isinstance(found, List) and isinstance(expected, List):
        return _fits(found.feature, expected.feature)
    return found == expected or found == Value("null")
