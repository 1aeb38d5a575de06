"""The four benchmarks: where each is published, a published row → a question with its prompt, MMBench's rotations.

The layouts are those in which lmms-lab publishes them on the Hub. The prompts are those of LLaVA-1.5's evaluation (Liu
et al. 2023, arXiv:2310.03744, and its scripts). POPE's, SEED-Bench's and LLaVA-Bench's are also lmms-eval's; for
MMBench lmms-eval puts "There are several options:" before the options, and a space after the hint instead of a newline.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from c3l_hf.data.schema import STATUS_OK

__all__ = ["BENCHMARKS", "CIRCULAR_STEP", "LETTERS", "SEED_DIMENSIONS", "Layout", "rotated"]

LETTERS = "ABCD"
CIRCULAR_STEP = 1_000_000  # MMBench: index = this * rotation + index of the question as it was asked first

# By question_type_id, from SEED-Bench's own list; 10 to 12 are about videos.
SEED_DIMENSIONS = {
    1: "Scene Understanding",
    2: "Instance Identity",
    3: "Instance Attributes",
    4: "Instance Location",
    5: "Instances Counting",
    6: "Spatial Relation",
    7: "Instance Interaction",
    8: "Visual Reasoning",
    9: "Text Understanding",
}

_PHRASE = "Answer the question using a single word or phrase."
_LETTER = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Layout:
    """How a benchmark is published.

    Attributes:
        name: What its authors call it.
        repository: Where, on the Hub.
        config: Its configuration there.
        split: The split that is usually reported.
        columns: The columns that are read, beside `image`.
        read: A row and the name of its split → a question: the columns of `questions.QUESTION_FEATURES` without
            images, and `meta` as a dict. The picture is not looked at.
    """

    name: str
    repository: str
    config: str | None
    split: str
    columns: tuple[str, ...]
    read: Callable[[Mapping[str, Any], str], dict[str, Any]]


def _pope(row: Mapping[str, Any], split: str) -> dict[str, Any]:
    category, answer = _text(row["category"]), _text(row["answer"]).strip().lower()
    name = _text(row["question_id"])
    return _question(
        # Each category numbers its questions from 1.
        question_id=f"{category}-{name}" if name else "",
        stem=_text(row["question"]).strip(),
        request=_PHRASE,
        answer=answer,
        group=category,
        cluster=_text(row["image_source"]),
        problems=(
            None if answer in ("yes", "no") else f"the answer is {row['answer']!r}, neither yes nor no",
            _none_of("category", category, ("random", "popular", "adversarial")),
            None if _text(row["image_source"]) else "image_source is empty",
        ),
    )


def _seed(row: Mapping[str, Any], split: str) -> dict[str, Any]:
    options, problem = _options([row[f"choice_{letter}"] for letter in LETTERS.lower()])
    if not problem and len(options) < len(LETTERS):
        problem = f"there are {len(options)} options, not {len(LETTERS)}"
    answer, dimension = _text(row["answer"]).strip().upper(), _whole(row["question_type_id"])
    name = _text(row["question_id"])
    return _question(
        # Each dimension may number its questions for itself.
        question_id=f"{_text(dimension)}-{name}" if name else "",
        stem=_text(row["question"]),
        options=options,
        request=_LETTER,
        answer=answer,
        group=SEED_DIMENSIONS.get(dimension, ""),
        cluster=_text(row["data_id"]),
        problems=(
            None if row["data_type"] == "image" else f"data_type is {row['data_type']!r}, neither image nor video",
            problem or _not_among(answer, options),
            _none_of("question_type_id", dimension, SEED_DIMENSIONS),
            None if _text(row["data_id"]) else "data_id is empty",
        ),
    )


def _mmbench(row: Mapping[str, Any], split: str) -> dict[str, Any]:
    options, problem = _options([row[letter] for letter in LETTERS])
    hint, text, answer = _text(row["hint"]), _text(row["question"]), _text(row["answer"]).strip().upper()
    if not problem and (answer or split != "test"):  # the published test split has no answers
        problem = _not_among(answer, options)
    index = _whole(row["index"])
    numbered = isinstance(index, int) and index >= 0
    rotation, base = divmod(index, CIRCULAR_STEP) if numbered else (0, None)
    return _question(
        question_id=_text(index),
        stem=f"{hint}\n{text}" if hint and text else text,
        options=options,
        request=_LETTER,
        answer=answer,
        group=_text(row["L2-category"]),
        cluster="",  # the published rows do not name their pictures
        problems=(None if numbered else f"the index is {index!r}", problem),
        meta={
            **{"index": index, "base": base, "rotation": rotation},
            **{"question": text, "hint": hint, "category": _text(row["category"])},
        },
    )


def _llava_w(row: Mapping[str, Any], split: str) -> dict[str, Any]:
    caption, category = row["caption"], _text(row["category"])
    caption = "\n".join(map(_text, caption)) if isinstance(caption, list) else _text(caption)
    return _question(
        question_id=_text(row["question_id"]),
        stem=_text(row["question"]),
        answer=_text(row["gpt_answer"]),
        group=category,
        cluster=_text(row["image_id"]),
        problems=(
            None if _text(row["gpt_answer"]) else "the reference answer (gpt_answer) is empty",
            None if caption.strip() else "the caption, from which the judge knows the picture, is empty",
            _none_of("category", category, ("conv", "detail", "complex")),
            None if _text(row["image_id"]) else "image_id is empty",
        ),
        meta={"caption": caption},
    )


BENCHMARKS = {
    "pope": Layout(
        name="POPE",
        repository="lmms-lab/POPE",
        config=None,
        split="test",
        columns=("question_id", "question", "answer", "image_source", "category"),
        read=_pope,
    ),
    "seed": Layout(
        name="SEED-Bench",
        repository="lmms-lab/SEED-Bench",
        config=None,
        split="test",
        columns=(
            *("question_id", "question", "choice_a", "choice_b", "choice_c", "choice_d", "answer"),
            *("data_id", "data_type", "question_type_id"),
        ),
        read=_seed,
    ),
    "mmbench": Layout(
        name="MMBench",
        repository="lmms-lab/MMBench",
        config="en",
        split="dev",
        columns=("index", "question", "hint", *LETTERS, "answer", "category", "L2-category"),
        read=_mmbench,
    ),
    "llava_w": Layout(
        name="LLaVA-Bench in the wild",
        repository="lmms-lab/llava-bench-in-the-wild",
        config=None,
        split="train",
        columns=("question_id", "question", "caption", "gpt_answer", "category", "image_id"),
        read=_llava_w,
    ),
}


def rotated(question: Mapping[str, Any]) -> list[dict[str, Any]]:
    """An MMBench question with its options turned by 0, 1, … places to the left, for CircularEval.

    One that cannot be asked is returned once: its reason is not to be counted several times.
    """
    options, answer, meta = question["options"], question["answer"], question["meta"]
    turns = [dict(question)]
    for rotation in range(1, len(options) if question["status"] == STATUS_OK else 0):
        turned = options[rotation:] + options[:rotation]
        index = meta["index"] + rotation * CIRCULAR_STEP
        turns.append(
            {
                **question,
                "question_id": str(index),
                "question": _prompt(meta["stem"], turned, _LETTER),
                "options": turned,
                "answer": answer and LETTERS[(LETTERS.index(answer) - rotation) % len(options)],
                "meta": {**meta, "index": index, "rotation": rotation},
            }
        )
    return turns


def _question(
    *,
    question_id: str,
    stem: str,
    answer: str,
    group: str,
    cluster: str,
    problems: Iterable[str | None],
    options: list[str] | None = None,
    request: str = "",
    meta: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    empty = None if stem.strip() else "the question is empty"
    nameless = None if question_id.strip("-") else "the question has no id"
    return {
        "question_id": question_id,
        "question": _prompt(stem, options or [], request),
        "options": options or [],
        "answer": answer,
        "group": group,
        "cluster": cluster,
        "status": next(filter(None, (nameless, empty, *problems)), STATUS_OK),
        "meta": {"stem": stem, **(meta or {})},
    }


def _prompt(stem: str, options: list[str], request: str) -> str:
    listed = [f"{letter}. {option}" for letter, option in zip(LETTERS, options)]
    return "\n".join([stem, *listed, *([request] if request else [])])


def _text(value: Any) -> str:
    """A published text; "" for null, blanks, and "nan", which pandas has made of empty cells."""
    return "" if value is None or str(value).strip() in ("", "nan", "NaN") else str(value)


def _whole(value: Any) -> Any:
    """A published whole number, also one that is a text or, as pandas has it beside empty cells, a float; else the
    value as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def _options(values: list[Any]) -> tuple[list[str], str | None]:
    """The options before the first that is missing, and what is wrong with them."""
    texts = [_text(value) for value in values]
    count = next((number for number, text in enumerate(texts) if not text), len(texts))
    if any(texts[count:]):
        return texts[:count], f"option {LETTERS[count]} is missing, but not all after it"
    return texts[:count], None if count > 1 else f"the number of options is {count}"


def _not_among(answer: str, options: list[str]) -> str | None:
    letters = LETTERS[: len(options)]
    return None if answer in tuple(letters) else f"the answer is {answer!r}, not among {', '.join(letters)}"


def _none_of(column: str, value: Any, known: Iterable[Any]) -> str | None:
    return None if value in known else f"{column} is {value!r}, none of {', '.join(map(str, known))}"
