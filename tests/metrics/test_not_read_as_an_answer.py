"""What has the form of an answer and is none: conditions, questions, labels, refusals, thoughts."""

import time

import pytest

from c3l_hf.common.thoughts import opened_thought, without_thoughts
from c3l_hf.metrics.choice import letter
from c3l_hf.metrics.plain_text import answer_text
from c3l_hf.metrics.reading import yes_no

QUESTION = "Is there a dog in the image?\nAnswer the question using a single word or phrase."
YES_NO = [
    # Thoughts.
    ("◁think▷Yes? A cat.◁/think▷No", "no"),
    ("◁think▷Yes, I see something", None),
    ("[THINK]Yes, maybe[/THINK]No.", "no"),
    ("[THINK]\nYes, I see fur, perhaps", None),
    ("<|channel|>analysis<|message|>Yes?<|end|><|start|>assistant<|channel|>final<|message|>No", "no"),
    ("<|channel|>analysis<|message|>Yes, there is something with fur", None),
    ("<reflection>Yes I thought so</reflection>No", "no"),
    # Conditions and questions.
    ("If there were a dog, the answer would be yes.", None),
    ("Were there a dog, the answer would be yes. But there is only a cat.", None),
    ("The answer would be yes if there were a dog, but there is only a cat.", None),
    ("The answer is yes only if the animal on the left is a dog.", None),
    ("Yes, if you mean the wolf.", None),
    ("Yes?", None),
    ("No? One is on the left.", None),
    # Something else.
    ("Is there an animal? Yes. It is a cat.", None),
    ("Is there an animal? Yes. Is there a dog? No.", "no"),
    ("Is there a dog in the image? Yes.", "yes"),
    ("Yes\n\nIs there a cat?\nNo", "yes"),
    ("cat: yes", None),
    ("- person: yes", None),
    ("Cat: Yes\nDog: No", "no"),
    ("Dog absent: yes", None),
    ("Dog present: yes", "yes"),
    ('{"cat": "yes"}', None),
    ('{"reasoning": "A tail", "answer": "yes"}', "yes"),
    ('{"yes": 0.2}', None),
    ("Antwort: No", "no"),
    ("答案：No", "no"),
    # Marks.
    ("~~Yes~~ No", "no"),
    ("[ ] Yes\n[x] No", None),
    ("Yes ❌", None),
    # Refusals.
    ("No, I cannot see images.", None),
    ("No. I cannot determine that.", None),
    ("Yes, I can help you with that!", None),
    ("I cannot see the image. No", None),
    ("No, I cannot see a dog.", "no"),
    # The opposite follows.
    ("Yes, there is no dog in the image.", None),
    ("No, there is a dog in the image.", None),
    ("Yes. I don't see a dog.", None),
    ("Yes, there is no cat on it.", "yes"),
    ("No, there is a dog house.", "no"),
    ("Yes was my first thought.", None),
    # Statements that are not the answer's own, or not so.
    ("Nobody would say there is a dog.", None),
    ("I cannot confirm that there is a dog.", None),
    ("The caption says there is a dog, but it is a cat.", None),
    ("There are no dogs in the image except one.", None),
    ("There is no dog in the image's left half.", None),
    ("There is a dog that is not in the image.", None),
    ("I can see that there is a dog.", "yes"),
    ("Based on the image, no dog is visible.", "no"),
    ("A cat is there, but there is no dog.", "no"),
]
COLOURS = ["red", "blue", "a dark green", "None of the above"]
COUNTS = ["1", "2", "3", "4"]
OBJECTS = ["a cat", "a dog", "a cat and a dog", "A"]
SAMPLES = ["neither", "Solution B", "Solution A"]
ANSWERS = ["Yes", "No", "Both"]
SENTENCES = ["The man is standing.", "The man is sitting.", "The man is not standing."]
LETTERS = [
    (COLOURS, "If the car were red, the answer would be A.", None),
    (COLOURS, "If it were red, the answer would be A. The answer is B.", None),
    (COLOURS, "Is the answer A?", None),
    (COLOURS, "A?", None),
    (COLOURS, "Is the answer A? No.", None),
    (COLOURS, "Is it A? The answer is B.", "B"),
    (COLOURS, "A. Wrong.", None),
    (COLOURS, "A) incorrect", None),
    (COLOURS, "A. ❌", None),
    (COLOURS, "~~A~~ B", "B"),
    (COLOURS, "The least likely answer is A", None),
    (COLOURS, "The worst answer is A", None),
    (COLOURS, "You might choose A.", None),
    (COLOURS, "I would choose B.", "B"),
    (COLOURS, "Figure (B) shows a car.", None),
    (COLOURS, "[THINK]\nA. is it", None),
    (COLOURS, "◁think▷A?◁/think▷B", "B"),
    (COLOURS, "<|channel|>analysis<|message|>The answer is A", None),
    (COLOURS, "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>B", "B"),
    (COLOURS, "B. blue is not right.", None),
    (COLOURS, "B. blue\nThis is incorrect, because it is red.", None),
    (COLOURS, "Option B: blue – wrong", None),
    (COLOURS, "B. blue, which is not red", "B"),
    (COLOURS, "red (B)", None),
    (COLOURS, "blue (B)", "B"),
    (COUNTS, "1. I count the cars: 2", None),
    (COUNTS, "1. 2", None),
    (COUNTS, "2.", "B"),
    (COUNTS, "2. I count two cars.", None),
    (COUNTS, "The answer is 2. Or 3.", None),
    (COUNTS, "The answer is 2. I count two cars.", "B"),
    (OBJECTS, "Answer: A", None),
    (OBJECTS, "A. a cat", "A"),
    (OBJECTS, "A. a cat\nIt has whiskers.", "A"),
    (OBJECTS, "D. A", "D"),
    (SAMPLES, "Solution A is the right one.", None),
    (SAMPLES, "Solution A", "C"),
    (SAMPLES, "The answer is Solution A.", "C"),
    (ANSWERS, "Yes. No.", None),
    (ANSWERS, "No. I cannot tell.", None),
    (ANSWERS, "No. The man is sitting.", "B"),
    (["True", "False"], "B. False\nBecause it is not so.", "B"),
    (["True", "False"], "B. False, since it is not so", "B"),
    (SENTENCES, "The man is standing?", None),
    (SENTENCES, "The man is standing. This is false.", None),
    (SENTENCES, "The man is sitting. The man is not standing.", None),
    (SENTENCES, "The man is standing. He wears a hat.", "A"),
    (["Is it on?", "Is it off?"], "Is it off?", "B"),
]


@pytest.mark.parametrize("text, expected", YES_NO)
def test_yes_no(text, expected):
    assert yes_no(text, QUESTION) == expected


@pytest.mark.parametrize("options, text, expected", LETTERS)
def test_letter(options, text, expected):
    assert letter(text, options) == expected


def test_thoughts_and_tags_of_other_templates():
    assert without_thoughts("[THINK]a[/THINK] b [THINK]c") == " b "
    assert without_thoughts("<|channel|>analysis<|message|>a<|end|><|channel|>final<|message|>b") == "b"
    assert opened_thought("assistant\n[THINK]\n") == "[THINK]\n"
    assert answer_text("<conclusion>a</conclusion>b") == "a\nb" and answer_text("<b>a</b>b") == "ab"


@pytest.mark.parametrize(
    "part", ["Yes: ", "cat: ", "Is it? ", "if no, ", "<del>", "~~", "[ ] yes ", "A? ", "1. ", "I can "]
)
def test_the_time_grows_with_the_length_alone(part):
    start = time.process_time()
    text = part * (100_000 // len(part)) + " x"
    yes_no(text, QUESTION), letter(text, COUNTS)
    assert time.process_time() - start < 5  # a rule that goes back over the text for each part takes minutes
