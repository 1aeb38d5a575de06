"""Pseudo-labels: who is chosen, who is rejected, and that every pair and image is accounted for."""

import math
import random
from itertools import count

import pytest
from datasets import Dataset, Features, Image, List, Value
from scored_rows import FEATURES, pair

from c3l_hf.data.row_texts import messages_of_turns
from c3l_hf.data.schema import PSEUDO_LABEL_FEATURES
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.prompts.template_files import load_templates
from c3l_hf.prompts.templates import Template, TemplateSet
from c3l_hf.selection.pseudo_labels import select_pseudo_labels

SCENES = load_templates("scenes")
GERMAN = ReplyForm(question=("Frage",), answer=("Antwort",))
ASKED = [{"role": "system", "content": "Sei genau."}, {"role": "user", "content": "Frage etwas zum Bild."}]


def dataset_of(*pairs):
    return Dataset.from_list(list(pairs), features=FEATURES)


def select(*pairs, **options):
    labels, report = select_pseudo_labels(dataset_of(*pairs), **options)
    return labels.remove_columns("images").to_list(), report


def names(label):
    """(k of the chosen pair, k of the rejected ones) of a label whose answers are "answer <k>"."""
    chosen, *rejected = (int(messages[0]["content"].split()[-1]) for messages in (label["chosen"], *label["rejected"]))
    return chosen, rejected


def test_best_is_chosen_and_the_lowest_are_rejected_first():
    scores = [0.3, 0.9, -0.2, 0.5, 0.1, 0.4]
    pairs = [pair("a", k, score) for k, score in enumerate(scores)]
    [label], report = select(*pairs)
    assert names(label) == (1, [2, 4, 0, 5])
    assert label["chosen_score"] == pytest.approx(0.9)
    assert label["rejected_scores"] == pytest.approx([-0.2, 0.1, 0.3, 0.4])
    assert label["chosen"] == [{"role": "assistant", "content": "Question: question 1 about a?\nAnswer: answer 1"}]
    assert label["prompt"] == [{"role": "user", "content": SCENES.get("count-1").user}]
    assert (label["type"], label["template"], label["image_id"]) == ("count", "count-1", "a")
    assert report.rejected_left_out["above max_rejected"] == 1
    [label], _ = select(*pairs, max_rejected=2)
    assert names(label) == (1, [2, 4])
    [label], _ = select(*pairs, score="pmi", max_rejected=1)
    assert names(label) == (2, [1])


def test_result_has_the_columns_of_the_schema_and_the_encoded_images_of_its_rows():
    labels, _ = select_pseudo_labels(dataset_of(*(pair(i, k, k) for i in "ba" for k in range(3))))
    assert labels.features == PSEUDO_LABEL_FEATURES and labels.features["images"] == List(Image())
    assert labels["image_id"][:] == ["b", "a"]
    stored = labels.with_format("arrow")[:]["images"].to_pylist()
    assert [images[0]["bytes"] for images in stored] == [b"bytes of b", b"bytes of a"]


def test_within_type_compares_only_pairs_of_one_type():
    # Colours score higher throughout; image a's count pair is the best of all counts, its colours are the poorest.
    pairs = [pair("a", k, score, type="colour") for k, score in enumerate([5.0, 5.1])]
    pairs += [pair("a", 2 + k, score, type="count") for k, score in enumerate([1.0, 0.2])]
    for other in "bc":
        pairs += [pair(other, k, score, type="colour") for k, score in enumerate([6.0, 6.1])]
        pairs += [pair(other, 2 + k, score, type="count") for k, score in enumerate([0.1, 0.0])]
    by_type, _ = select(*pairs)
    assert names(by_type[0]) == (2, [3]) and by_type[0]["type"] == "count"
    assert [label["type"] for label in by_type[1:]] == ["colour", "colour"]
    over_all, report = select(*pairs, within="all")
    assert names(over_all[0]) == (1, [3, 2, 0]) and over_all[0]["type"] == "colour"
    assert report.types == {"colour": 3}


def test_weights_are_quantiles_within_the_type_with_mean_1():
    # chosen scores of "count" 10, 20, 20, 40; of "where" 1
    pairs = [pair(i, k, k * score) for i, score in zip("abcd", (10.0, 20.0, 20.0, 40.0)) for k in (0, 1)]
    pairs += [pair("e", k, float(k), type="where") for k in (0, 1)]
    labels, _ = select(*pairs)
    assert [label["weight"] for label in labels] == [0.25, 1.0, 1.0, 1.75, 1.0]


