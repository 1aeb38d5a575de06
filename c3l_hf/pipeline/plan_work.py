"""What each stage of a run has to do, whatever does it: operations, tokens, bytes; by a model's sizes and options."""

import copy
import math
from dataclasses import dataclass, field, replace

from c3l_hf.pipeline.options import STAGES
from c3l_hf.pipeline.plan_images import ImageCosts
from c3l_hf.pipeline.plan_model import ModelCosts
from c3l_hf.pipeline.settings import Settings
from c3l_hf.training.run import planned_steps

__all__ = ["PACK", "Stage", "Texts", "work_of"]

# Most tokens that a pack adds to its first sequence, see `scoring.likelihood`: blind rows share sequences up to it.
PACK = 1024


@dataclass(frozen=True)
class Texts:
    """Mean tokens of texts.

    Attributes:
        prompt: Of what asks for a reply, beside the image.
        reply: Of a reply: a pair, as it is written.
        pair: Of a pair that is scored, with the chat template around it, beside the image.
        answer: Of its answer.
        longest: That a reply may have.
        source: Where the numbers are from, in words.
    """

    prompt: float = 150
    reply: float = 70
    pair: float = 60
    answer: float = 40
    longest: float = 256
    source: str = "assumed"


@dataclass
class Stage:
    """What a stage has to do, all rows and devices together.

    Attributes:
        name: The stage.
        rows: How many, of `unit`.
        operations: What is bound by arithmetic: what it is → operations.
        written: Operations of writing new tokens, which every step does for all texts that are written at once.
        moved: Bytes of weights and cache that these steps read from the device's memory.
        writing_steps: How many steps there are, on all devices; and `blocks` of the language model in each.
        tokens: What kind → how many, for the model.
        megapixels: Of pictures that are read and decoded, by the processes of all devices.
        steps: Of a training; else 0.
    """

    name: str
    rows: float
    unit: str
    operations: dict[str, float] = field(default_factory=dict)
    written: float = 0.0
    moved: float = 0.0
    writing_steps: float = 0.0
    blocks: int = 0
    tokens: dict[str, float] = field(default_factory=dict)
    megapixels: float = 0.0
    steps: int = 0

    @property
    def flops(self) -> float:
        """All operations."""
        return sum(self.operations.values()) + self.written


@dataclass(frozen=True)
class _Model:
    """A model with an image of the planned size."""

    costs: ModelCosts
    image: ImageCosts

    @property
    def vision(self) -> float:
        image = self.image
        return self.costs.of_image(image.patches, image.sequence, image.attended, image.windowed, image.projected)

    @property
    def tokens(self) -> int:
        return self.image.tokens


def work_of(
    settings: Settings,
    generator: tuple[ModelCosts, ImageCosts],
    scorer: tuple[ModelCosts, ImageCosts],
    texts: Texts,
    images: int,
    devices: int,
    bytes_of_number: float,
    bytes_of_weight: float,
    pairs_per_image: float | None = None,
) -> dict[str, Stage]:
    """The stages of a run by their names, but those of the main process alone, whose work is not the model's.

    Args:
        settings: The run's options.
        generator, scorer: The models, and what an image costs each.
        texts: Tokens of texts.
        images: How many there are.
        devices: How many share the work: a step of the training has a batch of each.
        bytes_of_number: Of keys and values in the cache.
        bytes_of_weight: Of the generator's weights in a device's memory.
        pairs_per_image: That come of an image; by default all that are asked for.
    """
    writing, judging = _Model(*generator), _Model(*scorer)
    pairs = images * (pairs_per_image or settings.generation.pairs_per_image)
    generate = _generation(settings, writing, texts, images, devices, bytes_of_number, bytes_of_weight)
    score = _scoring(judging, texts, images, pairs)
    train = _training(settings, writing, texts, images, devices)
    kinds = {"generate": generate, "score": score, "train": train, "regenerate": generate, "rescore": score}
    stages = {name: replace(stage, name=name) for name, stage in kinds.items()}
    if settings.run.pairs is not None:
        del stages["generate"]  # which reads pairs that somebody has
    return {name: stages[name] for name in STAGES if name in stages}


