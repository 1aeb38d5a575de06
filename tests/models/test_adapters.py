"""LoRA adapters of other people, merged: what the model computes with them, and what is refused."""

import json
import re
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_families import (
    tiny_idefics3,
    tiny_internvl,
    tiny_llava_onevision,
    tiny_qwen2_5_vl,
    tiny_qwen3_vl,
    tiny_smolvlm,
)
from tiny_models import tiny_gemma3, tiny_llava, tiny_llava_next
from torch import nn
from transformers import AutoModelForImageTextToText

from c3l_hf.common.errors import RunError
from c3l_hf.models.adapters import Adapters, merge_adapters

FAMILIES = [tiny_llava, tiny_llava_next, tiny_gemma3, tiny_llava_onevision, tiny_qwen2_5_vl, tiny_qwen3_vl]
FAMILIES += [tiny_idefics3, tiny_smolvlm, tiny_internvl]
RANDOM = {"r": 4, "init_lora_weights": False}
EMBEDDINGS = ["embed_tokens", "lm_head"]
# transformers norms, and of Gemma the attention, in float32 at any dtype.
BOUND = 1e-6


def inputs(processor):
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    content = [{"type": "image"}, {"type": "text", "text": "Is there a dog?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(images=[[picture]], text=[text], return_tensors="pt")


def logits(model, batch):
    batch = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in batch.items()}
    with torch.no_grad():
        return model(**batch).logits


def linear(model, *words):
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in names if any(word in name for word in words)]


def write_adapters(model, config, folder, **how):
    """Adapters with random weights in a folder; the model with them, unmerged, in float64."""
    torch.manual_seed(1)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad and ("lora_" not in name or isinstance(config.init_lora_weights, str)):
                # else they would be what they are in the base
                weight.add_(0.1 * torch.randn_like(weight))
            elif "magnitude" in name:
                weight.mul_(1.1)
    adapted.save_pretrained(folder, **how)
    return adapted.eval().double()


def edited(folder, to, *, config=None, key=lambda key: key, keep=lambda key: True):
    """A copy of a folder of adapters with another configuration, or other weights."""
    shutil.copytree(folder, to)
    values = json.loads((to / "adapter_config.json").read_text())
    (to / "adapter_config.json").write_text(json.dumps(values | (config or {})))
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({key(k): v for k, v in weights.items() if keep(k)}, to / "adapter_model.safetensors")
    return to


def check(build, config, tmp_path, *, rows=None, **how):
    """Merged, and saved and loaded by transformers, as with the adapters beside the model."""
    model, processor = build()
    batch = inputs(processor)
    before = logits(model.double(), batch)
    model.float()
    if rows is not None:
        model.resize_token_embeddings(rows)
    config = config(model) if callable(config) else config
    expected = logits(write_adapters(model, config, tmp_path / "adapters", **how), batch)
    size = before.shape[-1]
    assert (expected[..., :size] - before).abs().max() > 0.1  # the adapters do something
    merged = merge_adapters(build()[0].double(), tmp_path / "adapters", "mine")
    assert not any("lora" in name for name, _ in merged.named_parameters()) and not merged.training
    assert all(weight.requires_grad for weight in merged.parameters())
    torch.testing.assert_close(logits(merged, batch), expected, rtol=0, atol=BOUND)
    merged.save_pretrained(tmp_path / "whole")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole", dtype=torch.float64).eval()
    torch.testing.assert_close(logits(again, batch), expected, rtol=0, atol=BOUND)
    return merged


@pytest.mark.parametrize("build", FAMILIES)
def test_every_linear_layer(build, tmp_path):
    assert check(build, LoraConfig(target_modules="all-linear", **RANDOM), tmp_path).config.tie_word_embeddings


@pytest.mark.parametrize("build", FAMILIES)
def test_dora(build, tmp_path):
    """transformers' own way of loading adapters leaves its magnitudes out."""
    check(build, lambda model: LoraConfig(target_modules="all-linear", use_dora=True, **RANDOM), tmp_path)


