"""What judges write instead of two numbers: read where it can be read in one way only."""

import random

import pytest

from c3l_hf.evaluation.grades import read_scores

REPLIES = [
    ("Assistant 1: 2, 3 and 4 are errors.\nAssistant 2: 1, 2 are errors", None),
    ("Assistant 1: 8 - 9\nAssistant 2: 7", None),
    ("Assistant 1: 4 (out of 5)\nAssistant 2: 3 (out of 5)", None),
    ("Answer 1: 2\nAnswer 2: 3\n\n8 7", None),
    ('{"scale": [1, 10]}', None),
    ('{"errors": [3, 4]}', None),
    ('{"final_scores": [8, 7]}', (8, 7)),
    ("Number of errors:\n3 2", None),
    ("Out of five:\n4 3", None),
    ("As percentages:\n8 7", None),
    ("My assessment:\n8 7", (8, 7)),
    ("[THINK]9 9[/THINK]8 7", (8, 7)),
    ("**8** **9**", (8, 9)),
    ("**8 9**\nBecause", (8, 9)),
    ("Assistant 1: 8/10, Assistant 2: 9/10", (8, 9)),
    ("Assistant 2: 9/10, Assistant 1: 8/10", (8, 9)),
    ("Score: 8.5 / 10", None),
    ("8/10 9/10", (8, 9)),
    ("8/10, 9/10", (8, 9)),
    ("8 / 10, 9 / 10", (8, 9)),
    ("8,5", None),
    ("8,5 7,5", None),
    ("8.5 7.5", (8.5, 7.5)),
    ("Answer 1: 8\nAnswer 2: 7", (8, 7)),
    ("**Answer 1:** 8\n**Answer 2:** 7\n\nAnswer 1 is 3 times", (8, 7)),
    ("- Answer 1: 8/10 – accurate, 3 objects\n- Answer 2: 7/10 – less", (8, 7)),
    ("1. Answer 1: 8\n2. Answer 2: 7", None),
    ("I cannot grade that.\nAnswer 1: 3\nAnswer 2: 4", None),
    ("How many there are is the question. Answer 1: 3, Answer 2: 4.", None),
    ("Here are my grades:\n\n- Answer 1: 8\n- Answer 2: 9", (8, 9)),
    ("Answer 1: 8\nAnswer 2: 7\nIn detail:\nAnswer 1: 3, Answer 2: 4", None),
    ("[8, 9]", (8, 9)),
    ("(8, 9)", (8, 9)),
    ('{"answer_1": 8, "answer_2": 9}', (8, 9)),
    ('```json\n{"answer_1": 8, "answer_2": 9}\n```', (8, 9)),
    ('{"answer_2": 9, "answer_1": 8}', (8, 9)),
    ('{"scores": [8, 9]}', (8, 9)),
    ('{"assistant_1": {"score": 8, "reason": "3 dogs"}, "assistant_2": {"score": 9}}', (8, 9)),
    ('{"answer_1": 8, "answer_1": 9, "answer_2": 3}', None),
    ('{"a": 8, "b": 9}', (8, 9)),
    ('{"x": 8, "y": 9}', None),
    ('{"score1": "8/10", "score2": "9"}', (8, 9)),
    ('{"first": 8, "second": 9}', (8, 9)),
    ("[8, 9, 10]", None),
    ("[true, 9]", None),
    ("[8]", None),
    ('{"answer_1": 8}', None),
    ('{"answer_1": NaN, "answer_2": 8}', None),
    ("[[8], [9]]", None),
    ("<think>On a scale 3 4. 5 6\n</think>\n8 9", (8, 9)),
    ("<think>8 9", None),
    ("8 9\n<think>3 4", (8, 9)),
    ("On a scale of 1 to 10:\n8 9", (8, 9)),
    ("On a scale of 1 to 10, I'd say 8 and 9", None),
    ("Scale: 1 to 10", None),
    ("1 to 10", None),
    ("1-10", None),
    ("Grades (1-10):\n8 9", (8, 9)),
    ("Scores: 8 9", (8, 9)),
    ("Score: 8 9", (8, 9)),
    ("Final scores: 8, 9", (8, 9)),
    ("My grades are: 8 9", (8, 9)),
    ("**Scores:** 8 9", (8, 9)),
    ("Here are my grades:\n\n8 9\n\nBecause 3", (8, 9)),
    ("Sure! Here are the grades:\n8 9", (8, 9)),
    ("Here are my 2 grades:\n8 9", None),
    ("I read both.\n8 9", None),
    ("8", None),
    ("8\n9", None),
    ("8 9 10", None),
    ("11 9", None),
    ("0 5", None),
    ("8/5 9/5", None),
    ("4/5 5/5", None),
    ("80/100 90/100", None),
    ("80% 90%", None),
    ("8 of 10 9 of 10", None),
    ("8 out of 10, 9 out of 10", (8, 9)),
    ("8 | 9", (8, 9)),
    ("8; 9", (8, 9)),
    ("8-9", None),
    ("8 - 9", None),
    ("8 vs 9", None),
    ("8/9", None),
    ("8 9.", (8, 9)),
    ("８ ９", (8, 9)),
    ("eight nine", None),
    ("#8 #9", None),
    ("Answer A: 8\nAnswer B: 9", (8, 9)),
    ("Response 1 - 8; Response 2 - 9", (8, 9)),
    ("Score of answer 1: 8\nScore of answer 2: 9", (8, 9)),
    ("Answer 1's score: 8\nAnswer 2's score: 9", (8, 9)),
    ("Answer 1 score: 8, Answer 2 score: 9", (8, 9)),
    ("Answer 1: 8\nAnswer 1: 9\nAnswer 2: 7", None),
    ("Answer 1: 8\nAnswer 1: 8\nAnswer 2: 7", (8, 7)),
    ("Answer 1: 10 people are seen\nAnswer 2: 3 people", None),
    ("Answer 1: 8", None),
    ("Answer 1: good\nAnswer 2: 9", None),
    ("Answer 1: 12\nAnswer 2: 9", None),
    ("Answer 1: 8,5\nAnswer 2: 9", None),
    ("Answer 1: 4/5\nAnswer 2: 3/5", None),
    ("Answer 3: 8\nAnswer 4: 9", None),
    ("Human: 8, Model 1: 9", None),
    ("### Answer 1\nScore: 8/10\n### Answer 2\nScore: 9/10", (8, 9)),
    ("Answer 1: Score 8/10\nAnswer 2: Score 9/10", (8, 9)),
    ("8 9\nAnswer 1: 3\nAnswer 2: 4", (8, 9)),
    ("-8 9", None),
    ("8.0 9.0", (8, 9)),
    ("8 9\r\nBecause", (8, 9)),
    ("*8* *9*", (8, 9)),
    ("`8 9`", (8, 9)),
    ("> 8 9", None),
    ("\u200b8 9", (8, 9)),
    ("I'm sorry, I cannot grade.", None),
    ("", None),
    ("[8 9]", (8, 9)),
    ("Assistant 1 = 8, Assistant 2 = 9.", (8, 9)),
    ("Answer 1: 8, and Answer 2: 9", (8, 9)),
    ("10 10", (10, 10)),
    ("1 10", (1, 10)),
    ("8..5 9", None),
    ("8.5.1 9", None),
    ("[100000000000000000000, 9]", None),
]
PARTS = [
    "8 ",
    "8/",
    "Answer 1: 8, ",
    "[",
    "{",
    "scale 1 to 10 ",
    ":\n",
    "**",
    "<think>",
    "(1-10)",
    "Answer ",
    '{"a":',
    "- ",
    "9" * 99,
]


