"""Scored rows that are no pairs, or conversations in part: each is counted with its reason."""

import pytest
from scored_layouts import LAYOUTS, PAIRS, assistant, dataset_of, item, llava, scored, stored, user

from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.selection.curation import curate
from c3l_hf.selection.pseudo_labels import select_pseudo_labels
from c3l_hf.selection.random_choice import random_selection


def test_conversations_are_one_row():
    def talk(*turns):
        return [message for question, answer in turns for message in llava(question, answer)]

    def rows(*talks):
        talks = [[{**m, "value": m["value"].replace("<image>\n", "")} for m in talk] for talk in talks]
        return scored([{"image": stored(0), "conversations": talk} for talk in talks], [0.9, 0.8, 0.7, 0.6, 0.5])

    first, second = ("How many dogs?", "Two dogs."), ("Where are they?", "They lie on a red sofa.")
    other = ("Is it day?", "It is late at night, the lamps are on.")
    # The last questions are the same in rows 0 and 1, the talks are not; row 2 repeats row 0 but for case.
    dataset = rows(
        talk(first, second),
        talk(other, second),
        talk((first[0].upper(), first[1]), second),
        talk(first),
        talk(other),
    )
    kept, report = curate(dataset)
    assert kept["number"][:] == [0, 1, 3, 4] and report.dropped["same instruction about the same image"] == 1
    words = [len(f"{a} {b}".split()) for a, b in ((first[1], second[1]), (other[1], second[1]))]
    assert words == [8, 15] and report.length_before.pairs == 5
    labels, report = select_pseudo_labels(dataset)
    assert sum(report.pairs_left_out.values()) == 0
    assert labels["chosen"][0] == assistant(ReplyForm().write([first, second]))
    rejected = [[other], [first], [(first[0].upper(), first[1]), second], [other, second]]
    assert labels["rejected"][0] == [assistant(ReplyForm().write(turns)) for turns in rejected]
    assert "2 turns" in labels["prompt"][0][0]["content"]


@pytest.mark.parametrize("plain", [True, False])
def test_a_question_after_earlier_turns_is_no_pair_by_itself(plain):
    """Alone it would mean something else: it is another instruction, and no pseudo-label, in messages of any kind."""
    earlier = user("Is it day?") + assistant("Yes.")
    rows = [
        {"images": [stored(0)], "prompt": prompt + user("Who is there?"), "completion": assistant(answer)}
        for prompt, answer in (([], "Nobody is."), (earlier, "A man with a dog."))
    ]
    if not plain:
        for row in rows:
            row["completion"] = assistant(item(row["completion"][0]["content"]))
    dataset = scored(rows, [0.5, 0.9])
    kept, report = curate(dataset)
    assert kept["number"][:] == [0, 1] and report.dropped["same instruction about the same image"] == 0
    others = [{**row, "completion": assistant("Two dogs.")} for row in rows[:1]] if plain else []
    dataset = scored(rows + others, [0.5, 0.9, 0.2][: len(rows + others)])
    if not plain:
        with pytest.raises(ValueError, match="the question follows earlier turns"):
            select_pseudo_labels(dataset)
        return
    labels, report = select_pseudo_labels(dataset)
    assert labels["chosen"][0] == assistant("Question: Who is there?\nAnswer: Nobody is.")
    assert report.pairs_left_out["the question follows earlier turns"] == 1


def test_turns_without_a_score_leave_the_others():
    """What the scorer passes over, selection passes over: the row has a score."""
    talk = llava("What?", "A dog.") + [
        {"from": "human", "value": "And?"},
        {"from": "gpt", "value": " "},
        {"from": "human", "value": "What else?"},
        {"from": "gpt", "value": "A cat."},
    ]
    dataset = scored([{"image": stored(0), "conversations": talk}], [0.5])
    turn = {"i2c": 0.5, "status": "ok"}
    dataset = dataset.add_column("turns", [[turn, {"i2c": None, "status": "the answer is empty"}, turn]])
    kept, report = curate(dataset)
    assert kept["number"][:] == [0] and report.length_before.pairs == 1 and kept.features == dataset.features
    # A pseudo-label would have a gap.
    with pytest.raises(ValueError, match="left out: assistant turn N: the answer is empty +1"):
        select_pseudo_labels(dataset)


