"""Models as they are here, and what identifies them: whole ones, and adapters with the model that they belong to."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loopback_hub import LoopbackHub
from peft import LoraConfig, PeftModel, get_peft_model
from ranks import in_ranks
from tiny_models import tiny_llava
from transformers import AutoProcessor, BitsAndBytesConfig

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import files_digest
from c3l_hf.data.worlds import find_world
from c3l_hf.models import finding
from c3l_hf.models.finding import find_model
from c3l_hf.models.loading import Source, load
from c3l_hf.scoring.scorer import I2CScorer

GENERATOR = find_world("scenes").GENERATOR


def test_a_model_is_known_by_all_that_it_is_used_with(tmp_path):
    model = shutil.copytree(GENERATOR, tmp_path / "model")
    first = find_model(Source(str(model), "main"))
    assert first == (Source(str(model)), find_model(Source("scenes"))[1])
    (model / "notes.md").write_text("mine")
    assert find_model(Source(str(model), "main")) == first
    (model / "chat_template.jinja").write_text("{{ messages }}")
    changed = find_model(Source(str(model), "main"))[1]
    assert changed["digest"] == first[1]["digest"] and changed != first[1]


def test_what_is_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_text("x")
    for name, says in (
        (tmp_path / "empty", "has no config.json, so it is not a model"),
        (tmp_path / "pickled", r"has no weights as \*.safetensors"),
        (tmp_path / "nowhere", "is neither a folder here nor the name of a model on the Hub, as user/name"),
        (tmp_path / "empties", r"is neither a folder here \(there is .*/empty\) nor the name of a model on the Hub"),
        ("./nowhere", "is neither a folder here nor the name of a model on the Hub"),
        ("scene", "is neither a folder here nor .*; did you mean 'scenes'?"),
        ("user/nowhere", "is neither a folder here nor a model that could be fetched"),
    ):
        with pytest.raises(RunError, match=f"^model {name} {says}") as caught:
            find_model(Source(str(name)))
        assert "\n" not in str(caught.value)
    for name in ("./nowhere", "scene"):
        with pytest.raises(OSError, match=f"^{name} is neither a folder here nor the name of a model on the Hub"):
            Source(name).pinned()
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


# Adapters


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model in `base`, and adapters of it in `adapters`, which name it by its path and have no processor."""
    path = tmp_path_factory.mktemp("models")
    for part in tiny_llava():
        part.save_pretrained(path / "base")
    torch.manual_seed(1)
    config = LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False)
    adapted = get_peft_model(tiny_llava()[0], config)
    adapted.peft_config["default"].base_model_name_or_path = str(path / "base")
    adapted.save_pretrained(path / "adapters")
    return path


@pytest.fixture
def copies(places, tmp_path):
    """The same, to be changed."""
    for name in ("base", "adapters"):
        shutil.copytree(places / name, tmp_path / name)
    name_base(tmp_path / "adapters", tmp_path / "base")
    return tmp_path


def name_base(folder, base, **values):
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": None if base is None else str(base), **values}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def weights_with(base, adapters):
    """What PEFT makes of the two."""
    model = load(Source(str(base)))[0]
    return PeftModel.from_pretrained(model, adapters).merge_and_unload().state_dict()


def check_weights(model, expected):
    assert model.state_dict().keys() == expected.keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, expected[name].to(weight.dtype)), name


def test_adapters_are_a_model(places):
    adapters, base = places / "adapters", places / "base"
    source, identity = find_model(Source(str(adapters)))
    assert source == Source(str(adapters), base_model=str(base))
    alone = find_model(Source(str(base)))[1]
    assert identity["base_model"] == "base" and identity.keys() - alone.keys() == {
        "base_model",
        "base_digest",
        "base_files",
    }
    assert (identity["base_digest"], identity["base_files"]) == (alone["digest"], alone["files"])
    assert identity["digest"] == files_digest(adapters, "*.safetensors") != alone["digest"]
    expected = weights_with(base, adapters)
    for way in (source, Source(str(adapters)), Source(str(adapters)).pinned()):
        model, processor = load(way)
        check_weights(model, expected)
        assert not model.training and getattr(model, "peft_config", None) is None
        assert processor.chat_template == AutoProcessor.from_pretrained(base).chat_template
    assert any(
        not torch.equal(expected[name], weight) for name, weight in load(Source(str(base)))[0].state_dict().items()
    )


