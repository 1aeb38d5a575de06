"""Images → instruction/answer pairs: sampling with one seed per pair, and the parsing of the raw text."""

import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset, Features, Image, List, Value
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    ProcessorMixin,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from .parsing import IMAGE_MARKER, PairParseError, parse_pair
from .processing import RowError, collate, encode_prompt
from .prompts import QUESTION_TYPES, Template, templates_for

__all__ = [
    "PairGenerationConfig",
    "PairParseError",
    "SeededSampling",
    "generate_pairs",
    "generation_counts",
    "parse_pair",
]

logger = logging.getLogger(__name__)

_MESSAGES = List({"role": Value("string"), "content": Value("string")})
_PAIR_FEATURES = Features(
    {
        "images": List(Image()),
        "image_id": Value("string"),
        "pair_id": Value("string"),
        "template": Value("string"),
        "type": Value("string"),
        "prompt": _MESSAGES,
        "completion": _MESSAGES,
        "raw": Value("string"),
        "generation_status": Value("string"),
    }
)
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


class SeededSampling(LogitsProcessor):
    """Sampling with given random numbers, for `generate(do_sample=False)`: leaves one token possible per row.

    Token t of row i is the inverse of the cumulative distribution (in token order, float64) at `uniforms[i, t]`, so a
    row's text does not depend on the rows beside it, as it does with one random stream for the batch.

    Args:
        uniforms: Numbers in [0, 1), float64, shape (rows, new tokens).
        prompt_length: Length of the padded prompts.
    """

    def __init__(self, uniforms: torch.Tensor, prompt_length: int):
        self.uniforms = uniforms
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
        # A hair below 1, so that rounding never reaches the end, where tokens of probability 0 may stand.
        position = self.uniforms[:, input_ids.shape[1] - self.prompt_length, None] * (1 - 2**-40) * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, position, right=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


def generate_pairs(
    dataset: Dataset,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    config: PairGenerationConfig,
    progress: bool = True,
) -> Dataset:
    """Let a vision-language model write `pairs_per_image` instruction/answer pairs about each image.

    Args:
        dataset: Images in a column `images` (list of images) or `image`; if there is no `image_id`, row numbers are used.
        model: Any image-text-to-text model with `generate`. Its own generation settings (repetition penalty, …) are not
            used, except for the ids of its special tokens.
        processor: The model's processor; it must have a chat template.
        config: Options.
        progress: Show a progress bar.

    Returns:
        One row per pair, in the order of the images: `images` (as they were encoded), `image_id`, `pair_id`
        ("<image_id>/<k>"), `template`, `type`, `prompt` and `completion` (messages), `raw` (the model's text) and
        `generation_status` ("ok", or the reason why there is no pair; `prompt` and `completion` are null then). The
        rows are written to the cache of `datasets`, not held in memory.

    Raises:
        ValueError: If the columns are wrong, an image_id is missing or occurs twice, or the processor has no chat
            template.
    """
    column = _image_column(dataset)
    image_ids = _image_ids(dataset)
    if not processor.chat_template:
        raise ValueError(
            f"{type(processor).__name__} has no chat template, so instructions cannot be put to the model: "
            "set processor.chat_template"
        )
    # Rows as arrow hold the encoded image; pixels are decoded only while a prompt is encoded.
    encoded_images = dataset.select_columns([column]).with_format("arrow")
    pairs = [
        {"row": row, "image_id": image_id, "k": k, "template": template}
        for row, image_id in enumerate(image_ids)
        for k, template in enumerate(_templates(config, image_id))
    ]
    # Batches of one template have prompts of one length and answers of similar length.
    order = sorted(range(len(pairs)), key=lambda index: (pairs[index]["template"].id, index))
    with (
        torch.inference_mode(),
        _plain_generation(model, processor, config) as generator,
        tqdm(total=len(pairs), desc="Generating pairs", unit="pair", disable=not progress) as bar,
    ):
        last, inputs = None, None
        for start in range(0, len(order), config.batch_size):
            batch, rows = [], []
            for pair in (pairs[index] for index in order[start : start + config.batch_size]):
                if last != (pair["row"], pair["template"]):
                    last = (pair["row"], pair["template"])
                    inputs = _encode(processor, encoded_images[pair["row"]][column][0].as_py(), pair["template"])
                if isinstance(inputs, str):
                    pair["raw"], pair["status"] = "", inputs
                else:
                    batch.append(pair)
                    rows.append(inputs)
            if batch:
                inputs_of_batch = collate(processor, rows, padding_side="left")
                texts = _generate(generator, processor.tokenizer, inputs_of_batch, config, _uniforms(config, batch))
                for pair, (raw, finished) in zip(batch, texts):
                    pair["raw"], pair["status"] = raw, None if finished else _CUT_OFF
            bar.update(len(order[start : start + config.batch_size]))

    result = Dataset.from_generator(
        _pair_rows,
        features=_PAIR_FEATURES,
        gen_kwargs={"encoded_images": encoded_images, "pairs": tuple(map(_finish, pairs))},
    )
    for status, count in generation_counts(result).items():
        logger.info("generation: %s: %d", status, count)
    return result


