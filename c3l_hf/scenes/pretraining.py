"""Training data and losses for the small generator: many segments about one picture in one packed sequence."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import LlavaForConditionalGeneration, LlavaProcessor, Trainer

from c3l_hf.prompts.templates import GENERAL
from c3l_hf.scenes.checker import check_pair
from c3l_hf.scenes.questions import NUMBERS, PLURAL, ask
from c3l_hf.scenes.templates import QUESTION_TYPES, TEMPLATES, format_pair
from c3l_hf.scenes.world import BACKGROUNDS, CATEGORIES, SIZE, Scene, render, sample_scenes

__all__ = ["ALL_TYPES", "HARD_TYPES", "AnsweringTrainer", "PackedScenes", "PatchNames", "TowerTrainer"]

IGNORE = -100
# Chance of a short answer's question type: more for what is harder to learn. The last phase asks for little else than
# what is found last.
ALL_TYPES = {"presence": 0.17, "count": 0.24, "colour": 0.06, "where": 0.17, "relation": 0.26, "group": 0.10}
HARD_TYPES = {"presence": 0.34, "count": 0.30, "colour": 0.02, "where": 0.05, "relation": 0.09, "group": 0.20}


@dataclass(frozen=True)
class _Segment:
    ids: list[int]
    answer_start: int
    blind: bool


@dataclass(frozen=True)
class _Turn:
    """What a chat template writes around the texts of a turn about a picture: `start` and the picture before the
    question, `question` around it, `answer` around the answer with the token that ends it."""

    start: str
    question: tuple[str, str]
    answer: tuple[str, str]

    @classmethod
    def of(cls, processor: LlavaProcessor) -> "_Turn":
        user, said = "\x01", "\x02"  # in no template
        messages = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": user}]},
            {"role": "assistant", "content": [{"type": "text", "text": said}]},
        ]
        prompt = processor.apply_chat_template(messages[:1], add_generation_prompt=True)
        whole = processor.apply_chat_template(messages)
        start, question = prompt.split(processor.image_token)
        end = processor.tokenizer.eos_token
        before, after = _halves(whole.removeprefix(prompt), said)
        return cls(start, _halves(question, user), (before, after.partition(end)[0] + end))

    def asked(self, user: str) -> str:
        return user.join(self.question)

    def said(self, answer: str) -> str:
        return answer.join(self.answer)


def _halves(text: str, middle: str) -> tuple[str, str]:
    first, _, second = text.partition(middle)
    return first, second


class PackedScenes(Dataset):
    """Batches of scenes; item i is the i-th batch, a function of (seed, i) only.

    One sequence per scene, in the words of the processor's chat template, which puts the picture before the question:
    `[<s>USER:<image>… | segment 1 | segment 2 | …]`. A segment sees the image prefix and
    itself; a *blind* segment brings its own beginning and sees itself only, which trains the answers' prior without the
    image.
    Every n-th batch holds descriptions and generated pairs, the others many short answers.

    With `descriptions_only` nothing is ever asked but to describe the picture, and the short answers are what is said
    to that, without a "Yes" or "No": a model that sees and speaks but has not learned to answer questions about what it
    sees, as a student is before it is fine-tuned. `text_only` gives it what such a student's language model has: it
    knows questions and what their answers are like, without having seen any picture with them.

    Args:
        processor: The processor of the model, for 64 × 64 pictures.
        steps: Number of batches.
        images: Scenes in a batch.
        seed: Scenes are those of `load_scenes(…, seed, "train")`, from the first on.
        types: Question type → its chance among the short answers.
        long_every: n.
        bridges: Chance that an answer about presence or number is in the form that is easier to learn, see `_bridge`.
        blind: Chance that an answer segment is blind.
        blind_pairs: Chance that a generated pair, which comes after a generation instruction, is blind.
        descriptions_only: See above.
        text_only: With `descriptions_only` the chance that a short answer is one to a question, blind.
    """

    def __init__(
        self,
        processor: LlavaProcessor,
        steps: int,
        images: int,
        seed: int,
        types: Mapping[str, float],
        long_every: int,
        bridges: float,
        blind: float = 0.15,
        blind_pairs: float = 0.0,
        descriptions_only: bool = False,
        text_only: float = 0.0,
    ):
        self.tokenizer = processor.tokenizer
        self.steps, self.images, self.seed = steps, images, seed
        self.blind, self.blind_pairs = blind, blind_pairs
        self.types, self.long_every, self.bridges = types, long_every, bridges
        self.descriptions_only, self.text_only = descriptions_only, text_only
        self.turn = _Turn.of(processor)
        self.blind_prefix = self.tokenizer(self.turn.start, add_special_tokens=False).input_ids
        image_id = self.tokenizer.convert_tokens_to_ids(processor.image_token)
        self.prefix = self.blind_prefix + [image_id] * (SIZE // processor.patch_size) ** 2
        self.pad = self.tokenizer.pad_token_id

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.seed, 1, index])
        scenes = list(sample_scenes(self.images, self.seed, "train", start=index * self.images))
        turns_of = self._long if index % self.long_every == self.long_every - 1 else self._answers
        turns = [turns_of(scene, rng) for scene in scenes]
        return self._pack(scenes, [self._segments(items, rng) for items in turns])

    def _answers(self, scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, float]]:
        types = rng.choice(list(self.types), size=16, p=list(self.types.values()))
        asked = [ask(scene, type, rng) for type in types]
        pairs = [pair and (_bridge(*pair, scene) if rng.random() < self.bridges else pair) for pair in asked]
        if self.descriptions_only:
            return [self._described(scene, *pair, rng) for pair in pairs if pair]
        return [(*pair, self.blind) for pair in pairs if pair]

    def _described(self, scene: Scene, question: str, answer: str, rng: np.random.Generator) -> tuple[str, str, float]:
        if rng.random() < self.text_only:
            return question, answer, 1.0
        return ask(scene, "description", rng)[0], _statement(answer), self.blind

    def _long(self, scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, float]]:
        turns = [(*ask(scene, "description", rng), self.blind)]
        if self.descriptions_only:
            return turns + self._answers(scene, rng)
        for requested in rng.permutation([*QUESTION_TYPES, GENERAL])[:6]:
            template = str(rng.choice([template.user for template in TEMPLATES.of_type(requested)]))
            type = str(rng.choice(QUESTION_TYPES)) if requested == GENERAL else requested
            if pair := ask(scene, type, rng):
                turns.append((template, format_pair(*pair), self.blind_pairs))
        return turns

    def _segments(self, turns: list[tuple[str, str, float]], rng: np.random.Generator) -> list[_Segment]:
        asked = self.tokenizer([self.turn.asked(user) for user, _, _ in turns], add_special_tokens=False).input_ids
        said = self.tokenizer([self.turn.said(answer) for _, answer, _ in turns], add_special_tokens=False).input_ids
        segments = []
        for question, answer, (_, _, chance) in zip(asked, said, turns):
            blind = rng.random() < chance
            head = (self.blind_prefix if blind else []) + question
            segments.append(_Segment(head + answer, len(head), blind))
        return segments

    def _pack(self, scenes: list[Scene], rows: list[list[_Segment]]) -> dict[str, torch.Tensor]:
        length = _rounded_up(len(self.prefix) + max(sum(len(segment.ids) for segment in row) for row in rows), 64)
        shape = (len(rows), length)
        ids = torch.full(shape, self.pad)
        labels = torch.full(shape, IGNORE)
        positions = torch.zeros(shape, dtype=torch.long)
        # Which segment a token belongs to (0: the prefix, -1: padding), and whether it may see the prefix.
        owner = torch.full(shape, -1)
        sees_prefix = torch.zeros(shape, dtype=torch.bool)
        for r, row in enumerate(rows):
            start = len(self.prefix)
            ids[r, :start] = torch.tensor(self.prefix)
            positions[r, :start] = torch.arange(start)
            owner[r, :start] = 0
            for number, segment in enumerate(row, start=1):
                end = start + len(segment.ids)
                ids[r, start:end] = torch.tensor(segment.ids)
                labels[r, start + segment.answer_start : end] = ids[r, start + segment.answer_start : end]
                first = 0 if segment.blind else len(self.prefix)
                positions[r, start:end] = torch.arange(first, first + len(segment.ids))
                owner[r, start:end] = number
                sees_prefix[r, start:end] = not segment.blind
                start = end
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        same = owner[:, :, None] == owner[:, None, :]
        mask = causal & (same | (sees_prefix[:, :, None] & (owner == 0)[:, None, :]))
        return {
            "input_ids": ids,
            "labels": labels,
            "position_ids": positions,
            "attention_mask": mask[:, None],
            "pixel_values": _pixels(scenes),
        }


def _bridge(question: str, answer: str, scene: Scene) -> tuple[str, str]:
    """The same fact with the object's name directly before what is decided, for presence and number; else unchanged.

    Looking up a name that was just written is learned early ("The dog is in the …"), an answer that turns on a name in
    the question ("Yes, …") stays at chance for long. The first form leads to the second.
    """
    verdict = check_pair(question, answer, scene)
    name = next((word for word in re.findall(r"\w+", answer) if word in CATEGORIES or word in PLURAL.values()), None)
    if verdict.type == "presence":
        return f"Is the {name} there or not?", f"The {name} is {'there' if answer.startswith('Yes') else 'not there'}."
    if verdict.type == "count":
        plural = PLURAL.get(name, name)
        number = next(word for word in answer.split() if word in NUMBERS)
        return f"What number of {plural} is there?", f"The number of {plural} is {number}."
    return question, answer


def _statement(answer: str) -> str:
    """An answer as something that could be said unasked: without its "Yes" or "No"."""
    said = answer.removeprefix("Yes, ").removeprefix("No, ")
    return said[0].upper() + said[1:]


class PatchNames(Dataset):
    """Batches for the tower's warm-up: for every patch, the word of what is there, and of where it is.

    Labels are token ids of shape (images, patches, 3): the object's or background colour's word, top or bottom, left
    or right.
    """

    def __init__(self, processor: LlavaProcessor, steps: int, images: int, seed: int):
        self.steps, self.images, self.seed = steps, images, seed
        self.patch = processor.patch_size
        words = [*CATEGORIES, *BACKGROUNDS, "top", "bottom", "left", "right"]
        ids = processor.tokenizer([f" {word}" for word in words], add_special_tokens=False).input_ids
        self.word_ids = {word: tokens[0] for word, tokens in zip(words, ids)}

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        # Scenes of another seed than the joint phase: more variety for the tower.
        scenes = list(sample_scenes(self.images, self.seed + 1, "train", shifted=True, start=index * self.images))
        return {
            "pixel_values": _pixels(scenes),
            "labels": torch.from_numpy(np.stack([self._labels(s) for s in scenes])),
        }

    def _labels(self, scene: Scene) -> np.ndarray:
        side = SIZE // self.patch
        centre = (np.arange(side) + 0.5) * self.patch
        labels = np.empty((side, side, 3), dtype=np.int64)
        labels[..., 0] = self.word_ids[scene.background]
        for item in scene.objects:
            inside = [abs(centre - at) <= 0.4 * item.size for at in (item.y, item.x)]
            labels[np.ix_(*inside, [0])] = self.word_ids[item.name]
        top = (centre < SIZE / 2)[:, None]
        labels[..., 1] = np.where(top, self.word_ids["top"], self.word_ids["bottom"])
        labels[..., 2] = np.where(top.T, self.word_ids["left"], self.word_ids["right"])
        return labels.reshape(-1, 3)


def _rounded_up(number: int, step: int) -> int:
    # Few different shapes: on CPU every new one costs the compilation of its kernels, more than the padding does.
    return -(-number // step) * step


def _pixels(scenes: list[Scene]) -> torch.Tensor:
    """What the image processor makes of 64 × 64 pictures, without its resizing: (n, 3, 64, 64) in [-1, 1]."""
    pictures = np.stack([render(scene) for scene in scenes]).transpose(0, 3, 1, 2)
    return torch.from_numpy(pictures.astype(np.float32) / 127.5 - 1)


class TowerTrainer(Trainer):
    """Aligns each patch's projected feature with the embedding of its words (cross-entropy over those words)."""

    def compute_loss(self, model: LlavaForConditionalGeneration, inputs: dict, return_outputs: bool = False, **kwargs):
        # Not the model's forward, which `Trainer` has wrapped, so autocast is up to us.
        with self.accelerator.autocast():
            features = torch.stack(list(model.get_image_features(inputs["pixel_values"]).pooler_output))
        table = model.get_input_embeddings().weight
        words = self.train_dataset.word_ids
        choices = [[*CATEGORIES, *BACKGROUNDS], ["top", "bottom"], ["left", "right"]]
        loss = features.new_zeros(())
        for column, names in enumerate(choices):
            ids = torch.tensor([words[name] for name in names], device=features.device)
            target = (inputs["labels"][..., column, None] == ids).float().argmax(-1)
            loss = loss + F.cross_entropy((features.float() @ table[ids].T).flatten(0, 1), target.flatten())
        return loss


class AnsweringTrainer(Trainer):
    """Next-token cross-entropy on the answers of packed segments; the LM head runs at answer positions only."""

    def compute_loss(self, model: LlavaForConditionalGeneration, inputs: dict, return_outputs: bool = False, **kwargs):
        labels = inputs.pop("labels")
        model = model.get_base_model() if isinstance(model, PeftModel) else model  # its adapters are in its modules
        with self.accelerator.autocast():
            hidden = model.model(**inputs, use_cache=False).last_hidden_state
        # The token before an answer token, in the same segment, predicts it.
        rows, columns = (labels != IGNORE).nonzero(as_tuple=True)
        before, targets = hidden[rows, columns - 1], labels[rows, columns]
        padding = _rounded_up(len(targets), 512) - len(targets)
        with self.accelerator.autocast():
            logits = model.lm_head(F.pad(before, (0, 0, 0, padding)))
        return F.cross_entropy(logits.float(), F.pad(targets, (0, padding), value=IGNORE), ignore_index=IGNORE)
