"""Rows of any layout → encoded examples for fine-tuning, with labels on the answers only.

Nothing is truncated: every row is encoded once before the first step, to find those that cannot be trained on.
"""

import functools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import torch
from datasets import Dataset, Features
from transformers import ProcessorMixin
from transformers.data.data_collator import DataCollatorMixin

from c3l_hf.common.errors import RowError
from c3l_hf.common.processes import process_state
from c3l_hf.data.image_files import check_key, located
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.stored_rows import stored_row, stored_rows
from c3l_hf.data.turns import Pair, to_turns, turn_reason
from c3l_hf.files.image import image_key, open_image
from c3l_hf.finetuning.answer_weights import TOKEN_WEIGHT, AnswerWeights
from c3l_hf.models.batching import PER_TOKEN, collate, with_picture
from c3l_hf.models.control_tokens import ControlTokens
from c3l_hf.models.encoding import EncodedRow, encode_row, with_end, with_image_cache
from c3l_hf.training.finite import ROW_NAMES

__all__ = ["AnswerEncoder", "DataCollatorForAnswers", "Examples", "encode_examples"]

_IDS = ("pair_id", "image_id", "id")
_LOOKS = ("row", "turn", "length", "images", "problem")


@dataclass(frozen=True)
class AnswerEncoder:
    """Encodes a pair with the answer's tokens and the one that ends it as what is trained.

    Attributes:
        processor: The student's processor, with a chat template.
        max_length: The longest sequence.
        image_folder: Where images are that rows name by a relative path.
        control_tokens: What becomes of control tokens that are written out in a text, see `models.control_tokens`.
    """

    processor: ProcessorMixin
    max_length: int | None = None
    image_folder: str | None = None
    control_tokens: ControlTokens = "refuse"

    def encode(self, pair: Pair) -> EncodedRow:
        """The pair's inputs; `answer` includes the end token, because a student has to learn to stop.

        Raises:
            RowError: If the pair cannot be encoded or has more than `max_length` tokens.
        """
        values = [located(image, self.image_folder) for image in pair.images]
        images, keys = list(map(open_image, values)), list(map(image_key, values))
        processor = with_image_cache(self.processor)
        row = encode_row(
            processor, pair.prompt, pair.answer, images, image_keys=keys, control_tokens=self.control_tokens
        )
        return with_end(self.processor, row, self.max_length)


@dataclass(frozen=True)
class Examples:
    """What a student is trained on: an example for each assistant turn of the rows that can be trained on.

    Attributes:
        rows: The dataset, in one of the layouts of `data.layouts`.
        encoder: Encodes them.
        index: Dataset with the columns `row`, `turn` (which places it in `rows`), `length` (in tokens) and `images`
            (how many), by row.
        rejected: Row → why it is left out.
        shortened: Row → why some of its turns are left out, and only these.
        kept: (row, turn) → the encoded example, if they were kept; rows with the same images share their tensors.
        weights: How much the tokens of each answer count; None if all count alike.
    """

    rows: Dataset
    encoder: AnswerEncoder
    index: Dataset
    rejected: Mapping[int, str]
    shortened: Mapping[int, str]
    kept: Mapping[tuple[int, int], EncodedRow] | None = None
    weights: AnswerWeights | None = None

    def select(self, rows: Iterable[int]) -> "Examples":
        """The examples of some rows, without encoding them again."""
        chosen = set(rows)
        places = [number for number, row in enumerate(self.index["row"]) if row in chosen]
        rejected, shortened = (
            {row: reason for row, reason in reasons.items() if row in chosen}
            for reasons in (self.rejected, self.shortened)
        )
        return replace(self, index=self.index.select(places), rejected=rejected, shortened=shortened)

    def encoded(self, row: int, turn: int) -> EncodedRow:
        if self.kept is not None:
            return self.kept[row, turn]
        pair = to_turns(stored_row(self.rows, row))[turn]
        if isinstance(pair, RowError):
            raise pair
        return self.encoder.encode(pair)

    def weights_of(self, row: int, turn: int, encoded: EncodedRow) -> torch.Tensor:
        """The weight of each token of an answer, the one that ends it included; where `weights` are there."""
        assert self.weights is not None
        stored = stored_row(self.rows.select_columns(self.weights.columns(self.rows.column_names)), row)
        return self.weights.of(stored, turn, encoded, self.encoder.processor)

    def rejected_lines(self, most: int = 5) -> list[str]:
        """The first rows that are left out, then those of which turns are: number, id, reason."""
        left_out = [*self.rejected.items(), *self.shortened.items()][:most]
        return [f"{self.row_name(number)}: {reason}" for number, reason in left_out]

    def row_name(self, number: int) -> str:
        """What messages call a row: its number, and an id if it has one."""
        ids = [name for name in _IDS if name in self.rows.column_names]
        row = self.rows.select_columns(ids)[number] if ids else {}
        return f"row {number}" + next((f" ({name} {value!r})" for name, value in row.items() if value is not None), "")