@pytest.mark.parametrize("build", FAMILIES)
def test_adapters_of_embeddings_are_none_of_the_head(build, tmp_path):
    """Whose weight is the same: merged, they are two."""
    merged = check(build, LoraConfig(target_modules=["q_proj", "embed_tokens"], **RANDOM), tmp_path)
    assert not merged.config.tie_word_embeddings and not merged.config.get_text_config().tie_word_embeddings


@pytest.mark.parametrize("build", FAMILIES)
def test_added_tokens(build, tmp_path):
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=EMBEDDINGS, **RANDOM)
    merged = check(build, config, tmp_path, rows=410)
    assert len(merged.get_input_embeddings().weight) == 410


@pytest.mark.parametrize(
    "config",
    [
        lambda model: LoraConfig(target_modules=linear(model, "vision"), **RANDOM),
        lambda model: LoraConfig(target_modules=linear(model, "multi_modal_projector"), **RANDOM),
        LoraConfig(target_modules=["q_proj"], modules_to_save=["multi_modal_projector"], **RANDOM),
        LoraConfig(target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 3}),
        LoraConfig(target_modules=["q_proj"], use_rslora=True, bias="lora_only", **RANDOM),
        LoraConfig(target_modules=["q_proj"], trainable_token_indices=[5, 6, 7], **RANDOM),
        LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"], **RANDOM),
        LoraConfig(target_modules=["lm_head"], **RANDOM),
        LoraConfig(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers", **RANDOM),
        LoraConfig(target_modules=r".*language_model.*\.(q_proj|up_proj)", exclude_modules=r".*\.0\..*", **RANDOM),
    ],
    ids=[
        "vision",
        "projector",
        "saved",
        "patterns",
        "bias",
        "tokens",
        "embeddings",
        "head",
        "layers",
        "expression",
    ],
)
def test_kinds_of_adapters(config, tmp_path):
    if isinstance(config, LoraConfig):
        config.init_lora_weights = False
    check(tiny_llava, config, tmp_path)


def test_embeddings_saved_whole_beside_the_adapters(tmp_path):
    """As PEFT does where tokens were added."""
    config = LoraConfig(target_modules=["q_proj"], **RANDOM)
    merged = check(tiny_llava, config, tmp_path, rows=405, save_embedding_layers=True)
    assert len(merged.get_input_embeddings().weight) == 405 and merged.config.tie_word_embeddings


def test_a_merge_is_the_sum_that_the_paper_has(tmp_path):
    """W + alpha / r * B A (Hu et al. 2021), without PEFT."""
    write_adapters(tiny_llava()[0], LoraConfig(target_modules=["q_proj"], lora_alpha=12, **RANDOM), tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    plain = tiny_llava()[0].double().state_dict()
    merged = merge_adapters(tiny_llava()[0].double(), tmp_path, "mine").state_dict()
    assert merged.keys() == plain.keys() and len(weights) == 8
    for name, weight in plain.items():
        a, b = (weights.get(f"base_model.model.{name.removesuffix('weight')}lora_{part}.weight") for part in ("A", "B"))
        expected = weight if a is None else weight + 12 / 4 * b.double() @ a.double()
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("beginning", ["pissa", "olora", "orthogonal"])
def test_beginnings_that_change_the_base(beginning, tmp_path):
    """In the same way each time; in float32, as PEFT has them."""
    model, processor = tiny_llava()
    config = LoraConfig(target_modules=["up_proj"], r=4, init_lora_weights=beginning)
    adapted = write_adapters(model, config, tmp_path)
    batch = inputs(processor)
    merged = merge_adapters(tiny_llava()[0], tmp_path, "mine").double()
    torch.testing.assert_close(logits(merged, batch), logits(adapted, batch), rtol=0, atol=1e-4)
    assert (logits(merged, batch) - logits(tiny_llava()[0].double(), batch)).abs().max() > 0.1


def test_in_half_precision(tmp_path):
    """Whole parts that were saved in float32 do not stay in it."""
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["multi_modal_projector"], **RANDOM)
    write_adapters(tiny_llava()[0], config, tmp_path)
    exact = merge_adapters(tiny_llava()[0], tmp_path, "mine").state_dict()
    merged = merge_adapters(tiny_llava()[0].to(torch.bfloat16), tmp_path, "mine")
    for name, weight in merged.state_dict().items():
        assert weight.dtype == torch.bfloat16
        torch.testing.assert_close(weight.float(), exact[name], rtol=2**-7, atol=2**-8)


