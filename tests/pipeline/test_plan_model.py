"""Operations by a model's sizes against what torch counts, for families of different shape."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from tiny_families import tiny_internvl, tiny_llava_onevision, tiny_qwen2_5_vl, tiny_qwen3_vl, tiny_smolvlm
from tiny_models import tiny_gemma3, tiny_llava, tiny_llava_next
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlavaConfig, Qwen3VLMoeConfig
from transformers.models.qwen3_vl_moe.configuration_qwen3_vl_moe import Qwen3VLMoeTextConfig, Qwen3VLMoeVisionConfig

from c3l_hf.common.errors import RunError
from c3l_hf.models.encoding import encode_prompt
from c3l_hf.pipeline.plan_images import image_costs, read_size
from c3l_hf.pipeline.plan_model import model_costs, read_model

SIZE = (60, 44)
QUESTION = "What is there?"


def picture(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("build", "tolerance"),
    [
        (tiny_llava, 0.001),
        (tiny_llava_next, 0.001),
        (tiny_llava_onevision, 0.001),
        (tiny_qwen2_5_vl, 0.001),
        (tiny_qwen3_vl, 0.001),
        (tiny_smolvlm, 0.001),
        (tiny_internvl, 0.001),
        (tiny_gemma3, 0.05),  # its tower pools with a head whose result nobody uses
    ],
)
def test_operations_of_a_forward_pass_are_those_that_torch_counts(build, tolerance):
    model, processor = build()
    model.set_attn_implementation("eager")  # whose products are counted; the others' kernels are not, on a CPU
    inputs = encode_prompt(processor, [{"role": "user", "content": QUESTION}], [picture()])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs, logits_to_keep=1)
    costs, image = model_costs(model), image_costs(model, processor, SIZE, QUESTION, "m")
    length = inputs["input_ids"].shape[1]
    assert image.tokens + image.text == length
    vision = costs.of_image(image.patches, image.sequence, image.attended, image.windowed, image.projected)
    planned = vision + costs.of_tokens(length, length**2, 1)
    assert planned == pytest.approx(counter.get_total_flops(), rel=tolerance)
    assert 0.2 < vision / planned < 0.8  # neither part can be wrong unseen
    assert costs.parameters == sum(weight.numel() for weight in model.parameters())


def test_windows_of_a_tower_are_counted():
    model, processor = tiny_qwen2_5_vl()
    costs = model_costs(model)
    image = image_costs(model, processor, SIZE, QUESTION, "m")
    # 6 x 8 patches; windows of 4 x 4, of which two are cut to 2 x 4; one of the two blocks has them.
    assert (image.patches, image.attended, image.windowed) == (48, 48**2, 2 * 16**2 + 2 * 8**2)
    assert costs.windows == (1, 4) and costs.tower_layers == 2


def test_a_7b_model_by_its_configuration_alone(tmp_path):
    LlavaConfig().save_pretrained(tmp_path)  # whose defaults are those of LLaVA-1.5-7B
    model = read_model(tmp_path, "m")
    costs, image = model_costs(model), image_costs(model, None, (1024, 768), QUESTION, "m")
    assert costs.parameters == 7_062_902_784 and costs.shares
    assert (image.tokens, image.patches, image.sequence, image.text) == (576, 576, 577, None)
    # 32 blocks of four 4096 x 4096 and three 4096 x 11008; keys and values of 32 heads.
    assert costs.decoder == costs.active == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert costs.head == 32_000 * 4096 and costs.cached == 2 * 32 * 4096
    assert costs.adapter_weights(16) == 39_976_960  # the 40 million of PEFT with LoRA on all linear layers


def test_experts_cost_what_a_token_goes_through(tmp_path):
    text = Qwen3VLMoeTextConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16,
    )  # fmt: skip
    vision = Qwen3VLMoeVisionConfig(depth=1, hidden_size=32, intermediate_size=64, num_heads=4, out_hidden_size=32)
    Qwen3VLMoeConfig(text_config=text.to_dict(), vision_config=vision.to_dict()).save_pretrained(tmp_path)
    costs = model_costs(read_model(tmp_path, "m"))
    experts = 2 * 8 * 3 * 32 * 16  # layers, experts, three matrices
    assert costs.decoder - costs.active == experts * 6 / 8


@pytest.mark.parametrize("text", ["", "1024", "0x768", "axb", "1024x768x3"])
def test_sizes_that_are_none(text):
    with pytest.raises(RunError, match="plan_image_size is .* width and a height"):
        read_size(text)


def test_a_size_that_is_one():
    assert read_size(" 1024 X 768") == (1024, 768)


def test_configurations_that_do_not_say_how_many_tokens_an_image_has():
    for build in (tiny_llava_next, tiny_internvl):
        with pytest.raises(RunError, match="no processor here, and its configuration does not say"):
            image_costs(build()[0], None, SIZE, QUESTION, "m")


def test_the_configuration_counts_as_the_processor_does():
    for build, size in ((tiny_llava, SIZE), (tiny_qwen2_5_vl, SIZE), (tiny_qwen3_vl, (64, 64)), (tiny_gemma3, SIZE)):
        model, processor = build()
        known, told = (image_costs(model, one, size, QUESTION, "m") for one in (processor, None))
        assert told == replace(known, text=None), build.__name__


def test_what_is_no_model_for_images(tmp_path):
    with pytest.raises(RunError, match="model m has no configuration of a model for images and texts: "):
        read_model(tmp_path, "m")
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(RunError, match="model m has no configuration of a model for images and texts: "):
        read_model(tmp_path, "m")
