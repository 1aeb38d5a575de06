"""Private parts of other packages: still there, and still what we take them for."""

import inspect
import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import transformers
from datasets import Dataset, Features, Image, List
from huggingface_hub.utils.sha import git_hash
from PIL import Image as PILImage
from tiny_models import tiny_llava
from transformers import Trainer
from trl import SFTTrainer

from c3l_hf import _compat
from c3l_hf.finetuning.student import StudentTrainer
from c3l_hf.training.trainer import C3LTrainer

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", _compat.CHECKED_WITH)
def test_the_pinned_versions_are_those_that_were_looked_at(package):
    """A new minor version of TRL or transformers is met here, not by users: look at `_compat.py`, then move it."""
    pins = (ROOT / "constraints.txt").read_text()
    pinned = re.search(rf"(?im)^{package.replace('_', '[-_]')}==(\S+)$", pins)[1]
    assert ".".join(pinned.split(".")[:2]) == _compat.CHECKED_WITH[package]


def test_columns_that_nobody_looked_at():
    """`map` gives what is decoded when it is looked up; see `data.stored_rows.stored_columns`."""
    rows = Dataset.from_dict({"a": [1, 2], "b": ["x", "y"]})
    seen = []

    def look(row):
        row["a"]
        table, features, is_batch = _compat.not_formatted(row)
        seen.append((table.to_pydict(), features == rows.features, is_batch))

    rows.map(look, batched=True)
    rows.map(look)
    batch, first, second = seen[0], *seen[-2:]
    assert batch == ({"b": ["x", "y"]}, True, True)
    assert (first, second) == (({"b": ["x"]}, True, False), ({"b": ["y"]}, True, False))
    assert _compat.not_formatted({"a": [1]}) is None


def test_private_parts_are_touched_in_one_place():
    """Names with an underscore of objects that are not ours: nowhere else."""
    private = re.compile(
        r"\w\._(?:fingerprint|indices|no_split_modules|attn_implementation|keys_to_ignore\w*|forward_\w+)\b"
    )
    for path in (ROOT / "c3l_hf").rglob("*.py"):
        if path.name != "_compat.py":
            found = [match[0] for match in private.finditer(path.read_text())]
            assert not found, (path, found)


def test_a_fingerprint_follows_the_content():
    rows = Dataset.from_dict({"a": [1, 2, 3]})
    assert _compat.fingerprint(rows) == _compat.fingerprint(rows) != _compat.fingerprint(rows.select([0]))
    assert _compat.hash_of(["a", {"b": 1}]) == _compat.hash_of(["a", {"b": 1}]) != _compat.hash_of(["a", {"b": 2}])


def test_another_column_where_rows_were_selected():
    rows = Dataset.from_dict({"a": [1, 2, 3], "b": ["x", "y", "z"]}).select([2, 0])
    changed = _compat.with_column(rows, "a", pa.array([10, 20, 30]), "new")
    assert changed.to_dict() == {"a": [30, 10], "b": ["z", "x"]} and _compat.fingerprint(changed) == "new"
    assert rows.to_dict() == {"a": [3, 1], "b": ["z", "x"]}


def test_the_content_of_image_files(tmp_path):
    picture = PILImage.fromarray(np.zeros((4, 4, 3), np.uint8))
    picture.save(tmp_path / "a.png")
    features = Features({"images": List(Image())})
    rows = Dataset.from_dict({"images": [[{"path": str(tmp_path / "a.png"), "bytes": None}]]}, features=features)
    table = _compat.embed_images(rows.with_format("arrow")[:])
    (image,) = table["images"][0].as_py()
    assert PILImage.open(io.BytesIO(image["bytes"])).size == (4, 4)


def test_what_a_model_says_of_itself(tmp_path):
    model, _ = tiny_llava()
    assert _compat.attention_implementation(model.config.get_text_config()) == "sdpa"
    assert "LlamaDecoderLayer" in _compat.layers_to_keep_whole(model)
    name = next(name for name, _ in model.named_parameters())
    _compat.ignore_on_save(model, [name])
    model.save_pretrained(tmp_path)
    from safetensors import safe_open

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        saved = set(file.keys())
    assert len(saved) == len(set(model.state_dict())) - 1 - len(model._tied_weights_keys or ())


def test_hooks_of_others():
    model, _ = tiny_llava()
    module = model.get_input_embeddings()
    assert not _compat.has_foreign_hooks(module)
    handle = module.register_forward_hook(lambda *_: None)
    assert _compat.has_foreign_hooks(module)
    handle.remove()
    assert not _compat.has_foreign_hooks(module)


def test_the_id_of_a_file_in_git():
    assert _compat.git_blob_digest(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a" == git_hash(b"hello\n")


@pytest.mark.parametrize("name", _compat.TRAINER_PARTS)
def test_parts_that_ours_use(name):
    theirs = inspect.getsource(SFTTrainer) + inspect.getsource(Trainer)
    theirs += inspect.getsource(transformers.integrations.deepspeed)
    ours = "".join(path.read_text() for path in (ROOT / "c3l_hf" / "training").glob("*.py"))
    assert re.search(rf"\b{name}\b", theirs) and re.search(rf"\b{name}\b", ours)


@pytest.mark.parametrize("name", _compat.TRAINER_METHODS)
def test_methods_that_ours_override(name):
    assert name in vars(C3LTrainer) or name in vars(StudentTrainer)
    theirs = getattr(SFTTrainer, name)
    ours = getattr(C3LTrainer if name in vars(C3LTrainer) else StudentTrainer, name)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    assert callable(getattr(Trainer, name))


def test_weights_by_the_names_of_earlier_versions():
    model = tiny_llava()[0]
    old = "language_model.model.layers.0.self_attn.q_proj.weight"
    now = f"model.{old.replace('model.layers', 'layers')}"
    assert now in model.state_dict() and _compat.current_weight_names(model, [old, now, "x"]) == {
        old: now,
        now: now,
        "x": "x",
    }


def test_a_tar_that_forgets_what_it_has_passed(tmp_path):
    names = [f"{number}.txt" for number in range(20)]
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    seen = []
    with tarfile.open(tmp_path / "x.tar") as tar:
        for member in tar:
            seen.append(member.name)
            _compat.forget_members(tar)
            assert len(tar.members) == 0
    assert seen == names
