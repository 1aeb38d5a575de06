"""Free text → yes or no, or a letter: what models write, and what must not be read as an answer."""

import time

import pytest

from c3l_hf.common.thoughts import opened_thought
from c3l_hf.metrics.choice import letter
from c3l_hf.metrics.reading import yes_no

YES = [
    "Yes",
    "yes.",
    "YES!",
    "**Yes**",
    "<b>yes</b>",
    "Yes<|im_end|>",
    " \n“Yes”",
    "(Yes)",
    "ＹＥＳ",
    "Yes\u200b",
    "Yes 👍",
    "1. Yes",
    "Yes there is",
    "Yes, yes, yes.",
    "Yes, there is no cat on it.",
    "Yes, there is no…",
    "Yes, there is no",
    "Yes! There is a cat, no dog.",
    "Yes, it is not red.",
    "Answer: yes",
    "The answer is **yes**.",
    "Is there a dog? Yes.",
    "<think>No. Or maybe? No!</think>\n\nYes",
    "it may be: no</think>yes",
]
NO = [
    "No",
    "no",
    "NO.",
    "_No_",
    "No 👎",
    "'No'",
    "No, there isn't a dog.",
    "No there is not",
    "No — none",
    "No, there is no dog, and no cat.",
    "No\nNo",
    "no, 3 dogs are outside",
    "The answer is no.",
    "I looked at it. No.",
    "I was not sure at first. No.",
    "It is not there. The answer is no.",
    "There is not a single dog, so the answer is no.",
    "I don't see one and the answer is no",
    "<think>yes</think>No",
]
NEITHER = [
    "",
    " \n ",
    "There is no dog",
    "There is no",
    "There is a dog",
    "yes and no",
    "Yes or no",
    "yes/no",
    "yes no",
    "Yes. No.",
    "No. Yes.",
    "Yes, no dog",
    "No, wait, yes",
    "No wait, there is",
    "No, wait, there is one.",
    "Yes. Actually, I cannot see",
    "Yes, but actually no",
    "Yes, the answer is no.",
    "Answer: yes. Answer: no.",
    "No, the sign says 'yes'",
    "Answer with yes or no.",
    "Neither yes nor no",
    "I cannot say yes or no.",
    "The answer is not yes",
    "It is false that the answer is yes.",
    "I'm not sure if the answer is yes",
    "I can't say whether the answer is no.",
    "Yes is wrong.",
    "“Yes” is not correct",
    "Yes, or maybe no",
    "No, or perhaps it is there",
    "The answer is no longer clear",
    "If yes, then it is a dog",
    "Not sure",
    "maybe",
    "No idea",
    "No image was given",
    "No. 5",
    "No-one is there",
    "no one",
    "Nope",
    "yesterday",
    "nothing",
    "know",
    "I cannot see",
    "Oui",
    "Ja",
    "是",
    "没有",
    "👍",
    "<think>yes",
    "A",
    "0",
]
OPTIONS = ["red", "Blue", "a dog", "None of the above"]
LETTERS = {
    "A": ["A", "a", "A.", "a)", "A. red", "A: red", "(A) something", "red", "RED.", " 'red' ", "**red**", "A\nred"],
    "B": [
        "B",
        "b",
        "(b)",
        "(B) …",
        "B. it",
        "B) blue",
        "B - blue",
        "B.blue",
        "**B**",
        "**B.** blue",
        "<b>B</b>",
        "B</s>",
        "\u200bB",
        "“B”",
        "'B'",
        "（Ｂ）",
        "[B]",
        "B because it is",
        "B, not C",
        "The answer is B",
        "The answer is B.",
        "Answer: B",
        "answer (b)",
        "Answer: B. blue",
        "Answer: blue",
        "The answer is blue.",
        "The best option is: (B)",
        "I choose B.",
        "I think that it is (B).",
        "B is correct",
        "Option B is the answer because A is wrong",
        "The shirt is blue, so\n\nB",
        "$x$ is \\boxed{B}",
        "\\boxed{\\text{B}}",
        "<think>A, or (C)?</think>B",
        "<think>A\n</think>\nThe answer is B",
        "B (blue)",
        "**B** (Blue)",
        "Answer: B (blue)",
        "B。",
        "The answer is B which is blue",
        "It is not red, so the answer is B.",
        "It isn't red but (B)",
        "The one that is not red is (B)",
        "I don't know why, but the answer is B",
    ],
    "C": ["Answer: (c)", "a dog", "A dog", "A DOG!", "The answer is a dog.", "C. A dog", "C, a dog", "Option C"],
    "D": ["Option D", "D. None of the above", "none of the above", "The answer is **D. None of the above**", "d."],
    None: [
        "",
        " ",
        "B and C",
        "B, C",
        "B. C.",
        "B.\nC.",
        "B or C",
        "B/C",
        "a, b",
        "A, B, C",
        "Both (B) and (C)",
        "The answer is A and B",
        "Answer: A. Answer: B.",
        "The answer is A. No, (B).",
        "A. red B. Blue C. a dog",
        "A. red\nB. Blue",
        "ABCD",
        "AB",
        "A cat",
        "a cat",
        "A dog and a cat",
        "A dog, B cat",
        "A red",
        "As an AI",
        "A.I. made it",
        "C-shaped",
        "B-2 bomber",
        "vitamin C",
        "U.S.A.",
        "dog(s)",
        "The plane stands at gate C. It waits.",
        "A. Blue",
        "Answer: A. a dog",
        "not (B)",
        "It isn't (B).",
        "It is not option B",
        "The answer is not B",
        "I don't think B is correct.",
        "I don't think (B) fits",
        "I do not think that the answer is B.",
        "The incorrect option is (B).",
        "The wrong answer is B.",
        "It cannot be (B).",
        "The answer should not be (B).",
        "(B) does not fit",
        "(B) can't be it",
        "Anything but (B)",
        "All except (B)",
        "Rule out (B)",
        "None of (A) fits",
        "B (red)",
        "A (large) dog",
        "(A) is incorrect",
        "E",
        "E. green",
        "Z",
        "1",
        "reddish",
        "red or blue",
        "red, Blue",
        "I cannot see",
        "I'm not sure.",
        "Yes",
        "Oui",
        "是",
        "Ja",
        "🐶",
        "<think>B",
        "The image shows a dog that is red and blue.",
    ],
}