def test_rows_that_cannot_be_read_are_counted_with_their_reason():
    rows = [LAYOUTS["messages"](*pair[:3]) for pair in PAIRS]
    rows[0]["messages"] = user("What?")
    rows[3]["messages"] = user("What?") + assistant(" ")
    rows[4]["messages"] = user("<image> <image>?") + assistant("Two.")
    rows[5]["messages"] = None
    dataset = scored(rows, [pair[3] for pair in PAIRS])
    kept, report = curate(dataset)
    assert kept["number"][:] == [2, 1, 6]
    assert {reason: count for reason, count in report.dropped.items() if count} == {
        "no pair": 1,
        "the answer is empty": 1,
        "the messages have places for N images, the row has N": 1,
        "there is no answer of the assistant": 1,
    }
    assert sum(report.dropped.values()) + report.kept == report.pairs == 7
    # Without a score that is the reason, whatever else there is to say.
    dataset = scored(rows, [None] * 7)
    for choose, counts in ((curate, "dropped"), (select_pseudo_labels, "pairs_left_out")):
        try:
            _, report = choose(dataset)
        except ValueError as error:
            assert choose is select_pseudo_labels and "no image has a pseudo-label" in str(error)
            assert "not scored" in str(error)
        else:
            assert getattr(report, counts)["not scored"] == 6 and report.kept == 0


def test_plain_messages_that_are_read_are_only_the_odd_ones():
    """Markers, several answers and no content in some rows: the others stay as they are, each in its place."""
    rows = [LAYOUTS["messages of texts"](*pair[:3]) for pair in PAIRS * 2]
    rows[1] = LAYOUTS["markers"](*PAIRS[1][:3])
    rows[2]["completion"] = None
    rows[4]["completion"] = assistant(None)
    rows[12]["completion"] = assistant("First.") + user("And?") + assistant("Second.")
    dataset = scored(rows, [pair[3] - less for less in (0, 0.01) for pair in PAIRS])
    _, report = select_pseudo_labels(dataset)
    assert report.pairs_left_out == {
        "no pair": 1,
        "not scored": 0,
        "score not finite": 0,
        "the answer is not a text but null": 1,
    }
    kept, report = curate(dataset)
    assert kept["number"][:] == [0, 9, 1, 6, 11, 5, 12]


def test_questions_with_pictures_between_their_texts_are_no_pseudo_labels():
    rows = [
        {"images": [stored(0), stored(1)], "question": question, "answer": answer}
        for question, answer in (
            ("Is <image> or <image> red?", "The first."),
            ("<image><image>Which is red?", "The first of them."),
            ("Which is blue?<image><image>", "None is."),
        )
    ]
    dataset = scored(rows, [0.9, 0.5, 0.1])
    labels, report = select_pseudo_labels(dataset)
    assert report.pairs_left_out["the question has an image between its texts"] == 1
    assert labels["chosen"][0][0]["content"] == "Question: Which is red?\nAnswer: The first of them."
    assert [len(images) for images in labels["images"]] == [2]
    assert len(curate(dataset)[0]) == 3


def test_rows_without_an_image_are_no_image():
    """As a mix for fine-tuning has them: the scorer gives null and the reason."""
    rows = [LAYOUTS["texts"](*pair[:3]) for pair in PAIRS] + [
        {"image": None, "prompt": "Say yes.", "completion": "Yes."}
    ]
    dataset = scored(rows, [*(pair[3] for pair in PAIRS), None])
    labels, report = select_pseudo_labels(dataset)
    assert (len(labels), report.images, report.pairs_left_out["not scored"]) == (2, 3, 1)
    kept, report = curate(dataset)
    assert len(kept) == 6 and report.dropped["not scored"] == 1


@pytest.mark.parametrize("layout", ["messages of texts", "texts"])
def test_questions_without_text_are_no_pseudo_labels(layout):
    pairs = [(0, " ", "A dog.", 0.9), (0, "What?", "A cat.", 0.5), (0, "Who?", "Nobody.", 0.1)]
    labels, report = select_pseudo_labels(dataset_of(layout, pairs))
    assert report.pairs_left_out["the question has no text"] == 1
    assert labels["chosen"][0][0]["content"] == "Question: What?\nAnswer: A cat."
    assert len(curate(dataset_of(layout, pairs))[0]) == 3


def test_random_choice_says_what_it_assumed(caplog):
    rows = [LAYOUTS["messages"](*pair[:3]) for pair in PAIRS]
    rows[0]["messages"] = user("What?")
    dataset = scored(rows, [pair[3] for pair in PAIRS]).remove_columns(["i2c", "i2c_status"])
    assert sorted(random_selection(dataset, 6)["number"]) == [1, 2, 3, 4, 5, 6]
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in said[:2]] == ["no column image_id", "no column type"]
    assert said[2].startswith("1 rows cannot be read and are never chosen; the first: there is")
