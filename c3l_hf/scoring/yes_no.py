"""Truth and premise: how surely a model says yes to a question about a pair, with its image and without."""

import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from datasets import List, Value

from c3l_hf.common.errors import RowError
from c3l_hf.common.files import code_digest
from c3l_hf.common.names import listed
from c3l_hf.data.schema import STATUS_OK
from c3l_hf.data.turns import Pair
from c3l_hf.models.encoding import with_answer
from c3l_hf.prompts import template_texts
from c3l_hf.prompts.template_texts import fields_of
from c3l_hf.scoring import batch, pair_questions
from c3l_hf.scoring.batch import EncodedBatch, Turn, read_rows, reason_of_row
from c3l_hf.scoring.pair_questions import about_pair, columns_for
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.scoring.signals import Signal

__all__ = ["NO", "PREMISE_TEXT", "TRUTH_TEXT", "YES", "premise_signal", "truth_signal", "yes_no_features"]

TRUTH_TEXT = """Somebody was asked about this picture: {{ question }}
The reply was: {{ answer }}
Is the reply correct? Answer with Yes or No."""
PREMISE_TEXT = """Somebody asks about this picture: {{ question }}
Is everything that this question names really in the picture? Answer with Yes or No."""
# With a space in front, as a model begins its answer where the chat template has none.
YES, NO = ("Yes", "yes", " Yes", " yes"), ("No", "no", " No", " no")

_KINDS = ("logodds", "logodds_blind", "gain", "mass")


def truth_signal(
    scorer: I2CScorer, *, text: str = TRUTH_TEXT, yes: Sequence[str] = YES, no: Sequence[str] = NO, name: str = "truth"
) -> Signal:
    """Whether the model that scores takes an answer to be right, asked with the picture and without.

    ln P(yes) − ln P(no), where P(yes) = Σ_w P(w | image, text) over the words for yes, each by the chance that the
    reply begins with its tokens: where a word is one token, as in most vocabularies, that of the first token. After
    P(True) of Kadavath et al. (2022, arXiv:2207.05221), which has no picture; the part that the picture contributes is
    the difference from the pass without it.

    Columns, null where there is no number:

    - `<name>_logodds`: with the image; of several turns the mean, as the others
    - `<name>_logodds_blind`: without it, as the scorer's `blind` says
    - `<name>_gain`: the difference of the two
    - `<name>_mass`: P(yes) + P(no) with the image. Where it is small, the model would not answer with either, and its
      log-odds say little.
    - `<name>_turns`: `logodds`, `logodds_blind`, `gain`, `mass` and `status` of each assistant turn
    - `<name>_status`: "ok", or why there is no number

    It costs as much as the scores: one pass with the image and one without for each turn. The words of a turn, and the
    turns about an image, share a pass where the scorer packs; where it does not, each word (of those that differ in
    their tokens) takes one of its own.

    Args:
        scorer: Whose model, blind baseline, folder of images and way of scoring are used.
        text: What is asked, in Jinja, in place of the question: `question` and `answer` are those of the turn, other
            fields columns of the dataset. Earlier turns stay before it.
        yes: The words for yes.
        no: The words for no.
        name: What the columns' names begin with.

    Raises:
        ValueError: If the text cannot be read, or the words cannot be told apart by the model's tokens.
    """
    if not {"question", "answer"} <= fields_of(text):
        raise ValueError("text has no {{ question }} or no {{ answer }}: it asks whether an answer is right")
    return Signal(_measure(scorer, name, text, yes, no))


def premise_signal(
    scorer: I2CScorer,
    *,
    text: str = PREMISE_TEXT,
    yes: Sequence[str] = YES,
    no: Sequence[str] = NO,
    name: str = "premise",
) -> Signal:
    """Whether what a question names is in the picture, as the model that scores says: see `truth_signal`.

    A text that asks for one thing by its name is easier for a small model, with a column that has the name:
    "Is there {{ object }} in the picture?". A row that has nothing there has no number.

    Args:
        scorer: As for `truth_signal`, as `yes`, `no` and `name`.
        text: What is asked; it need not have the answer.
        yes: The words for yes.
        no: The words for no.
        name: What the columns' names begin with.

    Raises:
        ValueError: As `truth_signal`.
    """
    if not fields_of(text):
        raise ValueError("text has no field: it would ask the same about every row")
    return Signal(_measure(scorer, name, text, yes, no))


def yes_no_features(name: str) -> dict[str, Any]:
    """The columns of `truth_signal` or `premise_signal` under a name, and their types."""
    numbers = {kind: Value("float32") for kind in _KINDS}
    columns = {f"{name}_{kind}": value for kind, value in numbers.items()}
    turns = List({**numbers, "status": Value("string")})
    return {**columns, f"{name}_turns": turns, f"{name}_status": Value("string")}