def test_a_type_with_a_single_pair_cannot_be_used():
    [label], _ = select(pair("a", 0, 9.0, type="where"), pair("a", 1, 0.1), pair("a", 2, 0.2))
    assert names(label) == (2, [1])


def test_ties_are_broken_by_pair_id_whatever_the_order():
    pairs = [pair("a", k, 1.0) for k in range(4)]
    for order in range(5):
        [label], _ = select(*random.Random(order).sample(pairs, 4), max_rejected=2)
        assert names(label) == (0, [1, 2])
    # the best of two types, each the best of its type
    pairs = [
        pair("a", k, score, type=type) for k, (score, type) in enumerate(zip([1, 5, 0, 4], ["where", "count"] * 2))
    ]
    for order in ([0, 1, 2, 3], [1, 0, 3, 2]):
        [label], _ = select(*(pairs[number] for number in order))
        assert names(label) == (0, [2])


def test_the_prompt_is_the_instruction_of_the_chosen_pair():
    [label], _ = select(pair("a", 0, 0.0, number=1), pair("a", 1, 1.0, number=2))
    assert label["template"] == "count-2"
    assert label["prompt"][0]["content"] == SCENES.get("count-2").user


def test_identical_texts_are_not_rejected():
    same = {"question": "How many?", "answer": "two"}
    spaced = {"question": "How  many?", "answer": " two"}
    [label], report = select(pair("a", 0, 1.0, **same), pair("a", 1, 0.5, **spaced), pair("a", 2, 0.0))
    assert label["rejected_scores"] == [0.0]
    assert report.rejected_left_out["same text as the chosen one"] == 1
    [label], report = select(pair("a", 0, 1.0), pair("a", 1, 0.5, **same), pair("a", 2, 0.4, **spaced))
    assert label["rejected_scores"] == pytest.approx([0.4])
    assert report.rejected_left_out["same text as another"] == 1
    _, report = select(pair("a", 0, 1.0, **same), pair("a", 1, 0.5, **spaced), pair("b", 0, 0), pair("b", 1, 1))
    assert report.images_dropped["all texts identical to the chosen one"] == 1


def test_pairs_without_a_score_take_no_part():
    no_pair = pair("a", 5, None) | {"prompt": None, "completion": None, "i2c_status": "empty output"}
    bad = [
        pair("a", 0, 9.0, status="the answer is empty"),
        pair("a", 1, None),
        pair("a", 2, math.nan),
        pair("a", 3, math.inf),
        pair("a", 4, -math.inf),
        no_pair,
    ]
    good = [pair("a", 6, 0.2), pair("a", 7, 0.1)]
    [label], report = select(*bad, *good)
    assert names(label) == (6, [7])
    assert report.pairs_left_out == {"no pair": 1, "not scored": 2, "score not finite": 3}
    with pytest.raises(ValueError, match="no image has a pseudo-label"):
        select(*bad, good[0])


def said(image_id, k, score, turns=(("Was?", "Der Hund."),), form=GERMAN, asked=ASKED, **options):
    """A row as it is generated today: it says what was asked, and how the reply is written."""
    prompt, completion = messages_of_turns(turns)
    row = pair(image_id, k, score, **options) | {"prompt": prompt, "completion": completion, "template": "mine"}
    return row | {"generation_prompt": asked, "reply_form": form and form.to_json()}


TALK = [("Was liegt da?", "Der Hund."), ("Welche Farbe?", "Braun."), ("Was noch?", "Der Ball.")]