def _generation(
    settings: Settings,
    model: _Model,
    texts: Texts,
    images: int,
    devices: int,
    bytes_of_number: float,
    bytes_of_weight: float,
) -> Stage:
    """Each prompt once, and then a token of every text that is written at once in each step."""
    k, spread = settings.generation.pairs_per_image, settings.generation.types_per_image
    costs, prompt, reply = model.costs, model.tokens + texts.prompt, texts.reply
    # Replies to one prompt share its tokens, where the model's attention allows that; else each has a copy.
    prompts = spread if costs.shares else k
    of_prompt = k / prompts
    visible = prompt + of_prompt * reply / 2  # a text's row has the others of its prompt, which are masked
    rows_at_once = max(1, min(settings.generation.generation_batch_size, images * k / devices))
    steps = k * reply / rows_at_once
    cache = rows_at_once / of_prompt * visible * costs.cached * bytes_of_number
    weights = (costs.decoder + costs.head) * bytes_of_weight
    return Stage(
        "generate",
        images,
        "images",
        operations={
            "vision tower": images * prompts * model.vision,
            "prompts": images * prompts * costs.of_tokens(prompt, prompt**2, 1),
        },
        written=images * k * costs.of_tokens(reply, reply * visible, reply),
        moved=images * steps * (weights + cache),
        writing_steps=images * steps,
        blocks=costs.layers,
        tokens={
            "image": images * prompts * model.tokens,
            "prompt": images * prompts * texts.prompt,
            "written": images * k * reply,
        },
        megapixels=images * spread * model.image.megapixels,
    )


def _scoring(model: _Model, texts: Texts, images: int, pairs: float) -> Stage:
    """Two forward passes of each pair: in the first the pairs of an image share its tokens, the second has none."""
    costs, k = model.costs, pairs / images
    tokens: float
    image_tokens: float
    vision: float
    if costs.shares:
        seen = model.tokens + k * texts.pair
        attended = seen**2 * images
        blind = pairs * texts.pair * min(k * texts.pair, PACK + texts.pair)
        image_tokens, vision = images * model.tokens, images
        tokens = images * seen
    else:
        tokens = pairs * (model.tokens + texts.pair)
        attended = pairs * (model.tokens + texts.pair) ** 2
        blind, image_tokens, vision = pairs * texts.pair**2, pairs * model.tokens, pairs
    return Stage(
        "score",
        pairs,
        "pairs",
        operations={
            "vision tower": vision * model.vision,
            "with image": costs.of_tokens(tokens, attended, pairs * texts.answer),
            "without image": costs.of_tokens(pairs * texts.pair, blind, pairs * texts.answer),
        },
        tokens={"image": image_tokens, "scored": pairs * texts.pair * 2},
        megapixels=images * model.image.megapixels,
    )


def _training(settings: Settings, model: _Model, texts: Texts, images: int, devices: int) -> Stage:
    """Forward and backward of packed pseudo-labels.

    A product with trained weights costs three of a forward pass (Kaplan et al. 2020), one with frozen weights two: the
    gradient of its input, none of the weights. Activation checkpointing computes the blocks' forward once more.
    """
    options, costs = settings.training, model.costs
    everywhere = copy.copy(options)
    everywhere.per_device_train_batch_size *= devices
    steps = planned_steps(everywhere, images, settings.run.max_epochs)
    batch = everywhere.per_device_train_batch_size * options.gradient_accumulation_steps
    rows = steps * batch
    # Fewer rows than a batch: the last one of a pass is smaller.
    passes = settings.run.max_epochs if options.max_steps > 0 else options.num_train_epochs
    if passes is not None:
        rows = min(rows, math.ceil(passes * images))
    candidates = 1 + min(settings.selection.max_rejected, settings.generation.pairs_per_image - 1)
    packed = options.pack_candidates and costs.shares
    answers = candidates * texts.reply
    if packed:
        length = model.tokens + texts.prompt + answers
        tokens, attended, pictures = length, length**2, 1
    else:
        length = model.tokens + texts.prompt + texts.reply
        tokens, attended, pictures = candidates * length, candidates * length**2, candidates
    again = 1 if options.activation_checkpointing else 0
    trained = options.train_language_model and not options.use_lora
    operations = {
        "vision tower": pictures * model.vision * (3 + again if options.train_vision_tower else 1),
        "products": 2 * costs.active * tokens * (2 + trained + again),
        "attention": costs.of_attention(attended) * (3 + again),
        "LM head": 2 * costs.head * answers * (2 + trained),
    }
    if options.use_lora and options.train_language_model:
        operations["adapters"] = 2 * costs.adapter_weights(options.lora_r) * tokens * (3 + again)
    return Stage(
        "train",
        rows,
        "pseudo-labels",
        operations={name: rows * value for name, value in operations.items()},
        tokens={"image": rows * pictures * model.tokens, "trained": rows * (tokens - pictures * model.tokens)},
        megapixels=rows * model.image.megapixels,
        steps=steps,
    )
