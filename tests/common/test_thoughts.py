"""What a model thinks before it replies is found in the marks of every family, and taken off."""

import pytest

from c3l_hf.common.thoughts import opened_thought, without_thoughts


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("a", "a"),
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),  # the prompt had opened it
        ("a<think>b</think>c<think>d", "c"),
        ("<Thinking>a", ""),
        ("◁think▷a◁/think▷b", "b"),
        ("[THINK]a[/THINK] b [THINK]c", " b "),
        ("<|channel|>analysis<|message|>a<|end|><|channel|>final<|message|>b", "b"),
    ],
)
def test_thoughts_are_taken_off(text, reply):
    assert without_thoughts(text) == reply


def test_what_a_prompt_has_opened():
    assert opened_thought("assistant\n<think>\n") == "<think>\n"
    assert opened_thought("assistant\n<think></think>") == ""