def encode_examples(
    dataset: Dataset,
    processor: ProcessorMixin,
    max_length: int | None = None,
    *,
    keep: bool = False,
    num_proc: int | None = None,
    image_folder: str | None = None,
    control_tokens: ControlTokens = "refuse",
    weights: AnswerWeights | None = None,
) -> Examples:
    """Encodes every row once: to find those that cannot be trained on, and how long the others are.

    Args:
        dataset: Rows in one of the layouts of `data.layouts`. A conversation of several assistant turns gives an
            example for each that can be trained on. Rows without an image are trained on like the others, but a dataset
            without any is refused.
        processor: The student's processor, with a chat template.
        max_length: The longest sequence.
        keep: Keep what was encoded in memory, for small pictures, or where several students are trained on the same
            rows. Otherwise rows are encoded again when they are trained on.
        num_proc: Processes that share the work; without `keep`.
        image_folder: Where images are that rows name by a relative path; by default the working folder.
        control_tokens: What becomes of control tokens that are written out in a text: "refuse" or "escape", see
            `models.control_tokens`.
        weights: How much the tokens of each answer count in the loss, by which columns of the rows; by default all
            alike. An answer whose weights cannot be told is left out, as one that cannot be encoded.

    Raises:
        ValueError: If the columns are in no accepted layout, one that `weights` needs is missing, no row can be trained
            on (the message names the first), or none of them has an image.
    """
    columns, layout = dataset.column_names, layout_of(dataset.column_names)
    read = [*layout.columns, *(name for name in _IDS if name in columns)]
    if weights is not None:
        read += weights.columns(columns)
    rows = dataset.select_columns(list(dict.fromkeys(read)))
    encoder = AnswerEncoder(processor, max_length, image_folder, control_tokens)
    stored = rows.with_format("arrow")  # images as they are stored
    kept: dict[tuple[int, int], EncodedRow] | None = {} if keep else None
    if not len(rows):
        raise ValueError("the dataset has no rows")
    if kept is None:
        with process_state().main_process_first():  # the others find the result in the cache, if it is on
            made_from = check_key(rows, layout, image_folder)
            look = functools.partial(
                _look, features=rows.features, encoder=encoder, weights=weights, made_from=made_from
            )
            options = {"batched": True, "batch_size": 50, "with_indices": True, "num_proc": num_proc}
            looks = stored.map(look, remove_columns=rows.column_names, desc="Checking rows", **options)
        looks = looks.with_format(None).to_dict()
    else:
        looks, shared = {name: [] for name in _LOOKS}, {}
        for number, table in enumerate(stored.iter(50)):
            part = _look(
                table, range(50 * number, 50 * number + len(table)), rows.features, encoder, weights, kept, shared
            )
            for name, values in part.items():
                looks[name] += values
    problems: dict[int, str] = {}
    for row, problem in zip(looks["row"], looks["problem"]):
        if problem:
            problems.setdefault(row, problem)
    good = [place for place, problem in enumerate(looks.pop("problem")) if not problem]
    index = Dataset.from_dict(looks).select(good)
    trained = set(index["row"])
    rejected = {row: problem for row, problem in problems.items() if row not in trained}
    shortened = {row: problem for row, problem in problems.items() if row in trained}
    examples = Examples(rows, encoder, index, rejected, shortened, kept, weights)
    if not good:
        raise ValueError(f"none of the {len(rows):,} rows can be trained on: {'; '.join(examples.rejected_lines())}")
    if not any(index["images"]):
        # An overlooked column of images would train a student on texts alone.
        raise ValueError(
            f"none of the {len(rows):,} rows has an image (read: {layout}); images are in a column image or images, "
            "or in the messages"
        )
    return examples


