"""Where models come from, how they are loaded, and what tells one from another."""

import pickle
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_llava
from transformers import BitsAndBytesConfig

from c3l_hf.common.errors import RunError
from c3l_hf.data.worlds import find_world
from c3l_hf.models import loading
from c3l_hf.models.loading import Source, load, model_folder
from c3l_hf.pipeline.options import ModelOptions
from c3l_hf.scoring.scorer import I2CScorer

GENERATOR = find_world("scenes").GENERATOR


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    for part in tiny_llava():
        part.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def adapters(folder, tmp_path_factory):
    """A folder with adapters alone, which name their model."""
    path = tmp_path_factory.mktemp("adapters")
    model, processor = load(Source(str(folder)))
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = str(folder)
    adapted.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def test_the_options_of_a_user_reach_from_pretrained(folder, monkeypatch):
    calls = []
    monkeypatch.setattr("c3l_hf.models.loading.AutoProcessor.from_pretrained", lambda name, **how: (name, how))

    def from_pretrained(name, **how):
        calls.append((name, how))
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr("c3l_hf.models.loading.AutoModelForImageTextToText.from_pretrained", from_pretrained)
    options = ModelOptions(
        "org/model", "v2", dtype="bfloat16", device_map="auto", attn_implementation="flash_attention_2"
    )
    load(Source.of(options, trust_remote_code=True))
    name, how = calls.pop()
    assert name == "org/model"
    assert how == {
        "revision": "v2",
        "trust_remote_code": True,
        "device_map": "auto",
        "attn_implementation": "flash_attention_2",
        "dtype": "bfloat16",
        "use_safetensors": True,
    }
    # Another model in the same way: its revision is not that of the first.
    load(Source.of(options, model_id=folder))
    name, how = calls.pop()
    assert name == str(folder) and how["revision"] is None and how["device_map"] == "auto"
    # Nothing is passed on that was not asked for.
    load(Source("org/model"))
    assert calls.pop()[1].keys() == {"revision", "trust_remote_code", "dtype", "use_safetensors"}


def test_quantisation(monkeypatch):
    monkeypatch.setattr("c3l_hf.models.loading.importlib.util.find_spec", lambda name: object())
    four = Source.of(ModelOptions("m", dtype="bfloat16", load_in_4bit=True))
    assert four.quantization_config.load_in_4bit and four.quantization_config.bnb_4bit_quant_type == "nf4"
    assert four.quantization_config.bnb_4bit_compute_dtype is torch.bfloat16
    eight = Source.of(ModelOptions("m", load_in_8bit=True))
    assert isinstance(eight.quantization_config, BitsAndBytesConfig) and eight.quantization_config.load_in_8bit
    assert four != eight and {four, eight, four} == {four, eight} and pickle.loads(pickle.dumps(four)) == four
    with pytest.raises(RunError, match="load_in_4bit and load_in_8bit are both set; choose one"):
        Source.of(ModelOptions("m", load_in_4bit=True, load_in_8bit=True))
    monkeypatch.setattr("c3l_hf.models.loading.importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match="load_in_8bit needs the package bitsandbytes"):
        Source.of(ModelOptions("m", load_in_8bit=True))
    assert Source.of(ModelOptions("m")).quantization_config is None


def test_quantised_weights_are_made_where_they_stay(monkeypatch):
    """`from_pretrained` places them; a quantised model cannot be moved."""
    calls = []
    monkeypatch.setattr("c3l_hf.models.loading.AutoProcessor.from_pretrained", lambda name, **how: None)
    model = SimpleNamespace(eval=lambda: model, to=lambda device: pytest.fail("moved"))
    monkeypatch.setattr(
        "c3l_hf.models.loading.AutoModelForImageTextToText.from_pretrained",
        lambda name, **how: calls.append(how) or model,
    )
    config = BitsAndBytesConfig(load_in_8bit=True)
    load(Source("m", device="cpu", quantization_config=config))
    assert calls[0]["quantization_config"] is config and calls[0]["device_map"] == {"": torch.device("cpu")}


def test_a_model_as_it_is_loaded(folder):
    model, _ = load(Source(str(folder), dtype="bfloat16", device_map="cpu", attn_implementation="eager"))
    assert model.dtype == torch.bfloat16 and not model.training
    assert model.config._attn_implementation == "eager"
    assert load(Source(str(folder)))[0].dtype == torch.float32  # on a CPU
    with pytest.raises(ValueError, match="device cpu and device_map auto are both given"):
        Source(str(folder), device="cpu", device_map="auto")


def test_the_scorer_passes_on_how_its_model_is_loaded(folder, monkeypatch):
    scorer = I2CScorer.from_pretrained(folder, dtype="float32", device_map="cpu", attn_implementation="eager")
    source = Source(str(folder), None, "float32", device_map="cpu", attn_implementation="eager")
    assert scorer._source == source and scorer._model.config._attn_implementation == "eager"
    assert scorer._source.is_placed  # no rank takes it elsewhere


def test_the_embedded_worlds_name_their_generator():
    assert model_folder("scenes") == model_folder("scenes-shifted") == GENERATOR
    assert model_folder("org/scenes") == "org/scenes"
    assert Source("scenes").pinned() == Source(GENERATOR)
    assert Source("scenes").pinned().digest() == Source(GENERATOR).digest()
    # As a user's word it stays what it is: results and cards name it.
    assert Source.of(ModelOptions("scenes")).model_id == "scenes"
    assert type(load(Source("scenes"))[0]).__name__ == "LlavaForConditionalGeneration"


def test_what_of_the_loading_identifies_a_result(monkeypatch):
    assert Source("a").loading() == Source("a", dtype="float32").loading() == {"dtype": "float32"}
    monkeypatch.setattr(loading, "pick_dtype", lambda device: "bfloat16")  # on another machine
    assert Source("a").loading() == {"dtype": "bfloat16"} and Source("a", device_map="auto").loading() == {
        "dtype": "bfloat16"
    }
    assert Source("a", attn_implementation="eager").loading()["attn_implementation"] == "eager"
    four_bits = BitsAndBytesConfig(load_in_4bit=True)
    assert Source("a", quantization_config=four_bits).loading()["quantization"]["load_in_4bit"]
