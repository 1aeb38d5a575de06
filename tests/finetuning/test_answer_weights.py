"""A student's loss with weights of tokens and rows: against float64 references, between tokenizers, what is refused."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_families import tiny_qwen2_5_vl
from tiny_models import tiny_gemma3, tiny_llava
from tiny_students import PAIRS, batch_of, config, curated, message, picture
from transformers import AutoProcessor

from c3l_hf.data.turns import to_turns
from c3l_hf.finetuning.answer_weights import TOKEN_WEIGHT, AnswerWeights
from c3l_hf.finetuning.examples import encode_examples
from c3l_hf.finetuning.student import StudentTrainer
from c3l_hf.models.encoding import encode_row
from c3l_hf.models.token_texts import token_texts
from c3l_hf.scenes import GENERATOR
from c3l_hf.selection.token_weights import cal_weights, vig_weights


def gains_of(answer, count):
    """Of each token, from its place in the text."""
    return [float(5 * np.sin(len(answer) + 2 * place)) for place in range(count)]


def with_scores(rows, processor, gains=gains_of):
    """Rows with the scores of a scorer that has this processor's tokenizer."""
    columns = {"answer_tokens": [], "logprob_per_token": [], "logprob_blind_per_token": [], "turns": []}
    for row in rows:
        texts, seen, turns = [], [], []
        for pair in to_turns(row):
            ids = encode_row(processor, pair.prompt, pair.answer, pair.images).answer_ids
            texts += token_texts(processor, ids)
            seen += gains(pair.answer, len(ids))
            turns.append({"tokens": len(ids), "status": "ok"})
        columns["answer_tokens"].append(texts)
        columns["logprob_per_token"].append([value - 10 for value in seen])
        columns["logprob_blind_per_token"].append([-10.0] * len(seen))
        columns["turns"].append(turns)
    for name, values in columns.items():
        rows = rows.add_column(name, values)
    return rows


def make_trainer(folder, built, rows, weights, **options):
    model, processor = built
    return StudentTrainer(model, encode_examples(rows, processor, weights=weights), config(folder, **options))


def loss_of(trainer, batch, **options):
    with torch.no_grad():
        return trainer.compute_loss(trainer.model.double(), doubled(batch), **options).item()


def doubled(inputs):
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


@pytest.mark.parametrize("method, formula", [("cal", cal_weights), ("vig", vig_weights)])
@pytest.mark.parametrize("build", [tiny_llava, tiny_qwen2_5_vl, tiny_gemma3])
def test_the_loss_is_the_weighted_mean(tmp_path, build, method, formula):
    model, processor = build()
    model.config.get_text_config().final_logit_softcapping = None
    rows = with_scores(curated(), processor).add_column("w", [0.5, 0.0, 2.0, 1.0, 1.5])
    trainer = make_trainer(tmp_path, (model, processor), rows, AnswerWeights(method, "w"))
    examples = trainer.data_collator.examples
    total, count = 0.0, 0
    for number, (_, answer) in enumerate(PAIRS):
        row = examples.encoded(number, 0)
        ids = row.inputs["input_ids"][0]
        with torch.no_grad():
            logits = model.double()(**doubled(row.inputs)).logits[0]
        nll = -logits.log_softmax(dim=-1)[torch.arange(row.answer.start - 1, row.answer.stop - 1), ids[row.answer]]
        # The end weighs 1, the answer's tokens have mean 1.
        weights = [*formula(gains_of(answer, len(nll) - 1)), 1.0]
        total += rows[number]["w"] * float((torch.tensor(weights, dtype=torch.float64) * nll).sum())
        count += len(nll)
    batch = batch_of(examples)
    assert loss_of(trainer, batch) == pytest.approx(total / count, rel=1e-6)
    # As `Trainer` does with several micro-batches, or processes.
    assert loss_of(trainer, batch, num_items_in_batch=torch.tensor(2 * count)) == pytest.approx(
        total / count / 2, rel=1e-6
    )


def test_weights_of_1_change_nothing(tmp_path):
    """Not a bit: neither the loss nor what is learned, whether in one batch or in several."""

    def trained(weights, **options):
        model, processor = tiny_llava()
        rows = with_scores(curated(), processor, lambda answer, count: [0.0] * count)
        trainer = make_trainer(tmp_path, (model, processor), rows, weights, use_lora=True, **options)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return losses, trainer.trained_model().state_dict()

    for options in ({}, {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3}):
        losses, plain = trained(None, **options)
        same, weighted = trained(AnswerWeights("cal"), **options)
        assert losses == same and all(torch.equal(plain[name], weighted[name]) for name in plain)


@pytest.mark.parametrize("use_lora", [True, False])
def test_weights_are_used_whatever_is_trained(tmp_path, use_lora):
    """Not only where the model's own forward is called."""
    losses = []
    for weights in (None, AnswerWeights(weight_column="w")):
        rows = curated().add_column("w", [3.0] * 5)
        trainer = make_trainer(tmp_path, tiny_llava(), rows, weights, use_lora=use_lora, max_steps=1)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-5)


