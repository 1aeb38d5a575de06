"""The question's likelihood: its place in the reply, its tokens, and the numbers against a reference of its own."""

import copy
import json

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from scored_rows import picture, png
from tiny_models import tiny_gemma3

from c3l_hf.common.errors import RowError
from c3l_hf.models.encoding import encode_row
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.prompts.taken import taken
from c3l_hf.scoring.dataset import score_dataset
from c3l_hf.scoring.question import question_signal, question_tokens, reply_of
from c3l_hf.scoring.scorer import I2CScorer

GERMAN = ReplyForm(question=("Frage",), answer=("Antwort",))
JSON = ReplyForm("json")
REGEX = ReplyForm("regex", expression=r"(?P<question>.+?\?) -> (?P<answer>.+)", written="{question} -> {answer}")
ASKED = [{"role": "user", "content": "Ask a question about this picture, and answer it."}]


@pytest.mark.parametrize("form", [ReplyForm(), GERMAN, JSON, REGEX])
@pytest.mark.parametrize(
    "conversation",
    [
        [("Is there a dog?", "Is there a dog? Yes.")],
        [('What says "no\\way" 日?', "Q0zx")],
        [("What is it?", "A cat."), ("What is it?", "What is it? A dog."), ("Where?", "There.")],
    ],
)
def test_questions_are_found_in_every_form(form, conversation):
    if len(conversation) > 1:
        form = form.for_several((3, 3), 1)
    reply, places = reply_of(form, conversation)
    assert reply == form.write(conversation)
    questions = [question for question, _ in conversation]
    written = [reply[place] for place in places]
    if form.form == "json":
        assert [json.loads(f'"{text}"') for text in written] == questions
    else:
        assert written == questions
    assert len(places) == len(set(map(str, places)))


def test_what_the_form_cannot_write_has_a_reason():
    with pytest.raises(RowError, match="would be read otherwise"):
        reply_of(ReplyForm(), [("What?", "A dog.\nQuestion: Where?\nAnswer: There.")])


@pytest.mark.parametrize(
    ("tokens", "chosen"),
    [
        (["Question", ":", " Is", " it", "?", "\n", "Answer", ":", " Is", " it", "."], "..xxx......"),
        ([" Question", ": Is it", "?\nAnswer", ":", " Is it."], ".xx.."),  # tokens that have a part of it
        (["", "Question: ", "", "", "Is it?", "\nAnswer: Is it."], "..xxx."),  # pieces of a character
    ],
)
def test_tokens_with_a_part_of_the_question(tokens, chosen):
    reply, places = reply_of(ReplyForm(), [("Is it?", "Is it.")])
    assert "".join(".x"[int(one)] for one in question_tokens(tokens, reply, places)) == chosen


def test_tokens_of_another_text():
    reply, places = reply_of(ReplyForm(), [("Is it?", "Yes.")])
    with pytest.raises(RowError, match="make another text"):
        question_tokens(["Question: Is it?\n", "Answer: No."], reply, places)


def rows_of():
    pairs = [("Is there a dog?", "Yes, there is."), ("How many cats?", "two"), ("Where is the car?", "At the top.")]
    return [
        {
            "images": [picture(number // 2)],
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": answer}],
            "generation_prompt": ASKED,
            "reply_form": GERMAN.to_json(),
        }
        for number, (question, answer) in enumerate(pairs)
    ]


@pytest.mark.filterwarnings("ignore:Gemma3.* scores answers about the same image separately:UserWarning")
@pytest.mark.parametrize("build", ["llava", "gemma3"])
def test_numbers_are_those_of_the_reference(build, llava):
    model, processor = llava if build == "llava" else tiny_gemma3()
    found = question_signal(I2CScorer(model, processor)).score(rows_of())
    exact = copy.deepcopy(model).double()
    for row, numbers in zip(rows_of(), found, strict=True):
        question, answer = row["prompt"][0]["content"], row["completion"][0]["content"]
        text = f"Frage: {question}\nAntwort: {answer}"
        sides = []
        for images in (row["images"], []):
            encoded = encode_row(processor, ASKED, text, images, end_of_turn=False)
            inputs = {name: x.double() if x.is_floating_point() else x for name, x in encoded.inputs.items()}
            with torch.no_grad():
                logprobs = exact(**inputs).logits[0].log_softmax(-1)
            ids = encoded.inputs["input_ids"][0]
            of_answer = range(encoded.answer.start, encoded.answer.stop)
            sides.append(np.array([logprobs[at - 1, ids[at]].item() for at in of_answer]))
        # The last token after which no more than "Frage:" is written, and the first with all of the question.
        said = [processor.tokenizer.decode(encoded.answer_ids[:end]).strip() for end in range(len(sides[0]) + 1)]
        begin, end = len(said) - 1 - said[::-1].index("Frage:"), said.index(f"Frage: {question}")
        seen, blind = (side[begin:end].mean() for side in sides)
        expected = [seen, blind, seen - blind, sides[0].mean(), (sides[0] - sides[1]).mean()]
        names = ("question_logprob", "question_logprob_blind", "question_pmi", "pair_logprob", "pair_pmi")
        assert [numbers[name] for name in names] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert numbers["question_status"] == "ok"


@pytest.fixture(scope="module")
def signal(llava):
    return question_signal(I2CScorer(*llava))


def test_a_strangers_rows_are_asked_for_by_a_template(signal):
    """Batches are single rows; a row in another layout is the row that says what it is made of."""
    strange = [
        {"image": picture(0), "question": "Is there a dog?", "answer": "Yes."},
        {"image": picture(0), "question": "How many?", "answer": "two"},
    ]
    template = taken(None, None, 1)
    said = [
        {
            "image": row["image"],
            "question": row["question"],
            "answer": row["answer"],
            "generation_prompt": list(template.messages),
            "reply_form": template.form,
        }
        for row in strange
    ]
    found, alone = signal.score(strange), [signal.score([row])[0] for row in said]
    for one, other in zip(found, alone, strict=True):
        assert one["question_logprob"] == pytest.approx(other["question_logprob"], abs=1e-5)
        assert one["question_pmi"] == pytest.approx(other["question_pmi"], abs=1e-5)
    asked = signal.score([{**said[0], "generation_prompt": ASKED}])[0]
    assert asked["question_logprob"] != pytest.approx(alone[0]["question_logprob"], abs=1e-3)


def test_rows_that_cannot_be_scored_keep_their_place(signal, tmp_path):
    good = {**rows_of()[0], "images": [{"bytes": png(0), "path": None}]}
    rows = [
        good,
        {**good, "prompt": None, "completion": None},
        {**good, "images": [{"bytes": png(0)[:50], "path": None}]},
        {**good, "reply_form": "{"},
        {**good, "completion": [{"role": "assistant", "content": "Ja.\nFrage: Was?\nAntwort: Nichts."}]},
        {**good, "images": []},
        {**good, "generation_prompt": None},
    ]
    features = Dataset.from_list([good]).features
    dataset = Dataset.from_list(rows, features=Features({**features, "images": [Image()]}))
    scored = score_dataset(dataset, signal, cache_dir=tmp_path, batch_size=3)
    reasons = ["ok", "no pair", "cannot be read", "cannot be read", "read otherwise", "no image", "ok"]
    for status, value, reason in zip(scored["question_status"][:], scored["question_pmi"][:], reasons, strict=True):
        assert reason in status and (value is None) == (reason != "ok")