# Adapters written by earlier versions of transformers, whose models had other names


def as_llava(key):
    key = key.replace("model.model.language_model.", "model.language_model.model.")
    return key.replace("model.model.vision_tower.", "model.vision_tower.vision_model.")


def as_qwen(key):
    return key.replace("model.model.language_model.", "model.model.").replace("model.model.visual.", "model.visual.")


@pytest.mark.parametrize(("build", "old"), [(tiny_llava, as_llava), (tiny_qwen2_5_vl, as_qwen)])
@pytest.mark.parametrize("by_path", [False, True])
def test_names_of_earlier_versions(build, old, by_path, tmp_path):
    """PEFT loads none of them and warns, so that the base would answer."""
    model, processor = build()
    batch = inputs(processor)
    words = ("language_model", "merger", "visual", "vision")
    names = linear(model, *words)
    config = LoraConfig(target_modules=names, alpha_pattern={r".*layers\.0\..*q_proj": 7}, **RANDOM)
    expected = logits(write_adapters(model, config, tmp_path / "now"), batch)
    named = [old(f"base_model.model.{name}.").removeprefix("base_model.model.")[:-1] for name in names]
    # As names of single modules, which the model does not have any more, or as endings, which fit others as well.
    targets = named if by_path else sorted({name.rpartition(".")[2] for name in named})
    changes = {"target_modules": targets}
    if by_path:
        first = [name for name in named if re.fullmatch(r".*layers\.0\..*q_proj", name)]
        changes["alpha_pattern"] = {re.escape(name): 7 for name in first}
    folder = edited(tmp_path / "now", tmp_path / "old", key=old, config=changes)
    merged = merge_adapters(build()[0].double(), folder, "mine")
    torch.testing.assert_close(logits(merged, batch), expected, rtol=0, atol=BOUND)

    some = edited(
        tmp_path / "now", tmp_path / "part", key=old, config=changes, keep=lambda k: "layers.1.mlp.up" not in k
    )
    with pytest.raises(RunError, match=r"has no weights for .*layers.1.mlp.up_proj, but for others of its kind"):
        merge_adapters(build()[0], some, "mine")


# What is refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters")
    write_adapters(tiny_llava()[0], LoraConfig(target_modules=["q_proj", "v_proj"], **RANDOM), path / "saved")
    return edited(path / "saved", path / "named", config={"base_model_name_or_path": "org/base", "revision": "v1"})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"key": lambda key: key.replace("q_proj", "qq")}, r"has no place for 8 of 16 weights, first .*\.qq\.lora_A"),
        (
            {"key": lambda key: key.replace("q_proj", "k_proj")},
            r"that \S* does not ask for: 8, first \S*k_p",
        ),
        (
            {"keep": lambda key: "q_proj" not in key},
            r"lacks weights that \S* asks for: 8, first \S*q_p",
        ),
        ({"keep": lambda key: "layers.1" not in key}, "lacks weights that adapter_config.json asks for: 8, first"),
        ({"config": {"r": 2}}, "has other shapes: 16, first"),
        ({"config": {"target_modules": ["nothing"]}}, "the adapters do not fit LlavaForC.*Target modules .*nothing"),
        ({"config": {"task_type": "FOO"}}, "PEFT refuses adapter_config.json: Invalid task type: 'FOO'"),
        ({"config": {"use_tomorrow": {"a": 1}}}, "this version of PEFT does not know use_tomorrow of adapter_config"),
        ({"config": {"init_lora_weights": "pissa_niter_4"}}, "init_lora_weights 'pissa_niter_4' belong to a base that"),
        ({"config": {"init_lora_weights": "loftq"}}, "init_lora_weights 'loftq' belong to a base that"),
        ({"config": {"init_lora_weights": ["x"]}}, "belong to a base that"),
        ({"config": {"layer_replication": [[0, 2], [1, 2]]}}, "adapters with layer_replication cannot be merged"),
        ({"config": {"alora_invocation_tokens": [1]}}, "adapters with alora_invocation_tokens cannot be merged"),
        ({"key": lambda key: key.removeprefix("base_model.")}, "has no LoRA weights as PEFT saves them"),
        ({"keep": lambda key: False}, "has no LoRA weights as PEFT saves them"),
    ],
)
def test_weights_that_do_not_fit(folder, changes, says, tmp_path):
    model = tiny_llava()[0]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(RunError, match=f"^model mine.*{says}") as caught:
        merge_adapters(model, edited(folder, tmp_path / "edited", **changes), "mine")
    assert len(str(caught.value).splitlines()) == 1
    assert all(torch.equal(weight, before[name.replace(".base_layer", "")]) for name, weight in without_lora(model))


