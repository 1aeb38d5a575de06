"""Images → instruction/answer pairs: what is asked about each image, the replies of a writer, and the pairs in them."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.arrow import in_tables_of
from c3l_hf.common.plain import plain
from c3l_hf.data.file_states import FILE_STATES
from c3l_hf.data.layouts import IMAGE_COLUMNS
from c3l_hf.data.row_texts import messages_of_turns
from c3l_hf.data.schema import PAIR_FEATURES, PAIR_TABLE_FEATURES
from c3l_hf.data.sources import image_column
from c3l_hf.data.status import generation_counts
from c3l_hf.data.stored_images import storable, stored_images
from c3l_hf.data.streams import RowStream
from c3l_hf.generation.asking import Asked, requests_of
from c3l_hf.generation.in_process import ModelWriter
from c3l_hf.generation.requests import Reply, Request, Writer
from c3l_hf.generation.usable import watched
from c3l_hf.prompts.template_files import check_control_tokens, check_fields, load_templates
from c3l_hf.prompts.templates import TemplateSet

__all__ = ["PairGenerationConfig", "check_columns", "generate_pairs", "generate_tables", "with_images"]

logger = logging.getLogger(__name__)

_WITH_IMAGES = 50  # rows whose images are in memory together, as they are stored
_TABLE_ROWS = 1000


@dataclass(frozen=True)
class PairGenerationConfig:
    """How pairs are generated.

    Attributes:
        templates: What is asked: a set of prompt templates, or the name of a shipped one or a YAML file.
        pairs_per_image: Replies to each image, k. Each is one pair, one conversation, or several pairs, as its template
            asks.
        types: Types of templates to ask with; by default all of the set ("general" only if there is no other).
        types_per_image: Over how many different types the replies to one image are spread, as evenly as k allows. Which
            ones is drawn from (seed, image_id), by the weights of their templates. 1 gives k candidates for one
            instruction.
        temperature: Sampling temperature; 0 takes the likeliest token.
        top_p: Samples from the smallest set of tokens with at least this probability; 1 samples from all.
        max_new_tokens: Longest reply, in tokens; by default that of its template. A reply that does not end before is
            malformed.
        seed: With image_id and the reply's number it determines types, templates and samples.
        attempt: Of several, see `retries`: each has draws of its own, and its replies have the numbers that follow.
        batch_size: Replies written at once. Up to floating-point noise, it does not change the result.

    Raises:
        RunError: If the templates cannot be read.
        ValueError: If a value is impossible.
    """

    templates: TemplateSet | str = "instruct"
    pairs_per_image: int = 5
    types: tuple[str, ...] | None = None
    types_per_image: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    seed: int = 0
    batch_size: int = 32
    attempt: int = 0
    # The templates, read, and the types that are asked for.
    template_set: TemplateSet = field(init=False, repr=False)
    asked_types: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("pairs_per_image", "types_per_image", "max_new_tokens", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        templates = self.templates if isinstance(self.templates, TemplateSet) else load_templates(self.templates)
        types = templates.types if self.types is None else self.types
        if len(set(types)) < len(types) or not types:
            raise ValueError(f"types must name at least one type, each once, not {types}")
        for type in types:
            templates.of_type(type)
        if self.types_per_image > min(len(types), self.pairs_per_image):
            raise ValueError(
                f"types_per_image is {self.types_per_image}, but there are {len(types)} types and "
                f"{self.pairs_per_image} pairs per image"
            )
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")
        object.__setattr__(self, "template_set", templates)
        object.__setattr__(self, "asked_types", tuple(types))

    def asked(self, images: Dataset) -> Iterator[Asked]:
        """What the generator is asked about images; see `asking.requests_of`."""
        return requests_of(
            images,
            self.template_set,
            self.asked_types,
            pairs_per_image=self.pairs_per_image,
            types_per_image=self.types_per_image,
            seed=self.seed,
            max_new_tokens=self.max_new_tokens,
            attempt=self.attempt,
        )

    def identity(self) -> dict[str, Any]:
        """All that determines what is asked and how replies are read and drawn, for digests: JSON."""
        return {
            "templates": self.template_set.identity(),
            "pairs_per_image": self.pairs_per_image,
            "types": list(self.asked_types),
            "types_per_image": self.types_per_image,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            **({"attempt": self.attempt} if self.attempt else {}),
        }

    def writer(self, model: PreTrainedModel, processor: ProcessorMixin) -> ModelWriter:
        """A model that replies in this process."""
        return ModelWriter(model, processor, self.temperature, self.top_p, self.seed, self.batch_size)


def generate_pairs(
    dataset: Dataset,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    config: PairGenerationConfig,
    progress: bool = True,
) -> Dataset:
    """Let a vision-language model write instruction/answer pairs about each image, `pairs_per_image` replies.

    Args:
        dataset: Images in a column `images` (list of images) or `image`, and the columns that the templates name;
            without `image_id`, row numbers are used.
        model: Any image-text-to-text model with `generate`. Its own generation settings (repetition penalty, …) are not
            used, except for the ids of its special tokens.
        processor: The model's processor; it must have a chat template.
        config: Options.
        progress: Show a progress bar.

    Returns:
        One row per pair or conversation, in the order of the images: `images` (as they were encoded, without those
        whose file is missing), `image_id`, `pair_id` ("<image_id>/<k>", or "<image_id>/<k>.<n>" where a template asks
        for several pairs in a reply), and the other columns of `data.schema.PAIR_FEATURES`: `prompt` and `completion`
        (messages), `raw` (the model's text) and `generation_status` ("ok", or the reason why there is no pair; `prompt`
        and `completion` are null then). The rows are written to the cache of `datasets`, not held in memory.

    Raises:
        RunError: If a template names a column that is not there, or contains control tokens of the model; or if none of
            the replies about the first 200 images has a pair.
        ValueError: If the columns are wrong, an image_id is missing or occurs twice, or the processor has no chat
            template.
    """
    check_control_tokens(config.template_set.templates, processor)
    writer = watched(config.writer(model, processor))
    pairs = pa.concat_tables(generate_tables(dataset, writer, config, progress=progress))
    return with_images(dataset, pairs)


def with_images(dataset: Dataset, pairs: pa.Table) -> Dataset:
    """Rows of `generate_tables` with their images, as `generate_pairs` returns them."""
    images = dataset.select_columns([name for name in dataset.column_names if name in (*IMAGE_COLUMNS, FILE_STATES)])
    result = Dataset.from_generator(_with_images, features=PAIR_FEATURES, gen_kwargs={"images": images, "pairs": pairs})
    for status, count in generation_counts(result).items():
        logger.info("generation: %s: %d", status, count)
    return result


def pairs_with_images(images: Dataset, tables: Callable[[], Iterable[pa.RecordBatch]], num_rows: int) -> RowStream:
    """Rows of `generate_tables` with their images, as `generate_pairs` returns them, without writing them anywhere.

    Args:
        images: As for `generate_pairs`.
        tables: The rows, from the first each time it is called.
        num_rows: How many there are.
    """

    def joined() -> Iterator[pa.Table]:
        for table in in_tables_of(_WITH_IMAGES, tables()):
            yield pa.Table.from_pylist(list(_with_images(images, table)), schema=PAIR_FEATURES.arrow_schema)

    return RowStream(PAIR_FEATURES, num_rows, joined)


def generate_tables(
    images: Dataset,
    writer: Writer,
    config: PairGenerationConfig,
    *,
    first_row: int = 0,
    progress: bool | Callable[[int], None] = True,
) -> Iterator[pa.Table]:
    """The pairs of `generate_pairs` without the pixels: `image_row` says which row of the images they are about.

    All texts are written before the first table comes, as requests of one template go to the writer together, whichever
    images they are about. They are in memory until then: give it some hundred images at a time. Of pictures a few are
    in memory, as the model takes them.

    Args:
        images: As for `generate_pairs`: some of the images, or all.
        writer: What replies.
        config: Options; those of sampling are the writer's.
        first_row: The row of the first one among all images.
        progress: Show a progress bar; or what is told how many replies have come, each time.

    Returns:
        Tables of `PAIR_TABLE_FEATURES`, in the order of the images.

    Raises:
        ValueError: As for `generate_pairs`; or if these are not the first images and have no `image_id`.
    """
    if first_row and "image_id" not in images.column_names:
        raise ValueError(f"first_row is {first_row}, and the images have no column image_id: theirs would begin at 0")
    check_columns(config, images)
    return _tables(images, writer, config, first_row, progress)


def check_columns(config: PairGenerationConfig, images: Dataset) -> None:
    """That images have the columns that the templates name.

    Raises:
        RunError: If one is missing; the message names the template and its place.
        ValueError: If there is no column of images.
    """
    others = set(images.column_names) - {image_column(images), FILE_STATES}
    check_fields(config.template_set.templates, sorted(others))


def _tables(
    images: Dataset,
    writer: Writer,
    config: PairGenerationConfig,
    first_row: int,
    progress: bool | Callable[[int], None],
) -> Iterator[pa.Table]:
    asked_of: dict[tuple[int, tuple[int, ...]], Asked] = {}
    rows: dict[tuple[int, int], list[dict[str, Any]]] = {}

    def requests() -> Iterator[Request]:
        for asked in config.asked(images):
            if asked.request is None:
                problem = [Reply("", asked.problem)] * len(asked.ks)
                rows.update(_rows(asked, problem, first_row, config.attempt))
                advance(len(asked.ks))
            else:
                asked_of[asked.row, asked.ks] = asked
                yield asked.request

    total = len(images) * config.pairs_per_image
    with tqdm(total=total, desc="Generating pairs", unit="pair", disable=progress is not True) as bar:
        advance = progress if callable(progress) else bar.update
        for request, replies in writer(requests()):
            asked = asked_of.pop((request.row, request.ks))
            rows.update(_rows(asked, replies, first_row, config.attempt))
            advance(len(replies))
    # The writer's settings of model and torch end here: between two tables others run.
    yield from _in_tables(row for key in sorted(rows) for row in rows.pop(key))


def _rows(
    asked: Asked, replies: Sequence[Reply], first_row: int, attempt: int
) -> Iterator[tuple[tuple[int, int], list[dict[str, Any]]]]:
    """The rows of `PAIR_TABLE_FEATURES` of each reply, by the image's row and the reply's number."""
    template = asked.template
    for k, reply in zip(asked.ks, replies, strict=True):
        pairs = template.read(reply.text) if reply.problem is None else [reply.problem]
        rows = []
        for number, pair in enumerate(pairs):
            prompt, completion = (None, None) if isinstance(pair, str) else messages_of_turns(pair)
            usage = {
                # A server may call a model by its folder, which is nobody's business.
                "served_model": reply.served_model and plain(reply.served_model),
                "prompt_tokens": None if number else reply.prompt_tokens,
                "completion_tokens": None if number else reply.completion_tokens,
            }
            rows.append(
                {
                    "image_row": first_row + asked.row,
                    "image_id": asked.image_id,
                    "pair_id": f"{asked.image_id}/{k}" + (f".{number}" if template.pairs > 1 else ""),
                    "template": template.id,
                    "type": template.type,
                    "language": template.language,
                    "prompt": prompt,
                    "completion": completion,
                    "raw": reply.text,
                    "generation_status": pair if isinstance(pair, str) else "ok",
                    "generation_prompt": asked.instruction,
                    "reply_form": template.reply.to_json(),
                    "usage": usage,
                    "attempt": attempt,
                }
            )
        yield (asked.row, k), rows


def _in_tables(rows: Iterable[dict[str, Any]]) -> Iterator[pa.Table]:
    waiting: list[dict[str, Any]] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == _TABLE_ROWS:
            yield pa.Table.from_pylist(waiting, schema=PAIR_TABLE_FEATURES.arrow_schema)
            waiting = []
    if waiting:
        yield pa.Table.from_pylist(waiting, schema=PAIR_TABLE_FEATURES.arrow_schema)


def _with_images(images: Dataset, pairs: pa.Table) -> Iterator[dict[str, Any]]:
    for table in pairs.to_batches(_WITH_IMAGES):
        rows = table.to_pylist()
        stored = stored_images(images, [row.pop("image_row") for row in rows])
        for row, row_images in zip(rows, stored):
            yield {"images": storable(row_images), **row}