def test_conversations_take_part_as_a_whole():
    rows = [said("a", 0, 0.9, TALK), said("a", 1, 0.1, TALK[:2]), said("a", 2, 0.5, [*TALK[:2], ("Sonst?", "Nein.")])]
    [label], report = select(*rows)
    written = [
        "Frage: Was liegt da?\nAntwort: Der Hund.\nFrage: Welche Farbe?\nAntwort: Braun.",
        "\nFrage: Was noch?\nAntwort: Der Ball.",
        "\nFrage: Sonst?\nAntwort: Nein.",
    ]
    assert label["chosen"] == [{"role": "assistant", "content": written[0] + written[1]}]
    rejected = [messages[0]["content"] for messages in label["rejected"]]
    assert rejected == [written[0], written[0] + written[2]]  # lowest score first
    assert label["prompt"] == ASKED and label["template"] == "mine" and report.assumed == []
    assert report.quantiles["chosen answer, words"] == (5.0,) * 5
    # Alike in all turns but one is another conversation; alike in all is the same, whatever the spaces.
    rows[2]["completion"][0] = {"role": "assistant", "content": " Der  Hund.\n"}
    rows[2]["completion"][-2:] = rows[0]["completion"][-2:]
    [label], report = select(*rows)
    assert len(label["rejected"]) == 1 and report.rejected_left_out["same text as the chosen one"] == 1


def test_replies_are_in_the_form_of_the_chosen_ones_generator():
    json = ReplyForm("json", question=("q",), answer=("a",), list_key="turns")
    [label], _ = select(said("a", 0, 0.9, form=json), said("a", 1, 0.1, TALK[:2], form=GERMAN))
    assert label["chosen"][0]["content"] == '{"turns": [{"q": "Was?", "a": "Der Hund."}]}'
    other = '{"turns": [{"q": "Was liegt da?", "a": "Der Hund."}, {"q": "Welche Farbe?", "a": "Braun."}]}'
    assert label["rejected"][0][0]["content"] == other
    [label], _ = select(said("a", 0, 0.9, form=GERMAN), said("a", 1, 0.1, TALK[:2], form=json))
    assert label["rejected"][0][0]["content"].startswith("Frage: Was liegt da?\nAntwort: Der Hund.\nFrage:")
    # What was asked is known, its form is not: the one that templates have if they name none.
    [label], _ = select(said("a", 0, 0.9, form=None), said("a", 1, 0.1, TALK[:2]))
    assert label["chosen"][0]["content"] == "Question: Was?\nAnswer: Der Hund." and label["prompt"] == ASKED


def test_rows_that_do_not_say_what_was_asked_ask_as_a_shipped_template():
    """A form without its prompt does not count: another one is asked for."""
    one, talk = load_templates("instruct").get("general-1"), load_templates("instruct").get("conversation-1")
    rows = []
    for image, turns, template, asked in (
        ("a", TALK[:1], None, None),
        ("b", TALK, None, []),
        ("c", TALK[:1], "count-1", None),
        ("d", TALK[:2], "count-1", None),
        ("e", TALK, None, ASKED),
    ):
        for k in (0, 1):
            turns = [(question, f"{answer} {k}") for question, answer in turns]
            rows.append(said(image, k, float(k), turns, asked=asked) | {"template": template})
    labels, report = select(*rows)
    prompts = [label["prompt"] for label in labels]
    assert [label["template"] for label in labels] == ["general-1", "conversation-1", "count-1", "conversation-1", None]
    assert prompts[0] == [{"role": "user", "content": one.user}]
    assert prompts[2] == [{"role": "user", "content": SCENES.get("count-1").user}]
    for prompt, turns in ((prompts[1], 3), (prompts[3], 2)):
        assert f"Write a conversation of {turns} turns between" in prompt[0]["content"]
        assert prompt[0]["content"] == talk.user.replace("{{ turns }}", str(turns))
    assert prompts[4] == ASKED
    starts = [label["chosen"][0]["content"].split(":")[0] for label in labels]
    assert starts == ["Question"] * 4 + ["Frage"]
    assert report.assumed == [
        "no generation_prompt: 3 pseudo-labels ask with conversation-1, general-1 of the set instruct",
        "no generation_prompt: 1 pseudo-labels ask with count-1 of the set scenes",
    ]
    assert all(line in str(report) for line in report.assumed)


def test_templates_of_unknown_names_are_told():
    rows = [said("a", k, float(k), TALK[: k + 1], asked=asked) for k, asked in ((0, None), (1, ASKED))]
    [label], report = select(*rows)
    assert label["template"] == "mine" and report.assumed == []  # of the rejected one it does not matter
    [label], report = select(*[said("a", k, float(k), TALK[k : k + 1], asked=None) for k in (0, 1)])
    assert label["template"] == "general-1"
    assert report.assumed == [
        "no generation_prompt: 1 pseudo-labels ask with general-1 of the set instruct",
        "1 of them name a template that is not known: mine",
    ]


