"""Which weights training moves: by family and option, every one by its name."""

import re

import pytest
import torch
from accelerate import init_empty_weights
from peft import LoraConfig, get_peft_model
from tiny_families import tiny_internvl, tiny_qwen2_5_vl, tiny_qwen3_vl, tiny_smolvlm
from tiny_models import tiny_gemma3, tiny_llava, tiny_llava_next
from tiny_training import make_trainer, moved
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

from c3l_hf.training.config import language_model_lora

PROJECTIONS = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
HEAD = {"contrastive_head.0.weight", "contrastive_head.0.bias"}
NORMS = ["input_layernorm", "post_attention_layernorm"]
QUERY_AND_KEY_NORMS = ["self_attn.q_norm", "self_attn.k_norm"]
# A key's bias shifts all scores of a query alike, so that its gradient is rounding error: whether it moves is chance.
BIASES = ["self_attn.q_proj", "self_attn.v_proj"]
CHANCE = re.compile(r"self_attn\.k_proj\.bias$")


def linear(*names):
    return {f"{name}.{part}" for name in names for part in ("weight", "bias")}


LLAVA_PROJECTOR = linear("model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2")
# family → the language model's name, what its blocks have beside the projections' weights, the projector
WEIGHTS = {
    tiny_llava: ("model.language_model", NORMS, [], LLAVA_PROJECTOR),
    tiny_llava_next: ("model.language_model", NORMS, [], LLAVA_PROJECTOR),
    tiny_qwen2_5_vl: (
        "model.language_model",
        NORMS,
        BIASES,
        {"model.visual.merger.ln_q.weight"} | linear("model.visual.merger.mlp.0", "model.visual.merger.mlp.2"),
    ),
    tiny_qwen3_vl: (
        "model.language_model",
        NORMS + QUERY_AND_KEY_NORMS,
        [],
        linear(
            *(f"model.visual.merger.{name}" for name in ("norm", "linear_fc1", "linear_fc2")),
            *(f"model.visual.deepstack_merger_list.0.{name}" for name in ("norm", "linear_fc1", "linear_fc2")),
        ),
    ),
    tiny_smolvlm: ("model.text_model", NORMS, [], {"model.connector.modality_projection.proj.weight"}),
    tiny_internvl: (
        "model.language_model",
        NORMS,
        BIASES,
        LLAVA_PROJECTOR | linear("model.multi_modal_projector.layer_norm"),
    ),
    tiny_gemma3: (
        "model.language_model",
        [*NORMS, *QUERY_AND_KEY_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm"],
        [],
        {f"model.multi_modal_projector.{name}" for name in ("mm_input_projection_weight", "mm_soft_emb_norm.weight")},
    ),
}


def language_model(build):
    name, norms, biases, _ = WEIGHTS[build]
    names = {"lm_head.weight", f"{name}.embed_tokens.weight", f"{name}.norm.weight"}
    for layer in range(2):
        block = f"{name}.layers.{layer}"
        names |= {f"{block}.{part}.weight" for part in PROJECTIONS + norms} | {f"{block}.{b}.bias" for b in biases}
    return names


def adapters(build):
    blocks = [f"{WEIGHTS[build][0]}.layers.{layer}.{name}" for layer in range(2) for name in PROJECTIONS]
    return {f"{block}.lora_{side}.default.weight" for block in blocks for side in "AB"}


def in_projector_copy(build):
    """The projector's weights by the names that PEFT gives to its trained copy."""
    copied = r"(multi_modal_projector|connector|merger|deepstack_merger_list\.\d+)\."
    return {re.sub(copied, r"\1.modules_to_save.default.", name) for name in WEIGHTS[build][3]}


@pytest.mark.parametrize("build", WEIGHTS)
def test_only_the_intended_weights_move(tmp_path, build):
    projector = WEIGHTS[build][3]
    wrapped = {"base_model.model." + name for name in HEAD | adapters(build)}
    for options, expected in [
        ({}, wrapped),
        ({"train_projector": True}, wrapped | {"base_model.model." + name for name in in_projector_copy(build)}),
        ({"use_lora": False}, HEAD | language_model(build)),
        ({"use_lora": False, "train_projector": True}, HEAD | language_model(build) | projector),
        ({"train_language_model": False, "train_projector": True}, HEAD | projector),
    ]:
        found = {name for name in moved(make_trainer(tmp_path, build(), **options)) if not CHANCE.search(name)}
        assert found == expected, options


def test_vision_tower(tmp_path):
    options = {"train_vision_tower": True, "use_lora": False}
    tower = re.compile(r"model\.vision_tower\.")
    # LLaVA takes the last layer but one of CLIP: what comes after it has no gradient.
    unused = re.compile(r"layers\.1\.|post_layernorm|position_ids|k_proj\.bias")
    for also, others in [
        ({}, language_model(tiny_llava)),
        ({"train_language_model": False}, set()),
        ({"train_language_model": False, "train_projector": True}, LLAVA_PROJECTOR),
    ]:
        trainer = make_trainer(tmp_path, **options, **also)
        expected = {name for name in trainer.model.state_dict() if tower.match(name) and not unused.search(name)}
        names = moved(trainer)
        assert {name for name in names if tower.match(name) and not unused.search(name)} == expected and expected
        assert {name for name in names if not tower.match(name)} == others | HEAD


def test_own_adapters(tmp_path):
    targets = r".*language_model.*\.q_proj"
    names = moved(make_trainer(tmp_path, peft_config=LoraConfig(target_modules=targets)))
    assert len(names) == 2 * 2 + 2 and all("q_proj.lora_" in name or "contrastive_head" in name for name in names)

    model, processor = tiny_llava()
    adapted = get_peft_model(model, LoraConfig(target_modules=targets))
    assert moved(make_trainer(tmp_path, (adapted, processor))) == names
    for options in ({"train_projector": True}, {"train_language_model": False, "train_vision_tower": True}):
        with pytest.raises(ValueError, match="what is trained is said by the adapter"):
            make_trainer(tmp_path, peft_config=LoraConfig(target_modules=targets), **options)


@pytest.mark.parametrize("build", [tiny_llava, tiny_qwen3_vl])
def test_a_trained_projector_is_saved_and_merged(tmp_path, build):
    model, processor = build()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    # by its name, so that the projector has to be found before there is a model
    trainer = make_trainer(tmp_path / "run", (str(tmp_path / "start"), processor), train_projector=True)
    trainer.train()
    batch = trainer.data_collator(list(trainer.train_dataset))
    inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "position_ids")}
    inputs |= {k: v for k, v in batch.items() if k in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    trainer.model.eval()
    with torch.no_grad():
        trained = trainer.model(**inputs).logits
    trainer.merged_model().save_pretrained(tmp_path / "merged")
    reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(reloaded(**inputs).logits, trained, rtol=1e-3, atol=1e-3)
    for name in WEIGHTS[build][3]:
        assert not torch.equal(reloaded.state_dict()[name], start[name]), name


def test_no_projector_under_a_known_name(tmp_path):
    model, processor = tiny_llava()
    model.model.adapter, model.model.multi_modal_projector = model.model.multi_modal_projector, torch.nn.Identity()
    del model.model.multi_modal_projector
    with pytest.raises(ValueError, match="LlavaForConditionalGeneration has no projector under a known name"):
        make_trainer(tmp_path, (model, processor), train_projector=True)


@pytest.mark.parametrize(
    "name", ["llava", "qwen2_5_vl", "idefics3", "internvl", "gemma3", "glm4v", "lfm2_vl", "qwen3_5"]
)
def test_adapters_are_on_every_linear_layer_of_the_language_model(name):
    """Whatever its layers are called; models of the usual size, without weights."""
    with init_empty_weights():
        model = AutoModelForImageTextToText.from_config(CONFIG_MAPPING[name]())
    pattern = language_model_lora(model).target_modules
    blocks = model.get_decoder().get_submodule("layers")
    of_blocks = {id(module) for module in blocks.modules() if isinstance(module, nn.Linear)}
    matched = {id(module) for name, module in model.named_modules() if re.fullmatch(pattern, name)}
    assert matched == of_blocks and len(of_blocks) >= 4 * len(blocks)


def test_weights_in_float16_are_not_trained(tmp_path):
    """As `from_pretrained` gives them where the file has them so."""
    model, processor = tiny_llava()
    with pytest.raises(ValueError, match="the trained weights are in float16: load the model in float32 or bfloat16"):
        make_trainer(tmp_path, (model.half(), processor), use_lora=False)
    adapters = make_trainer(tmp_path, (tiny_llava()[0].half(), processor))  # those of LoRA are in float32
    assert adapters.model.get_base_model().dtype == torch.float16
