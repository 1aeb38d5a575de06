"""What follows the number of images: shards, how many pairs are kept, how long training takes; said before the work."""

import math
from dataclasses import replace

from c3l_hf.common.processes import process_state
from c3l_hf.pipeline.options import BackendOptions, GenerationOptions
from c3l_hf.pipeline.settings import Settings
from c3l_hf.training.run import planned_steps, steps_in

__all__ = ["images_in_shard", "sized"]

# Where no target_size is given: one of so many pairs is kept, which leaves the best something to be chosen from; and no
# more than the paper's compact dataset has.
_ONE_OF = 3
_MOST = 5000
# Where no shard_size is given: so many shards, so that an interruption loses a small part, and all processes end at
# nearly the same time. But not more than so many images in one, up to 500 of very many; nor fewer than give so many
# batches, as the last batch of a shard is not full. Where images are asked about again, both models are loaded for each
# shard. The number of processes is no part of it: in other shards other rows are scored together, and the last digits
# of a score follow that.
_SHARDS, _SHARDS_WITH_RETRIES = 64, 16
_MOST_IN_SHARD = (100, 500)
_FEWEST_BATCHES = 4


def images_in_shard(generation: GenerationOptions, backend: BackendOptions, images: int) -> int:
    """How many images a shard of a generation has: what an interruption can lose of it, and of its scores.

    Args:
        generation: The shard_size that is given; else the number follows from the images.
        backend: Who writes.
        images: How many there are.

    Returns:
        At least 1; not more than give each process a shard.
    """
    size = generation.shard_size
    if size is None:
        at_once = generation.generation_batch_size
        if backend.backend == "server":
            at_once = backend.server_concurrency * len(backend.base_url or [""])
        enough = _FEWEST_BATCHES * at_once // generation.pairs_per_image
        part = math.ceil(images / (_SHARDS_WITH_RETRIES if generation.retries else _SHARDS))
        least, most = _MOST_IN_SHARD
        size = min(max(part, enough), max(least, min(most, images // 1000)))
    return max(1, min(size, math.ceil(images / process_state().num_processes)))


def sized(settings: Settings, images: int) -> tuple[Settings, str]:
    """The settings with what follows the number of images, and the same in words.

    What a user has set stays: only a target_size that is not given follows, as a third of the pairs of a round, at most
    5,000; and a num_images of more than there are is what there are.

    Args:
        settings: As they were given.
        images: How many images there are.
    """
    pairs = images * settings.generation.pairs_per_image
    lines = [f"{images:,} images, {pairs:,} replies in a round ({settings.generation.pairs_per_image} an image)"]
    in_shard = images_in_shard(settings.generation, settings.backend, images)
    lines.append(f"shards of {in_shard:,} images: what an interruption can lose of generation and scores")
    asked = settings.images.num_images
    if asked is not None and asked > images:
        lines.append(f"num_images is {asked:,}, and there are {images:,}: all are taken")
        settings = replace(settings, images=replace(settings.images, num_images=images))
    target = settings.curation.target_size
    if target is None:
        target = min(max(1, pairs // _ONE_OF), _MOST)
        settings = replace(settings, curation=replace(settings.curation, target_size=target))
        lines.append(f"target_size {target:,}: a third of them, at most {_MOST:,}")
    elif target > pairs:
        lines.append(f"target_size is {target:,}: all pairs that pass the other rules are kept")
    training = settings.training
    # One pseudo-label an image, if each has one.
    steps = planned_steps(training, images, settings.run.max_epochs)
    passes = steps / steps_in(1, images, training)
    lines.append(f"training: at most {steps:,} steps, {passes:.2g} passes over one pseudo-label an image")
    return settings, "\n".join(lines)
