"""What follows the number of images: how many pairs are kept, how long training takes; said before the work begins."""

from dataclasses import replace

from c3l_hf.pipeline.settings import Settings
from c3l_hf.training.run import planned_steps, steps_in

__all__ = ["sized"]

# Where no target_size is given: one of so many pairs is kept, which leaves the best something to be chosen from; and no
# more than the paper's compact dataset has.
_ONE_OF = 3
_MOST = 5000


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