def test_a_space_that_only_the_scorer_has_may_be_all_that_counts(llava, monkeypatch):
    """ "cat" of the student is " ", "cat" of the scorer, of which "vig" keeps the first."""
    processor, answer = llava[1], PAIRS[0][1]
    encoded = encode_examples(curated(PAIRS[:1]), processor).encoded(0, 0)
    # A student whose tokens have no space in front: all the text is in the first here.
    monkeypatch.setattr("c3l_hf.finetuning.answer_weights.token_texts", lambda _, ids: [answer, *[""] * (len(ids) - 1)])
    scores = {"answer_tokens": [" ", answer], "logprob_per_token": [0, -1], "logprob_blind_per_token": [-5, -1]}
    weights = AnswerWeights("vig").of(scores, 0, encoded, processor)
    assert weights.tolist() == [1.0] * len(encoded.answer_ids)


def test_a_row_of_weight_0_teaches_nothing(tmp_path):
    def gradient(weights, rows):
        trainer = make_trainer(tmp_path, tiny_llava(), rows, weights)
        batch, count = batch_of(trainer.data_collator.examples), torch.tensor(50)
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=count).backward()
        return {name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None}

    without = gradient(None, curated(PAIRS[:3]))
    weighted = gradient(AnswerWeights(weight_column="w"), curated().add_column("w", [1, 1, 1, 0, 0]))
    assert all(torch.allclose(without[name], weighted[name], atol=1e-6) for name in without)


def test_scores_of_another_tokenizer(llava):
    """Whole words, which are several tokens here: a letter has the weight that it has there."""
    scorer = AutoProcessor.from_pretrained(GENERATOR)
    rows = with_scores(curated(), scorer)
    processor = llava[1]
    examples = encode_examples(rows, processor, weights=AnswerWeights("cal"))
    batch = batch_of(examples)
    differ = 0
    for number, (_, answer) in enumerate(PAIRS):
        theirs = rows[number]["answer_tokens"]
        letters = np.repeat(cal_weights(gains_of(answer, len(theirs))), list(map(len, theirs)))
        spelled = "".join(theirs)
        assert spelled.strip() == answer
        encoded = examples.encoded(number, 0)
        ours, expected, place = token_texts(processor, encoded.answer_ids[:-1]), [], 0
        for text in ours:
            place = spelled.index(text.strip(), place) + len(text.strip())
            start = place - len(text)
            expected.append(letters[max(0, start) : place].mean())
        differ += len(ours) != len(theirs)
        expected = np.array(expected) / np.mean(expected)
        weights = batch[TOKEN_WEIGHT][number][encoded.answer]
        assert weights.tolist() == pytest.approx([*expected, 1.0], rel=1e-6)
    assert differ


@pytest.mark.parametrize("keep", [True, False])
def test_conversations_have_weights_for_each_answer(llava, keep):
    processor = llava[1]
    (first, one), (second, two) = PAIRS[:2]
    completion = message("assistant", one) + message("user", second) + message("assistant", two)
    row = {"images": [picture(0)], "prompt": message("user", first), "completion": completion}
    rows = with_scores(Dataset.from_list([row]), processor)
    examples = encode_examples(rows, processor, keep=keep, weights=AnswerWeights("vig"))
    batch = batch_of(examples)
    for number, answer in enumerate((one, two)):
        encoded = examples.encoded(0, number)
        weights = batch[TOKEN_WEIGHT][number]
        expected = vig_weights(gains_of(answer, len(encoded.answer_ids) - 1))
        assert weights[encoded.answer].tolist() == pytest.approx([*expected, 1.0], rel=1e-6)
        assert (weights[batch["labels"][number] == -100] == 1).all()


@pytest.mark.parametrize("keep", [True, False])
def test_rows_whose_weights_are_not_known_are_left_out_and_named(llava, keep):
    rows = with_scores(curated(), llava[1]).add_column("w", [1.0, 1.0, 1.0, -1.0, None]).to_list()
    rows[1]["answer_tokens"][0] = "No"
    rows[2] |= {"answer_tokens": None, "logprob_per_token": None, "logprob_blind_per_token": None, "turns": None}
    rows = Dataset.from_list(rows).cast_column("images", curated().features["images"])
    examples = encode_examples(rows, llava[1], keep=keep, weights=AnswerWeights("cal", "w"))
    assert examples.index["row"][:] == [0]
    assert examples.rejected == {
        1: "the stored tokens do not spell the answer",
        2: "the answer has no scores of its tokens",
        3: "w: it is -1.0; give a number that is not negative",
        4: "w: it is null; give a number that is not negative",
    }


def test_columns_that_are_missing_are_named(llava, tmp_path):
    with pytest.raises(ValueError, match="no column 'answer_tokens', 'logprob_per_token', .* c3l score makes"):
        encode_examples(curated(), llava[1], weights=AnswerWeights("cal"))
    with pytest.raises(ValueError, match=r"no column 'w' \(weight_column\); the dataset has images, prompt"):
        encode_examples(curated(), llava[1], weights=AnswerWeights(weight_column="w"))
    with pytest.raises(ValueError, match="token_weights is 'all'; it must be one of cal, vig"):
        AnswerWeights("all")
    with pytest.raises(ValueError, match="weights of tokens or rows are for loss_type='nll'"):
        make_trainer(tmp_path, tiny_llava(), curated(), AnswerWeights(weight_column="i2c"), loss_type="dft")
