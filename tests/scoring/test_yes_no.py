"""Yes or no to a question about a pair: against a reference of its own, in every way of scoring, and odd rows."""

import copy
import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from scored_rows import picture, png
from tiny_families import tiny_qwen2_5_vl
from tiny_models import tiny_gemma3

from c3l_hf.models.encoding import encode_row
from c3l_hf.scoring.dataset import format_scores, score_dataset
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.scoring.yes_no import premise_signal, truth_signal

TEXT = "Q: {{ question }} A: {{ answer }} Right?"
PAIRS = [("Is there a dog?", "Yes, there is."), ("How many cats?", "two"), ("Where is the car?", "It is at the top.")]
NUMBERS = ("truth_logodds", "truth_logodds_blind", "truth_gain", "truth_mass")


def rows_of(pairs=PAIRS):
    return [{"image": picture(number // 2), "question": q, "answer": a} for number, (q, a) in enumerate(pairs)]


def user(text):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def scorer(llava):
    return I2CScorer(*llava)


def chance(model, processor, prompt, word, images):
    """The probability that the reply begins with a word, and its tokens; by one forward pass in float64."""
    row = encode_row(processor, prompt, word, images, end_of_turn=False)
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in row.inputs.items()}
    with torch.no_grad():
        logprobs = model(**inputs).logits[0].log_softmax(-1)
    places = range(row.answer.start, row.answer.stop)
    ids = row.inputs["input_ids"][0]
    return float(np.exp(sum(logprobs[at - 1, ids[at]].item() for at in places))), tuple(row.answer_ids)


def reference(model, processor, prompt, images, sides):
    """ln P(yes) - ln P(no), and P(yes) + P(no): of words with the same tokens one counts, and of those that begin as
    another none."""
    totals = []
    for words in sides:
        found = {ids: p for p, ids in (chance(model, processor, prompt, word, images) for word in words)}
        totals.append(sum(p for ids, p in found.items() if not any(ids[: len(o)] == o for o in found if o != ids)))
    return np.log(totals[0]) - np.log(totals[1]), sum(totals)


@pytest.mark.parametrize("build", ["llava", "gemma3", "qwen"])
@pytest.mark.filterwarnings("ignore:Gemma3.* scores answers about the same image separately:UserWarning")
def test_log_odds_are_those_of_the_reference(build, request, llava):
    model, processor = {"llava": lambda: llava, "gemma3": tiny_gemma3, "qwen": tiny_qwen2_5_vl}[build]()
    sides = (("Yes", "yes", " Yes", "Yes"), ("No", "no", "Nothing"))
    signal = truth_signal(I2CScorer(model, processor), text=TEXT, yes=sides[0], no=sides[1])
    exact = copy.deepcopy(model).double()
    for row, found in zip(rows_of(), signal.score(rows_of()), strict=True):
        prompt = user(f"Q: {row['question']} A: {row['answer']} Right?")
        seen, mass = reference(exact, processor, prompt, [row["image"]], sides)
        blind, _ = reference(exact, processor, prompt, [], sides)
        assert [found[name] for name in NUMBERS] == pytest.approx([seen, blind, seen - blind, mass], rel=1e-4, abs=1e-5)
        assert found["truth_status"] == "ok"
    assert abs(found["truth_gain"]) > 1e-3  # the picture says something at all


def test_batches_are_single_rows_and_the_plain_way_is_the_packed_one(llava, scorer):
    signal = truth_signal(scorer)
    together = signal.score(rows_of())
    alone = [signal.score([row])[0] for row in rows_of()]
    plain = truth_signal(I2CScorer(*llava, path="plain", max_tokens=1)).score(rows_of())
    for name in NUMBERS:
        values = [row[name] for row in together]
        assert values == pytest.approx([row[name] for row in alone], rel=1e-5, abs=2e-6)
        assert values == pytest.approx([row[name] for row in plain], rel=1e-5, abs=2e-6)


def test_the_blind_baseline_is_the_scorers(llava, scorer):
    blank = truth_signal(I2CScorer(*llava, blind="blank")).score(rows_of()[:1])[0]
    drop = truth_signal(scorer).score(rows_of()[:1])[0]
    assert blank["truth_logodds"] == pytest.approx(drop["truth_logodds"], abs=1e-5)
    assert abs(blank["truth_logodds_blind"] - drop["truth_logodds_blind"]) > 1e-3


def test_one_pass_with_the_image_and_one_without(scorer, llava):
    lengths = []
    hook = llava[0].register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        signal = truth_signal(scorer, yes=["Yes"], no=["No"])
        lengths.clear()
        signal.score(rows_of()[:2])  # two questions about one image
    finally:
        hook.remove()
    # Both questions with all words in one sequence, with the image and without.
    assert [shape[0] for shape in lengths] == [1, 1] and lengths[0][1] > lengths[1][1]


def test_a_strangers_conversation(scorer):
    """Turns, a system message, a marker: each turn is asked about after what came before it."""
    conversation = [
        {"from": "system", "value": "Be short."},
        {"from": "human", "value": "<image>\nIs there a dog?"},
        {"from": "gpt", "value": "Yes."},
        {"from": "human", "value": "And a cat?"},
        {"from": "gpt", "value": " "},
        {"from": "human", "value": "How many?"},
        {"from": "gpt", "value": "two"},
    ]
    signal = truth_signal(scorer, text=TEXT)
    (found,) = signal.score([{"image": picture(0), "conversations": conversation}])
    statuses = [turn["status"] for turn in found["truth_turns"]]
    assert statuses[0] == "ok" and "empty" in statuses[1] and found["truth_status"] == "ok"
    first = {
        "image": picture(0),
        "prompt": [{"role": "system", "content": "Be short."}, *user("Is there a dog?")],
        "completion": [{"role": "assistant", "content": "Yes."}],
    }
    (alone,) = signal.score([first])
    assert found["truth_turns"][0]["logodds"] == pytest.approx(alone["truth_logodds"], abs=1e-5)
    scored = [turn["logodds"] for turn in found["truth_turns"] if turn["status"] == "ok"]
    assert found["truth_logodds"] == pytest.approx(np.mean(scored))


def test_rows_that_cannot_be_asked_about(scorer):
    items = [{"type": "text", "text": "Is this"}, {"type": "image"}, {"type": "text", "text": "a dog?"}]
    answer = [{"role": "assistant", "content": "Yes."}]
    rows = [
        {"images": [picture(0)], "prompt": user("Is it?"), "completion": answer},
        {"images": [picture(0)], "prompt": user(items), "completion": answer},
        {"images": [], "prompt": user("Is it?"), "completion": answer},
        {"images": [{"bytes": png(0)[:50], "path": None}], "prompt": user("Is it?"), "completion": answer},
        {"images": [picture(0)], "prompt": user("Is it <s>?"), "completion": answer},
    ]
    found = truth_signal(scorer).score(rows)
    assert [row["truth_logodds"] is None for row in found] == [False, True, True, True, True]
    reasons = ["ok", "an image between its texts", "has no image", "cannot be read", "control token"]
    for row, reason in zip(found, reasons, strict=True):
        assert reason in row["truth_status"]
    assert found[0]["truth_logodds"] == pytest.approx(truth_signal(scorer).score(rows[:1])[0]["truth_logodds"])


def test_predictions_that_are_no_numbers(llava):
    model, processor = copy.deepcopy(llava[0]), llava[1]
    signal = truth_signal(I2CScorer(model, processor))
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    (found,) = signal.score(rows_of()[:1])
    assert found["truth_logodds"] is None and "not finite" in found["truth_status"]


def test_a_premise_by_a_column_of_the_dataset(scorer):
    signal = premise_signal(scorer, text="Is there {{ thing }} in the picture?")
    rows = [{**row, "thing": thing} for row, thing in zip(rows_of(), ["a dog", None, "a car"])]
    found = signal.score(rows)
    assert [row["premise_status"] for row in found] == ["ok", "field 'thing' has no value", "ok"]
    same = truth_signal(scorer, text="{{ question }}{% if false %}{{ answer }}{% endif %}", name="premise")
    (asked,) = same.score([{**rows_of()[0], "question": "Is there a dog in the picture?"}])
    assert found[0]["premise_logodds"] == pytest.approx(asked["premise_logodds"], abs=1e-6)
    with pytest.raises(ValueError, match="the text names the column thing; there are image, question, answer"):
        signal.columns(["image", "question", "answer"])


def test_what_a_shorter_word_counts_already_is_left_out(scorer):
    """Its chance is a part of that of the shorter one: both together would count it twice."""
    one, more = (truth_signal(scorer, yes=yes, no=["No"]) for yes in (["Yes"], ["Yes, it is", "Yes", "Yes"]))
    assert more.measure.words == one.measure.words and len(one.measure.words[0]) == 1


def test_words_that_cannot_be_told_apart_are_named(scorer):
    with pytest.raises(ValueError, match="the model's tokens of 'No' and 'No' begin alike"):
        truth_signal(scorer, yes=["Yes", "No"], no=["No"])
    with pytest.raises(ValueError, match="'QQ' and 'QQQ' begin alike"):
        truth_signal(scorer, yes=["QQ"], no=["QQQ"])
    with pytest.raises(ValueError, match="no word for yes can be put in an answer's place"):
        truth_signal(scorer, yes=["</s>"], no=["No"])
    with pytest.raises(ValueError, match="it asks whether an answer is right"):
        truth_signal(scorer, text="{{ question }}?")
    with pytest.raises(ValueError, match="would ask the same about every row"):
        premise_signal(scorer, text="Is it?")


def test_beside_the_scores_in_map_and_in_parts(scorer, tmp_path):
    rows = [
        {"image": {"bytes": png(n // 2), "path": None}, "question": q, "answer": a} for n, (q, a) in enumerate(PAIRS)
    ]
    rows[1]["answer"] = " "
    dataset = Dataset.from_list(rows).cast_column("image", Image())
    signal = truth_signal(scorer, text=TEXT)
    scored = score_dataset(score_dataset(dataset, scorer, cache_dir=tmp_path), signal, cache_dir=tmp_path, part_size=2)
    assert scored["truth_status"][1] != "ok" and scored["i2c_status"][0] == "ok"
    mapped = dataset.map(signal, batched=True, features=Features({**dataset.features, **signal.features}))
    for name in NUMBERS:
        assert scored[name][0] == pytest.approx(mapped[name][0], abs=1e-5)
    assert "truth_logodds" in format_scores(scored, signal) and "2 with scores, 1 without" in format_scores(
        scored, signal
    )
    with pytest.raises(ValueError, match="has the columns truth_logodds, .* already"):
        score_dataset(scored, signal, cache_dir=tmp_path)
    prints = {one.fingerprint for one in (signal, truth_signal(scorer), premise_signal(scorer))}
    assert len(prints) == 3
    assert pickle.loads(pickle.dumps(signal)).fingerprint == signal.fingerprint
    stream = score_dataset(dataset.to_iterable_dataset(), signal)
    assert next(iter(stream))["truth_logodds"] == pytest.approx(scored["truth_logodds"][0], abs=1e-5)
