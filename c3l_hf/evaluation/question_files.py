"""A benchmark's questions, opened: datasets in the published layout, and the files of its authors and of VLMEvalKit."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Value, concatenate_datasets, get_dataset_config_names
from datasets.exceptions import DatasetsError

from c3l_hf.common.errors import RunError, said_by
from c3l_hf.evaluation.benchmarks import Layout
from c3l_hf.files.opening import is_saved, open_dataset

__all__ = ["open_questions"]

# POPE's authors keep a file for each category, "coco_pope_random.json".
_CATEGORY = re.compile(r"(?:^|[_-])(random|popular|adversarial)(?=[_.-]|$)", re.IGNORECASE)
_POPE_FILES = re.compile(r".*pope.*\.jsonl?", re.IGNORECASE)
_QUESTIONS, _CONTEXT, _REFERENCE = "questions.jsonl", "context.jsonl", "answers_gpt4.jsonl"
_SPLITS = {"validation": "dev", "val": "dev"}


def open_questions(
    benchmark: str, layout: Layout, source: str, split: str, revision: str | None
) -> tuple[Dataset, Path | None]:
    """The rows of a benchmark as they are published, and the folder of the files that they name.

    Read are a dataset of the published layout (on the Hub, in a folder, written by `save_to_disk`), a file of its rows,
    and what the authors and VLMEvalKit publish: POPE's JSON lines, one of "…_random.json" and so on, or the folder of
    all three; SEED-Bench's JSON; LLaVA-Bench's folder of questions, context and answers_gpt4 (.jsonl); the TSV of
    VLMEvalKit. Columns have the names that they have there.

    Args:
        benchmark: A key of `BENCHMARKS`.
        layout: Its layout.
        source: File, folder or Hub id.
        split: Of a dataset; of a file with a column `split` the rows of this one.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The rows, and the folder in which the pictures are by default; None for datasets, which say so themselves.

    Raises:
        ValueError: If they cannot be opened.
    """
    path = Path(source)
    try:
        if benchmark == "llava_w" and (path / _QUESTIONS).is_file():
            return _llava_bench(path), path / "images" if (path / "images").is_dir() else path
        if benchmark == "pope" and (files := _pope_files(path)):
            return concatenate_datasets(
                [_with_category(_with_text_ids(open_dataset(file)), file) for file in files]
            ), path
        if path.is_file():
            rows = open_dataset(path, split=split, texts=_text_columns(layout))
            rows = _with_category(rows, path) if benchmark == "pope" else rows
            return _of_split(rows, split), path.parent
        config = layout.config
        # A folder may hold this configuration alone, without its name.
        if config and path.is_dir() and (is_saved(source) or config not in get_dataset_config_names(source)):
            config = None
        rows = open_dataset(source, config, split, revision)
        # What `datasets` knows to be pictures has its content, or paths that it has made whole.
        are_names = path.is_dir() and not is_saved(path) and isinstance(rows.features.get("image"), Value)
        return rows, path if are_names else None
    except (RunError, OSError, ValueError, DatasetsError) as error:
        raise ValueError(
            f"{layout.name} cannot be loaded from {source}, split {split!r}: {said_by(error, 400)}"
        ) from None


def _text_columns(layout: Layout) -> list[str]:
    return [*layout.columns, "label", "image"]


def _pope_files(folder: Path) -> list[Path]:
    """The files of POPE's categories in a folder of its authors; none if it is another folder.

    Raises:
        RunError: If there are several for a category, as of several sources of pictures.
    """
    if not folder.is_dir() or is_saved(folder):
        return []
    files = sorted(
        file for file in folder.iterdir() if _POPE_FILES.fullmatch(file.name) and _CATEGORY.search(file.stem)
    )
    categories = [_category(file) for file in files]
    if twice := next((name for name in categories if categories.count(name) > 1), None):
        named = ", ".join(file.name for file, name in zip(files, categories) if name == twice)
        raise RunError(f"{folder} has several files of the category {twice}: {named}; give a folder with one of each")
    return files


def _category(file: Path) -> str | None:
    """The category that the name of one of POPE's files says."""
    named = {found.lower() for found in _CATEGORY.findall(file.stem)}
    return named.pop() if len(named) == 1 else None


def _with_category(rows: Dataset, file: Path) -> Dataset:
    if "category" in rows.column_names:
        return rows
    category = _category(file)
    if category is None:
        raise RunError(
            f"{file} has no column category, and its name does not say random, popular or adversarial: "
            "name it after its category, as coco_pope_random.json"
        )
    return rows.add_column("category", [category] * len(rows))


def _with_text_ids(rows: Dataset) -> Dataset:
    """Files with numbers for ids and files with texts go together."""
    if "question_id" not in rows.features:
        return rows
    # A column of both kinds is stored as JSON text, where a text has its quotes: the values are taken, not cast.
    names = [None if name is None else str(name) for name in rows["question_id"][:]]
    return rows.remove_columns("question_id").add_column("question_id", names, feature=Value("string"))


def _of_split(rows: Dataset, split: str) -> Dataset:
    """The rows of a file that are of the split, where a column says so."""
    if "split" not in rows.column_names:
        return rows
    splits = [_SPLITS.get(str(name), str(name)) for name in rows["split"][:]]
    if split not in splits:
        raise RunError(f"its rows are of the split {', '.join(sorted(set(splits)))}")
    places = [place for place, name in enumerate(splits) if name == split]
    return rows if len(places) == len(splits) else rows.select(places)


def _llava_bench(folder: Path) -> Dataset:
    """The rows of three files as one table."""
    for name in (_CONTEXT, _REFERENCE):
        if not (folder / name).is_file():
            raise RunError(f"{folder} has {_QUESTIONS}, but not {name}")
    questions = open_dataset(folder / _QUESTIONS).to_list()
    captions = _by_key(open_dataset(folder / _CONTEXT).to_list(), "image", "caption", _CONTEXT)
    answers = _by_key(open_dataset(folder / _REFERENCE).to_list(), "question_id", "text", _REFERENCE)
    if missing := {"question_id", "image", "text", "category"} - set(questions[0]):
        raise RunError(f"{_QUESTIONS} lacks {', '.join(sorted(missing))}")
    return Dataset.from_list(
        [
            {
                "question_id": _name(row["question_id"]),
                "question": row["text"],
                "category": row["category"],
                "image": row["image"],
                "image_id": Path(row["image"] or "").stem,
                "caption": captions.get(_name(row["image"])),
                "gpt_answer": answers.get(_name(row["question_id"])),
            }
            for row in questions
        ]
    )


def _by_key(rows: Iterable[Mapping[str, Any]], key: str, value: str, file: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for row in rows:
        if key not in row or value not in row:
            raise RunError(f"{file} lacks {key if key not in row else value}")
        name = _name(row[key])
        if name in values and values[name] != row[value]:
            raise RunError(f"{file} has two of {key} {name}")
        values[name] = row[value]
    return values


def _name(value: Any) -> str:
    return "" if value is None else str(value)
