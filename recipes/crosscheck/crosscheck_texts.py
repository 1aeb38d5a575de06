"""Texts in the place of a model's answers and of a judge's replies: such as they write, and such as they should not."""

import re
import zlib
from collections.abc import Mapping
from typing import Any

from c3l_hf.evaluation.benchmarks import LETTERS

__all__ = ["REPLIES", "WELL", "WRITTEN_LETTERS", "WRITTEN_YES_NO", "grade", "written"]

# Of the second run. {right} and {other} are answers: yes or no, or letters; {option} and {wrong} are options' texts.
WRITTEN_YES_NO = (
    *("{right}", "{Right}", "{other}", "{Right}.", "{Right}, there is.", "**{Right}**", "Answer: {right}", "{RIGHT}!"),
    *("Yes, there is no cat next to it.", "There is no dog.", "No, wait, yes.", "{Right} and {other}.", "Yes or no?"),
    *("", "I cannot tell.", "是", "nothing", "<think>Is it? {Other}.</think>{Right}", " {right}\n", "{Right}\n{Right}"),
)
WRITTEN_LETTERS = (
    *("{right}", "{other}", "{right}.", "({right})", "({right}) {option}", "{right}: {option}", "{right}\n"),
    *("Answer: {right}", "The answer is {right}.", "The correct answer is ({right}).", "**{right}**", "{lower}"),
    *("Option {right}", "{option}", "{wrong}", "It shows: {option}", "{right} and {other}", "{right}, {other}"),
    *(
        "Not {right}",
        "A dog and nothing else",
        "Dogs",
        "A banana",
        "Bananas",
        "",
        "E",
        "None of them.",
        "是",
        "I see {option}",
    ),
    *("<think>Is it {other}?</think>{right}", "{right}) {option}", "I think that {right} would do", "({lower})"),
    *("{right} is wrong", "The answer is {option}", "Because of the {wrong}, {right}", "{other} or {right}?"),
)
WELL = "{reference} {model}\nThe answers were compared."
# What judges write when they do not keep to the form.
REPLIES = (
    *(WELL, "{reference}, {model}", "{reference};{model}", "Assistant 1: {reference}\nAssistant 2: {model}", ""),
    *("I cannot see the picture.", "{reference}/10 {model}/10", "{reference} 11", "Scores: {reference} {model}"),
)
# The model's answer in the judge's instructions, ours and lmms-eval's.
_JUDGED = re.compile(
    r"\[(?P<mark>\w+) answer 2\]\n(?P<ours>.*)\n\[(?P=mark) end\]"
    r"|\[Assistant 2\]\n(?P<theirs>.*)\n\n\[End of Assistant 2\]",
    re.DOTALL,
)


def written(question: Mapping[str, Any], number: int) -> str:
    """The text of the second run for the question of this number; all rotations of one are of the same kind."""
    options, right = question["options"], question["answer"]
    if not options:
        forms, other = WRITTEN_YES_NO, "no" if right == "yes" else "yes"
        texts = {"option": "", "wrong": ""}
    else:
        forms, other = WRITTEN_LETTERS, LETTERS[(LETTERS.index(right) + 1) % len(options)]
        texts = {
            "option": options[LETTERS.index(right)],
            "wrong": options[LETTERS.index(other)],
            "lower": right.lower(),
        }
    said = {"right": right, "other": other, "Right": right.capitalize(), "Other": other.capitalize()}
    return forms[number % len(forms)].format(**texts, **said, RIGHT=right.upper())


def grade(body: Mapping[str, Any], replies: tuple[str, ...]) -> str:
    """What the judge's stand-in replies."""
    text = body["messages"][-1]["content"]
    if text.endswith("Your output: "):
        return "E"  # in lmms-eval's instructions for MMBench: none of the options
    match = _JUDGED.search(text)
    if match is None:
        raise ValueError("neither our instructions to a judge nor lmms-eval's; the pattern no longer fits")
    key = zlib.crc32((match["ours"] or match["theirs"] or "").strip().encode())
    return replies[key // 100 % len(replies)].format(reference=key % 4 + 7, model=key // 10 % 9 + 1)
