"""Weights of tokens in the contrastive trainer: the loss against float64, weights of 1, what is refused."""

import pytest
import torch
from datasets import Dataset
from tiny_models import tiny_gemma3, tiny_llava
from tiny_training import make_trainer, pseudo_labels, weights, with_tokens

from c3l_hf.models.encoding import encode_row, token_texts
from c3l_hf.selection.token_weights import cal_weights, vig_weights
from c3l_hf.training.collator import DataCollatorForC3L
from c3l_hf.training.row_checks import row_problem


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch):
    monkeypatch.setenv("CI", "1")  # TRL sends none then


def expected_weights(processor, row, formula):
    """By hand: each token of the reply lies in one word, or in what is before the answer."""
    text = row["chosen"][0]["content"]
    question, _, answer = text.rpartition("Answer:")
    start = len(text) - len(answer)
    words = answer.split()
    of_words = formula([float(len(f" {word}")) for word in words])
    letters = [1.0] * len(text)
    place = start
    for word, weight in zip(words, of_words):
        place = text.index(word, place)
        letters[place - 1 : place + len(word)] = [weight] * (len(word) + 1)
        place += len(word)
    encoded = encode_row(processor, row["prompt"], text, row["images"])
    found, place = [], 0
    for token in token_texts(processor, encoded.answer_ids):
        place = text.index(token.strip(), place)
        found.append(sum(letters[place : place + len(token.strip())]) / len(token.strip()) if token.strip() else 1.0)
        place += len(token.strip())
    return encoded, [*found, 1.0]


@pytest.mark.parametrize("pack_candidates", [True, False], ids=["packed", "separate"])
@pytest.mark.parametrize("method, formula", [("cal", cal_weights), ("vig", vig_weights)])
@pytest.mark.parametrize("build", [tiny_llava, tiny_gemma3])
def test_the_nll_is_the_weighted_mean(tmp_path, build, method, formula, pack_candidates):
    model, processor = build()
    rows = with_tokens(pseudo_labels())
    options = {"token_weights": method, "weight_column": "weight", "contrastive_weight": 0.0, "use_lora": False}
    trainer = make_trainer(tmp_path, (model, processor), rows, pack_candidates=pack_candidates, **options)
    batch = trainer.data_collator(list(trainer.train_dataset))
    trainer.model.double().eval()
    losses, differ = [], 0
    for row in rows:
        encoded, of_tokens = expected_weights(processor, row, formula)
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in encoded.inputs.items()}
        ids, start, stop = inputs["input_ids"][0], encoded.answer.start, encoded.answer.stop
        with torch.no_grad():
            logprobs = trainer.model(**inputs).logits[0].log_softmax(dim=-1)
        nll = [-float(logprobs[place - 1, ids[place]]) for place in range(start, stop + 1)]
        losses.append(row["weight"] * sum(w * n for w, n in zip(of_tokens, nll, strict=True)) / sum(of_tokens))
        differ += len(set(of_tokens)) > 1
    assert differ
    batch = {k: v.double() if k in ("pixel_values", "token_weight") else v for k, v in batch.items()}
    with torch.no_grad():
        loss = float(trainer.compute_loss(trainer.model, batch))
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-6)


@pytest.mark.parametrize("similarity", ["hidden", "likelihood"])
def test_weights_of_1_change_nothing(tmp_path, similarity):
    """Not a bit."""
    trained = []
    for token_weights in (None, "cal"):
        rows = with_tokens(pseudo_labels(), gain=lambda text: 0.0)
        trainer = make_trainer(tmp_path, None, rows, token_weights=token_weights, similarity=similarity)
        trainer.train()
        trained.append(weights(trainer))
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


@pytest.mark.parametrize("quick", [True, False])
def test_rows_without_weights_are_named(tmp_path, quick):
    rows = with_tokens(pseudo_labels()).to_list()
    rows[1]["chosen_tokens"] = None
    rows[2]["chosen_tokens"][1]["text"] = " That"
    rows[3]["chosen_tokens"][1]["gain"] = float("nan")
    # Behind the first rows, which are encoded in full to try the quick check.
    rows = [rows[0]] * 3 * quick + rows
    rows = Dataset.from_list(rows, features=with_tokens(pseudo_labels()).features)
    collator = DataCollatorForC3L(tiny_llava()[1], token_weights="vig")
    if not quick:
        assert [row_problem(row, collator) for row in rows] == [
            None,
            "chosen_tokens: the chosen answer has no scores of its tokens",
            "chosen_tokens: the stored tokens do not spell the answer",
            "chosen_tokens: the gains of the answer's tokens are not finite",
        ]
        return
    with pytest.raises(ValueError, match="3 of 7 rows cannot be trained on:\n  row 4 .image_id 'image-1'., chosen_tok"):
        make_trainer(tmp_path, None, rows, token_weights="vig")
    trainer = make_trainer(tmp_path, None, rows, token_weights="vig", invalid_rows="drop")
    assert len(trainer.train_dataset) == 4


def test_what_is_missing_or_unknown_is_named(tmp_path):
    with pytest.raises(ValueError, match="train_dataset has no column 'chosen_tokens', which token_weights needs"):
        make_trainer(tmp_path, token_weights="cal")
    with pytest.raises(ValueError, match="token_weights is 'all'; it must be one of cal, vig"):
        make_trainer(tmp_path, token_weights="all")
