"""Raw text → instruction/answer pair: every form that models write, and every way in which it fails."""

import random
import re

import pytest

from c3l_hf.prompts.parsing import PairParseError, _without_rules, parse_pair
from c3l_hf.scenes.templates import format_pair

PAIRS = {
    "one line": ("Question: Is there a dog? Answer: Yes.", ("Is there a dog?", "Yes.")),
    "two lines": ("Question: Is there a dog?\nAnswer: Yes.", ("Is there a dog?", "Yes.")),
    "leading space, as the tokenizer leaves it": (" Question: How many? Answer: two", ("How many?", "two")),
    "lower case lines": ("question: a b\nanswer: c d", ("a b", "c d")),
    "capitals": ("QUESTION: What? ANSWER: That.", ("What?", "That.")),
    "letters": ("Q: Is there a dog? A: Yes", ("Is there a dog?", "Yes")),
    "letters, no question mark, two lines": ("Q: name it\nA: a dog", ("name it", "a dog")),
    "long and short label": ("Question: Is it?\nA: Yes.\nQuestion: b?\nA: c", ("Is it?", "Yes.")),
    "instruction": ("Instruction: Describe it.\nResponse: A dog\non a lawn.", ("Describe it.", "A dog\non a lawn.")),
    "bold labels": ("**Question:** Is it?\n**Answer:** It is **red**.", ("Is it?", "It is **red**.")),
    "bold labels, colon outside": ("**Question**: Is it?\n\n**Answer**: Yes.", ("Is it?", "Yes.")),
    "bold lines": ("**Question: Is it?**\n**Answer: Yes**", ("Is it?", "Yes")),
    "headings": ("### Question\nWhat is it?\n\n### Answer\nA dog.", ("What is it?", "A dog.")),
    "quoted lines": ("> **Q:** What?\n> **A:** Yes", ("What?", "Yes")),
    "numbered list": ("1. Question: X?\n   Answer: Y.\n2. Question: Z?\n   Answer: W.", ("X?", "Y.")),
    "numbered labels": ("Question 1: a? Answer 1: b. Question 2: c? Answer 2: d", ("a?", "b.")),
    "numbered letters": ("Q1: a?\nA1: b\nQ2: c?\nA2: d", ("a?", "b")),
    "numbers on one line": ("1. Question: X? Answer: Blue. 2. Question: Y? Answer: Z", ("X?", "Blue.")),
    "an answer that is a number": ("Question: How many? Answer: 2. Question: Y? Answer: Z", ("How many?", "2.")),
    "rule between pairs": ("Question: a?\nAnswer: b\n---\nQuestion: c?\nAnswer: d", ("a?", "b")),
    "second answer": ("Question: Is it? Answer: Yes. Answer: No.", ("Is it?", "Yes.")),
    "chatter before": ("Sure! Here is one about it:\n\nQuestion: Is it? Answer: no", ("Is it?", "no")),
    "format echoed first": ("Reply in the form: Question: ... Answer: ...\nQuestion: a? Answer: b", ("a?", "b")),
    "incomplete pair first": ("Question: a?\nQuestion: b? Answer: c", ("b?", "c")),
    "code fence": ("```\nQuestion: a?\nAnswer: b\n```", ("a?", "b")),
    "json": ('{"question": "How many?", "answer": "Two."}', ("How many?", "Two.")),
    "json in a fence, number": ('Here:\n```json\n{"Question": "How many?", "Answer": 3}\n```', ("How many?", "3")),
    "json list": ('[{"question": "a?", "answer": "b"}, {"question": "c?", "answer": "d"}]', ("a?", "b")),
    "json nested": ('{"pairs": [{"instruction": "a?", "response": "b"}]}', ("a?", "b")),
    "choices": ("Question: Which?\nA: dog\nB: cat\nAnswer: A", ("Which? A: dog B: cat", "A")),
    "label word in the text": (
        "Question: What is the answer: yes or no? Answer: No.",
        ("What is the answer: yes or no?", "No."),
    ),
    "label quoted in the text": (
        "Question: What does 'Answer: 42' say? Answer: 42",
        ("What does 'Answer: 42' say?", "42"),
    ),
    "letter in the text": ("Q: Is vitamin A: good? A: Yes", ("Is vitamin A: good?", "Yes")),
    "quotes around": ('Question: "What is it?" Answer: "A dog"', ("What is it?", "A dog")),
    "quotes not around": ('Question: a? Answer: "Yes" or "No"', ("a?", '"Yes" or "No"')),
    "list as answer": ("*Question:* What?\n*Answer:* * a\n* b\n* c", ("What?", "* a\n* b\n* c")),
    "wide colon": ("Question：天气如何？ Answer：晴", ("天气如何？", "晴")),
    "emoji answer": ("Question: Which animal? Answer: 🐶", ("Which animal?", "🐶")),
    "line breaks in the question": ("Question: Is there\n a dog?\nAnswer: Yes", ("Is there a dog?", "Yes")),
}

