"""Images → instruction/answer pairs: sampling with one seed per pair, and the parsing of the raw text."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.errors import RowError
from c3l_hf.data.image import open_image
from c3l_hf.data.image_files import is_there
from c3l_hf.data.schema import PAIR_FEATURES
from c3l_hf.data.sources import image_column, image_ids
from c3l_hf.data.status import generation_counts
from c3l_hf.generation.parsing import PairParseError, parse_pair
from c3l_hf.generation.sampling import NON_FINITE, TextSampler
from c3l_hf.generation.templates import QUESTION_TYPES, Template, templates_for
from c3l_hf.models.encoding import encode_prompt

__all__ = [
    "PairGenerationConfig",
    "generate_pairs",
]

logger = logging.getLogger(__name__)

_CUT_OFF = "cut off at max_new_tokens"


@dataclass(frozen=True)
class PairGenerationConfig:
    """How pairs are generated.

    Attributes:
        pairs_per_image: Pairs per image, k.
        types: Question types to ask for, each one that `prompts.templates_for` knows ("general" lets the model choose).
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
        missing), `image_id`, `pair_id`
        ("<image_id>/<k>"), `template`, `type`, `prompt` and `completion` (messages), `raw` (the model's text) and
        `generation_status` ("ok", or the reason why there is no pair; `prompt` and `completion` are null then). The
        rows are written to the cache of `datasets`, not held in memory.

    Raises:
        ValueError: If the columns are wrong, an image_id is missing or occurs twice, or the processor has no chat
            template.
    """
    column = image_column(dataset)
    ids = image_ids(dataset)
    if not processor.chat_template:
        raise ValueError(
            f"{type(processor).__name__} has no chat template, so instructions cannot be put to the model: "
            "set processor.chat_template"
        )
    # Rows as arrow hold the encoded image; pixels are decoded only while a prompt is encoded.
    encoded_images = dataset.select_columns([column]).with_format("arrow")
    pairs = [
        {"row": row, "image_id": image_id, "k": k, "template": template}
        for row, image_id in enumerate(ids)
        for k, template in enumerate(_templates(config, image_id))
    ]
    # Batches of one template have prompts of one length and answers of similar length.
    order = sorted(range(len(pairs)), key=lambda index: (pairs[index]["template"].id, index))
    sampler = TextSampler(
        model, processor, temperature=config.temperature, top_p=config.top_p, max_new_tokens=config.max_new_tokens
    )
    with sampler, tqdm(total=len(pairs), desc="Generating pairs", unit="pair", disable=not progress) as bar:
        for start in range(0, len(order), config.batch_size):
            batch = [pairs[index] for index in order[start : start + config.batch_size]]
            prompts, numbers = [], {}
            for pair in batch:
                key = pair["row"], pair["template"].id
                if key not in numbers:
                    inputs = _encode(processor, encoded_images[pair["row"]][column][0].as_py(), pair["template"])
                    numbers[key] = inputs if isinstance(inputs, str) else len(prompts)
                    if not isinstance(inputs, str):
                        prompts.append(inputs)
                pair["prompt"] = numbers[key]
            written = [pair for pair in batch if not isinstance(pair["prompt"], str)]
            which = [pair["prompt"] for pair in written]
            texts = sampler(prompts, which, _uniforms(config, written)) if written else []
            for pair, (raw, ended) in zip(written, texts):
                pair["raw"], pair["status"] = raw, {True: None, False: _CUT_OFF, None: NON_FINITE}[ended]
            for pair in batch:
                if isinstance(pair["prompt"], str):
                    pair["raw"], pair["status"] = "", pair["prompt"]
            bar.update(len(batch))

    result = Dataset.from_generator(
        _pair_rows,
        features=PAIR_FEATURES,
        gen_kwargs={"encoded_images": encoded_images, "pairs": tuple(map(_finish, pairs))},
    )
    for status, count in generation_counts(result).items():
        logger.info("generation: %s: %d", status, count)
    return result


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


def _uniforms(config: PairGenerationConfig, batch: Sequence[dict]) -> torch.Tensor:
    """Numbers in [0, 1) of shape (rows, max_new_tokens), each row from its own (seed, image_id, k)."""
    raw = np.stack(
        [
            np.random.Philox(
                key=np.frombuffer(_digest(config.seed, "sample", pair["image_id"], pair["k"]), dtype="<u8")
            ).random_raw(config.max_new_tokens)
            for pair in batch
        ]
    )
    return torch.from_numpy((raw >> np.uint64(11)) * 2.0**-53)


def _encode(processor: ProcessorMixin, images: list | dict | None, template: Template) -> dict[str, torch.Tensor] | str:
    """The model's inputs for one image and template, or the reason why there are none."""
    images = images if isinstance(images, list) else [images]
    if not images or None in images:
        return "no image"
    try:
        return encode_prompt(processor, [{"role": "user", "content": template.text}], list(map(open_image, images)))
    except RowError as error:
        # Decoders name objects and places in their messages; equal reasons have to be equal strings to be counted.
        cause = error.__cause__
        return str(error) if cause is None else f"the image cannot be read ({type(cause).__name__})"


def _finish(pair: dict) -> dict:
    """The columns of a row besides its images, with the raw text parsed."""
    question = answer = None
    status = pair["status"]
    if status is None:
        try:
            question, answer = parse_pair(pair["raw"])
            status = "ok"
        except PairParseError as error:
            status = error.reason
    ok = status == "ok"
    return {
        "image_id": pair["image_id"],
        "pair_id": f"{pair['image_id']}/{pair['k']}",
        "template": pair["template"].id,
        "type": pair["template"].type,
        "prompt": [{"role": "user", "content": question}] if ok else None,
        "completion": [{"role": "assistant", "content": answer}] if ok else None,
        "raw": pair["raw"],
        "generation_status": status,
    }


def _pair_rows(encoded_images: Dataset, pairs: Sequence[dict]) -> Iterator[dict]:
    per_image = len(pairs) // len(encoded_images)
    for row in range(len(encoded_images)):
        found = encoded_images[row].column(0)[0].as_py()
        # Without those whose file is not there: `datasets` would end where it stores them.
        images = [image for image in (found if isinstance(found, list) else [found]) if image and is_there(image)]
        for pair in pairs[row * per_image : (row + 1) * per_image]:
            yield {"images": images, **pair}
