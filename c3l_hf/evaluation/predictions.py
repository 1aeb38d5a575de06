"""A model's answers to a whole benchmark: in parts that survive an interruption, shared by several processes."""

import functools
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import transformers
from datasets import Dataset, Features
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.aside import set_aside
from c3l_hf.common.checksums import checksum, note, note_of, noted_damage
from c3l_hf.common.errors import RunError
from c3l_hf.common.files import atomic_write, digest
from c3l_hf.common.nodes import check_same, check_shared
from c3l_hf.common.processes import process_state
from c3l_hf.common.records import is_whole, read_record, write_record
from c3l_hf.common.shards import Shards
from c3l_hf.data.schema import STATUS_OK
from c3l_hf.evaluation.answerer import ANSWER_FEATURES, Answerer, PredictionConfig, stem
from c3l_hf.evaluation.prediction_code import prediction_code
from c3l_hf.evaluation.questions import QUESTION_FEATURES
from c3l_hf.generation.sampling import end_tokens
from c3l_hf.models.loading import digest_weights

__all__ = ["PREDICTION_FEATURES", "PredictionConfig", "claim_folder", "predict", "predictions_file"]

logger = logging.getLogger(__name__)

PREDICTION_FEATURES = Features(
    {name: feature for name, feature in QUESTION_FEATURES.items() if name not in ("images", "status")} | ANSWER_FEATURES
)

_RECORD, _WHOLE, _PARTS = "predictions.json", "predictions.parquet", "parts"


