"""Images → instruction/answer pairs: sampling with one seed per pair, and the parsing of the raw text."""

import contextlib
import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.ahead import ahead
from c3l_hf.common.errors import RowError
from c3l_hf.data.schema import PAIR_FEATURES, PAIR_TABLE_FEATURES
from c3l_hf.data.sources import image_column, image_ids
from c3l_hf.data.status import generation_counts, publishable
from c3l_hf.data.stored_images import storable, stored_images
from c3l_hf.files.image import open_image
from c3l_hf.generation.parsing import PairParseError, parse_pair
from c3l_hf.generation.sampling import NON_FINITE, TextSampler
from c3l_hf.generation.templates import QUESTION_TYPES, Template, templates_for
from c3l_hf.models.encoding import encode_prompt

__all__ = ["PairGenerationConfig", "generate_pairs", "generate_tables"]

logger = logging.getLogger(__name__)

_CUT_OFF = "cut off at max_new_tokens"
_TABLE_ROWS = 1000


@dataclass(frozen=True)
class PairGenerationConfig:
    """How pairs are generated.

    Attributes:
        pairs_per_image: Pairs per image, k.
        types: Question types to ask for, each one that `generation.templates.templates_for` knows ("general" lets the
            model choose).
        types_per_image: Over how many different types the pairs of one image are spread, as evenly as k allows. Which
            ones is drawn from (seed, image_id), each type equally likely. 1 gives k candidates for one instruction.
        temperature: Sampling temperature; 0 takes the likeliest token.
        top_p: Samples from the smallest set of tokens with at least this probability; 1 samples from all.
        max_new_tokens: Longest text; a text that does not end before is malformed.
        seed: With image_id and the pair's number it determines types, templates and samples.
        batch_size: Pairs generated at once. Up to floating-point noise, it does not change the result.
    """

    pairs_per_image: int = 5
    types: tuple[str, ...] = QUESTION_TYPES
    types_per_image: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 128
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("pairs_per_image", "types_per_image", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if len(set(self.types)) < len(self.types) or not self.types:
            raise ValueError(f"types must name at least one type, each once, not {self.types}")
        for type in self.types:
            templates_for(type)
        if self.types_per_image > min(len(self.types), self.pairs_per_image):
            raise ValueError(
                f"types_per_image is {self.types_per_image}, but there are {len(self.types)} types and "
                f"{self.pairs_per_image} pairs per image"
            )
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")


def generate_pairs(
    dataset: Dataset,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    config: PairGenerationConfig,
    progress: bool = True,
) -> Dataset:
    """Let a vision-language model write `pairs_per_image` instruction/answer pairs about each image.

    Args:
        dataset: Images in a column `images` (list of images) or `image`; without `image_id`, row numbers are used.
        model: Any image-text-to-text model with `generate`. Its own generation settings (repetition penalty, …) are not
            used, except for the ids of its special tokens.
        processor: The model's processor; it must have a chat template.
        config: Options.
        progress: Show a progress bar.

    Returns:
        One row per pair, in the order of the images: `images` (as they were encoded, without those whose file is
        missing), `image_id`, `pair_id` ("<image_id>/<k>"), `template`, `type`, `prompt` and `completion` (messages),
        `raw` (the model's text) and `generation_status` ("ok", or the reason why there is no pair; `prompt` and
        `completion` are null then). The rows are written to the cache of `datasets`, not held in memory.

    Raises:
        ValueError: If the columns are wrong, an image_id is missing or occurs twice, or the processor has no chat
            template.
    """
    pairs = pa.concat_tables(generate_tables(dataset, model, processor, config, progress=progress))
    images = dataset.select_columns([image_column(dataset)])
    result = Dataset.from_generator(_with_images, features=PAIR_FEATURES, gen_kwargs={"images": images, "pairs": pairs})
    for status, count in generation_counts(result).items():
        logger.info("generation: %s: %d", status, count)
    return result


def generate_tables(
    images: Dataset,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    config: PairGenerationConfig,
    *,
    first_row: int = 0,
    progress: bool = True,
) -> Iterator[pa.Table]:
    """The pairs of `generate_pairs` without the pixels: `image_row` says which row of the images they are about.

    All texts are written before the first table comes, as pairs of one template go to the model together, whichever
    images they are about. They are in memory until then, and an interruption loses them: give it some hundred images at
    a time. Of pictures two batches are in memory, as the model takes them.

    Args:
        images: As for `generate_pairs`: some of the images, or all.
        model: As for `generate_pairs`.
        processor: As for `generate_pairs`.
        config: Options.
        first_row: The row of the first one among all images.
        progress: Show a progress bar.

    Returns:
        Tables of `PAIR_TABLE_FEATURES`, in the order of the images.

    Raises:
        ValueError: As for `generate_pairs`; or if these are not the first images and have no `image_id`.
    """
    column = image_column(images)
    if first_row and "image_id" not in images.column_names:
        raise ValueError(f"first_row is {first_row}, and the images have no column image_id: theirs would begin at 0")
    ids = image_ids(images)
    if not processor.chat_template:
        raise ValueError(
            f"{type(processor).__name__} has no chat template, so instructions cannot be put to the model: "
            "set processor.chat_template"
        )
    pairs = [
        _Pair(row, image_id, k, template)
        for row, image_id in enumerate(ids)
        for k, template in enumerate(_templates(config, image_id))
    ]
    # Rows as arrow hold the encoded image; pixels are decoded only while a prompt is encoded.
    return _tables(
        images.select_columns([column]).with_format("arrow"), pairs, model, processor, config, first_row, progress
    )


@dataclass
class _Pair:
    """A pair that is to be written.

    Attributes:
        row: The row of its image.
        image_id: The image's id.
        k: Its number among the image's pairs.
        template: What the model is asked.
        raw: The model's text, once it is written.
        status: Why there is no text, or no whole one; None if there is.
    """

    row: int
    image_id: str
    k: int
    template: Template
    raw: str = ""
    status: str | None = None


def _tables(
    images: Dataset,
    pairs: Sequence[_Pair],
    model: PreTrainedModel,
    processor: ProcessorMixin,
    config: PairGenerationConfig,
    first_row: int,
    progress: bool,
) -> Iterator[pa.Table]:
    # Pairs of one template one after the other: prompts of one length and answers of similar length.
    prompts: dict[tuple[int, str], list[_Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.template.id):
        prompts.setdefault((pair.row, pair.template.id), []).append(pair)
    sampler = TextSampler(
        model, processor, temperature=config.temperature, top_p=config.top_p, batch_size=config.batch_size
    )
    # Prompts are encoded ahead of the model. It leaves the tokenizer to them, but for the decoding of its texts.
    encoded = contextlib.closing(ahead(_with_prompts(prompts.values(), images, processor, config), depth=64))
    with tqdm(total=len(pairs), desc="Generating pairs", unit="pair", disable=not progress) as bar:
        with encoded as prompted, sampler:
            for written, texts in sampler.write(prompted):
                for pair, text in zip(written, texts, strict=True):
                    pair.raw, pair.status = text.text, {True: None, False: _CUT_OFF, None: NON_FINITE}[text.ended]
                bar.update(len(written))
    # The sampler's settings of model and torch end here: between two tables others run.
    for start in range(0, len(pairs), _TABLE_ROWS):
        rows = [_finished(pair, first_row) for pair in pairs[start : start + _TABLE_ROWS]]
        yield pa.Table.from_pylist(rows, schema=PAIR_TABLE_FEATURES.arrow_schema)


def _with_prompts(
    groups: Iterable[Sequence[_Pair]], images: Dataset, processor: ProcessorMixin, config: PairGenerationConfig
) -> Iterator[tuple[Sequence[_Pair], dict[str, torch.Tensor], np.ndarray]]:
    """The pairs of one prompt each with it and their random numbers; those without a prompt get their status."""
    for group in groups:
        inputs = _encode(processor, images[group[0].row].column(0)[0].as_py(), group[0].template)
        if isinstance(inputs, str):
            for pair in group:
                pair.status = inputs
        else:
            yield group, inputs, _uniforms(config, [(pair.image_id, pair.k) for pair in group])


def _digest(*parts: object) -> bytes:
    # Every random choice comes from here; lengths keep ("a", "bc") apart from ("ab", "c").
    text = "".join(f"{len(str(part))}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _templates(config: PairGenerationConfig, image_id: str) -> list[Template]:
    """The template of each of the image's pairs: one per type, so that pairs of a type answer the same instruction."""
    drawn = sorted(config.types, key=lambda type: _digest(config.seed, "type", image_id, type))[
        : config.types_per_image
    ]
    templates = []
    for type in drawn:
        choice = int.from_bytes(_digest(config.seed, "template", image_id, type), "big")
        templates.append(templates_for(type)[choice % len(templates_for(type))])
    return [templates[k % len(templates)] for k in range(config.pairs_per_image)]


def _uniforms(config: PairGenerationConfig, drawn: Sequence[tuple[str, int]]) -> np.ndarray:
    """Numbers in [0, 1) of shape (rows, max_new_tokens), each row from the seed and its own (image_id, k)."""
    keys = [np.frombuffer(_digest(config.seed, "sample", image_id, k), dtype="<u8") for image_id, k in drawn]
    raw = np.stack([np.random.Philox(key=key).random_raw(config.max_new_tokens) for key in keys])
    return (raw >> np.uint64(11)) * 2.0**-53


def _encode(processor: ProcessorMixin, images: list | dict | None, template: Template) -> dict[str, torch.Tensor] | str:
    """The model's inputs for one image and template, or the reason why there are none."""
    images = images if isinstance(images, list) else [images]
    if not any(images):
        return "no image"
    if None in images:
        return f"images[{images.index(None)}] is null"
    opened = []
    try:
        for image in images:
            opened.append(open_image(image))
        return encode_prompt(processor, [{"role": "user", "content": template.text}], opened)
    except RowError as error:
        # Decoders name objects and places in their messages; equal reasons have to be equal strings to be counted.
        cause = error.__cause__
        which = f"images[{len(opened)}]" if 1 < len(images) > len(opened) else "the image"
        return publishable(str(error)) if cause is None else f"{which} cannot be read ({type(cause).__name__})"


def _finished(pair: _Pair, first_row: int) -> dict[str, Any]:
    """A row of `PAIR_TABLE_FEATURES`, with the raw text parsed."""
    question = answer = None
    status = pair.status
    if status is None:
        try:
            question, answer = parse_pair(pair.raw)
            status = "ok"
        except PairParseError as error:
            status = error.reason
    ok = status == "ok"
    return {
        "image_row": first_row + pair.row,
        "image_id": pair.image_id,
        "pair_id": f"{pair.image_id}/{pair.k}",
        "template": pair.template.id,
        "type": pair.template.type,
        "prompt": [{"role": "user", "content": question}] if ok else None,
        "completion": [{"role": "assistant", "content": answer}] if ok else None,
        "raw": pair.raw,
        "generation_status": status,
    }


def _with_images(images: Dataset, pairs: pa.Table) -> Iterator[dict[str, Any]]:
    for table in pairs.to_batches(50):  # their images are in memory together, as they are stored
        rows = table.to_pylist()
        stored = stored_images(images, [row.pop("image_row") for row in rows])
        for row, row_images in zip(rows, stored):
            yield {"images": storable(row_images), **row}