def without_lora(model):
    return [(name, weight) for name, weight in model.state_dict().items() if "lora_" not in name]


def test_options_that_are_off_need_not_be_known(folder, tmp_path):
    path = edited(folder, tmp_path / "edited", config={"use_tomorrow": False, "other": None, "third": []})
    expected = merge_adapters(tiny_llava()[0], folder, "mine").state_dict()
    for name, weight in merge_adapters(tiny_llava()[0], path, "mine").state_dict().items():
        assert torch.equal(weight, expected[name])


def test_rows_that_are_nowhere(tmp_path):
    """Trained on embeddings with more rows than the base: those of the head were not saved."""
    model = tiny_llava()[0]
    model.resize_token_embeddings(410)
    write_adapters(model, LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"], **RANDOM), tmp_path)
    with pytest.raises(RunError, match="trained with 410 rows of embeddings, their model has 400, and adapter_model"):
        merge_adapters(tiny_llava()[0], tmp_path, "mine")


def test_models_that_nothing_can_be_merged_into(folder):
    model = tiny_llava()[0]
    model.is_quantized = True
    with pytest.raises(RunError, match="cannot be merged exactly into quantised weights"):
        merge_adapters(model, folder, "mine")
    with pytest.raises(RunError, match="device_map leaves no room"):
        merge_adapters(tiny_llava()[0].to("meta"), folder, "mine")


def test_what_is_not_a_number(folder, tmp_path):
    path = edited(folder, tmp_path / "edited")
    weights = load_file(path / "adapter_model.safetensors")
    next(iter(weights.values()))[0] = torch.nan
    save_file(weights, path / "adapter_model.safetensors")
    with pytest.raises(RunError, match="mine: adapter_model.safetensors has numbers that are not finite: base_model"):
        merge_adapters(tiny_llava()[0], path, "mine")


def test_what_a_folder_holds(folder, tmp_path):
    assert Adapters.of(folder) == Adapters(folder, "org/base", "v1")
    assert Adapters.of(tmp_path) is None

    def copy(name):
        return shutil.copytree(folder, tmp_path / name)

    whole = copy("whole")
    (whole / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="has adapters .* and a whole model .model.safetensors., into which"):
        Adapters.of(whole)
    pickled = copy("pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(RunError, match="has adapters, but no adapter_model.safetensors; write them with save_"):
        Adapters.of(pickled)
    beside = copy("beside")
    (beside / "non_lora_trainables.bin").write_bytes(b"")
    with pytest.raises(RunError, match="further trained weights in non_lora_trainables.bin, which are no safetensors"):
        Adapters.of(beside)
    damaged = copy("damaged")
    (damaged / "adapter_model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(RunError, match="adapter_model.safetensors cannot be read"):
        merge_adapters(tiny_llava()[0], damaged, "mine")
    for text in ("[]", "{", "\udcff"):
        (damaged / "adapter_config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(RunError, match="^model mine: adapter_config.json is not JSON as PEFT writes it"):
            Adapters.of(damaged, "mine")
    other = tmp_path / "ia3"
    get_peft_model(tiny_llava()[0], IA3Config(target_modules=["k_proj"], feedforward_modules=[])).save_pretrained(other)
    with pytest.raises(RunError, match="adapters of the type 'IA3'; only LORA can be merged"):
        Adapters.of(other)
