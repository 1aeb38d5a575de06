"""The likelihood of a pair's question: what the model thinks of asking it about this picture, and without one."""

import functools
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Value

from c3l_hf.common.errors import RowError
from c3l_hf.common.files import code_digest
from c3l_hf.data import row_texts
from c3l_hf.data.layouts import layout_of
from c3l_hf.data.row_images import pictures_of
from c3l_hf.data.row_texts import conversation_of
from c3l_hf.data.schema import STATUS_OK
from c3l_hf.data.turns import Pair
from c3l_hf.prompts import reply_forms, template_texts
from c3l_hf.prompts import taken as template_choice
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.prompts.taken import sets_digest, taken
from c3l_hf.prompts.templates import TemplateSet
from c3l_hf.scoring import batch
from c3l_hf.scoring.batch import EncodedBatch
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.scoring.signals import Signal

__all__ = ["QUESTION_FEATURES", "question_signal", "question_tokens", "reply_of"]

_NUMBERS = ("question_logprob", "question_logprob_blind", "question_pmi", "pair_logprob", "pair_pmi")
# The columns of `question_signal`.
QUESTION_FEATURES = {**{name: Value("float32") for name in _NUMBERS}, "question_status": Value("string")}
# What a generated row says about how it was asked for.
_ASKED = ("generation_prompt", "reply_form", "template")
_NO_PAIR = "the row has no pair"
_NOT_FOUND = "the question cannot be found in the reply's form"


def question_signal(scorer: I2CScorer, *, templates: TemplateSet | None = None) -> Signal:
    """How likely the generator's instruction makes the question of a pair, with the picture and without.

    The pair is put back as the reply that it was read from ("Question: … Answer: …") and scored after what the
    generator was asked. An answer's score is given the question, and need not see that it names what is not there;
    this one can. Of the tokens w_1 … w_n of the question within the reply, and all N of the reply:

    Columns, null where there is no number, all in nats per token:

    - `question_logprob`: (1/n) Σ_t ln p(w_t | image, instruction, reply before it); of a conversation over the tokens
      of all questions
    - `question_logprob_blind`: without the image, as the scorer's `blind` says
    - `question_pmi`: the difference of the two
    - `pair_logprob`, `pair_pmi`: likewise over all tokens of the reply
    - `question_status`: "ok", or why there is no number

    It costs as much as the scores: one pass with the image and one without for each row; those about an image share
    them where the scorer packs.

    Args:
        scorer: Whose model, blind baseline, folder of images and way of scoring are used.
        templates: What rows without `generation_prompt` are asked for by; see `prompts.taken`. By default the set
            "instruct".
    """
    return Signal(_Question(scorer, templates))


@dataclass(frozen=True)
class _Question:
    """See `question_signal`."""

    scorer: I2CScorer
    templates: TemplateSet | None

    @property
    def features(self) -> dict[str, Any]:
        return dict(QUESTION_FEATURES)

    @property
    def image_folder(self) -> Path | None:
        return self.scorer.image_folder

    def identity(self) -> tuple[str, ...]:
        code = code_digest(sys.modules[__name__], batch, row_texts, reply_forms, template_choice, template_texts)
        return self.scorer.fingerprint, sets_digest(self.templates), code

    def columns(self, names: Iterable[str]) -> tuple[str, ...]:
        names = list(names)
        return (*layout_of(names).columns, *(name for name in _ASKED if name in names))

    def prepared(self, rows: Sequence[Mapping[str, Any]]) -> tuple[EncodedBatch, list[np.ndarray | RowError]]:
        asked = [self._asked(row) for row in rows]
        encoded = self.scorer.encode([[one if isinstance(one, RowError) else one[0]] for one in asked])
        return encoded, [_chosen(turn.tokens, asked[turn.row]) for turn in encoded.turns]

    def measured(self, prepared: tuple[EncodedBatch, list[np.ndarray | RowError]]) -> list[dict[str, Any]]:
        encoded, chosen = prepared
        nothing = dict.fromkeys(_NUMBERS)
        columns = [{**nothing, "question_status": reasons[0]} for reasons in encoded.reasons]
        for turn, tokens, answer in zip(encoded.turns, chosen, self.scorer.logprobs(encoded), strict=True):
            if isinstance(tokens, RowError):
                columns[turn.row] = {**nothing, "question_status": str(tokens)}
                continue
            seen, blind = answer.with_image.double().numpy(), answer.blind.double().numpy()
            values = [seen[tokens].mean(), blind[tokens].mean(), (seen - blind)[tokens].mean()]
            values += [seen.mean(), (seen - blind).mean()]
            finite = np.isfinite(values).all()
            columns[turn.row] = {
                **(dict(zip(_NUMBERS, map(float, values))) if finite else nothing),
                "question_status": STATUS_OK
                if finite
                else answer.problem or "the model's log-probabilities are not finite",
            }
        return columns

    def to_accelerator(self, rank: int) -> None:
        self.scorer.to_accelerator(rank)

    def is_passing(self, reason: str) -> bool:
        return False

    def _asked(self, row: Mapping[str, Any]) -> tuple[Pair, list[slice]] | RowError:
        """The pair of instruction and reply, and the places of the questions in the reply; or why there is none."""
        try:
            layout = layout_of(name for name in row if name not in _ASKED)
            conversation = conversation_of({name: row[name] for name in layout.columns}, layout)
            if conversation is None:
                raise RowError(_NO_PAIR)
            prompt, form = _instruction(row, len(conversation), self.templates)
            reply, places = reply_of(form, conversation)
            return Pair(prompt, reply, pictures_of(row, layout)), places
        except RowError as error:
            return error