def test_templates_of_ones_own_for_rows_that_do_not_say_what_was_asked():
    """The first that asks for as many turns, a general one before others; without fields, which nobody fills in."""
    templates = TemplateSet(
        "own",
        (
            Template("captioned", "a", "{{ caption }}?"),
            Template("first", "a", "Ask."),
            Template("any", "general", "Ask anything.", system="Be brief.", reply=ReplyForm("json")),
            Template("talk", "b", "Talk, {{ turns }} turns.", turns=(2, 3), reply=GERMAN),
        ),
    )
    rows = []
    for image, turns, template in (("a", TALK[:1], None), ("b", TALK[:2], None), ("c", TALK[:1], "count-1")):
        for k in (0, 1):
            turns = [(question, f"{answer} {k}") for question, answer in turns]
            rows.append(said(image, k, float(k), turns, asked=None) | {"template": template})
    four = [said("d", k, float(k), [*TALK, ("Mehr?", str(k))], asked=None) for k in (0, 1)]
    labels, report = select(*rows, *four, templates=templates)
    assert [label["template"] for label in labels] == ["any", "talk", "count-1", "conversation-1"]
    assert labels[0]["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Ask anything."},
    ]
    assert labels[1]["prompt"][0]["content"] == "Talk, 2-3 turns."
    starts = [label["chosen"][0]["content"][:8] for label in labels]
    assert starts == ['{"questi', "Frage: W", "Question", "Question"]
    assert sorted(report.assumed)[1:] == [
        "no generation_prompt: 1 pseudo-labels ask with conversation-1 of the set instruct",
        "no generation_prompt: 1 pseudo-labels ask with count-1 of the set scenes",
        "no generation_prompt: 2 pseudo-labels ask with any, talk of the set own",
    ]
    # Without a general one the first that has no fields.
    fewer = TemplateSet("own", templates.templates[:2])
    assert select(*rows[:2], templates=fewer)[0][0]["prompt"] == [{"role": "user", "content": "Ask."}]


def test_texts_that_would_be_read_otherwise_take_no_part():
    """An answer with a label in it: as the best of its image, as another, and as one of two."""
    odd, plain = [("Was?", "Der Hund.\nFrage: Und?\nAntwort: Nichts.")], [("Was?", "Eine Katze.")]
    rows = [said("a", 0, 0.9, odd), said("a", 1, 0.8, plain), said("a", 2, 0.1, odd), said("a", 3, 0.2)]
    rows += [said("b", 0, 0.9, odd), said("b", 1, 0.5, plain)]
    rows += [said("c", 0, 0.9, plain), said("c", 1, 0.5, odd)]
    [label], report = select(*rows)
    assert label["chosen_score"] == pytest.approx(0.8) and label["rejected_scores"] == pytest.approx([0.2])
    assert report.rejected_left_out["does not fit the form of the reply"] == 2
    assert report.images_dropped["fewer than two that fit the form of the reply"] == 2
    # In another form the same text is one pair.
    [label], report = select(*[row | {"reply_form": ReplyForm("json").to_json()} for row in rows[:4]])
    assert label["chosen_score"] == pytest.approx(0.9) and report.rejected_left_out["same text as the chosen one"] == 1


def test_a_question_that_follows_earlier_turns_takes_no_part():
    rows = [said("a", k, k / 10) for k in range(3)]
    rows[2]["prompt"] = [*rows[2]["prompt"], {"role": "assistant", "content": "Ja."}, *rows[2]["prompt"]]
    rows[1]["completion"] = [{"role": "assistant", "content": "Eine Katze."}]
    [label], report = select(*rows)
    assert label["chosen_score"] == pytest.approx(0.1)
    assert report.pairs_left_out["the question follows earlier turns"] == 1


