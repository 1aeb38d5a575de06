"""What a model thinks before it replies, as the templates of the common families mark it: found, and taken off."""

import re

__all__ = ["opened_thought", "without_thoughts"]

# DeepSeek, Qwen and most others; Kimi-VL; Magistral; gpt-oss, where what is not in the channel "final" is thought.
_THOUGHTS = r"(?:think|thinking|thought|thoughts|reasoning|analysis|reflection)"
_THINK_END = re.compile(
    rf"</{_THOUGHTS}>|◁/think▷|\[/THINK\]|<\|channel\|>\s*final\s*(?:<\|message\|>|$)", re.IGNORECASE
)
_THINK_START = re.compile(rf"<{_THOUGHTS}>|◁think▷|\[THINK\]|<\|channel\|>\s*(?:analysis|commentary)\b", re.IGNORECASE)
_OPENED = re.compile(rf"(?:{_THINK_START.pattern})\s*$", re.IGNORECASE)


def without_thoughts(text: str) -> str:
    """A text without all up to the last `</think>` (thinking, thought, reasoning, and what stands for it in other
    templates: `[/THINK]`, `◁/think▷`, the channels of gpt-oss), and after an unclosed `<think>`."""
    return _THINK_START.split(_THINK_END.split(text)[-1])[0]


def opened_thought(prompt: str) -> str:
    """The tag that opens reasoning at the end of a prompt, with the blanks after it; "" if there is none.

    What a model writes after such a prompt is to be read with it: else reasoning that was cut off is no reasoning.
    """
    found = _OPENED.search(prompt)
    return found[0] if found else ""
