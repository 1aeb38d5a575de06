"""Puts questions to a model: the text it writes, and how likely each option is, with the image and blind."""

import functools
import json
import logging
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Features, List, Value
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.errors import RowError, RunError, said_by
from c3l_hf.data.schema import STATUS, STATUS_OK
from c3l_hf.files.image import image_key, open_image
from c3l_hf.generation.sampling import NON_FINITE, TextSampler
from c3l_hf.models.encoding import encode_prompt, with_image_cache
from c3l_hf.models.token_texts import opened_by_prompt
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.scoring.self_check import check_prompts

__all__ = ["ANSWER_FEATURES", "Answerer", "PredictionConfig", "stem"]

logger = logging.getLogger(__name__)


# What there is for each question; null where it was not asked for, or could not be had.
ANSWER_FEATURES = Features(
    {
        "prediction": Value("string"),
        "ended": Value("bool"),
        "option_logprobs": List(Value("float64")),
        "option_logprobs_blind": List(Value("float64")),
        "status": Value("string"),
        "option_status": Value("string"),
    }
)


@dataclass(frozen=True)
class PredictionConfig:
    """How questions are put to a model.

    Attributes:
        max_new_tokens: Longest written answer.
        likelihood: Whether questions with options are also answered by the options' likelihoods.
        temperature: 0 takes the likeliest token.
        seed: With the question it determines what is sampled, at a temperature above 0.
        batch_size: Answers written at once. Up to floating-point noise, it does not change the result.
        part_size: Questions in a part: what is lost at most by an interruption, and whose images are in memory
            together.
    """

    max_new_tokens: int = 128
    likelihood: bool = True
    temperature: float = 0.0
    seed: int = 0
    batch_size: int = 32
    part_size: int = 256

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "part_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0, not {self.temperature}")


class Answerer:
    """Answers questions with a model.

    Questions go to the model in batches if that is exact for it, tried on a few rows of our own; else one at a time,
    and a warning says so.

    Args:
        model: Any image-text-to-text model.
        processor: Its processor, with a chat template.
        config: Options.

    Raises:
        ValueError: If the model answers no question at all.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, config: PredictionConfig):
        self.model, self.processor, self.config = model, processor, config
        self.sampler = TextSampler(
            model, processor, temperature=config.temperature, top_p=1.0, batch_size=config.batch_size
        )
        self.max_length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        with self.sampler:
            not_batched = check_prompts(self.sampler.model, processor)
        if not_batched:
            logger.warning("%s answers one question at a time: %s", type(model).__name__, not_batched)
            self.sampler.batch_size = 1

    @functools.cached_property
    def scorer(self) -> I2CScorer:
        # Made when there are options: not every model that can write can be scored.
        try:
            return I2CScorer(self.model, self.processor)
        except ValueError as error:
            reason = said_by(error.__cause__ or error)
            raise RunError(
                f"{type(self.model).__name__} has no likelihoods of options: {reason}; "
                "to have its written answers only, set likelihood=False"
            ) from error

    def __call__(self, rows: Sequence[Mapping[str, Any]], keys: Sequence[bytes]) -> list[dict[str, Any]]:
        """The columns of `ANSWER_FEATURES` for each question. Their images are in memory together.

        Args:
            rows: Question rows; images as `datasets` dicts, not decoded.
            keys: For each row what its random numbers come from, with the seed.

        Raises:
            RunError: If likelihoods are asked for, and the model has none.
        """
        likelihoods = self._likelihoods(rows) if self.config.likelihood else [{}] * len(rows)
        nothing = dict.fromkeys(ANSWER_FEATURES)
        return [{**nothing, **text, **found} for text, found in zip(self._written(rows, keys), likelihoods)]

    def _written(self, rows: Sequence[Mapping[str, Any]], keys: Sequence[bytes]) -> list[dict[str, Any]]:
        processor, opened = with_image_cache(self.processor), {}
        results, prompts = [{} for _ in rows], {}
        for number, row in enumerate(rows):
            # Questions about a picture follow each other: decoded, it is far larger than what the model takes of it.
            if not opened.keys() <= set(map(image_key, row["images"] or ())):
                processor, opened = with_image_cache(self.processor), {}
            try:
                prompts[number] = self._prompt(processor, row, opened)
            except RowError as error:
                results[number] = {"status": str(error)}

        order = sorted(prompts, key=lambda number: (-prompts[number]["input_ids"].shape[1], number))
        asked = ((number, prompts[number], self._uniforms(keys[number])) for number in order)
        with self.sampler:
            for number, (text,) in self.sampler.write(asked):
                begun = opened_by_prompt(self.processor, prompts[number]["input_ids"])
                found = {"prediction": begun + text.text, "ended": text.ended, "status": STATUS_OK}
                results[number] = {"status": NON_FINITE} if text.ended is None else found
        return results

    def _prompt(self, processor: ProcessorMixin, row: Mapping[str, Any], opened: dict) -> dict[str, torch.Tensor]:
        if not row["images"]:
            raise RowError("the question has no image")
        for image in row["images"]:
            if image_key(image) not in opened:
                opened[image_key(image)] = open_image(image)
        images = [opened[image_key(image)] for image in row["images"]]
        prompt = encode_prompt(processor, [{"role": "user", "content": row["question"]}], images)
        length, new = prompt["input_ids"].shape[1], self.config.max_new_tokens
        if self.max_length is not None and length + new > self.max_length:
            raise RowError(f"{length} tokens and up to {new} new ones, but the model takes at most {self.max_length}")
        return prompt

    def _uniforms(self, key: bytes) -> np.ndarray:
        """Numbers in [0, 1) of shape (1, max_new_tokens), from the seed and the question."""
        if self.config.temperature == 0:
            return np.zeros((1, self.config.max_new_tokens))
        return np.random.default_rng([self.config.seed, int.from_bytes(key)]).random((1, self.config.max_new_tokens))

    def _likelihoods(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        # Together, so that the options of a question, and the questions about an image, share what they begin with.
        pairs = [
            {"question": stem(row), "answer": option, "images": row["images"]}
            for row in rows
            for option in row["options"] or ()
        ]
        scored = iter(self.scorer.score(pairs) if pairs else ())
        results: list[dict[str, Any]] = []
        for row in rows:
            scores = [next(scored) for _ in row["options"] or ()]
            problem = next((n for n, score in enumerate(scores) if score[STATUS] != STATUS_OK), None)
            if not scores:
                results.append({})
            elif problem is not None:
                # Without one of them the options cannot be compared.
                results.append({"option_status": f"option {_letter(problem)}: {scores[problem][STATUS]}"})
            else:
                results.append(
                    {
                        "option_logprobs": [score["logprob"] for score in scores],
                        "option_logprobs_blind": [score["logprob_blind"] for score in scores],
                        "option_status": STATUS_OK,
                    }
                )
        return results


def stem(row: Mapping[str, Any]) -> str:
    """What the options' texts are answers to: the question without the list of options and the request for a letter."""
    return json.loads(row["meta"] or "{}").get("stem") or row["question"]


def _letter(number: int) -> str:
    return string.ascii_uppercase[number] if number < 26 else str(number + 1)
