"""Fixtures shared by all tests."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import pytest
from tiny_models import tiny_gemma3, tiny_llava, tiny_llava_next

from c3l_hf.models import checks
from c3l_hf.models.loading import digest_weights


@pytest.fixture(autouse=True, scope="module")
def frozen_imports():
    """`Trainer` has the garbage collected after each training. What is imported is no garbage, and takes most of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def caching():
    """The commands switch the cache of `datasets` off for their process, which here is that of all tests."""
    yield
    datasets.enable_caching()


@pytest.fixture
def fresh_checks(monkeypatch):
    """No check of a model has run in this process: for tests that change what a check finds without changing the
    model, or count its passes."""
    monkeypatch.setattr(checks, "_OUTCOMES", {})


_SHARED = {}


@pytest.fixture(scope="session")
def llava():
    """(model, processor) of a tiny random LLaVA-1.5; do not change it (`tiny_llava()` builds a fresh one)."""
    shared = tiny_llava()
    _SHARED["llava"] = shared, _state(*shared)
    return shared


@pytest.fixture(autouse=True, scope="module")
def shared_model_stays(request):
    """A module that changes the model of all tests is named, and not one that comes later and is not to blame."""
    yield
    if "llava" in _SHARED:
        shared, before = _SHARED["llava"]
        changed = [name for name, value in _state(*shared).items() if value != before[name]]
        _SHARED["llava"] = shared, _state(*shared)  # the modules after this one are not to blame
        assert not changed, f"{request.node.name} has changed the shared llava: {', '.join(changed)}"


def _state(model, processor):
    return {
        "weights": digest_weights(model),
        "configuration": model.config.to_json_string(),
        "processor": processor.to_json_string(),
        "tokenizer": checks.tokenizer_state(processor.tokenizer),
        "chat template": str(processor.chat_template),
    }


@pytest.fixture(
    scope="session", params=[tiny_llava, tiny_llava_next, tiny_gemma3], ids=["llava", "llava_next", "gemma3"]
)
def family(request):
    """(model, processor) of every tiny model family."""
    return request.param()
