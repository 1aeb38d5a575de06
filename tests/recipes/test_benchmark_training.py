"""The training benchmark measures what it says: equal losses, memory by the tokens, SFT as TRL computes it."""

import pytest
import torch
import training as benchmark
from tiny_models import tiny_llava
from trl import SFTTrainer


@pytest.fixture
def trainers(monkeypatch, tmp_path):
    monkeypatch.setenv("CI", "1")  # TRL sends no telemetry then
    monkeypatch.setattr(benchmark, "build", tiny_llava)
    args = benchmark.TrainingBenchmarkArguments(rows=2, steps=1)
    return {way: benchmark.make_trainer(way, args, str(tmp_path / way)) for way in benchmark.WAYS}


def test_packed_and_separate_train_the_same_and_packed_keeps_less(trainers):
    losses = {}
    for way in (benchmark.PACKED, benchmark.SEPARATE):
        assert trainers[way].data_collator.packed == (way == benchmark.PACKED)
        trainers[way].train()
        losses[way] = [log[name] for log in trainers[way].state.log_history for name in benchmark.LOSSES if name in log]
    assert len(losses[benchmark.PACKED]) == 4
    assert losses[benchmark.PACKED] == pytest.approx(losses[benchmark.SEPARATE], rel=1e-3)
    kept = {way: benchmark.kept_for_backward(trainers[way]) for way in losses}
    assert 0 < kept[benchmark.PACKED] < kept[benchmark.SEPARATE]


def test_all_ways_train_the_language_model(trainers):
    head = sum(parameter.numel() for parameter in trainers[benchmark.PACKED].model.contrastive_head.parameters())
    trained = {way: benchmark.trained_parameters(trainer) for way, trainer in trainers.items()}
    assert trained[benchmark.PACKED] == trained[benchmark.SEPARATE] == trained[benchmark.SFT] + head
    assert trained[benchmark.SFT] == trained[benchmark.SFT_ANSWERS]


def test_sft_at_the_answers_has_the_loss_of_sft(trainers):
    ours, theirs = trainers[benchmark.SFT_ANSWERS], trainers[benchmark.SFT]
    assert isinstance(ours, benchmark.AnswersSFTTrainer) and type(theirs) is SFTTrainer
    batch = theirs.data_collator([theirs.train_dataset[row] for row in range(2)])
    tokens = (batch["labels"][:, 1:] != -100).sum()
    found = []
    for trainer in (ours, theirs):
        trainer.model.eval()
        with torch.no_grad():
            found.append(trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=tokens).item())
    assert found[0] == pytest.approx(found[1], rel=1e-5)
