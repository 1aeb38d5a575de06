"""Where models come from, how they are loaded, and what tells one from another."""

import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_llava
from transformers import BitsAndBytesConfig

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import files_digest
from c3l_hf.data.worlds import find_world
from c3l_hf.models import finding, loading
from c3l_hf.models.finding import find_model
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


def test_a_model_is_known_by_all_that_it_is_used_with(tmp_path):
    model = shutil.copytree(GENERATOR, tmp_path / "model")
    first = find_model(Source(str(model), "main"))
    assert first == (Source(str(model)), find_model(Source("scenes"))[1])
    (model / "notes.md").write_text("mine")
    assert find_model(Source(str(model), "main")) == first
    (model / "chat_template.jinja").write_text("{{ messages }}")
    changed = find_model(Source(str(model), "main"))[1]
    assert changed["digest"] == first[1]["digest"] and changed != first[1]


def test_adapters_where_they_will_do(adapters, folder):
    assert find_model(str(adapters), None, False, adapters=True)[0] == adapters
    with pytest.raises(RunError, match=r"has no config.json: these are adapters, which have to be merged into their"):
        find_model(str(adapters), None, False)
    adapted, plain = (load(Source(str(path)))[0] for path in (adapters, folder))
    inputs = {"input_ids": torch.tensor([[1, 5, 6]])}
    assert not torch.equal(adapted(**inputs).logits, plain(**inputs).logits)


def test_what_is_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_text("x")
    for name, says in (
        (tmp_path / "empty", "has no config.json, so it is not a model"),
        (tmp_path / "pickled", r"has no weights as \*.safetensors"),
        (tmp_path / "nowhere", "is neither a folder here nor a model that could be fetched"),
        ("user/nowhere", "is neither a folder here nor a model that could be fetched"),
    ):
        with pytest.raises(RunError, match=f"^model {name} {says}") as caught:
            find_model(Source(str(name)))
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="user/nowhere is neither a folder here nor a model on the Hub"):
        Source("user/nowhere").pinned()


def test_a_models_files_are_read_once(tmp_path, monkeypatch):
    """And again when they changed; files that are none of its own never."""
    model = shutil.copytree(GENERATOR, tmp_path / "model")
    (model / "pytorch_model.bin").write_bytes(b"not read")
    read = []
    plain = finding.file_sha256
    monkeypatch.setattr(finding, "file_sha256", lambda path: read.append(path.name) or plain(path))
    first = find_model(Source(str(model)))
    assert "model.safetensors" in read and "pytorch_model.bin" not in read
    read.clear()
    assert find_model(Source(str(model))) == first and not read
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert find_model(Source(str(model)))[1]["digest"] != first[1]["digest"] and read == ["model.safetensors"]
    assert first[1]["digest"] == files_digest(GENERATOR, "*.safetensors")


def test_what_of_the_loading_identifies_a_result(monkeypatch):
    assert Source("a").loading() == Source("a", dtype="float32").loading() == {"dtype": "float32"}
    monkeypatch.setattr(loading, "pick_dtype", lambda device: "bfloat16")  # on another machine
    assert Source("a").loading() == {"dtype": "bfloat16"} and Source("a", device_map="auto").loading() == {
        "dtype": "bfloat16"
    }
    assert Source("a", attn_implementation="eager").loading()["attn_implementation"] == "eager"
    four_bits = BitsAndBytesConfig(load_in_4bit=True)
    assert Source("a", quantization_config=four_bits).loading()["quantization"]["load_in_4bit"]
