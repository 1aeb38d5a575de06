"""Which path is right for a model: a few rows of our own scored alone, in a batch and packed, before any of the user's.

Prompts that are to be answered are tried likewise.

Neither batching nor packing is exact for every architecture (sliding windows, two-way attention within images, position
schemes of their own), and no list of families stays complete. So it is tried, once in a process for models that differ
in nothing but their weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import PIL.Image
import torch
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.errors import said_by
from c3l_hf.data.turns import Pair
from c3l_hf.models.checks import check_key, recall, remember
from c3l_hf.models.encoding import EncodedRow, collate, encode_prompt
from c3l_hf.models.rounding import Rounding, disturbed_runs
from c3l_hf.scoring.blind import PairEncoder
from c3l_hf.scoring.likelihood import AnswerLogprobs, answer_logprobs

__all__ = ["Paths", "check_paths", "check_prompts", "own_rows"]

_COMPARED = ("with_image", "blind")
_LIKELIEST = 5  # next tokens that are compared: those that are hardly possible differ by more
# Of different lengths, as a batch of equals would hide what padding does.
_TEXTS = [
    ("What is in this picture?", "A dog and two cats on a red sofa, next to a window."),
    ("What is in this picture?", "Nothing."),
    ("How many people are there?", "There are three people at a table, and a fourth one is standing behind them."),
]


@dataclass(frozen=True)
class Paths:
    """What must not be done with a model, and why; None where it may.

    Attributes:
        not_batched: Why rows cannot go into one batch.
        not_packed: Why they cannot share a sequence.
    """

    not_batched: str | None
    not_packed: str | None


def check_paths(
    model: PreTrainedModel, processor: ProcessorMixin, encoder: PairEncoder, max_tokens: int = 4096
) -> Paths:
    """Scores some rows each way, and tells what agrees with the plain path, one row at a time.

    Two ways agree if they are not farther apart than rounding explains for this model: than the plain path from itself
    with inputs disturbed in their last bit, see `models.rounding`.

    What was found for a model holds in this process for others that differ in their weights only (`models.checks`):
    whether two ways agree within rounding depends on a model's code. An error, or numbers that are not finite, are not
    remembered: the next model is tried again.

    Raises:
        ValueError: If the rows cannot be scored at all, e.g. as the processor makes no row without an image.
    """
    key = check_key("paths", model, processor, encoder.settings, max_tokens)
    paths: Paths | None = recall(key)
    if paths is not None:
        return paths
    try:
        rows, blind_rows = zip(*(encoder.encode(pair) for pair in _pairs()))
        alone = answer_logprobs(model, processor, rows, blind_rows, packed=False, max_tokens=1)
    except Exception as error:  # from templates, processors and models of all kinds
        raise ValueError(
            f"{type(model).__name__} with {type(processor).__name__} cannot be scored: {_line(error)}"
            + (' (if it is without an image that it fails, blind="blank" may work)' if encoder.blind == "drop" else "")
        ) from error
    certain = True

    def single(inputs: Sequence[dict[str, torch.Tensor]]) -> float:
        with_inputs: list[EncodedRow] = [replace(row, inputs=own) for row, own in zip((*rows, *blind_rows), inputs)]
        seen, unseen = with_inputs[: len(rows)], with_inputs[len(rows) :]
        return _difference(answer_logprobs(model, processor, seen, unseen, packed=False, max_tokens=1), alone)

    plain_inputs = [row.inputs for row in (*rows, *blind_rows)]
    rounding = Rounding(model.dtype, lambda: disturbed_runs(model, plain_inputs, single))

    def problem(packed: bool) -> str | None:
        nonlocal certain
        try:
            answers = answer_logprobs(model, processor, rows, blind_rows, packed=packed, max_tokens=max_tokens)
            difference = _difference(answers, alone)
            same = rounding.explains(difference)
        except Exception as error:  # the model's own code: whatever it is, this path is not for it
            certain = False
            return _line(error)
        certain = certain and math.isfinite(difference)
        if same:
            return None
        return (
            f"log-probabilities differ by up to {difference:.1e} from those of single rows, of which rounding "
            f"explains {rounding.limit:.1e}"
        )

    not_batched = problem(packed=False)
    not_packed = not_batched or _partial_attention(model) or problem(packed=True)
    paths = Paths(not_batched, not_packed)
    if certain:
        remember(key, paths)
    return paths


def own_rows(encoder: PairEncoder) -> tuple[list[EncodedRow], list[EncodedRow]]:
    """A row of our own, and the blind one, as `check_paths` puts them to every model."""
    seen, blind = encoder.encode(_pairs()[0])
    return [seen], [blind]


def check_prompts(model: PreTrainedModel, processor: ProcessorMixin) -> str | None:
    """Why prompts must not be answered in one batch; None if they may be.

    The predictions of the first token that `generate` makes of a batch are compared with those of each prompt alone.
    No answer is put into a template, as some have no place for one after the prompt. Call it as the model is to write:
    in eval mode, with its generation settings. What was found is remembered as by `check_paths`.

    Raises:
        ValueError: If the model answers no prompt at all.
    """
    key = check_key("prompts", model, processor)
    outcome: tuple[str | None] | None = recall(key)
    if outcome is not None:
        return outcome[0]

    def predicted(rows: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
        inputs = {
            name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
            for name, tensor in collate(processor, rows, padding_side="left").items()
        }
        output = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True, output_logits=True)
        return output.logits[0].cpu().double().log_softmax(dim=-1)

    def each(rows: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
        return torch.cat([predicted([row]) for row in rows])

    def apart(predictions: torch.Tensor) -> float:
        return (predictions - alone).gather(-1, likeliest).abs().max().item()

    try:
        prompts = [encode_prompt(processor, pair.prompt, pair.images) for pair in _pairs()]
        alone = each(prompts)
    except Exception as error:  # from templates, processors and models of all kinds
        raise ValueError(
            f"{type(model).__name__} with {type(processor).__name__} cannot answer: {_line(error)}"
        ) from error
    likeliest = alone.topk(min(_LIKELIEST, alone.shape[-1])).indices
    rounding = Rounding(model.dtype, lambda: [apart(one) for one in disturbed_runs(model, prompts, each)])
    try:
        difference = apart(predicted(prompts))
        same = rounding.explains(difference)
    except Exception as error:  # the model's own code: whatever it is, batches are not for it
        return _line(error)
    problem = None
    if not same:
        problem = (
            f"predictions of the next token differ by up to {difference:.1e} from those of single prompts, of which "
            f"rounding explains {rounding.limit:.1e}"
        )
    if math.isfinite(difference):
        remember(key, (problem,))
    return problem


def _difference(some: Sequence[AnswerLogprobs], others: Sequence[AnswerLogprobs]) -> float:
    """The largest difference of a token's log-probability, in nats; not a number if one of them is none."""
    pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(some, others) for name in _COMPARED]
    return torch.cat([torch.abs(a - b) for a, b in pairs]).max().item()


def _partial_attention(model: PreTrainedModel) -> str | None:
    """Why long rows could differ where the short ones of the check do not: layers that do not see the whole past."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        return f"it has layers of type {', '.join(sorted(kinds))}"
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True):
        return f"its layers attend to the last {window} tokens only"
    return None


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {said_by(error)}"


def _pairs() -> list[Pair]:
    rng = np.random.default_rng(0)
    pairs = []
    for number, size in enumerate([(96, 48), (64, 80), (80, 80)]):
        image = PIL.Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        for question, answer in _TEXTS[: 3 - number]:
            pairs.append(Pair([{"role": "user", "content": question}], answer, [image]))
    return pairs
