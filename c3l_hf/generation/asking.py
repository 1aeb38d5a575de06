"""Images → requests: which prompt template asks for each reply, and its messages; or why nothing is asked."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from c3l_hf.common.errors import RowError
from c3l_hf.data.file_states import FILE_STATES, check_files
from c3l_hf.data.sources import image_column, image_ids
from c3l_hf.generation.requests import Request, derived
from c3l_hf.prompts.templates import Template, TemplateSet

__all__ = ["Asked", "draw_templates", "requests_of"]


@dataclass(frozen=True)
class Asked:
    """One image with one template.

    Attributes:
        row: The row of the image.
        image_id: The image's id.
        template: The template.
        ks: The numbers of the replies among all of this image, ascending.
        request: What the generator is asked; None if it is not.
        instruction: What a pseudo-label made of a reply is to ask, as messages; None if nothing is asked.
        problem: Why nothing is asked; None otherwise.
    """

    row: int
    image_id: str
    template: Template
    ks: tuple[int, ...]
    request: Request | None = None
    instruction: Sequence[Mapping[str, str]] | None = None
    problem: str | None = None


def requests_of(
    images: Dataset,
    templates: TemplateSet,
    types: Sequence[str],
    *,
    pairs_per_image: int,
    types_per_image: int,
    seed: int,
    max_new_tokens: int | None = None,
    attempt: int = 0,
) -> Iterator[Asked]:
    """What the generator is asked about each image; requests of one template come together, in the order of the images.

    Args:
        images: With a column `images` or `image`, perhaps `image_id`, and the columns that the templates name.
        templates: The templates.
        types: Which of their types are asked for.
        pairs_per_image: Replies to each image.
        types_per_image: Over how many types they are spread.
        seed: What is drawn depends on it and on the image's id.
        max_new_tokens: Longest reply; by default that of the template.
        attempt: The number of the attempt: its draws are its own, and its replies have the numbers that follow.
    """
    column = image_column(images)
    asked = [
        (row, image_id, template, ks)
        for row, image_id in enumerate(image_ids(images))
        for template, ks in draw_templates(templates, types, image_id, pairs_per_image, types_per_image, seed, attempt)
    ]
    # Prompts of one template have one length and replies of similar length.
    asked.sort(key=lambda one: one[2].id)
    # Rows as arrow hold the encoded image; pixels are decoded only while a prompt is encoded.
    states = [FILE_STATES] if FILE_STATES in images.column_names else []
    stored = images.select_columns([column, *sorted(templates.fields), *states]).with_format("arrow")
    for row, image_id, template, ks in asked:
        values: dict[str, Any] = stored[row].to_pylist()[0]
        if states and (of_files := values.pop(FILE_STATES)):
            check_files([values[column] if isinstance(values[column], list) else [values[column]]], [of_files])
        try:
            pictures = _pictures(values.pop(column))
            messages, examples = template.chat(values, len(pictures))
            request = Request(
                row, image_id, template, ks, messages, [*examples, *pictures], max_new_tokens or template.max_new_tokens
            )
            yield Asked(row, image_id, template, ks, request, template.instruction(values))
        except RowError as error:
            yield Asked(row, image_id, template, ks, problem=str(error))


def draw_templates(
    templates: TemplateSet,
    types: Sequence[str],
    image_id: str,
    pairs_per_image: int,
    types_per_image: int,
    seed: int,
    attempt: int = 0,
) -> list[tuple[Template, tuple[int, ...]]]:
    """The templates of an image's replies, one for each type, and the numbers of the replies to each.

    Types are drawn without replacement, in proportion to the weights of their templates, and of each type a template in
    proportion to its weight.
    """
    again = (attempt,) if attempt else ()
    of_type = {type: templates.of_type(type) for type in types}

    def arrival(type: str) -> float:
        # The first of independent exponential times, with the weights as rates, is each with a chance in proportion to
        # its weight; the first n are a draw without replacement (Efraimidis and Spirakis 2006).
        uniform = int.from_bytes(derived(seed, "type", image_id, type, *again), "big") / 2**128
        return -math.log1p(-min(uniform, 1 - 2**-53)) / sum(template.weight for template in of_type[type])

    drawn = sorted(types, key=lambda type: (arrival(type), type))[:types_per_image]
    chosen = []
    for place, type in enumerate(drawn):
        ks = tuple(attempt * pairs_per_image + k for k in range(place, pairs_per_image, len(drawn)))
        choice = int.from_bytes(derived(seed, "template", image_id, type, *again), "big")
        choice %= sum(template.weight for template in of_type[type])
        for template in of_type[type]:
            choice -= template.weight
            if choice < 0:
                chosen.append((template, ks))
                break
    return chosen


def _pictures(stored: Any) -> list[dict[str, Any]]:
    pictures = stored if isinstance(stored, list) else [stored]
    if not any(pictures):
        raise RowError("no image")
    if None in pictures:
        raise RowError(f"images[{pictures.index(None)}] is null")
    return pictures