def predict(
    questions: Dataset,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    config: PredictionConfig | None = None,
    *,
    folder: str | Path | None = None,
    made_from: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Dataset:
    """A model's answers to questions about images.

    Questions that ask the same about the same images are put to the model once. In a `folder` the answers are kept in
    parts: after an interruption the same call goes on with the first part that is missing, and in the end
    `predictions.parquet` has all of them, beside `predictions.json`, what made them. Under `accelerate launch` the
    processes take turns at the parts, and each returns the whole.

    Args:
        questions: Rows with the columns of `questions.QUESTION_FEATURES`.
        model: Any image-text-to-text model. Its own generation settings (repetition penalty, …) are not used, except
            for the ids of its special tokens.
        processor: Its processor, with a chat template.
        config: Options.
        folder: Where to keep the answers; None keeps nothing, and every process answers all questions.
        made_from: What else the predictions are to be known by, e.g. the benchmark's name; values as JSON has them.
        progress: Show a progress bar.

    Returns:
        One row per question, in their order, with the columns of `PREDICTION_FEATURES`:

        - `question_id`, `question`, `options`, `answer`, `group`, `cluster`, `meta`: as they were
        - `prediction`: the written text, after the tag if the prompt opens a thought; `ended`: whether it ended before
          `max_new_tokens`
        - `status`: "ok", or why there is no prediction (it is null then)
        - `option_logprobs`, `option_logprobs_blind`: for each option the mean log-probability, in nats, of the tokens
          of its text as the answer, with the images and without, see `scoring.scorer.I2CScorer`. The question is
          `stem` in `meta`, if it is there: without the list of options and the request for a letter.
        - `option_status`: "ok", or why there are none; null where there are no options, or none were asked for

    Raises:
        ValueError: If a column is missing, a question_id occurs twice, the processor has no chat template, or the
            model answers no question.
        RunError: If the folder holds something else, or predictions that something else has made; or if the options of
            questions have no likelihoods with this model (`likelihood=False` needs none). It says what.
    """
    config = config or PredictionConfig()
    plain, asked = _prepared(questions, processor)
    parts, state = _Parts(plain, asked, model, processor, config), process_state()
    numbers = range(parts.count)
    if folder is None:
        with _progress(parts, numbers, progress) as bar:
            return _joined(plain, asked, [answer for number in numbers for answer in parts.answer(number, bar)])

    folder = Path(folder)
    _claim(folder, _record(asked, model, processor, config, made_from))
    whole = predictions_file(folder)
    if state.is_main_process:
        _set_damaged_aside(whole)
    state.wait_for_everyone()
    if not whole.is_file():
        shards = Shards(folder / _PARTS, parts.count)
        mine = shards.missing[state.process_index :: state.num_processes]
        with _progress(parts, mine, progress) as bar:
            shards.write_missing(
                lambda number: [_table(parts.answer(number, bar), ANSWER_FEATURES)], ANSWER_FEATURES.arrow_schema
            )
        if state.is_main_process:
            answers = [answer for batch in shards.batches() for answer in batch.to_pylist()]
            with atomic_write(whole) as partial:
                pq.write_table(_table(_joined(plain, asked, answers).to_list(), PREDICTION_FEATURES), partial)
                note(whole, checksum(partial))
            shutil.rmtree(folder / _PARTS, ignore_errors=True)
    state.wait_for_everyone()
    return Dataset.from_list(pq.read_table(whole).to_pylist(), features=PREDICTION_FEATURES)


def claim_folder(
    folder: str | Path,
    questions: Dataset,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    config: PredictionConfig,
    made_from: Mapping[str, Any] | None = None,
) -> None:
    """What `predict` checks at its start, before any work: for runs that predict into several folders.

    Raises:
        ValueError, RunError: As `predict` does for the same arguments.
    """
    _, asked = _prepared(questions, processor)
    _claim(Path(folder), _record(asked, model, processor, config, made_from))


def predictions_file(folder: str | Path) -> Path:
    """Where `predict` writes all predictions, when they are complete."""
    return Path(folder) / _WHOLE


def _set_damaged_aside(whole: Path) -> None:
    if whole.is_file() and (told := noted_damage(whole)):
        aside = set_aside(whole.parent, [whole, note_of(whole)])
        logger.warning("%s %s; it is made again. What was there is in %s", whole, told, aside)


@dataclass(frozen=True)
class _Asked:
    """What is to be put to the model, each once.

    Attributes:
        rows: Numbers of question rows, no two of which ask the same; rows about the same images next to each other.
        place: Row number → place in `rows` of the row that asks the same; none for rows that cannot be asked.
        keys: For each of `rows` what tells it from the others.
        digest: What tells these questions from others.
        count: Number of question rows.
    """

    rows: list[int]
    place: dict[int, int]
    keys: list[bytes]
    digest: str
    count: int

    @classmethod
    def of(cls, questions: Dataset) -> "_Asked":
        together, first, same = {}, {}, {}
        everything = []
        for number, row in enumerate(questions):
            images = [_content(image) for image in row["images"] or ()]
            text = json.dumps([value for name, value in row.items() if name != "images"])
            everything.append(digest(text, *images))
            if row["status"] == STATUS_OK:
                key = digest(json.dumps([row["question"], stem(row), row["options"]]), *images)
                same[number] = first.setdefault(key, number)
                together.setdefault(tuple(images), []).extend([number] * (first[key] == number))
        rows = [number for numbers in together.values() for number in numbers]
        places = {number: place for place, number in enumerate(rows)}
        keys = {number: bytes.fromhex(key) for key, number in first.items()}
        place = {number: places[representative] for number, representative in same.items()}
        return cls(rows, place, [keys[number] for number in rows], digest(*everything), len(questions))


@dataclass(frozen=True)
class _Parts:
    """What is asked, in parts of `config.part_size` questions, each answered for itself."""

    questions: Dataset
    asked: _Asked
    model: PreTrainedModel
    processor: ProcessorMixin
    config: PredictionConfig

    @property
    def count(self) -> int:
        return -(-len(self.asked.rows) // self.config.part_size)

    @functools.cached_property
    def _answerer(self) -> Answerer:
        # When it is needed: it tries the model on rows of its own.
        return Answerer(self.model, self.processor, self.config)

    def place(self, number: int) -> slice:
        """Where a part is in `asked.rows`."""
        return slice(self.config.part_size * number, self.config.part_size * (number + 1))

    def answer(self, number: int, bar: tqdm) -> list[dict[str, Any]]:
        place = self.place(number)
        rows = list(self.questions.select(self.asked.rows[place]))
        answers = self._answerer(rows, self.asked.keys[place])
        bar.update(len(answers))
        return answers


def _progress(parts: _Parts, numbers: Sequence[int], show: bool) -> tqdm:
    total = sum(len(parts.asked.rows[parts.place(number)]) for number in numbers)
    show = show and total > 0 and process_state().is_main_process
    return tqdm(total=total, desc="Answering", unit="question", disable=not show)


def _joined(questions: Dataset, asked: _Asked, answers: Sequence[Mapping[str, Any]]) -> Dataset:
    """The questions with their answers; those that could not be asked with the reason."""
    rows = []
    for number, row in enumerate(questions.remove_columns("images")):
        nothing = {**dict.fromkeys(ANSWER_FEATURES), "status": row["status"]}
        answer = answers[asked.place[number]] if number in asked.place else nothing
        rows.append({**row, **answer})
    return Dataset.from_list(rows, features=PREDICTION_FEATURES)


def _prepared(questions: Dataset, processor: ProcessorMixin) -> tuple[Dataset, _Asked]:
    _check(questions, processor)
    plain = questions.select_columns(list(QUESTION_FEATURES))
    if plain.features != QUESTION_FEATURES:  # casting copies the images
        plain = plain.cast(QUESTION_FEATURES)
    return plain, _Asked.of(plain)


def _check(questions: Dataset, processor: ProcessorMixin) -> None:
    missing = [name for name in QUESTION_FEATURES if name not in questions.column_names]
    if missing:
        found = ", ".join(questions.column_names)
        raise ValueError(f"the questions have no column {', '.join(missing)}; their columns are {found}")
    if not len(questions):
        raise ValueError("there are no questions")
    ids = questions["question_id"][:]
    if len(set(ids)) < len(ids):
        twice = next(name for number, name in enumerate(ids) if name in ids[:number])
        raise ValueError(f"question_id must be unique; {twice!r} occurs more than once")
    if not processor.chat_template:
        raise ValueError(
            f"{type(processor).__name__} has no chat template, so questions cannot be put to the model: "
            "set processor.chat_template, or take the model's instruction-tuned version"
        )


def _claim(folder: Path, record: Mapping[str, Any]) -> None:
    """Makes a folder the one of these predictions, or finds that it is.

    Raises:
        RunError: If it is another one's.
    """
    state, path = process_state(), folder / _RECORD
    check_same(record, "put the same questions to the same model on all machines")
    check_shared(folder, "folder")
    found = read_record(path)
    if found is not None:
        for name in [*record, *found]:
            if found.get(name) != record.get(name):
                raise RunError(
                    f"{folder} holds predictions that something else has made ({name}: {found.get(name)!r} there, "
                    f"{record.get(name)!r} now); give another folder, or remove this one"
                )
    elif path.exists():
        raise RunError(
            f"{path} is damaged, or not one that c3l_hf has written; give another folder, or remove this one"
        )
    elif folder.is_file() or folder.is_dir() and any(path.suffix != ".partial" for path in folder.iterdir()):
        raise RunError(f"{folder} is in the way: it has no {_RECORD}; give another folder")
    state.wait_for_everyone()
    if state.is_main_process and not is_whole(path):
        folder.mkdir(parents=True, exist_ok=True)
        write_record(path, record)
    state.wait_for_everyone()


def _record(
    asked: _Asked,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    config: PredictionConfig,
    made_from: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the predictions depend on; model and processor by their contents."""
    asking = [processor.to_json_string(), processor.tokenizer.backend_tokenizer.to_str(), str(processor.chat_template)]
    return {
        **json.loads(json.dumps(dict(made_from or {}))),
        "rows": asked.count,
        "questions": asked.digest,
        "model": digest_weights(model),
        "model_config": digest(model.config.to_json_string()),
        "dtype": str(model.dtype),
        "processor": digest(*asking),
        "end_tokens": end_tokens(model, processor.tokenizer),
        **{name: value for name, value in asdict(config).items() if name != "batch_size"},
        "transformers": transformers.__version__,
        "code": prediction_code(),
    }


def _table(rows: Sequence[Mapping[str, Any]], features: Features) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=features.arrow_schema)


def _content(image: Mapping[str, Any] | None) -> str:
    """Digest of an encoded image; of one that is not there, of its name."""
    if image is None:
        return ""
    content = image["bytes"]
    if content is None:
        try:
            content = Path(image["path"]).read_bytes()
        except (OSError, TypeError, ValueError):  # as of a name with a null character
            content = str(image["path"])
    return digest(content)