def scores(text):
    try:
        return read_scores(text)
    except ValueError as error:
        assert str(error).startswith(("the judge's reply", "the judge's scores", "the first line of the judge's reply"))
        assert len(str(error)) < 300
        return None


@pytest.mark.parametrize("text, expected", REPLIES)
def test_reply(text, expected):
    assert scores(text) == expected


def test_enough_habits_are_known():
    assert len(REPLIES) >= 60 and 20 <= sum(expected is None for _, expected in REPLIES) <= len(REPLIES) - 20


def test_names_say_which_grade_is_whose():
    for first, second in (("Answer 1", "Answer 2"), ("Assistant A", "Assistant B"), ("Response one", "Response two")):
        for form in ("{}: 8\n{}: 3", "{}: 8/10, {}: 3/10", "- **{}**: 8\n- **{}**: 3", "{} = 8; {} = 3."):
            assert read_scores(form.format(first, second)) == (8, 3), form
            assert read_scores(form.format(second, first)) == (3, 8), form


def test_never_another_error():
    generator = random.Random(0)
    words = [text for text, _ in REPLIES] + [*PARTS, "\x00", "\ud800", "1e999", "NaN", "١"]
    for _ in range(3000):
        text = "".join(generator.choice(words)[: generator.choice([3, 9, 99])] for _ in range(generator.randint(0, 6)))
        found = scores(text)
        assert found is None or all(1 <= grade <= 10 for grade in found)


@pytest.mark.parametrize("part", PARTS)
def test_long_replies_are_read_at_all(part):
    """A rule that goes back over the reply for each part of it would take minutes."""
    found = scores(part * (100_000 // len(part)))
    assert found is None or all(1 <= grade <= 10 for grade in found)
