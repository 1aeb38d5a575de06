"""A benchmark's questions as rows, from the Hub, a folder or a dataset: all or some, with options listed or bare."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Image, List, Value

from c3l_hf import _compat
from c3l_hf.data.schema import STATUS_OK
from c3l_hf.evaluation.benchmarks import BENCHMARKS, Layout, rotated
from c3l_hf.evaluation.question_columns import published_rows
from c3l_hf.evaluation.question_files import open_questions

__all__ = ["QUESTION_FEATURES", "bare_questions", "load_questions", "read_questions", "select_some"]

logger = logging.getLogger(__name__)

QUESTION_FEATURES = Features(
    {
        "question_id": Value("string"),  # unique
        "images": List(Image(decode=False)),
        "question": Value("string"),  # with the options, if any, and the benchmark's request about the form
        "options": List(Value("string")),
        "answer": Value("string"),  # yes, no, a letter, or the reference; "" where the split has none
        "group": Value("string"),
        "cluster": Value("string"),  # the picture: questions about one picture are not independent
        "status": Value("string"),
        "meta": Value("string"),  # JSON
    }
)

_SHOWN = 5


def load_questions(
    benchmark: str,
    source: str | Path | None = None,
    *,
    split: str | None = None,
    revision: str | None = None,
    circular: bool = True,
    image_folder: str | Path | None = None,
) -> Dataset:
    """A benchmark's questions, in the published order.

    A row that cannot be asked stays, and `status` says why instead of "ok": an empty question, missing options, an
    answer that is none of them, an id that was there before, a picture that is missing or that no decoder knows, a
    rotation in another category than its question. A picture damaged further on is found when it is decoded.
    Texts are given as they are: an "<image>" in one is text.

    The pictures are those of the source, neither decoded nor copied, also where several rows have the same one.

    Args:
        benchmark: A key of `BENCHMARKS`.
        source: A dataset on the Hub, a folder that `load_dataset` reads, one that `save_to_disk` wrote, or a file, in
            the published layout or in that of the benchmark's authors or of VLMEvalKit, see
            `question_files.open_questions`; by default the published dataset.
        split: MMBench: "dev" or "test", by default "dev"; the others are published with one, which is the default.
        revision: Branch, tag or commit on the Hub.
        circular: MMBench: every rotation of the options (CircularEval). The published ones if the source has any (rows
            with an index of `CIRCULAR_STEP` and above), else n are made of n options, one after the other. False: each
            question once, as it was asked first.
        image_folder: Where the pictures are that rows name by relative paths; a path that leaves it is refused. By
            default the folder of a file, or its folder `images` for LLaVA-Bench; datasets have theirs.

    Returns:
        A dataset with `QUESTION_FEATURES`. `group` is POPE's category, SEED-Bench's dimension, MMBench's L2 category,
        or the kind of question in LLaVA-Bench. `meta` has the `stem`, which is the question without options and
        request (what the likelihood of an option is conditioned on); MMBench: the published `index`, `base` (the index
        of the question as it was asked first), `rotation`, `question`, `hint` and `category`; LLaVA-Bench: `caption`.
        `info.description` says how many rows there are, and how many questions about videos were left out.

    Raises:
        ValueError: If there is no such benchmark, or the source cannot be loaded, has other columns, no questions, or
            none that can be asked.
    """
    layout = _layout(benchmark)
    split, source = split or layout.split, str(source or layout.repository)
    published, folder = open_questions(benchmark, layout, source, split, revision)
    folder = folder if image_folder is None else Path(image_folder)
    if folder is not None and not folder.is_dir():
        raise ValueError(f"the image folder {folder} of {layout.name} does not exist")
    return read_questions(benchmark, published, source, split=split, circular=circular, image_folder=folder)


def read_questions(
    benchmark: str,
    published: Dataset,
    source: str,
    *,
    split: str | None = None,
    circular: bool = True,
    image_folder: Path | None = None,
) -> Dataset:
    """The questions of a dataset in the published layout, or in another whose columns are known.

    Args:
        benchmark: A key of `BENCHMARKS`.
        published: The dataset.
        source: What the description and errors call it.
        split: Which split it is, by default the one that is usually reported.
        circular: As for `load_questions`.
        image_folder: As for `load_questions`, but by default paths are taken as they are.

    Returns:
        As `load_questions`.

    Raises:
        ValueError: As `load_questions`.
    """
    layout = _layout(benchmark)
    split = split or layout.split
    rows, pictures, problems = published_rows(benchmark, layout, published, source, split, image_folder)

    numbers = [number for number, row in enumerate(rows) if row.get("data_type") != "video"]
    questions = [layout.read(rows[number], split) for number in numbers]
    for question, number in zip(questions, numbers):
        question["status"] = problems.get(number, question["status"])
        if question["status"] == STATUS_OK:
            question["status"] = pictures.problem(number) or STATUS_OK
    videos = len(rows) - len(numbers)
    if benchmark == "mmbench":
        _name_pictures(questions, (pictures.name(number) for number in numbers))
        _mark_other_groups(questions)
        questions, numbers = _turned(questions, numbers, circular)
    if not questions:
        raise ValueError(f"{source} has no questions about images in split {split!r} ({len(rows)} rows)")
    _mark_repeated(questions)
    if all(question["status"] != STATUS_OK for question in questions):
        first = questions[0]
        raise ValueError(
            f"{layout.name}, {source}, split {split!r}: none of {len(questions)} questions can be asked; the first, "
            f"{first['question_id'] or 'without an id'}: {first['status']}"
        )
    _warn(layout, questions)

    description = f"{layout.name}, {source}, split {split}: {len(questions):,} rows"
    description += f"; left out: {videos:,} about videos" if videos else ""
    # Given, because `datasets` would read all pictures to make one.
    fingerprint = _compat.hash_of(
        [_compat.fingerprint(published), published.cache_files, str(image_folder), questions, numbers]
    )
    columns = {name: [question[name] for question in questions] for name in QUESTION_FEATURES if name != "images"}
    columns["meta"] = [json.dumps(meta, ensure_ascii=False) for meta in columns["meta"]]
    columns["images"] = _rows(pictures.column, numbers)
    return Dataset(
        pa.table(columns, schema=QUESTION_FEATURES.arrow_schema),
        info=DatasetInfo(description=description, features=QUESTION_FEATURES),
        fingerprint=fingerprint,
    )


def bare_questions(questions: Dataset) -> Dataset:
    """The questions without the list of options and the request about the form, for models that know neither.

    What is written is then read as the text of an option. Likelihoods are the same in any case. The pictures stay where
    they are: copied together they may be more than an Arrow array holds (2 GB).
    """
    # Of the rows that are not selected, too: the table has them all.
    stems = [json.loads(meta)["stem"] for meta in questions.data.table["meta"].to_pylist()]
    fingerprint = _compat.hash_of([_compat.fingerprint(questions), "bare"])
    return _compat.with_column(questions, "question", pa.array(stems, pa.string()), fingerprint)


def select_some(questions: Dataset, limit: int | None) -> Dataset:
    """At most so many questions, spread evenly over all; all rotations of each.

    Raises:
        ValueError: If the limit is below 1.
    """
    if limit is None:
        return questions
    if limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    metas = zip(questions["meta"][:], questions["question_id"][:])
    asked = [json.loads(meta or "{}").get("base", id) for meta, id in metas]
    once = list(dict.fromkeys(asked))
    places = np.unique(np.linspace(0, len(once) - 1, min(limit, len(once))).round().astype(int))
    chosen = {once[place] for place in places}
    return questions.select([number for number, name in enumerate(asked) if name in chosen])


def _layout(benchmark: str) -> Layout:
    if benchmark not in BENCHMARKS:
        raise ValueError(f"no benchmark {benchmark!r}; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[benchmark]


def _name_pictures(questions: list[dict[str, Any]], pictures: Iterable[str]) -> None:
    """Names MMBench's pictures by their content; all rotations of a question have the first one's."""
    names: dict[Any, str] = {}
    for question, picture in zip(questions, pictures):
        base = question["meta"]["base"]
        names.setdefault(base, picture or f"question {base}")
        question["cluster"] = names[base]


def _mark_other_groups(questions: list[dict[str, Any]]) -> None:
    """Marks MMBench's rotations in another category than their question, which they would count for only in part."""
    kinds: dict[Any, tuple[str, str]] = {}
    for question in sorted(questions, key=lambda question: question["meta"]["rotation"]):
        if question["status"] == STATUS_OK:
            meta = question["meta"]
            kind = question["group"], meta["category"]
            first = kinds.setdefault(meta["base"], kind)
            if meta["rotation"] and kind != first:
                question["status"] = f"its category is {' / '.join(kind)!r}, that of its question {' / '.join(first)!r}"


