"""What an image costs a model: tokens, patches, and what attends to what, by its processor or its configuration."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import PIL.Image
import torch
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from c3l_hf.common.errors import RowError, RunError
from c3l_hf.models.encoding import encode_prompt, image_token_id

__all__ = ["ImageCosts", "image_costs", "read_size"]


@dataclass(frozen=True)
class ImageCosts:
    """One image of a size.

    Attributes:
        width, height: Pixels.
        patches: Through the tower's patch embedding.
        sequence: Tokens through the tower's blocks: patches, and one more a tile where the tower has a class token.
        attended: Pairs of these, one of which attends to the other.
        windowed: The same in blocks that attend within windows.
        projected: Tokens through the projector.
        tokens: In the language model.
        text: Tokens of the prompt beside them; None if there is no processor to count them.
    """

    width: int
    height: int
    patches: int
    sequence: int
    attended: float
    windowed: float
    projected: int
    tokens: int
    text: int | None

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.width * self.height / 1e6


def read_size(text: str) -> tuple[int, int]:
    """Reads "1024x768": width and height in pixels.

    Raises:
        RunError: If it is no size.
    """
    match = re.fullmatch(r"([1-9]\d{0,5})\s*x\s*([1-9]\d{0,5})", text.strip().lower())
    if match is None:
        raise RunError(f"plan_image_size is {text!r}; it must be a width and a height in pixels, as 1024x768")
    return int(match[1]), int(match[2])


def image_costs(
    model: PreTrainedModel, processor: ProcessorMixin | None, size: tuple[int, int], prompt: str, name: str
) -> ImageCosts:
    """What an image costs.

    Args:
        model: The model, with or without weights.
        processor: Its processor, which makes tensors of a grey picture of this size, and counts; None if there is none.
            Then the configuration says it, if it can.
        size: Width and height, in pixels.
        prompt: What is asked about it.
        name: The model's, for messages.

    Raises:
        RunError: If neither says how many tokens an image has.
    """
    config = model.config
    if processor is None:
        grid, tiles, tokens, text = *_by_configuration(config, size, name), None
    else:
        picture = PIL.Image.new("RGB", size, (120, 130, 140))
        messages = [{"role": "user", "content": prompt}]
        try:
            inputs = encode_prompt(processor, messages, [picture])
        except RowError as error:
            raise RunError(f"model {name} takes no image of {size[0]}x{size[1]} pixels: {error}") from None
        ids = inputs["input_ids"][0]
        tokens = int((ids == image_token_id(config)).sum())
        grid, tiles, text = *_grid(inputs, config.vision_config), len(ids) - tokens
    rows, columns = grid
    patches = tiles * rows * columns
    class_token = 1 if _has_class_token(model) else 0
    sequence = tiles * (rows * columns + class_token)
    side = _window(config.vision_config)
    windowed = _squares(rows, side) * _squares(columns, side) if side else 0.0
    of_tiles = getattr(config, "image_grid_pinpoints", None) is not None  # cropped after the projector
    return ImageCosts(
        *size,
        patches=patches,
        sequence=sequence,
        attended=tiles * (rows * columns + class_token) ** 2,
        windowed=windowed,
        projected=patches if of_tiles else tokens,
        tokens=tokens,
        text=text,
    )


def _grid(inputs: dict[str, Any], vision: PreTrainedConfig) -> tuple[tuple[int, int], int]:
    """Rows and columns of patches in a tile, and the number of tiles, by what a processor made of one image."""
    if "image_grid_thw" in inputs:
        _, rows, columns = inputs["image_grid_thw"][0].tolist()
        return (rows, columns), 1
    pixels: torch.Tensor = inputs["pixel_values"]
    *tiles, _, height, width = pixels.shape
    patch = vision.patch_size
    down, across = (patch, patch) if isinstance(patch, int) else patch
    return (height // down, width // across), int(torch.tensor(tiles).prod())


def _by_configuration(config: PreTrainedConfig, size: tuple[int, int], name: str) -> tuple[tuple[int, int], int, int]:
    vision = config.vision_config
    merge = getattr(vision, "spatial_merge_size", None)
    if merge is not None and isinstance(vision.patch_size, int):  # pictures in their own size
        unit = vision.patch_size * merge
        rows, columns = (max(1, round(side / unit)) * merge for side in reversed(size))
        return (rows, columns), 1, rows * columns // merge**2
    tiled = any(getattr(config, key, None) is not None for key in ("image_grid_pinpoints", "downsample_ratio"))
    tokens = getattr(config, "mm_tokens_per_image", None) or getattr(config, "image_seq_length", None)
    side = getattr(vision, "image_size", None)
    if tiled or tokens is None or not isinstance(side, int):
        raise RunError(
            f"model {name} has no processor here, and its configuration does not say how many tokens an image has; put "
            "the files of its processor (preprocessor_config.json, tokenizer.json, ...) beside it"
        )
    rows = side // vision.patch_size
    return (rows, rows), 1, tokens


def _has_class_token(model: PreTrainedModel) -> bool:
    return any(name.endswith(("class_embedding", "cls_token")) for name, _ in model.named_parameters())


def _window(vision: PreTrainedConfig) -> int:
    """The side of a window, in patches; 0 if the tower has none."""
    whole = getattr(vision, "fullatt_block_indexes", None)
    return 0 if whole is None else vision.window_size // vision.patch_size


def _squares(length: int, side: int) -> int:
    """The sum of the squares of what a length is cut into."""
    edges = [*range(0, length, side), length]
    return sum((end - begin) ** 2 for begin, end in pairwise(edges))
