"""What of a model's text is its answer: without reasoning, later turns, tags and markdown."""

import pytest

from c3l_hf.common.thoughts import without_thoughts
from c3l_hf.metrics.plain_text import answer_text, plain, without_marks


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("B", "B"),
        ("B USER: What next? ASSISTANT: C", "B"),
        ("B\nQuestion: What next?\nAnswer: C", "B"),
        ("B\n\n### Human: What next?", "B"),
        ("B\nQ2: What?", "B"),
        ("B</s>C", "B"),
        ("B<|im_end|>\n<|im_start|>user\nWhat?<|im_end|>", "B"),
        ("<|im_start|>assistant\nB<|im_end|>", "B"),
        ("<start_of_turn>model\nB<end_of_turn>", "B"),
        ("<|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|>", "B"),
        ("<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nB", "B"),
        ("[INST] [/INST] B", "B"),
        ("ASSISTANT: B", "B"),
        # Its own question, repeated, and words that begin no turn.
        ("Question: What?\nAnswer: B", "Question: What?\nAnswer: B"),
        ("The user: he sits. A question: why?", "The user: he sits. A question: why?"),
        ("", ""),
        ("</s>", ""),
        ("<think>USER: x</think>B", "B"),
    ],
)
def test_the_first_turn_is_the_answer(text, answer):
    assert answer_text(text) == answer


def test_what_is_no_part_of_a_text():
    assert plain(" **a**  <b>b</b>\n\n\u200bc ＤＥ ") == "a b\nc DE"
    assert plain("$B$") == "B" and plain("$5 and $6") == "$5 and $6" and plain("\\boxed{\\text{B}}") == "B"
    assert without_thoughts("a<think>b</think>c<think>d") == "c"
    assert without_marks("**8** <b>`9`</b>") == "8 <b>9</b>"