def test_adapters_are_loaded_as_their_model_would_be(places):
    source = Source(str(places / "adapters"), dtype="bfloat16", device_map="cpu", attn_implementation="eager")
    model, _ = load(source)
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"
    exact = load(dataclasses.replace(source, dtype="float32"))[0].state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight.float(), exact[name], rtol=2**-7, atol=2**-7)
    with pytest.raises(RunError, match="is adapters, which cannot be merged exactly into quantised weights; load them"):
        load(Source(str(places / "adapters"), quantization_config=BitsAndBytesConfig(load_in_8bit=True)))
    with pytest.raises(RunError, match="is adapters, which cannot be merged exactly into quantised weights; load them"):
        find_model(Source(str(places / "adapters"), quantization_config=BitsAndBytesConfig(load_in_4bit=True)))


def test_another_base_for_adapters(copies):
    """Its path on another machine says nothing here."""
    adapters, base = copies / "adapters", copies / "base"
    expected = weights_with(base, adapters)
    for named in ("/elsewhere/models/llava", "elsewhere/llava", "./llava", None, ""):
        name_base(adapters, named)
        for attempt in (find_model, load, Source.pinned):
            with pytest.raises(RunError) as caught:
                attempt(Source(str(adapters)))
            says = (
                f"has adapters of the model {named}, which is neither a folder here"
                if named
                else "names no model; give"
            )
            assert str(caught.value).startswith(f"model {adapters} has adapters") and says in str(caught.value)
            assert "base_model" in str(caught.value) and len(str(caught.value).splitlines()) == 1
        source = Source(str(adapters), base_model=str(base))
        check_weights(load(source)[0], expected)
        found, identity = find_model(source)
        assert found.base_model == str(base) == source.pinned().base_model and identity["base_model"] == "base"
    for attempt in (find_model, load):
        with pytest.raises(RunError, match=f"model {base} is a whole model; base_model is for adapters alone"):
            attempt(Source(str(base), base_model=str(base)))


def test_a_relative_base_is_seen_from_the_working_directory(copies, monkeypatch):
    """As PEFT sees it; not from the folder of the adapters."""
    name_base(copies / "adapters", "base")
    expected = weights_with(copies / "base", copies / "adapters")
    monkeypatch.chdir(copies)
    check_weights(load(Source("adapters"))[0], expected)
    monkeypatch.chdir(copies / "base")
    with pytest.raises(RunError, match=r"neither a folder here \(seen from the working directory\) nor on the Hub"):
        load(Source("../adapters"))


def test_adapters_of_the_embedded_worlds_generator(copies):
    name_base(copies / "adapters", "scenes")
    source, identity = find_model(Source(str(copies / "adapters")))
    assert source.base_model == GENERATOR and identity["base_model"] == "scenes"


def test_adapters_upon_adapters(copies):
    shutil.copytree(copies / "adapters", copies / "upon")
    name_base(copies / "upon", copies / "adapters")
    for attempt in (find_model, load, Source.pinned):
        with pytest.raises(RunError, match="upon has adapters of .*, which are adapters themselves; merge"):
            attempt(Source(str(copies / "upon")))