@pytest.mark.parametrize(
    ("column", "values", "kind", "message"),
    [
        ("generation_prompt", ["Ask."] * 2, Value("string"), "'generation_prompt' has values of type string; it must"),
        ("generation_prompt", [["Ask."]] * 2, List(Value("string")), "it must have lists of messages"),
        ("reply_form", [1, 2], Value("int64"), "'reply_form' has values of type int64; it must have texts"),
        ("reply_form", ["labelled"] * 2, Value("string"), "column 'reply_form': the form of a reply is 'labelled'"),
        ("reply_form", ['{"form": "yaml"}'] * 2, Value("string"), "column 'reply_form': form"),
    ],
)
def test_columns_that_are_no_prompts_or_forms_are_named(column, values, kind, message):
    rows = [said("a", k, float(k)) | {column: value} for k, value in enumerate(values)]
    dataset = Dataset.from_list(rows, features=Features({**FEATURES, column: kind}))
    with pytest.raises(ValueError, match=message):
        select_pseudo_labels(dataset)


def test_columns_of_nulls_say_nothing():
    """As a file has them whose pairs are from elsewhere."""
    rows = [pair("a", k, float(k)) for k in (0, 1)]
    dataset = Dataset.from_list(rows, features=FEATURES).remove_columns(["generation_prompt", "reply_form"])
    with_nulls = dataset
    for name in ("generation_prompt", "reply_form"):
        with_nulls = with_nulls.add_column(name, [None, None])
    assert with_nulls.features["reply_form"] == Value("null")
    assert select_pseudo_labels(with_nulls)[0].to_list() == select_pseudo_labels(dataset)[0].to_list()


def test_margin():
    pairs = [pair("a", 0, 1.0), pair("a", 1, 0.5), pair("b", 0, 1.0), pair("b", 1, 0.25)]
    for min_margin, kept in ((0.0, ["a", "b"]), (0.5, ["a", "b"]), (0.51, ["b"])):
        labels, report = select(*pairs, min_margin=min_margin)
        assert [label["image_id"] for label in labels] == kept
        assert report.images_dropped["margin too small"] == 2 - len(kept)


@pytest.mark.parametrize("within", ["type", "all"])
def test_everything_is_counted_and_chosen_is_never_below_rejected(within):
    generator = random.Random(1)
    pairs, ids = [], count()
    for image in range(200):
        for k in range(generator.randint(1, 6)):
            score = generator.choice([generator.gauss(0, 1), generator.gauss(0, 1), 0.5, None, math.nan])
            answer = f"answer {generator.choice([next(ids), 0])}"
            if generator.random() < 0.1:
                answer += "\nQuestion: what else?\nAnswer: nothing"  # would be read as two
            question = generator.choice(["one?", "two?"])
            type = generator.choice(["count", "colour"])
            pairs.append(pair(f"i{image}", k, score, type=type, question=question, answer=answer))
    labels, report = select(*pairs, within=within, min_margin=0.3, max_rejected=3)
    assert report.images == 200 == report.labels + sum(report.images_dropped.values())
    assert all(report.images_dropped.values()), "the data should touch every rule"
    assert report.labels == len(labels) == sum(report.types.values())
    assert report.pairs == len(pairs)
    for label in labels:
        assert label["rejected_scores"] == sorted(label["rejected_scores"]) and 1 <= len(label["rejected"]) <= 3
        assert label["chosen_score"] - label["rejected_scores"][0] >= 0.3 - 1e-6
        assert label["chosen_score"] >= label["rejected_scores"][-1]
        assert label["chosen"] not in label["rejected"]
    shuffled = generator.sample(pairs, len(pairs))
    again, _ = select(*shuffled, within=within, min_margin=0.3, max_rejected=3)
    assert sorted(again, key=str) == sorted(labels, key=str)


def test_wrong_input():
    pairs = dataset_of(pair("a", 0, 0.0), pair("a", 1, 1.0))
    with pytest.raises(ValueError, match="columns missing: i2c_status; found images"):
        select_pseudo_labels(pairs.remove_columns(["template", "i2c_status"]))
    with pytest.raises(ValueError, match="columns missing: nonsense"):
        select_pseudo_labels(pairs, score="nonsense")
    with pytest.raises(ValueError, match="'pair_id' must be unique; more than once: a/0"):
        select(pair("a", 0, 0.0), pair("a", 0, 1.0))
    for options in ({"within": "image"}, {"max_rejected": 0}, {"min_margin": -1.0}, {"min_margin": math.nan}):
        with pytest.raises(ValueError, match=next(iter(options))):
            select_pseudo_labels(pairs, **options)