def generation_counts(dataset: Dataset) -> dict[str, int]:
    """Counts of what `generate_pairs` made: "pairs" (all rows), "ok", and each other status, the most frequent first."""
    counts = Counter(dataset["generation_status"])
    ok = counts.pop("ok", 0)
    return {"pairs": len(dataset), "ok": ok, **dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))}


def _image_column(dataset: Dataset) -> str:
    for column, wanted in (("images", List(Image())), ("image", Image())):
        if column in dataset.column_names:
            found = dataset.features[column]
            inner = getattr(found, "feature", None) if column == "images" else found
            if not isinstance(inner, Image):
                raise ValueError(
                    f"column {column!r} holds {found}, not images: dataset.cast_column({column!r}, {wanted})"
                )
            return column
    raise ValueError(f"no column 'images' or 'image'; found {', '.join(dataset.column_names)}")


def _image_ids(dataset: Dataset) -> list[str]:
    if not len(dataset):
        raise ValueError("the dataset has no rows: nothing to generate from")
    if "image_id" not in dataset.column_names:
        return [f"{row:06d}" for row in range(len(dataset))]
    image_ids = dataset.with_format(None)["image_id"][:]
    if None in image_ids:
        raise ValueError(f"column 'image_id' is null in row {image_ids.index(None)}")
    image_ids = [str(image_id) for image_id in image_ids]
    repeated = [image_id for image_id, count in Counter(image_ids).items() if count > 1]
    if repeated:
        more = f" and {len(repeated) - 5} more" if len(repeated) > 5 else ""
        raise ValueError(f"column 'image_id' must be unique; more than once: {', '.join(repeated[:5])}{more}")
    return image_ids


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
        pixels = [Image().decode_example(image) for image in images]
    except Exception as error:  # whatever a broken file makes the decoder raise: many types, by format
        return f"image does not decode ({type(error).__name__})"
    try:
        return encode_prompt(processor, [{"role": "user", "content": template.text}], pixels)
    except RowError as error:
        return str(error)


@contextlib.contextmanager
def _plain_generation(
    model: PreTrainedModel, processor: ProcessorMixin, config: PairGenerationConfig
) -> Iterator[PreTrainedModel]:
    """The model in eval mode, with our generation settings in the place of its own.

    What a call to `generate` leaves open is filled from `model.generation_config`: passing a configuration is not enough
    to keep out a repetition penalty or suppressed tokens that come with a checkpoint.
    """
    model = model.get_base_model() if isinstance(model, PeftModel) else model
    own, training = model.generation_config, model.training
    eos = processor.tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    if eos is None:
        raise ValueError("neither model.generation_config nor the tokenizer has an eos_token_id: texts would never end")
    eos = [eos] if isinstance(eos, int) else list(eos)
    pad = next((id for id in (own.pad_token_id, processor.tokenizer.pad_token_id) if id is not None), eos[0])
    model.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id,
        eos_token_id=eos,
        pad_token_id=pad,
        do_sample=False,
        use_cache=True,
        max_new_tokens=config.max_new_tokens,
    )
    model.eval()
    try:
        yield model
    finally:
        model.generation_config = own
        model.train(training)


def _generate(
    model: PreTrainedModel,
    tokenizer,
    inputs: dict[str, torch.Tensor],
    config: PairGenerationConfig,
    uniforms: torch.Tensor,
) -> list[tuple[str, bool]]:
    """For each row its text and whether it ended by itself."""
    inputs = {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in inputs.items()
    }
    prompt_length = inputs["input_ids"].shape[1]
    processors = LogitsProcessorList()
    if config.temperature > 0:
        if config.temperature != 1:
            processors.append(TemperatureLogitsWarper(float(config.temperature)))
        if config.top_p < 1:
            processors.append(TopPLogitsWarper(config.top_p))
        processors.append(SeededSampling(uniforms.to(model.device), prompt_length))
    output = model.generate(**inputs, generation_config=model.generation_config, logits_processor=processors)
    texts = []
    for ids in output[:, prompt_length:].tolist():
        end = next((position for position, id in enumerate(ids) if id in model.generation_config.eos_token_id), None)
        texts.append((_decode(tokenizer, ids[:end]), end is not None))
    return texts


def _decode(tokenizer, ids: list[int]) -> str:
    # Stripping special tokens would hide an image token in the text, which makes it unusable.
    full = tokenizer.decode(ids, skip_special_tokens=False)
    return full if IMAGE_MARKER.search(full) else tokenizer.decode(ids, skip_special_tokens=True)


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
        images = [image for image in (found if isinstance(found, list) else [found]) if image is not None]
        for pair in pairs[row * per_image : (row + 1) * per_image]:
            yield {"images": images, **pair}
