"""What models are known to write: sentences, echoed options, further turns, markup, other scripts; hostile texts."""

import random

import pytest

from c3l_hf.metrics.choice import letter
from c3l_hf.metrics.reading import yes_no

QUESTION = "Is there a dog in the image?\nAnswer the question using a single word or phrase."
YES_NO = [
    ("There is no dog in the picture, but a cat.", "no"),
    ("I don't see any dogs in the image.", "no"),
    ("I don't see any dog.", "no"),
    ("Yes, there's a dog.", "yes"),
    ("No problem: yes", "yes"),
    ("The answer is: **Yes**.", "yes"),
    ("yes\n\nExplanation: no other animal is there.", "yes"),
    ("<think>no, hmm</think>yes", "yes"),
    ("Yes USER: What colour is it? ASSISTANT: No", "yes"),
    ("No USER: Is there a cat? ASSISTANT: Yes", "no"),
    ("Yes and no", None),
    ("not sure", None),
    ("cannot determine", None),
    ("There is a dog in the image.", "yes"),
    ("There's a dog on the sofa.", "yes"),
    ("There is no dog on the sofa.", None),
    ("There is no red dog in the image.", None),
    ("There is no dog house in the image.", None),
    ("There is a hot dog in the image.", None),
    ("There might be a dog.", None),
    ("There is a cat in the image.", None),
    ("There is no cat in the image.", None),
    ("The image does not contain a dog.", "no"),
    ("The image shows a dog.", "yes"),
    ("The image contains no dogs.", "no"),
    ("No dog is visible.", "no"),
    ("No dogs", "no"),
    ("No dogs are visible in the image.", "no"),
    ("I can see a dog.", "yes"),
    ("I cannot see any dog.", "no"),
    ("I can't see a dog here.", "no"),
    ("I cannot see the image.", None),
    ("There are two dogs.", "yes"),
    ("There aren't any dogs in this picture.", "no"),
    ("There isn't a dog in the image.", "no"),
    ("Based on the image, yes, there is a dog.", "yes"),
    ("Based on the image, no.", "no"),
    ("In the image, there is no dog.", "no"),
    ("I would say no.", "no"),
    ("I'd say yes.", "yes"),
    ("If I say yes, you laugh", None),
    ("There is a tail, so yes.", "yes"),
    ("I see no tail; so, no.", "no"),
    ('{"answer": "yes"}', "yes"),
    ("{'answer': 'No'}", "no"),
    ("Answer: No", "no"),
    ("Final answer: **No**", "no"),
    ("**Answer:** Yes", "yes"),
    ("$\\boxed{\\text{Yes}}$", "yes"),
    ("YES", "yes"),
    ("yEs", "yes"),
    ("Yes</s>No", "yes"),
    ("<|im_start|>assistant\nNo<|im_end|>\n<|im_start|>user\nYes?", "no"),
    ("ASSISTANT: yes", "yes"),
    ("Assistant: No.", "no"),
    ("No No No No", "no"),
    ("Yes Yes Yes", "yes"),
    ("no,no,no", "no"),
    ("Yes\n\nQuestion: Is there a cat in the image?\nAnswer: No", "yes"),
    ("Question: Is there a dog in the image?\nAnswer: No", "no"),
    ("Yes.No.", None),
    ("Yes (95% sure)", "yes"),
    ("No (0.98)", "no"),
    ("“No.”", "no"),
    ("`yes`", "yes"),
    ("> no", "no"),
    ("Yes;", "yes"),
    ("Yes – a brown one", "yes"),
    ("Y", None),
    ("N", None),
    ("True", None),
    ("1", None),
    ("", None),
    ("\x00yes\x00", "yes"),
    ("ＮＯ。", "no"),
    ("Sí", None),
    ("The answer to the question is yes.", "yes"),
    ("It is unclear whether there is a dog.", None),
    ("There is no doubt that there is a dog.", None),
    ("There is a dog and there is no dog.", None),
    ("I do not think there is a dog", None),
    ("No dog or cat is visible", None),
    ("It is not true that there is a dog.", None),
    ("A dog is in the image.", None),
    ("There is no way to tell.", None),
    ("No, but there is a cat", "no"),
    ("Not a dog", None),
    ("No image was given", None),
    ("There's no dog", "no"),
    ("There is a dog in the image?", None),
    ("The image shows a dog-shaped cloud.", None),
    ("There is a dog's bowl.", None),
    ("There is a dog statue.", None),
    ("I see a cat. There is no dog.", None),
    ("There are no dogs.", "no"),
    ("There is not a dog in the picture.", "no"),
    ("The picture doesn’t show any dog.", "no"),
]
OPTIONS = ["a cat", "a dog", "a bird", "two cats, one red"]
LETTERS = [
    ("(B)", "B"),
    ("B.", "B"),
    ("Answer: B", "B"),
    ("The answer is B because A is wrong", "B"),
    ("The answer is B because A is a cat", "B"),
    ("**B**", "B"),
    ("B) a red dog", "B"),
    ("Option B", "B"),
    ("\\boxed{B}", "B"),
    ("a dog", "B"),
    ("A. a cat B. a dog C. a bird Final answer: B", "B"),
    ("A. a cat\nB. a dog\nC. a bird\nD. two cats, one red\nFinal answer: B", "B"),
    ("A. a cat\nB. a dog\nC. a bird\n\nThe correct answer is B. a dog", "B"),
    ("B\nQuestion: What?\nAnswer: C", "B"),
    ("B\n\nQuestion: x\nA. u\nB. v\nAnswer: A", "B"),
    ("<think>A or C</think>B", "B"),
    ("A or B", None),
    ("A dog is in the picture.", None),
    ("A dog.", "B"),
    ("A dog", "B"),
    ("A cat", "A"),
    ("b", "B"),
    ("Ｂ", "B"),
    ("（Ｂ）", "B"),
    ("答案：B。", "B"),
    ("答案是B", "B"),
    ("正确答案是 B", "B"),
    ("选B", "B"),
    ("选择 B", "B"),
    ("two cats, one red", "D"),
    ("D. two cats, one red", "D"),
    ("D, two cats", "D"),
    ("Two cats, one red.", "D"),
    ("B USER: next", "B"),
    ("B</s>C", "B"),
    ("ASSISTANT: B", "B"),
    ("B<|im_end|>\n<|im_start|>user\nC", "B"),
    ("The correct option is (B) a dog.", "B"),
    ("The correct answer is option B.", "B"),
    ("The correct choice is B", "B"),
    ("Based on the image, the answer is B.", "B"),
    ("B: a dog", "B"),
    ("B - a dog", "B"),
    ("B\n\nExplanation: The picture shows a dog, not a cat (A).", None),
    ("B\n\nExplanation: The picture shows a dog.", "B"),
    ("[B]", "B"),
    ("{B}", "B"),
    ("$B$", "B"),
    ('"B"', "B"),
    ("'B'.", "B"),
    ("`B`", "B"),
    ("### Answer\nB", "B"),
    ("**Answer:** B", "B"),
    ("**Final Answer**: (B)", "B"),
    ("Final answer: **B. a dog**", "B"),
    ("I choose option B.", "B"),
    ("I would go with B.", "B"),
    ("My answer: B", "B"),
    ('{"answer": "B"}', "B"),
    ("Answer:B", "B"),
    ("answer is: B", "B"),
    ("Respuesta: B", "B"),
    ("Antwort: B", "B"),
    ("B,", "B"),
    ("B;", "B"),
    ("B!", "B"),
    ("The answer is a dog", "B"),
    ("The answer is: a dog.", "B"),
    ("It's a dog.", "B"),
    ("The animal is a dog.", None),
    ("I think it is a dog", None),
    ("I cannot tell", None),
    ("None of the above", None),
    ("A and B", None),
    ("A/B", None),
    ("E", None),
    ("The answer is E", None),
    ("(A) a cat, (B) a dog", None),
    ("Looking at each option:\nA. a cat - no\nB. a dog - yes\nThe answer is B", "B"),
    ("Option A is wrong. Option C is wrong. So the answer is B.", "B"),
    ("A is incorrect. B is correct.", "B"),
    ("The answer is not A, but B", None),
    ("The answer is <b>B</b>", "B"),
    ("Ответ: B", "B"),
    ("答えはB", "B"),
    ("B. A dog\n\nThe dog is brown.", "B"),
    ("B a dog", None),
    ("B A dog", None),
    ("b. A Dog", "B"),
    ("①", None),
    ("2", None),
    ("The answer is therefore B.", "B"),
    ("Therefore, the correct answer is:\n\n**B. a dog**", "B"),
    ("Therefore, the correct answer is\n$$\\boxed{B}$$", "B"),
    ("B or C? I say B", None),
    ("The best answer is B, since a dog is seen.", "B"),
    ("答案：Ｂ", "B"),
    ("Answer: (B) a dog\n", "B"),
    ("The answer is\nB", "B"),
    ("A\nB", None),
    ("A. a cat\nB. a dog", None),
    ("Choices: A. a cat B. a dog. Answer: B", "B"),
    ("Answer: B. a dog. Explanation: it has a tail", "B"),
    ("The answer is B. Wait, A.", None),
    ("The answer is B. No, A is correct.", None),
    ("I first thought A, then C. The answer is B.", None),
    ("(A) is incorrect and (C) too. The answer is (B).", "B"),
    ("(A) or (B)? The answer is (C)", "C"),
    ("A. a cat\nB. a dog\nThe answer is not B.", None),
    ("A. a cat\nB. a dog\nC. a bird\nAnswer: A\nAnswer: C", None),
    ("答案不是B", None),
    ("不选B", None),
    ("选项B", "B"),
    ("正确选项是：B", "B"),
    ("答案：B\n解析：A是猫", "B"),
    ("A. a cat? No.\nB. a dog? Yes.", None),
    ("The answer is B, not A.", "B"),
    ("The answer is a cat because it purrs", None),
    ("I don't think the answer is a dog.", None),
    ("A dog\n\nThe picture has one.", "B"),
    ("a dog or a cat", None),
    ("C. a dog\nsomething", None),
    ("A cat sits next to a dog.", None),
    ("[[B]]", "B"),
    ("<answer> B. a dog </answer>", "B"),
    ("<|begin_of_box|>B<|end_of_box|>", "B"),
    ("B\n\nB\n\nB", "B"),
    ("Ans: B", "B"),
    ("The answer could be A or B. The answer is B", "B"),
    ("The final answer is $\\boxed{B}$.", "B"),
    ("\\boxed{B. a dog}", "B"),
    ("\\boxed{a dog}", "B"),
    ("All of the above", None),
    ("A & B", None),
    ("I cannot say whether the answer is A.", None),
    ("I'm not sure if the answer is B.", None),
    ("If the answer is B, there is a dog.", None),
    ("I do not know if it barks, but the answer is B.", "B"),
    ("C: a dog", None),
    ("Neither A nor B", None),
    ("Let's look at the options:\nA. a cat: no fur.\nB. a dog: a tail.\nSo the correct answer is B.", "B"),
    ("Between A and B, the answer is B.", "B"),
]
TEN = [f"option {number}" for number in range(10)]
TEN_LETTERS = [
    ("I", "I"),
    ("I think it is a dog", None),
    ("I am not sure", None),
    ("(I)", "I"),
    ("Answer: I", "I"),
    ("I, personally, cannot say", None),
    ("I'm", None),
    ("Answer: I cannot tell", None),
    ("I choose C", "C"),
    ("I say (C)", "C"),
    ("I, J", None),
]
PARTS = [
    *("yes ", "No, ", "<think>", "(", "A. ", "\n", "answer: ", "not (B)", "-\n", "$", "答案", "USER: x ", "<|im_end|>"),
    *("I say ", "there is no dog ", "answer is therefore ", "(B) ", "B, ", "B (xx ", "It is ", "(A) is wrong. "),
    *("Question:\n", "\\boxed{", "<|im_start|>user\n", "the answer is B. A. red ", "\x00", "**", "B wait "),
]


