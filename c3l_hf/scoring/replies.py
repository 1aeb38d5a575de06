"""Agreement and a judge: questions put to a writer of replies, in this process or on a server, and what it says."""

import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from datasets import List, Value
from datasets.fingerprint import Hasher

from c3l_hf.common import thoughts, words
from c3l_hf.common.errors import RowError
from c3l_hf.common.files import code_digest, digest
from c3l_hf.common.thoughts import without_thoughts
from c3l_hf.common.words import normal_text
from c3l_hf.data.image_files import located
from c3l_hf.data.places import PLACE, places
from c3l_hf.data.row_images import as_stored
from c3l_hf.data.schema import STATUS_OK
from c3l_hf.data.status import publishable
from c3l_hf.data.turns import Pair
from c3l_hf.files.image import image_key
from c3l_hf.generation.requests import CUT_OFF, Reply, Request
from c3l_hf.generation.server import is_unanswered
from c3l_hf.prompts import template_texts
from c3l_hf.prompts.template_texts import fields_of
from c3l_hf.prompts.templates import GENERAL, Template
from c3l_hf.scoring import batch, pair_questions
from c3l_hf.scoring.batch import read_rows, reason_of_row
from c3l_hf.scoring.pair_questions import about_pair, columns_for
from c3l_hf.scoring.signals import Signal
from c3l_hf.scoring.yes_no import TRUTH_TEXT

__all__ = ["agreement_signal", "judge_signal", "reply_features", "same_text", "says_yes", "token_f1"]

NO_VERDICT = "no reply begins with yes or no"


class IdentifiedWriter(Protocol):
    """A `generation.requests.Writer` that says what its replies depend on: `ModelWriter`, `ServerWriter`."""

    def identity(self) -> str: ...

    def __call__(self, requests: Iterable[Request]) -> Any: ...


def same_text(reply: str, answer: str) -> float:
    """1 if two texts have the same words in the same order, whatever their case and punctuation; else 0."""
    return float(_normal(reply) == _normal(answer))


def token_f1(reply: str, answer: str) -> float:
    """The F1 of the words that two texts share, for open answers (SQuAD: Rajpurkar et al. 2016, arXiv:1606.05250),
    without taking articles away. A text without spaces between its words counts as one."""
    one, other = _normal(reply).split(), _normal(answer).split()
    shared = sum((Counter(one) & Counter(other)).values())
    return 2 * shared / (len(one) + len(other)) if shared else 0.0


def says_yes(reply: str, answer: str) -> float | None:
    """1 if a reply begins with yes, 0 if with no, None for others."""
    first = (_normal(reply).split() or [""])[0]
    return {"yes": 1.0, "no": 0.0}.get(first)


def agreement_signal(
    writer: IdentifiedWriter,
    *,
    k: int = 5,
    same: Callable[[str, str], float | None] = same_text,
    max_new_tokens: int = 128,
    image_folder: str | Path | None = None,
    name: str = "agreement",
) -> Signal:
    """How often a generator says the same when it is asked the question of a pair again.

    (1/k) Σ_j same(reply_j, answer), the replies sampled from the model of the writer, at its temperature (1 gives what
    the model believes). With `same_text` it is the self-consistency of Wang et al. (2023, arXiv:2203.11171) for the
    given answer. A prior that the generator is sure of, it repeats: that is not seen.

    Columns, null where there is no number:

    - `<name>`: of several turns the mean
    - `<name>_turns`: of each assistant turn `value`, `replies` (k texts) and `status`
    - `<name>_status`: "ok", or why there is no number. What no server answered is asked again by a later call.

    It costs k generated replies for each question about an image, however many answers it has among the rows of a
    batch. Several processes each need a writer of their own.

    Example:

    ```python
    agreement = agreement_signal(ModelWriter(model, processor, temperature=1.0), same=token_f1)
    scored = score_dataset(ds, agreement)
    ```

    Args:
        writer: What replies: `ModelWriter`, or a `ServerWriter` within its context. Replies that are drawn depend on
            its seed, the pictures (a file counts by its path) and the messages, not on other rows.
        k: Replies to each question.
        same: How far a reply says what the answer says, in [0, 1]; None if that cannot be told. A reply that was cut
            off counts as it is.
        max_new_tokens: Longest reply, in tokens.
        image_folder: Where images are that the rows name by a relative path.
        name: What the columns' names begin with.

    Raises:
        ValueError: If `k` or `max_new_tokens` is less than 1.
    """
    return Signal(_Replies(writer, name, None, k, same, max_new_tokens, _folder(image_folder)))


def judge_signal(
    writer: IdentifiedWriter,
    *,
    text: str = TRUTH_TEXT,
    k: int = 1,
    read: Callable[[str, str], float | None] = says_yes,
    max_new_tokens: int = 128,
    image_folder: str | Path | None = None,
    name: str = "judge",
) -> Signal:
    """What another model says of an answer, shown the picture: as a rule one behind an endpoint.

    The mean of `read` over the replies to the text that have a verdict. The columns are those of `agreement_signal`; a
    row whose replies have none has a reason. It costs k replies for each turn. What is judged is untrusted: an answer
    may persuade a judge.

    Example:

    ```python
    with ServerWriter(ServerOptions(["http://localhost:8000/v1"]), "replies.jsonl", temperature=0.0) as writer:
        judged = score_dataset(ds, judge_signal(writer))
    ```

    Args:
        writer: As for `agreement_signal`, as `k`, `max_new_tokens`, `image_folder` and `name`.
        text: What is asked, see `truth_signal`.
        k: Replies to each.
        read: Reply and answer → a number, as a grade; None if there is none.
        max_new_tokens: Longest reply, in tokens.
        image_folder: Where images are that the rows name by a relative path.
        name: What the columns' names begin with.

    Raises:
        ValueError: If the text cannot be read, or `k` or `max_new_tokens` is less than 1.
    """
    if not fields_of(text):
        raise ValueError("text has no field: it would ask the same about every row")
    return Signal(_Replies(writer, name, text, k, read, max_new_tokens, _folder(image_folder)))


