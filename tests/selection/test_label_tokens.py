"""The tokens of chosen replies: they spell the reply, whatever its form; replies of which some are not known."""

import pytest
from datasets import Dataset
from scored_rows import pair

from c3l_hf.data.row_texts import messages_of_turns
from c3l_hf.data.schema import PAIR_FEATURES, SCORE_FEATURES
from c3l_hf.models.token_spans import carry_over
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.selection.pseudo_labels import select_pseudo_labels
from c3l_hf.selection.token_weights import reply_weights

FEATURES = {**PAIR_FEATURES, **SCORE_FEATURES}
TALK = [("What says the sign?", 'It says "stop" to Zoë.'), ("Is it red?", "red")]
FORMS = {
    "labelled": ReplyForm(question=("Frage",), answer=("Antwort",)),
    "json": ReplyForm("json", list_key="turns"),
    "regex": ReplyForm(
        "regex", expression=r"Q<(?P<question>[^>]*)> A<(?P<answer>[^>]*)>", written="Q<{question}> A<{answer}>"
    ),
}


def scored(k, score, turns, form):
    """A row as `c3l score` makes it, to whom a token is a word with the space before it."""
    prompt, completion = messages_of_turns(turns)
    words = [[f" {word}" for word in answer.split()] for _, answer in turns]
    gains = [float(number) for number in range(sum(map(len, words)))]
    row = pair("a", k, score) | {"prompt": prompt, "completion": completion, "reply_form": form.to_json()}
    row |= {"generation_prompt": [{"role": "user", "content": "Ask."}], "answer_tokens": sum(words, [])}
    row |= {"logprob_per_token": gains, "logprob_blind_per_token": [0.0] * len(gains)}
    row["turns"] = [{"tokens": len(one), "status": "ok"} for one in words]
    return {name: row.get(name) for name in FEATURES}


def select(*rows):
    labels, report = select_pseudo_labels(Dataset.from_list(list(rows)), within="all")
    return labels.to_list(), report


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("turns", [TALK, TALK[:1], TALK[1:]])
def test_pieces_spell_the_reply(form, turns):
    [label], report = select(scored(0, 0.9, turns, form), scored(1, 0.1, [("Who?", "A dog.")], form))
    pieces, text = label["chosen_tokens"], label["chosen"][0]["content"]
    texts = [piece["text"] for piece in pieces]
    assert "".join("".join(texts).split()) == "".join(text.split()) and not report.assumed
    gains = [piece["gain"] for piece in pieces if piece["gain"] is not None]
    assert gains == [float(number) for number in range(len(gains))] and len(gains) == sum(
        len(answer.split()) for _, answer in turns
    )
    carried = dict(zip(range(len(text)), carry_over(texts, reply_weights(pieces, "vig"), list(text))))
    # The better half of each answer's words, and 1 for what was not asked about.
    start = 0
    for question, answer in turns:
        start = text.index(form.in_reply(question), start)
        assert {carried[start + number] for number in range(len(question))} == {1.0}
        start = text.index(form.in_reply(answer), start + len(question))
        words = answer.split()
        kept = -(-len(words) // 2)
        assert carried[start] == (0.0 if len(words) > kept else 1.0)
        assert carried[start + len(form.in_reply(answer)) - 1] == pytest.approx(len(words) / kept)


def test_replies_of_which_something_is_not_known():
    form = FORMS["labelled"]
    lists = dict.fromkeys(("answer_tokens", "logprob_per_token", "logprob_blind_per_token", "turns"))
    [label], report = select(scored(0, 0.9, TALK, form) | lists, scored(1, 0.1, TALK[:1], form))
    assert label["chosen_tokens"] is None
    assert report.assumed == ["1 pseudo-labels have no scores of their tokens (chosen_tokens is null)"]
    assert report.assumed[0] in str(report)
    half = {"turns": [{"tokens": 5, "status": "ok"}, {"tokens": 0, "status": "the answer is empty"}]}
    row = scored(0, 0.9, TALK, form) | half
    for name in ("answer_tokens", "logprob_per_token", "logprob_blind_per_token"):
        row[name] = row[name][:5]
    assert select(row, scored(1, 0.1, TALK[:1], form))[0][0]["chosen_tokens"] is None
    # A form that writes an answer twice.
    twice = ReplyForm(
        "regex", expression=r"(?P<question>\w+\?) (?P<answer>\w+),", written="{question} {answer}, {answer}"
    )
    rows = [scored(k, 1.0 - k, [("What?", "dog" * (1 + k))], twice) for k in range(2)]
    assert select(*rows)[0][0]["chosen_tokens"] is None


def test_pairs_without_scores_of_tokens_give_labels_as_ever():
    rows = [scored(k, 1.0 - k, [("What?", f"dog {k}")], FORMS["labelled"]) for k in range(2)]
    labels, _ = select_pseudo_labels(Dataset.from_list(rows).remove_columns("logprob_per_token"))
    assert "chosen_tokens" not in labels.column_names
