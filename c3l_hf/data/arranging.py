"""Other people's column names in the place of ours, and rows with several answers: before the layouts read them."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from datasets import Dataset, Features, Value, concatenate_datasets

from c3l_hf.common.arrow import beside
from c3l_hf.common.errors import RunError
from c3l_hf.common.names import listed, nearest
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.schema import PAIR_FEATURES, PSEUDO_LABEL_FEATURES, SCORE_COLUMNS
from c3l_hf.data.stored_rows import stored_rows

__all__ = ["Answers", "arranged", "columns_of", "restored"]

# Which of a row's answers: the first, or each in a row of its own.
Answers = Literal["first", "each"]

_LEFT_OUT = "{} (left out)"
# Columns that have a meaning for the stages beside the layouts'.
_OTHERS = {*PAIR_FEATURES, *PSEUDO_LABEL_FEATURES, *SCORE_COLUMNS, "answers"}
_PREFERENCES = {"chosen", "rejected"}


def arranged(dataset: Dataset, columns: Mapping[str, str | None], answers: Answers | None = None) -> Dataset:
    """A dataset whose columns have the names that `data.layouts` reads, with one answer a row.

    No image is read or copied, except that `datasets` writes a dataset in its new order that was shuffled or filtered
    before.

    Args:
        dataset: Rows.
        columns: Name that is read → the dataset's own, as {"question": "frage", "answer": "antwort", "image": "bild"};
            "json.question" is the field of a struct, which stays. A name with nothing (None or "") leaves the column of
            that name out of what is read.
        answers: What becomes of a row with several answers, in `answers` or in `answer`: texts, structs with `answer`
            or `text`, or a struct of lists of them. "first": the first is its `answer`. "each": it is repeated with
            each, and `answer_number` counts them from 1. The list is kept as `answers`. None: they stay, and the
            layouts' reader says so of each.

    Raises:
        RunError: If there is no such column, two have one name, `answers` is given and there are none, or the columns
            that are named are not those that would be read.
    """
    if columns:
        dataset = _renamed(dataset, {name: own or "" for name, own in columns.items()})
    if answers is not None:
        dataset = _with_answers(dataset, answers)
    if columns or answers is not None:
        _check_layout(dataset.column_names, [name for name, own in columns.items() if own])
    return dataset


def restored(dataset: Dataset, columns: Mapping[str, str | None]) -> Dataset:
    """What was made of an arranged dataset, with the dataset's own column names.

    A field of a struct is not repeated beside its struct.

    Args:
        dataset: With the columns of `arranged`, or some of them, and others.
        columns: As for `arranged`.
    """
    present = set(dataset.column_names)
    hidden = {_LEFT_OUT.format(name): name for name, own in columns.items() if not own}
    fields = {name for name, own in columns.items() if own and "." in own and own.partition(".")[0] in present}
    dataset = dataset.remove_columns([name for name in dataset.column_names if name in fields])
    back = {name: own for name, own in columns.items() if own and name not in fields} | hidden
    back = {name: own for name, own in back.items() if name in present and name != own}
    staying = set(dataset.column_names) - set(back)
    if clash := next((name for name, own in back.items() if own in staying), None):
        raise RunError(f"the result has a column {back[clash]!r} already, which is the dataset's own name for {clash}")
    return dataset.rename_columns(back) if back else dataset


def columns_of(words: Iterable[str]) -> dict[str, str]:
    """Name that is read → the dataset's own, of words such as "question=frage"; "messages=" leaves that column out.

    Raises:
        RunError: If a word has no name or "=", or a name is there twice.
    """
    columns: dict[str, str] = {}
    for word in words:
        name, equals, own = word.partition("=")
        if not (name and equals):
            raise RunError(f"columns: {word!r} is not NAME=COLUMN, as question=frage")
        if name in columns:
            raise RunError(f"columns: {name} is given twice, as {columns[name]!r} and {own!r}")
        columns[name] = own
    return columns


def _renamed(dataset: Dataset, columns: Mapping[str, str]) -> Dataset:
    sources = [own for own in columns.values() if own]
    if twice := next((own for own in sources if sources.count(own) > 1), None):
        raise RunError(
            f"columns: {twice!r} is named for {' and '.join(n for n, own in columns.items() if own == twice)}"
        )
    names = dataset.column_names
    fields = {name: own for name, own in columns.items() if own and own not in names and "." in own}
    plain = {own: name for name, own in columns.items() if own and name not in fields}
    hidden = {name: _LEFT_OUT.format(name) for name, own in columns.items() if not own}
    for own in [*plain, *hidden]:
        if own not in names:
            raise RunError(f"columns: there is no column {own!r}{_choices(own, names)}")
    if both := next((name for name in hidden if name in plain), None):
        raise RunError(f"columns: {both!r} is left out, and named for {plain[both]}")
    renamed = {**plain, **hidden}
    for name in (*plain.values(), *fields):
        if name in names and name not in renamed:
            own = columns[name]
            raise RunError(
                f"columns: {name}={own}, but there is a column {name!r} beside {own!r}; leave it out of what is read "
                f"by a name of its own, or rename it in the dataset"
            )
    added = [_field(dataset, name, own) for name, own in fields.items()]
    moved = {own: name for own, name in renamed.items() if own != name}
    dataset = dataset.rename_columns(moved) if moved else dataset
    return beside(dataset, *added) if added else dataset


def _field(dataset: Dataset, name: str, path: str) -> Dataset:
    """A field of a struct as a dataset of one column."""
    head, *keys = path.split(".")
    if head not in dataset.column_names:
        raise RunError(f"columns: there is no column {path!r} or {head!r}{_choices(head, dataset.column_names)}")
    column = dataset.select_columns([head])
    place = head
    for key in keys:
        kind = column.features[place]
        if not isinstance(kind, dict):
            raise RunError(f"columns: {place!r} has no fields such as {key!r}: it is {str(kind):.80}")
        if key not in kind:
            raise RunError(f"columns: {place!r} has no field {key!r}{_choices(key, kind)}")
        place = f"{place}.{key}"
        # One level at a time: it flattens all columns that there are.
        column = column.flatten(max_depth=2).select_columns([place])
    return column.rename_column(place, name)


def _with_answers(dataset: Dataset, answers: Answers) -> Dataset:
    names = dataset.column_names
    if "answers" in names and "answer" in names:
        raise RunError(
            f"answers is {answers!r}, and there are both columns, answer and answers; leave one out of what is read "
            "(columns with answer: null, or answers: null)"
        )
    if "answers" not in names and "answer" not in names:
        raise RunError(f"answers is {answers!r}, but there is no column answers or answer; found {', '.join(names)}")
    if "answer" in names:
        if dataset.features["answer"] == Value("string"):
            raise RunError(f"answers is {answers!r}, but the column answer has one text a row; leave answers out")
        dataset = dataset.rename_column("answer", "answers")
    texts = [texts for table in _tables(dataset, "answers") for texts in table]
    if answers == "first":
        return beside(dataset, _column("answer", [row[0] if row else None for row in texts]))
    # A copy of the table for the first answers, one for the second ones, ...: in memory all are the same.
    most = max(map(len, texts), default=0)
    copies = [
        beside(
            dataset,
            _column("answer", [row[number] if number < len(row) else None for row in texts]),
            _column("answer_number", [number + 1 if number < len(row) else None for row in texts], "int64"),
        )
        for number in range(max(most, 1))
    ]
    order = [number * len(texts) + row for row, given in enumerate(texts) for number in range(max(len(given), 1))]
    return concatenate_datasets(copies).select(order)


def _tables(dataset: Dataset, column: str) -> Iterable[list[list[str | None]]]:
    needed = dataset.select_columns([column])
    for table in needed.with_format("arrow").iter(1000) if len(needed) else ():
        yield [_texts(row[column]) for row in stored_rows(table, needed.features)]


def _texts(value: Any) -> list[str | None]:
    """A row's answers; what is none, such as a struct without a text, is null."""
    if isinstance(value, Mapping):
        lists = next((value[name] for name in ("answer", "text") if value.get(name) is not None), None)
        return [_text(item) for item in lists] if isinstance(lists, list | tuple) else [_text(value)]
    if isinstance(value, list | tuple):
        return [_text(item) for item in value]
    return [] if value is None else [_text(value)]


def _text(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return next((_text(value[name]) for name in ("answer", "text") if value.get(name) is not None), None)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def _column(name: str, values: list[Any], kind: str = "string") -> Dataset:
    return Dataset.from_dict({name: values}, features=Features({name: Value(kind)}))


def _check_layout(names: list[str], mapped: list[str]) -> None:
    """The columns that were named have to be those that are read."""
    if _PREFERENCES & {*names}:
        return  # rows of the trainer, which reads them by these names
    try:
        layout = layout_of(names)
    except ValueError as error:
        raise RunError(str(error)) from None
    for name in mapped:
        if name in layout.columns or name in _OTHERS - {"prompt", "completion", "images"}:
            continue
        first = next((column for column in layout.text if column not in mapped), layout.text[0])
        raise RunError(
            f"columns: {name} would not be read, since the columns are read as {layout}; leave out {first} "
            f"(columns with {first}: null), or name others"
        )


def _choices(given: str, names: Iterable[str]) -> str:
    names = list(names)
    return f"; there are {listed(names, 20)}{nearest(given, names)}"
