"""Prompts → tokens by the model's own `generate`, each text in a row with a copy of its prompt: the plain way."""

from collections.abc import Sequence

import numpy as np
from transformers import LogitsProcessorList, PreTrainedModel, ProcessorMixin

from c3l_hf.generation.drawing import Draw, SeededSampling
from c3l_hf.generation.written import Prompt, Written, to_model
from c3l_hf.models.encoding import collate

__all__ = ["write_rows"]


def write_rows(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    prompts: Sequence[Prompt],
    draw: Draw,
    end: Sequence[int],
    batch_size: int,
    watch: bool = False,
) -> list[list[Written]]:
    """The texts of some prompts.

    Args:
        model: The model, whose generation settings are those to be used.
        processor: Its processor.
        prompts: Prompts of one kind (see `written.kind`), whose texts may have the same number of tokens.
        draw: Takes tokens from predictions.
        end: Ids of the tokens that end a text.
        batch_size: Texts at once.
        watch: Keep the `tops` of each text.
    """
    rows = [(number, uniforms) for number, prompt in enumerate(prompts) for uniforms in prompt.uniforms]
    written: list[list[Written]] = [[] for _ in prompts]
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        batch = [prompts[number].inputs for number, _ in part]
        inputs = to_model(model, collate(processor, batch, padding_side="left"))
        length, longest = inputs["input_ids"].shape[1], prompts[0].longest
        uniforms = draw.numbers(np.stack([numbers for _, numbers in part]), model.device)
        sampling = SeededSampling(draw, uniforms, length, end[0], watch)
        ids = model.generate(**inputs, max_new_tokens=longest, logits_processor=LogitsProcessorList([sampling]))[
            :, length:
        ].tolist()
        for row, ((number, _), new, broken) in enumerate(zip(part, ids, sampling.broken())):
            stop = next((position for position, id in enumerate(new) if id in end), None)
            ended = None if stop is not None and stop == broken else stop is not None
            written[number].append(Written(new[:stop], ended, [step[row] for step in sampling.tops]))
    return written