def test_both_parts_identify_adapters(copies):
    """Caches and folders of runs are not mistaken for others."""
    adapters, base = copies / "adapters", copies / "base"
    source = Source(str(adapters))

    def seen():
        found = source.pinned()
        return tuple(found.digest()), tuple(find_model(source)[1].items())

    before = seen()
    assert seen() == before
    for path in (adapters / "adapter_model.safetensors", base / "model.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        after = seen()
        assert after[0] != before[0] and after[1] != before[1]
        before = after
    # The same files elsewhere are another path, and the same model.
    shutil.copytree(base, copies / "other", copy_function=shutil.copy2)
    found = dataclasses.replace(source, base_model=str(copies / "other"))
    assert found.pinned().digest() == list(before[0])
    assert find_model(found)[1] | {"base_model": ""} == dict(before[1]) | {"base_model": ""}


def test_a_scorer_of_adapters(copies):
    """Its fingerprint is that of the merged weights: of the same files, and of no others."""
    adapters, base = copies / "adapters", copies / "base"
    scorer = I2CScorer.from_pretrained(adapters, dtype="float32")
    check_weights(scorer._model, weights_with(base, adapters))
    assert scorer.fingerprint == I2CScorer.from_pretrained(adapters, dtype="float32", base_model=base).fingerprint
    prints = {scorer.fingerprint, I2CScorer.from_pretrained(base, dtype="float32").fingerprint}
    os.utime(base / "model.safetensors", (0, 0))
    prints.add(I2CScorer.from_pretrained(adapters, dtype="float32").fingerprint)
    os.utime(adapters / "adapter_model.safetensors", (0, 0))
    prints.add(I2CScorer.from_pretrained(adapters, dtype="float32").fingerprint)
    assert len(prints) == 4


_ON_THE_HUB = """
import sys, json
from dataclasses import replace
from pathlib import Path
from huggingface_hub import HfApi
from c3l_hf.models.finding import find_model
from c3l_hf.models.loading import Source, load
api, places = HfApi(), Path(sys.argv[1])
def put(name, folder):
    api.create_repo(name, exist_ok=True)
    return api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns="README.md").oid
def name_base(**values):
    file = places / "adapters" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
base = put("user/base", places / "base")
name_base(base_model_name_or_path="user/base", revision=None)
first = put("user/lora", places / "adapters")
source = Source("user/lora")
pinned = source.pinned()
assert pinned == Source("user/lora", first, base_model="user/base", base_revision=base), pinned
assert pinned.digest() == ["user/lora", first, "merged into", "user/base", base]
found, identity = find_model(source)
assert identity == {"revision": first, "base_model": "user/base", "base_revision": base}, identity
assert Path(found.model_id).name == first and Path(found.base_model).name == base
weights = load(pinned)[0].state_dict()
for other in (source, found):
    assert all((weight == weights[name]).all() for name, weight in load(other)[0].state_dict().items())
# The base moves on: what is pinned stays, and what is not is another model.
(places / "base" / "notes.txt").write_text("new")
newer = put("user/base", places / "base")
assert source.pinned().base_revision == newer != base and source.pinned().digest() != pinned.digest()
assert find_model(source)[1]["base_revision"] == newer
# Unless the adapters name its revision.
name_base(revision=base)
second = put("user/lora", places / "adapters")
assert source.pinned() == Source("user/lora", second, base_model="user/base", base_revision=base)
assert find_model(source)[1] == {"revision": second, "base_model": "user/base", "base_revision": base}
assert replace(source, revision=first).pinned().base_revision == newer  # that of then named none
# A base that is given has no revision of theirs.
assert replace(source, base_model="user/base").pinned().base_revision == newer
print("done")
"""


def test_adapters_on_the_hub(copies):
    with LoopbackHub({"hf_token": "user"}) as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(copies / "home"),
            "HF_TOKEN": "hf_token",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": os.pathsep.join([str(Path(finding.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
        }
        call = [sys.executable, "-c", _ON_THE_HUB, str(copies)]
        done = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr[-3000:]


def test_one_process_of_each_machine_fetches_first(tmp_path, monkeypatch):
    """The main one, then the first of every other machine, then the rest; and a failure is everybody's."""
    asked = tmp_path / "asked"

    def fetched(source):
        with asked.open("a") as file:
            file.write(f"{os.environ['RANK']} ")
        raise ConnectionError("no route")

    def work(_):
        with pytest.raises(RunError, match=r"nor a model that could be fetched \(no route\)"):
            find_model(Source("user/model"))

    monkeypatch.setattr("c3l_hf.models.finding.fetched", fetched)
    assert in_ranks(4, work, tmp_path / "told", ("gpu-1", "gpu-1", "gpu-2", "gpu-2")) == [0] * 4
    main, other, *rest = asked.read_text().split()
    assert (main, other, sorted(rest)) == ("0", "2", ["1", "3"])