def reply_features(name: str) -> dict[str, Any]:
    """The columns of `agreement_signal` or `judge_signal` under a name, and their types."""
    turn = {"value": Value("float32"), "replies": List(Value("string")), "status": Value("string")}
    return {name: Value("float32"), f"{name}_turns": List(turn), f"{name}_status": Value("string")}


@dataclass(frozen=True)
class _Asked:
    """What is asked about a batch: for each row its turns' requests, by their keys, with the answers; or reasons."""

    requests: dict[str, Request]
    rows: list[list[tuple[str, str] | RowError]]


@dataclass(frozen=True)
class _Replies:
    """See `agreement_signal`, and `judge_signal`, which has a text of its own."""

    writer: IdentifiedWriter
    name: str
    text: str | None
    k: int
    read: Callable[[str, str], float | None]
    max_new_tokens: int
    image_folder: Path | None

    def __post_init__(self) -> None:
        for name in ("k", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def features(self) -> dict[str, Any]:
        return reply_features(self.name)

    def identity(self) -> tuple[str, ...]:
        options = repr((self.name, self.text, self.k, self.max_new_tokens, self.image_folder))
        # By its code: another function of the same name reads otherwise.
        return self.writer.identity(), options, Hasher.hash(self.read), code_digest(sys.modules[__name__], *_MODULES)

    def columns(self, names: Iterable[str]) -> tuple[str, ...]:
        return columns_for(self.text or "", list(names))

    def prepared(self, rows: Sequence[Mapping[str, Any]]) -> _Asked:
        asked = _Asked({}, [])
        template = Template(self.name, GENERAL, "{{ question }}", max_new_tokens=self.max_new_tokens)
        for turns, row in zip(read_rows(rows), rows, strict=True):
            of_row: list[tuple[str, str] | RowError] = []
            for turn in turns:
                try:
                    if isinstance(turn, RowError):
                        raise turn
                    request = self._request(turn, row, template)
                    asked.requests.setdefault(request.image_id, request)
                    of_row.append((request.image_id, turn.answer))
                except RowError as error:
                    of_row.append(RowError(publishable(str(error))))
            asked.rows.append(of_row)
        return asked

    def measured(self, prepared: _Asked) -> list[dict[str, Any]]:
        replies = {request.image_id: found for request, found in self.writer(list(prepared.requests.values()))}
        return [
            self._columns([one if isinstance(one, RowError) else (replies[one[0]], one[1]) for one in turns])
            for turns in prepared.rows
        ]

    def to_accelerator(self, rank: int) -> None:
        raise ValueError("a writer of replies has its place already: map without with_rank")

    def is_passing(self, reason: str) -> bool:
        return is_unanswered(reason)

    def _request(self, turn: Pair, row: Mapping[str, Any], template: Template) -> Request:
        prompt = turn.prompt if self.text is None else about_pair(turn, self.text, row)
        messages = _with_places(prompt, len(turn.images))
        pictures = [located(image, self.image_folder) for image in turn.images]
        key = digest(repr(messages), repr([image_key(picture) for picture in pictures]), self.name)
        images = [as_stored(picture) for picture in pictures]
        return Request(0, key, template, tuple(range(self.k)), messages, images, self.max_new_tokens)

    def _columns(self, turns: Sequence[tuple[list[Reply], str] | RowError]) -> dict[str, Any]:
        each = [self._turn(turn) for turn in turns]
        values = [turn["value"] for turn in each if turn["value"] is not None]
        reasons = [None if turn["value"] is not None else turn["status"] for turn in each]
        passing = next((reason for reason in reasons if reason is not None and is_unanswered(reason)), None)
        good = bool(values) and passing is None
        return {
            self.name: float(np.mean(values)) if good else None,
            f"{self.name}_turns": each if good else None,
            f"{self.name}_status": STATUS_OK if good else passing or reason_of_row(reasons),
        }

    def _turn(self, turn: tuple[list[Reply], str] | RowError) -> dict[str, Any]:
        if isinstance(turn, RowError):
            return {"value": None, "replies": None, "status": str(turn)}
        replies, answer = turn
        texts = [without_thoughts(reply.text).strip() for reply in replies]
        problem = next((reply.problem for reply in replies if reply.problem not in (None, CUT_OFF)), None)
        values = [] if problem else [self.read(text, answer) for text in texts]
        known = [value for value in values if value is not None]
        if not known:
            return {"value": None, "replies": texts, "status": problem or NO_VERDICT}
        return {"value": float(np.mean(known)), "replies": texts, "status": STATUS_OK}


# What requests and values come from, beside this module.
_MODULES = (batch, pair_questions, template_texts, thoughts, words)


def _normal(text: str) -> str:
    return normal_text(unicodedata.normalize("NFKC", text))


def _folder(folder: str | Path | None) -> Path | None:
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"image_folder {folder} is not a folder")
    return None if folder is None else Path(folder)


def _with_places(prompt: Sequence[Mapping[str, Any]], images: int) -> list[dict[str, Any]]:
    """Messages whose contents are lists of items, with a place for each image: before the first text of the user, if
    none is given."""
    missing = images if not any(map(places, prompt)) else 0
    messages = []
    for message in prompt:
        content = message["content"]
        items = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
        if message["role"] == "user":
            items, missing = [PLACE] * missing + items, 0
        messages.append({"role": message["role"], "content": items})
    return messages