def _turned(
    questions: list[dict[str, Any]], numbers: list[int], circular: bool
) -> tuple[list[dict[str, Any]], list[int]]:
    """MMBench's questions in all rotations, or once each, and the published row of each."""
    pairs = list(zip(questions, numbers))
    published = any(question["meta"]["rotation"] for question in questions)
    if not circular:
        pairs = [(question, number) for question, number in pairs if not question["meta"]["rotation"]]
    elif not published:
        pairs = [(turn, number) for question, number in pairs for turn in rotated(question)]
    else:
        _warn_incomplete(questions)
    return [question for question, _ in pairs], [number for _, number in pairs]


def _warn_incomplete(questions: list[dict[str, Any]]) -> None:
    options: dict[Any, int] = {}
    rotations: dict[Any, set[int]] = {}
    for question in questions:
        base = question["meta"]["base"]
        options[base] = max(options.get(base, 0), len(question["options"]))
        rotations.setdefault(base, set()).add(question["meta"]["rotation"])
    odd = [str(base) for base, found in rotations.items() if found != set(range(options[base]))]
    if odd:
        named = ", ".join(odd[:_SHOWN]) + (", …" if len(odd) > _SHOWN else "")
        logger.warning("MMBench: %d questions have not one rotation for each option: %s", len(odd), named)


def _mark_repeated(questions: list[dict[str, Any]]) -> None:
    first: dict[str, int] = {}
    for place, question in enumerate(questions):
        name = question["question_id"]
        if first.setdefault(name, place) != place:
            question["question_id"] = f"{name} (row {place})"
            if question["status"] == STATUS_OK:
                question["status"] = f"the id {name} was there before, in row {first[name]}"


def _warn(layout: Layout, questions: list[dict[str, Any]]) -> None:
    bad = [
        f"{question['question_id']}: {question['status']}" for question in questions if question["status"] != STATUS_OK
    ]
    if bad:
        named = "; ".join(bad[:_SHOWN]) + ("; …" if len(bad) > _SHOWN else "")
        logger.warning("%s: %d of %d rows cannot be asked: %s", layout.name, len(bad), len(questions), named)


def _rows(column: pa.ChunkedArray, numbers: list[int]) -> pa.ChunkedArray:
    """Rows of a column, by slices: `take` would copy them."""
    chunks: list[pa.Array] = []
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
            chunks += column.slice(numbers[start], end - start).chunks
            start = end
    return pa.chunked_array(chunks, column.type)