def _instruction(
    row: Mapping[str, Any], turns: int, templates: TemplateSet | None
) -> tuple[list[dict[str, Any]], ReplyForm]:
    """What the generator was asked for a row, and the form of its reply."""
    prompt, form = row.get("generation_prompt"), row.get("reply_form")  # as of a pseudo-label, without one the usual
    if not prompt:
        one = taken(templates, row.get("template"), turns)
        prompt, form = one.messages, one.form
    try:
        return [{"role": message["role"], "content": message["content"]} for message in prompt], _form(form)
    except (ValueError, TypeError, LookupError) as error:
        raise RowError(f"generation_prompt or reply_form cannot be read: {error}") from None


@functools.lru_cache(maxsize=256)
def _form(text: str | None) -> ReplyForm:
    return ReplyForm() if text is None else ReplyForm.from_json(text)


def reply_of(form: ReplyForm, conversation: Sequence[tuple[str, str]]) -> tuple[str, list[slice]]:
    """A conversation as a reply in a form, and where in it the questions stand.

    Raises:
        RowError: If it cannot be written in this form, or its questions cannot be found again.
    """
    reply = form.write(conversation)
    # Written once more with a word in each question's place that is nowhere else: what stands around the questions.
    words = list(itertools.islice(_words(reply), len(conversation)))
    marked = form.compose([(word, answer) for word, (_, answer) in zip(words, conversation)])
    places, rest, start = [], marked, 0
    for word, (question, _) in zip(words, conversation):
        before, found, rest = rest.partition(word)
        written = form.in_reply(question)
        if not found or not reply.startswith(before + written, start):
            raise RowError(_NOT_FOUND)
        start += len(before) + len(written)
        places.append(slice(start - len(written), start))
    if reply[start:] != rest:
        raise RowError(_NOT_FOUND)
    return reply, places


def _words(text: str) -> Iterator[str]:
    return (word for word in (f"Q{number}zx" for number in range(10_000)) if word not in text)


def _chosen(tokens: Sequence[str], asked: tuple[Pair, list[slice]] | RowError) -> np.ndarray | RowError:
    try:
        if isinstance(asked, RowError):
            raise asked
        pair, places = asked
        return question_tokens(tokens, pair.answer, places)
    except RowError as error:
        return error


def question_tokens(tokens: Sequence[str], reply: str, places: Sequence[slice]) -> np.ndarray:
    """Which of a reply's tokens have a part of the text in some places of it, blanks aside.

    Args:
        tokens: The text of each, as `models.token_texts` gives them. A token without text is a part of the character
            that the next one with text has.
        reply: What they make together, but for blanks around it.
        places: In the reply.

    Returns:
        Bool, one for each token.

    Raises:
        RowError: If they make another text, or no token is in these places.
    """
    text = "".join(tokens)
    shift = text.find(reply.strip()) - (len(reply) - len(reply.lstrip()))
    if reply.strip() not in text:
        raise RowError("the reply's tokens make another text than the reply")
    inside = np.zeros(len(text), bool)
    for place in places:
        for number in range(place.start, place.stop):
            if not reply[number].isspace() and number + shift < len(text):
                inside[number + shift] = True
    ends = np.cumsum([len(token) for token in tokens])
    chosen = np.zeros(len(tokens), bool)
    first = 0
    for number, end in enumerate(ends):
        if tokens[number]:
            chosen[first : number + 1] = inside[end - len(tokens[number]) : end].any()
            first = number + 1
    if not chosen.any():
        raise RowError("no token of the reply has a part of the question")
    return chosen
