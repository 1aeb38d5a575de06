"""A pretrained language model given the scenes world's tower: here a tiny one, with SmolLM2's form of a turn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import _llama_config, _tokenizer
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from c3l_hf.models.encoding import encode_row
from c3l_hf.scenes import GENERATOR, load_scenes
from c3l_hf.scenes.architecture import build_processor
from c3l_hf.scenes.pretraining import ALL_TYPES, PackedScenes
from c3l_hf.scenes.smollm import build_smollm
from c3l_hf.scenes.smollm_run import SmolLMOptions, train_smollm


def text_model(turns=("<|im_start|>", "<|im_end|>")) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _tokenizer(["<|endoftext|>", *turns], eos_token=turns[-1])
    return LlamaForCausalLM(_llama_config(len(tokenizer))), tokenizer


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for part in text_model():
        part.save_pretrained(folder)
    return str(folder)


def test_the_parts_keep_their_weights(language_model):
    model, processor = build_smollm(language_model)
    before = load_file(f"{language_model}/model.safetensors")
    after = model.model.language_model.state_dict()
    for name, weight in before.items():
        assert torch.equal(after[name.removeprefix("model.")][: len(weight)], weight), name
    seeing = LlavaForConditionalGeneration.from_pretrained(GENERATOR, dtype=torch.float32).model.vision_tower
    assert all(map(torch.equal, model.model.vision_tower.state_dict().values(), seeing.state_dict().values()))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert len(processor.tokenizer) == len(model.lm_head.weight) == model.config.image_token_index + 1
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_language_model_with_other_turns_is_refused(tmp_path):
    for part in text_model(("[INST]", "[/INST]")):
        part.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no <\|im_end\|>, <\|im_start\|>: give a SmolLM2"):
        build_smollm(str(tmp_path))


@pytest.mark.parametrize("which", ["small", "pretrained"])
def test_packed_segments_are_what_the_chat_template_writes(which, language_model):
    processor = build_processor() if which == "small" else build_smollm(language_model)[1]
    packed = PackedScenes(processor, 1, 1, 0, ALL_TYPES, 1, 0.0)
    image = load_scenes(1)["images"][0]
    question, answer = "Is there a dog?", "No, there is no dog.\nAnswer: 3"
    end = processor.tokenizer.eos_token_id
    for chance, images in ((0.0, image), (1.0, [])):
        (segment,) = packed._segments([(question, answer, chance)], np.random.default_rng(0))
        row = encode_row(processor, [{"role": "user", "content": question}], answer, images, end_of_turn=False)
        ids = [*([] if segment.blind else packed.prefix), *segment.ids]
        assert ids == [*row.inputs["input_ids"][0].tolist(), end]
        start = segment.answer_start + (0 if segment.blind else len(packed.prefix))
        assert start == row.answer.start


def test_a_run_goes_on_and_ends_in_a_plain_model(language_model, tmp_path, monkeypatch):
    options = SmolLMOptions(language_model, str(tmp_path), align_steps=1, steps=2, save_steps=1, bf16=False)
    final = train_smollm(options)
    model = AutoModelForImageTextToText.from_pretrained(final)
    assert type(model) is LlavaForConditionalGeneration and model.dtype == torch.bfloat16
    assert AutoProcessor.from_pretrained(final).chat_template
    weights = load_file(final / "model.safetensors")
    start, _ = build_smollm(language_model)
    start.to(torch.bfloat16).save_pretrained(tmp_path / "start")
    before = load_file(tmp_path / "start" / "model.safetensors")
    assert set(weights) == set(before)
    same = {name for name in weights if torch.equal(weights[name], before[name])}
    assert {name for name in weights if "vision_tower" in name or "norm" in name or "embed_tokens" in name} == same

    train_smollm(options)  # nothing is left to do
    again = load_file(final / "model.safetensors")
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())
    last, first = (load_file(train_smollm(replace(options, merge_step=step)) / "model.safetensors") for step in (2, 1))
    assert all(torch.equal(last[name], weight) for name, weight in weights.items())
    assert not all(torch.equal(first[name], weight) for name, weight in weights.items())
