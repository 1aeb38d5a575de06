"""Training with torch.compile: the same losses, weights and files as without."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import make_trainer, pseudo_labels
from torch._dynamo.utils import counters


def test_compiled_training_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("CI", "1")  # TRL sends no telemetry then
    # This backend compiles forward and backward into graphs, and runs them as they are: it needs no C++ compiler.
    compiled = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    torch.compiler.reset()
    counters.clear()
    runs = []
    for name, options in (("plain", {}), ("compiled", compiled)):
        trainer = make_trainer(tmp_path, eval_dataset=pseudo_labels(3), optim="sgd", max_steps=2, **options)
        trainer.train()
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        runs.append([*losses, trainer.evaluate()["eval_loss"]])
        assert (counters["stats"]["unique_graphs"] > 0) == (name == "compiled")
        trainer.merged_model().save_pretrained(tmp_path / name)
    assert runs[0] == pytest.approx(runs[1], rel=1e-5) and runs[0][0] > runs[0][1]
    plain, other = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "compiled"))
    assert plain.keys() == other.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-4, atol=1e-6, msg=name)
