"""What a planned run takes of memory, disk and the Hub; and what will not fit."""

import math
from dataclasses import dataclass

from c3l_hf.common.usage import format_bytes
from c3l_hf.pipeline.plan_images import ImageCosts
from c3l_hf.pipeline.plan_model import ModelCosts
from c3l_hf.pipeline.plan_time import MAIN_PROCESS, NEAR_DUPLICATES
from c3l_hf.pipeline.plan_work import Texts
from c3l_hf.pipeline.settings import Settings

__all__ = ["Storage", "device_memory", "host_memory", "storage_of"]

# A pair in the tables of a round: ids, texts, and three numbers and a text of each of its answer's tokens, compressed.
# By 0.22 kB for a pair of 8 tokens, measured (docs/scale-out.md).
_OF_PAIR, _OF_TOKEN = 80.0, 18.0
# A JPEG of a photograph, for each pixel: between 0.1 (small) and 0.5 (best quality).
BYTES_OF_PIXEL = 0.25
# Files of a dataset have up to so many bytes, see `publishing.written_files`.
_SHARD = 500e6
# Of the Hub's documentation ("Storage limits", 2025): entries of a folder, and files of a repository.
_ENTRIES, _FILES = 10_000, 100_000
# Of a trained weight its gradient and two moments of Adam in float32, as a dry run counts them.
_OF_TRAINING = 12.0
# Bytes that a block keeps of a token for the backward pass, in units of the hidden size, at two bytes a number
# (Korthikanti et al. 2022, section 4.1, without the attention's own, which fused kernels compute again).
_KEPT = 34
# Most logits of a pass of the scorer, see `scoring.likelihood`.
_LOGITS = 2**28


@dataclass(frozen=True)
class Storage:
    """Bytes.

    Attributes:
        tables: Pairs and scores of both rounds in the stages.
        pictures: Of the run's images, as they are.
        model: The generator.
        dataset: What is published: all images, the kept pairs with theirs, the second round's pairs.
        files: Of the dataset, of up to 500 MB.
        run: All that a run leaves in its folder.
    """

    tables: float
    pictures: float
    model: float
    dataset: float
    files: int
    run: float

    def problems(self) -> list[str]:
        """What the Hub would not take."""
        if self.files > _ENTRIES:
            limits = f"at most {_ENTRIES:,} in a folder and {_FILES:,} in a repository"
            return [f"the dataset has {self.files:,} files of {format_bytes(_SHARD)}, and the Hub asks for {limits}"]
        return []


def storage_of(
    settings: Settings,
    costs: ModelCosts,
    texts: Texts,
    images: int,
    pairs: int,
    of_image: float,
    of_weight: float,
    of_pair: float | None = None,
) -> Storage:
    """What lies on disk and goes to the Hub.

    Args:
        settings: The run's options.
        costs: The generator's.
        texts: Tokens of texts.
        images: How many there are.
        pairs: Of a round.
        of_image: Bytes of an image.
        of_weight: Bytes of a saved weight.
        of_pair: Bytes of a pair in a round's tables; by default by its answer's tokens.
    """
    each = of_pair or _OF_PAIR + _OF_TOKEN * texts.answer
    pictures, model = images * of_image, costs.parameters * of_weight
    kept = min(settings.curation.target_size or 5000, pairs)
    dataset = pictures + kept * of_image + pairs * each
    files = math.ceil(pictures / _SHARD) + math.ceil(kept * of_image / _SHARD) + math.ceil(pairs * each / _SHARD)
    return Storage(2 * pairs * each, pictures, model, dataset, files, 2 * pairs * each + dataset + 2 * model)


def device_memory(
    settings: Settings,
    generator: tuple[ModelCosts, ImageCosts],
    scorer: tuple[ModelCosts, ImageCosts],
    texts: Texts,
    of_number: float,
    of_weight: float,
) -> dict[str, float]:
    """Stage → bytes of one device: weights, cache, activations, logits.

    Args:
        settings: The run's options.
        generator, scorer: The models, and what an image costs each.
        texts: Tokens of texts.
        of_number: Bytes of an activation.
        of_weight: Bytes of a weight.
    """
    writer, image = generator
    generation, training = settings.generation, settings.training
    k = generation.pairs_per_image
    prompt = image.tokens + texts.prompt
    of_prompt = k / generation.types_per_image if writer.shares else 1
    prompts = max(1.0, generation.generation_batch_size / of_prompt)
    cache = (prompts * prompt + generation.generation_batch_size * texts.longest) * writer.cached * of_number
    weights = writer.parameters * of_weight
    logits = generation.generation_batch_size * writer.vocabulary * 8  # drawn from in float64

    judge, seen = scorer
    row = seen.tokens + (k if judge.shares else 1) * texts.pair
    tokens = max(settings.scoring.scoring_max_tokens or 8192, row)
    of_answers = min(tokens / row * (k if judge.shares else 1) * texts.answer * judge.vocabulary, _LOGITS)
    scoring = judge.parameters * of_weight + _block(judge, tokens, of_number) + 2 * of_answers * of_number

    candidates = 1 + min(settings.selection.max_rejected, k - 1)
    packed = training.pack_candidates and writer.shares
    length = prompt + (candidates if packed else 1) * texts.reply
    tokens = training.per_device_train_batch_size * (1 if packed else candidates) * length
    kept = writer.layers * tokens * writer.hidden * of_number
    kept *= 1 if training.activation_checkpointing else _KEPT / 2
    trained = writer.adapter_weights(training.lora_r) if training.use_lora else writer.decoder + writer.head
    answers = training.per_device_train_batch_size * candidates * texts.reply * writer.vocabulary
    learning = weights + trained * (_OF_TRAINING + 4 * training.use_lora) + kept + answers * (of_number + 8)
    # Of the block that is computed again or whose gradients are computed, all of it, and as much of gradients.
    learning += 2 * tokens * _KEPT / 2 * writer.hidden * of_number
    writing = weights + cache + _block(writer, prompt, of_number) + logits
    return {"generate": writing, "score": scoring, "train": learning}


def _block(costs: ModelCosts, tokens: float, of_number: float) -> float:
    """Activations of one block in a forward pass: ten of the hidden size, three of the feed-forward's."""
    return tokens * (10 * costs.hidden + 3 * costs.feed_forward) * of_number


def host_memory(settings: Settings, pairs: int) -> float:
    """Bytes of the main process while it chooses: tables of a round's pairs are in memory whole."""
    each = max(size for _, size in MAIN_PROCESS.values())
    near = NEAR_DUPLICATES[1] if settings.curation.near_duplicate_scope == "dataset" else 0.0
    return 0.4e9 + pairs * (each + near)
