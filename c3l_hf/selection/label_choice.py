"""The scored pairs of one image → which is chosen, which are rejected, and why others are neither."""

import functools
from typing import NamedTuple

from c3l_hf.common.errors import RowError
from c3l_hf.data.row_texts import as_one
from c3l_hf.prompts.reply_forms import ReplyForm

__all__ = ["LEFT_OUT", "RULES", "TOO_FEW", "Candidate", "Choice", "choose"]

# The rules that leave an image out, in the order in which they are applied.
TOO_FEW = "fewer than two scored pairs"
_UNFIT = "fewer than two that fit the form of the reply"
_IDENTICAL = "all texts identical to the chosen one"
_MARGIN = "margin too small"
RULES = (TOO_FEW, _UNFIT, _IDENTICAL, _MARGIN)
# Why other pairs of an image are not among its rejected ones. The last is so of a text that would be read as another
# one in a reply, as an answer with "Question:" in it.
LEFT_OUT = (
    "same text as the chosen one",
    "same text as another",
    "above max_rejected",
    "does not fit the form of the reply",
)


class Candidate(NamedTuple):
    """A pair or conversation about an image."""

    score: float
    pair_id: str
    # Rank of the score among all pairs of its type.
    rank: float
    # Pairs of equal group compete within an image.
    group: int
    position: int
    turns: list[tuple[str, str]]
    # How its generator writes replies, see `ReplyForm.to_json`; None where the rows do not say.
    form: str | None

    @property
    def text(self) -> str:
        """What is compared with others: the texts with single spaces."""
        return "\n".join(" ".join(text.split()) for turn in self.turns for text in turn)

    @property
    def answer(self) -> str:
        return as_one(self.turns)[1]


class Choice(NamedTuple):
    """The pseudo-label of an image."""

    chosen: Candidate
    rejected: list[Candidate]  # lowest score first
    # Of the chosen one and of the rejected, in the form of the chosen one's generator.
    replies: list[str]
    # How many others are not among the rejected, by the reasons of `LEFT_OUT`.
    left_out: tuple[int, int, int, int]


def choose(pairs: list[Candidate], max_rejected: int, min_margin: float) -> Choice | str:
    """The label of an image from its scored pairs, or the rule of `RULES` that leaves it out."""
    groups: dict[int, list[Candidate]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    outcomes = [_choose_in_group(group, max_rejected, min_margin) for group in groups.values()]
    choices = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    if choices:
        return min(choices, key=lambda choice: (-choice.chosen.rank, choice.chosen.pair_id))
    # With several types: the rule that stopped the type that came furthest.
    return max((outcome for outcome in outcomes if isinstance(outcome, str)), key=RULES.index)


def _choose_in_group(pairs: list[Candidate], max_rejected: int, min_margin: float) -> Choice | str:
    if len(pairs) < 2:
        return TOO_FEW
    ranked = sorted(pairs, key=lambda pair: (-pair.score, pair.pair_id))
    unfit = 0
    while (reply := _reply(ranked[0], ranked[0])) is None:
        unfit += 1
        del ranked[0]
        if len(ranked) < 2:
            return _UNFIT
    chosen, *others = ranked
    chosen_text = chosen.text
    # Of equal texts the lowest score stays; a dict keeps the order.
    by_text: dict[str, Candidate] = {}
    same_as_chosen = 0
    for pair in sorted(others, key=lambda pair: (pair.score, pair.pair_id)):
        text = pair.text
        if text == chosen_text:
            same_as_chosen += 1
        else:
            by_text.setdefault(text, pair)
    if not by_text:
        return _IDENTICAL
    rejected: list[Candidate] = []
    replies, looked_at = [reply], 0
    for pair in by_text.values():
        if len(rejected) == max_rejected:
            break
        looked_at += 1
        if (reply := _reply(pair, chosen)) is None:
            unfit += 1
        else:
            rejected.append(pair)
            replies.append(reply)
    if not rejected:
        return _UNFIT
    if chosen.score - rejected[0].score < min_margin:
        return _MARGIN
    same_as_another = len(others) - same_as_chosen - len(by_text)
    return Choice(chosen, rejected, replies, (same_as_chosen, same_as_another, len(by_text) - looked_at, unfit))


def _reply(pair: Candidate, chosen: Candidate) -> str | None:
    """A pair as the generator of the chosen one writes it; None if it would be read as something else then."""
    try:
        return _form(chosen.form).write(pair.turns)
    except RowError:
        return None


@functools.lru_cache
def _form(text: str | None) -> ReplyForm:
    return ReplyForm() if text is None else ReplyForm.from_json(text)