@pytest.mark.parametrize("text", YES, ids=repr)
def test_yes(text):
    assert yes_no(text) == "yes"


@pytest.mark.parametrize("text", NO, ids=repr)
def test_no(text):
    assert yes_no(text) == "no"


@pytest.mark.parametrize("text", NEITHER, ids=repr)
def test_neither_yes_nor_no(text):
    assert yes_no(text) is None


@pytest.mark.parametrize("expected, text", [(name, text) for name, texts in LETTERS.items() for text in texts])
def test_letter(expected, text):
    assert letter(text, OPTIONS) == expected


@pytest.mark.parametrize(
    "text, options, expected",
    [
        ("B", ["red"], None),  # there is no B
        ("B", ["red", "blue"], "B"),
        ("C", ["red", "blue"], None),
        ("Z", list("abcdefghijklmnopqrstuvwxyz"), "Z"),
        ("B", ["B", "C"], None),  # the letter B, or the text of A?
        ("B", ["C", "B"], "B"),
        ("C", ["B", "C"], "B"),  # there is no option C
        ("A. B", ["B", "C"], "A"),
        ("A. C", ["B", "C"], None),
        ("red", ["red", "Red."], None),
        ("B", ["red", "red"], "B"),
        ("5", ["-5", "7"], None),
        ("-5", ["5", "-5"], "B"),
        ("3.5", ["35", "3.5"], "B"),
        ("5%", ["5", "5%"], "B"),
        ("5.", ["5", "6"], "A"),
        ("x < y", ["x > y", "x < y"], "B"),
        ("?", ["!", "?"], "B"),
        ("left-hand side", ["Left hand side", "right-hand side"], "A"),
        ("two\nlines", ["two lines", "one line"], "A"),
        ("The gate is C.", ["The gate is C", "The gate is D"], "A"),
        ("(A) road", ["a river", "(A) road"], "B"),
        ("B. Vitamin C.", ["iron", "vitamin C", "salt"], "B"),
        ("Yes.", ["yes", "no"], "A"),
        ("", ["", "b"], None),
        ("🐶", ["🐱", "🐶"], "B"),
        ("是", ["否", "是"], "B"),
    ],
)
def test_letter_with_other_options(text, options, expected):
    assert letter(text, options) == expected


@pytest.mark.parametrize("name", "ABCD")
def test_no_place_is_read_more_easily_than_another(name):
    """A form that is readable for some letters only would favour the answers at their place."""
    options = ["one", "two", "three", "four"]
    own, other = options["ABCD".index(name)], options["BCDA".index(name)]
    for form in ("{}", "({})", "{}. {own}", "{} because", "The answer is {}", "Option {}", "{} is correct", "{own}"):
        assert letter(form.format(name, own=own), options) == name, form
        assert letter(form.format(name.lower(), own=own), options) in (name, None if "correct" in form else name), form
    for form in ("{} {own}", "{} thing", "{}{}", "Type {} thing", "{}. {other}", "{} and E"):
        assert letter(form.format(name, name, own=own, other=other), options) is None, form


@pytest.mark.parametrize(
    "prompt, opened",
    [
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("ASSISTANT: <Reasoning>", "<Reasoning>"),
        ("ASSISTANT: <think>\n\n</think>\n\n", ""),
        ("What is <think>? ASSISTANT:", ""),
        ("", ""),
    ],
)
def test_a_prompt_that_opens_a_thought(prompt, opened):
    assert opened_thought(prompt) == opened
    if opened:
        assert yes_no(f"{opened}Yes. So the answer is yes.") is letter(f"{opened}A", ["red", "blue"]) is None
        assert yes_no(f"{opened}No?</think>\n\nYes.") == "yes"


@pytest.mark.parametrize("options", [[], ["x"] * 27])
def test_letter_without_options(options):
    with pytest.raises(ValueError, match=f"1 to 26 options, got {len(options)}"):
        letter("A", options)


@pytest.mark.parametrize(
    "part", ["yes ", "No, ", "<think>", "(", "A. ", " ", "\n", "answer: ", "not (B)", ".", "*", "#", "<a", "\\boxed{"]
)
def test_very_long_texts_take_no_longer_than_their_length(part):
    start = time.process_time()
    text = part * (100_000 // len(part)) + " x"
    yes_no(text), letter(text, OPTIONS)
    assert time.process_time() - start < 5  # a rule that goes back over the text for each part takes minutes