@pytest.mark.parametrize("text, expected", YES_NO)
def test_yes_no(text, expected):
    assert yes_no(text, QUESTION) == expected


def test_enough_habits_are_known():
    assert len(YES_NO) >= 60 and len(LETTERS) >= 60
    for table in (YES_NO, LETTERS):
        assert 20 <= sum(expected is None for _, expected in table)


@pytest.mark.parametrize("text, expected", YES_NO)
def test_without_its_question_a_sentence_is_no_answer(text, expected):
    """And a word is the same answer: what the question adds is what has neither word."""
    assert yes_no(text) in (None, expected)
    assert yes_no(text, "Which colour is it?") == yes_no(text)


@pytest.mark.parametrize("text, expected", LETTERS)
def test_letter(text, expected):
    assert letter(text, OPTIONS) == expected


@pytest.mark.parametrize("text, expected", TEN_LETTERS)
def test_the_pronoun_is_no_option(text, expected):
    assert letter(text, TEN) == expected


@pytest.mark.parametrize("name", "ABCD")
def test_no_place_is_favoured_by_how_an_answer_is_wrapped(name):
    options = ["one", "two", "three", "four"]
    listed = "\n".join(f"{key}. {text}" for key, text in zip("ABCD", options))
    forms = ["{}\nQuestion: Next?\nAnswer: D", "ASSISTANT: {}", "{}</s>B", listed + "\nFinal answer: {}", "答案：{}。"]
    for form in [*forms, "$\\boxed{{{}}}$", "[[{}]]", '{{"answer": "{}"}}', "Option A or B? The answer is ({})"]:
        assert letter(form.format(name), options) == name, form


def test_readers_never_raise_and_read_only_what_there_is():
    generator = random.Random(0)
    words = [text for text, _ in (*YES_NO, *LETTERS)] + [*PARTS, "\ud800", "\u202e", "😀", "İ", "ß" * 9]
    for _ in range(3000):
        text = "".join(generator.choice(words)[: generator.choice([3, 9, 99])] for _ in range(generator.randint(0, 6)))
        assert yes_no(text) in ("yes", "no", None) and yes_no(text, QUESTION) in ("yes", "no", None)
        assert letter(text, OPTIONS[:2]) in ("A", "B", None)


@pytest.mark.parametrize("part", PARTS)
def test_long_texts_are_read_at_all(part):
    """A rule that goes back over the text for each part of it would take minutes."""
    text = part * (100_000 // len(part)) + " x"
    assert yes_no(text, QUESTION) in ("yes", "no", None) and letter(text, OPTIONS) in (*"ABCD", None)