@dataclass(frozen=True)
class _YesNo:
    """See `truth_signal`. The words are tokens: their ids, those for yes and those for no."""

    scorer: I2CScorer
    name: str
    text: str
    longest: str  # the word of most tokens: where it has room, all have
    words: tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]

    @property
    def features(self) -> dict[str, Any]:
        return yes_no_features(self.name)

    @property
    def image_folder(self) -> Path | None:
        return self.scorer.image_folder

    def identity(self) -> tuple[str, ...]:
        code = code_digest(sys.modules[__name__], batch, pair_questions, template_texts)
        return self.scorer.fingerprint, self.name, self.text, self.longest, repr(self.words), code

    def columns(self, names: Iterable[str]) -> tuple[str, ...]:
        return columns_for(self.text, list(names))

    def prepared(self, rows: Sequence[Mapping[str, Any]]) -> tuple[EncodedBatch, EncodedBatch]:
        asked = [[self._asked(turn, row) for turn in turns] for turns, row in zip(read_rows(rows), rows, strict=True)]
        encoded = self.scorer.encode(asked)
        # The other words are put in the place of the first: the prompt is the same, and was tokenized once.
        answers = [
            Turn(number, place, with_answer(turn.seen, ids), with_answer(turn.blind, ids), [])
            for number, turn in enumerate(encoded.turns)
            for place, ids in enumerate(itertools.chain(*self.words))
        ]
        return encoded, EncodedBatch([], answers)

    def measured(self, prepared: tuple[EncodedBatch, EncodedBatch]) -> list[dict[str, Any]]:
        encoded, answers = prepared
        logprobs = self.scorer.logprobs(answers)
        found: list[dict[int, dict[str, Any]]] = [{} for _ in encoded.reasons]
        count, split = sum(map(len, self.words)), len(self.words[0])
        for number, turn in enumerate(encoded.turns):
            of_turn = logprobs[number * count : (number + 1) * count]
            totals = np.array([[one.with_image.sum(), one.blind.sum()] for one in of_turn], np.float64)
            found[turn.row][turn.number] = _log_odds(totals[:split], totals[split:])
        return [self._columns(turns, reasons) for turns, reasons in zip(found, encoded.reasons, strict=True)]

    def to_accelerator(self, rank: int) -> None:
        self.scorer.to_accelerator(rank)

    def is_passing(self, reason: str) -> bool:
        return False

    def _asked(self, turn: Pair | RowError, row: Mapping[str, Any]) -> Pair | RowError:
        if isinstance(turn, RowError):
            return turn
        try:
            return Pair(about_pair(turn, self.text, row), self.longest, turn.images)
        except RowError as error:
            return error

    def _columns(self, turns: Mapping[int, dict[str, Any]], reasons: Sequence[str | None]) -> dict[str, Any]:
        empty = {kind: None for kind in _KINDS}
        reasons = [
            "the model's log-probabilities are not finite" if number in turns and turns[number]["gain"] is None else why
            for number, why in enumerate(reasons)
        ]
        good = [turns[number] for number, why in enumerate(reasons) if why is None]
        means = {kind: float(np.mean([turn[kind] for turn in good])) if good else None for kind in _KINDS}
        each = [
            {**(turns[number] if why is None else empty), "status": STATUS_OK if why is None else why}
            for number, why in enumerate(reasons)
        ]
        return {
            **{f"{self.name}_{kind}": value for kind, value in means.items()},
            f"{self.name}_turns": each if good else None,
            f"{self.name}_status": STATUS_OK if good else reason_of_row(reasons),
        }


def _log_odds(yes: np.ndarray, no: np.ndarray) -> dict[str, Any]:
    """The numbers of a turn from the log-probabilities of its words, (words, with and without image); None if they are
    not finite."""
    with np.errstate(invalid="ignore"):  # what is not finite is told below
        (p_yes, q_yes), (p_no, q_no) = (np.logaddexp.reduce(words, axis=0) for words in (yes, no))
        values = (p_yes - p_no, q_yes - q_no, (p_yes - p_no) - (q_yes - q_no), np.exp(np.logaddexp(p_yes, p_no)))
    finite = np.isfinite(values).all()
    return {kind: float(value) if finite else None for kind, value in zip(_KINDS, values)}


def _measure(scorer: I2CScorer, name: str, text: str, yes: Sequence[str], no: Sequence[str]) -> _YesNo:
    for_yes, for_no = _token_ids(scorer, yes, "yes"), _token_ids(scorer, no, "no")
    for (ids, word), (other_ids, other) in itertools.product(for_yes.items(), for_no.items()):
        if ids[: len(other_ids)] == other_ids or other_ids[: len(ids)] == ids:
            raise ValueError(
                f"the model's tokens of {word!r} and {other!r} begin alike, so a reply that begins with the one cannot "
                "be told from the other; give other words (yes, no)"
            )
    both = {**for_yes, **for_no}
    return _YesNo(scorer, name, text, both[max(both, key=len)], (tuple(for_yes), tuple(for_no)))


def _token_ids(scorer: I2CScorer, words: Sequence[str], which: str) -> dict[tuple[int, ...], str]:
    """The tokens of each word in an answer's place, and the word. What begins as a shorter one, or is one again, is
    left out: its chance is part of that one's."""
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    prompt = [{"role": "user", "content": "Is it so?"}]
    encoded = scorer.encode([[Pair(prompt, word, [image])] for word in words])
    found = {tuple(turn.seen.answer_ids): words[turn.row] for turn in encoded.turns}
    if not found:
        reasons = listed(sorted({str(reasons[0]) for reasons in encoded.reasons})) or "none is given"
        raise ValueError(f"no word for {which} can be put in an answer's place: {reasons}")
    shortest: dict[tuple[int, ...], str] = {}
    for ids in sorted(found, key=len):
        if not any(ids[: len(other)] == other for other in shortest):
            shortest[ids] = found[ids]
    return shortest