FAILURES = {
    "": "empty output",
    " \n ": "empty output",
    "hello": "no question",
    "Is there a dog? Yes.": "no question",
    "Answer: yes": "no question",
    "Answer: yes\nQuestion: a?": "no answer",
    "Question: a?": "no answer",
    '{"question": "a?"}': "no answer",
    '{"answer": "b"}': "no question",
    '{"question": "a?", "answer": true}': "no answer",
    '{"question": "a?", "answer": ': "no question",
    "Question: Answer: b": "empty question",
    "Question: ... Answer: ...": "empty question",
    "Question: a? Answer:": "empty answer",
    "Question: a?\nAnswer: **": "empty answer",
    "Question: a? Answer: <image>": "image token in the text",
    "Question: a<|image_pad|> Answer: b": "image token in the text",
    "Question: <start_of_image>? Answer: b": "image token in the text",
    "Question: a? Answer: [IMG]": "image token in the text",
}


@pytest.mark.parametrize("raw, expected", PAIRS.values(), ids=PAIRS)
def test_pairs_are_found(raw, expected):
    assert parse_pair(raw) == expected


@pytest.mark.parametrize("raw", FAILURES, ids=[repr(raw) for raw in FAILURES])
def test_failures_have_a_fixed_reason(raw):
    with pytest.raises(PairParseError) as failure:
        parse_pair(raw)
    assert failure.value.reason == str(failure.value) == FAILURES[raw]


def test_what_was_formatted_is_read_back():
    generator = random.Random(0)
    words = (
        'is the dog\'s ball, red? (left) of 3 cats: 12.5 answer question a q "big" — <b> well-known {x} über'.split()
    )
    for _ in range(2000):
        question = " ".join(generator.choices(words, k=generator.randint(2, 8))) + " thing?"
        answer = "it " + " ".join(generator.choices(words, k=generator.randint(1, 20))) + " end."
        # odd quotes are taken for a lost partner, only even ones are text
        assert parse_pair(format_pair(question, answer)) == (question, answer)


MEGABYTE = 1_000_000
# Megabytes of one thing, each of which some reading would go through again and again: minutes, if not hours.
LONG = {
    "newlines": (4 * MEGABYTE * "\n" + "a", "no question"),
    "newlines in a pair": ("Question: a" + MEGABYTE * "\n" + "b Answer: c", ("a b", "c")),
    "newlines after a sentence": ("." + 2 * MEGABYTE * "\n" + "x", "no question"),
    "blank lines around a rule": ("Question: a Answer: b\n" + MEGABYTE * " \n" + "---" + MEGABYTE * "\n", ("a", "b")),
    "rules": ("Question: a\n" + 300_000 * "---\n\n" + "Answer: b", ("a", "b")),
    "spaces in a pair": ("Question: a" + MEGABYTE * " " + "b Answer: c", ("a b", "c")),
    "spaces after a label": ("Question" + MEGABYTE * " " + "x", "no question"),
    "a number and spaces": ("Question: a Answer: b. 1." + MEGABYTE * " " + "\nQuestion: c", ("a", "b.")),
    "stars": (MEGABYTE * "*" + "a", "no question"),
    "a label and stars": ("Question" + MEGABYTE * "*", "no answer"),
    "tabs": (MEGABYTE * "\t" + "a", "no question"),
    "dashes": ("Question: a Answer: b\n" + MEGABYTE * "-" + "x", ("a", f"b\n{MEGABYTE * '-'}x")),
    "questions": (100_000 * "Question:", "no answer"),
    "lines of questions": (100_000 * "Question:\n", "no answer"),
    "empty pairs": (50_000 * "Question: Answer: ", "empty question"),
    "answers": ("Question: a\n" + 200_000 * "A: b\n" + "x", ("a", "b")),
    "brackets": (4 * MEGABYTE * "{", "no question"),
    "open objects": (200_000 * '{"a":', "no question"),
    "open objects in which much stands": (900 * '{"a":' + "[" + 500_000 * "1,", "no question"),
    "open objects with a long text": (900 * '{"a":"' + MEGABYTE * "x", "no question"),
    "open lists": ('{"a":' + MEGABYTE * "[", "no question"),
    "objects in an open one": ('{"a":[' + 300_000 * "{},", "no question"),
    "quotes": (500_000 * '{"', "no question"),
    "unclosed quotes": (300_000 * '{"a', "no question"),
    "angle brackets": (MEGABYTE * "<", "no question"),
    "pieces of an image token": (250_000 * "<img", "no question"),
    "pieces of another": (250_000 * "[IMG", "no question"),
}


@pytest.mark.parametrize("raw, expected", LONG.values(), ids=LONG)
def test_long_texts_of_one_thing(raw, expected):
    try:
        assert parse_pair(raw) == expected
    except PairParseError as error:
        assert error.reason == expected


def test_an_object_after_many_that_are_none():
    """Some hundred braces that open nothing, as of LaTeX or code, do not hide the pair."""
    noise = '{ {"a" {"b": [ \\frac{a}{b} {\n' * 100
    assert parse_pair(noise + '{"x": [{"question": "Is it?", "answer": "Yes."}]}') == ("Is it?", "Yes.")


def test_rules_are_taken_out_with_the_blank_lines_around_them():
    """As one pattern says it that is slow."""
    slow = re.compile(r"^\s*(?:```\w*|-{3,}|\*{3,}|_{3,})\s*$", re.MULTILINE)
    pieces = ["\n", "\n", " ", "\t", "\r", "\u2028", "---", "----", "```", "```py", "***", "___", "*", "a", "-"]
    rng = random.Random(0)
    for _ in range(20_000):
        text = "".join(rng.choices(pieces, k=rng.randrange(12)))
        assert _without_rules(text) == slow.sub("", text), repr(text)