def _look(
    table: pa.Table,
    numbers: Iterable[int],
    features: Features,
    encoder: AnswerEncoder,
    weights: AnswerWeights | None = None,
    kept: dict[tuple[int, int], EncodedRow] | None = None,
    shared: dict[tuple[Hashable, ...], dict[str, torch.Tensor]] | None = None,
    made_from: str = "",  # for the cache of `datasets`, which looks at the arguments
) -> dict[str, list]:
    """The examples of some rows, or the problem of each row or turn that has one; puts what is encoded into `kept`."""
    looks = []
    for number, row in zip(numbers, stored_rows(table, features)):
        try:
            turns = to_turns(row)
        except RowError as error:
            looks.append((number, 0, 0, 0, str(error)))
            continue
        for turn, pair in enumerate(turns):
            try:
                if isinstance(pair, RowError):
                    raise pair
                example = encoder.encode(pair)
                if weights is not None:
                    weights.of(row, turn, example, encoder.processor)
            except RowError as error:
                looks.append((number, turn, 0, 0, turn_reason(error, turn, len(turns))))
                continue
            looks.append((number, turn, example.inputs["input_ids"].shape[1], len(pair.images), ""))
            if kept is not None:
                images = {name: value for name, value in example.inputs.items() if name not in PER_TOKEN}
                if shared is not None and example.images:
                    images = shared.setdefault(example.images, images)
                kept[number, turn] = replace(example, inputs={**example.inputs, **images})
    return dict(zip(_LOOKS, map(list, zip(*looks))))


@dataclass
class DataCollatorForAnswers(DataCollatorMixin):
    """Rows of `Examples.index` → a padded batch with `labels`: -100 but for the answers' tokens and their ends.

    If the examples have weights, `TOKEN_WEIGHT` has that of each of these tokens.

    Attributes:
        examples: The examples.
        always_picture: Give a batch without any image a line with one, of which nothing is learned: so that every step
            uses the same weights, in every process.
        named: Put what messages call the rows into `ROW_NAMES`, which is not for the model.
    """

    examples: Examples
    always_picture: bool = False
    named: bool = False
    return_tensors: str = "pt"

    def torch_call(self, places: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        encoded = [self.examples.encoded(place["row"], place["turn"]) for place in places]
        processor = self.examples.encoder.processor
        rows: Sequence[Mapping[str, torch.Tensor]] = [row.inputs for row in encoded]
        if self.always_picture:
            rows = with_picture(processor, rows)  # the line that it adds is the last
        batch = collate(processor, rows, padding_side="right")
        labels = torch.full_like(batch["input_ids"], -100)
        for label, ids, row in zip(labels, batch["input_ids"], encoded):
            label[row.answer] = ids[row.answer]
        batch["labels"] = labels
        if self.examples.weights is not None:
            batch[TOKEN_WEIGHT] = torch.ones(labels.shape)
            for weight, place, row in zip(batch[TOKEN_WEIGHT], places, encoded):
                weight[row.answer] = self.examples.weights_of(place["row"], place["turn"], row)
        if self.named:
            batch[ROW_NAMES] = [self.examples.row_name(place["row"]) for place in places]
        return batch
