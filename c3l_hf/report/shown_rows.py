"""Rows in any layout → the pairs that a report shows, with the scores of their tokens."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from c3l_hf.common.errors import RowError
from c3l_hf.common.files import digest
from c3l_hf.data.layouts import IMAGE_COLUMNS, Layout, text_layout
from c3l_hf.data.messages import messages_of
from c3l_hf.data.places import image_count
from c3l_hf.data.row_texts import question_and_answer
from c3l_hf.data.schema import LANGUAGE, STATUS, STATUS_OK, TOKEN_COLUMNS, TURNS
from c3l_hf.data.stored_rows import stored_rows
from c3l_hf.data.turns import Pair, to_turns
from c3l_hf.report.content import ShownPair, ShownTurn
from c3l_hf.report.pools import Pool
from c3l_hf.selection.marks import texts_digest

__all__ = ["shown_pairs"]

NO_PAIR = "no pair"


def shown_pairs(pool: Pool, pictures: np.ndarray) -> Iterator[ShownPair]:
    """The pairs of a pool that are to be shown, in the order of its rows.

    Args:
        pool: The pool.
        pictures: Of each row the number of its picture, -1 of those that are not shown.
    """
    layout = text_layout(pool.features)
    ids, unread = pool.ids.select(["image_id", "pair_id"]), pool.ids["unread"]
    start = 0
    for table in pool.tables(None):
        shown = np.flatnonzero(pictures[start : start + len(table)] >= 0)
        numbers = (start + shown).tolist()
        start += len(table)
        if not numbers:
            continue
        rows = stored_rows(table.take(pa.array(shown)), pool.features)
        names = ids.take(pa.array(numbers)).to_pylist()
        reasons = unread.take(pa.array(numbers)).to_pylist()
        roles = _Roles(pool.labels, [name["image_id"] for name in names])
        kept = None if pool.kept is None else pc.is_in(pa.array([n["pair_id"] for n in names], pa.string()), pool.kept)
        pairs, texts_of = [], []
        for place, (number, row) in enumerate(zip(numbers, rows)):
            turns, texts, reason = _texts(row, layout)
            texts_of.append(texts)
            image_id, pair_id = names[place]["image_id"], names[place]["pair_id"] or str(number)
            pairs.append(
                ShownPair(
                    key=digest(pool.stage, image_id, pair_id, number, size=8),
                    pair_id=pair_id,
                    digest=texts_digest(*texts) if texts else "",
                    picture=int(pictures[number]),
                    stage=pool.stage,
                    status=reasons[place] or _status(row, reason),
                    turns=_with_tokens(row, turns),
                    type=_text(row.get("type")),
                    language=_text(row.get(LANGUAGE)),
                    template=_text(row.get("template")),
                    scores={name: row[name] for name in pool.scores if _is_number(row.get(name))},
                    role=roles.of(image_id, row, texts),
                    kept=None if kept is None else kept[place].as_py(),
                    raw=None if turns else _text(row.get("raw")),
                )
            )
        truth = _truth(pool, pairs, texts_of, [name["image_id"] for name in names])
        yield from (replace(pair, true=true) for pair, true in zip(pairs, truth))


def _texts(row: Mapping[str, Any], layout: Layout) -> tuple[list[tuple[int, str, str]], tuple[str, str] | None, str]:
    """(number of the turn, question, answer) of each turn, the two texts that stand for the pair, and what is wrong."""
    if any(row[name] is None for name in layout.text):
        return [], None, NO_PAIR
    row = {name: row[name] for name in layout.columns}
    try:
        if not any(name in row for name in IMAGE_COLUMNS):
            row = {**row, "images": [True] * image_count(messages_of(row, layout, None)[0])}
        turns = to_turns(row)
        texts = question_and_answer(row, layout)
    except RowError as error:
        return [], None, str(error)
    shown = []
    for number, turn in enumerate(turns):
        if isinstance(turn, Pair):
            # What stands in the prompt after the last answer before.
            answers = [place for place, message in enumerate(turn.prompt) if message["role"] == "assistant"]
            asked = turn.prompt[answers[-1] + 1 :] if answers and number else turn.prompt
            shown.append((number, "\n".join(map(_said, asked)), turn.answer))
    return shown, texts, ""


def _said(message: Mapping[str, Any]) -> str:
    """A message's text; who says it, if it is not the user."""
    content = message["content"]
    if not isinstance(content, str):
        content = "".join(item.get("text") or "" if isinstance(item, Mapping) else "" for item in content or ())
    return content if message["role"] == "user" else f"[{message['role']}] {content}"


def _status(row: Mapping[str, Any], reason: str) -> str:
    # What went wrong first is the reason of what comes later.
    for status in (row.get("generation_status"), row.get(STATUS)):
        if status is not None and status != STATUS_OK:
            return str(status)
    return reason or STATUS_OK


def _with_tokens(row: Mapping[str, Any], turns: Sequence[tuple[int, str, str]]) -> tuple[ShownTurn, ...]:
    # In others' rows columns of these names may be anything.
    tokens, divergence, logprob, blind = (
        value if isinstance(value := row.get(name), list) else () for name in TOKEN_COLUMNS
    )
    if not all(isinstance(token, str) for token in tokens):
        tokens = ()
    counts = _counts(row.get(TURNS))
    # Where nothing says whose they are, all are of the only turn.
    if not counts and len(turns) == 1:
        counts = [0] * turns[0][0] + [len(tokens)]
    if sum(counts) != len(tokens) or not len(tokens) == len(divergence) == len(logprob) == len(blind):
        return tuple(ShownTurn(question, answer) for _, question, answer in turns)
    gain = [p - q if _is_number(p) and _is_number(q) else None for p, q in zip(logprob, blind)]
    divergence = [value if _is_number(value) else None for value in divergence]
    shown = []
    for number, question, answer in turns:
        first = sum(counts[:number])
        part = slice(first, first + (counts[number] if number < len(counts) else 0))
        shown.append(ShownTurn(question, answer, tuple(tokens[part]), tuple(gain[part]), tuple(divergence[part])))
    return tuple(shown)


def _counts(turns: Any) -> list[int]:
    """Tokens of each turn, as the scorer writes them; nothing if it is no column of the scorer."""
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        return []
    counts = [turn.get("tokens") or 0 for turn in turns]
    return counts if all(isinstance(count, int) for count in counts) else []


class _Roles:
    """Which pairs pseudo-labels were made of: those with the same score and texts about the same image."""

    def __init__(self, labels: pa.Table | None, image_ids: Sequence[str | None]):
        self._labels: dict[Any, list[tuple[str, float, str]]] = {}
        if labels is not None:
            wanted = pa.array(list(dict.fromkeys(filter(None, image_ids))), pa.string())
            for label in labels.filter(pc.is_in(labels["image_id"], wanted)).to_pylist():
                said = [("chosen", label["chosen_score"], label["chosen"])]
                said += [("rejected", *one) for one in zip(label["rejected_scores"], label["rejected"])]
                self._labels.setdefault(label["image_id"], []).extend(
                    (role, score, messages[-1]["content"]) for role, score, messages in said
                )

    def of(self, image_id: str | None, row: Mapping[str, Any], texts: tuple[str, str] | None) -> str | None:
        """Each label's text is one pair's: of equal ones it is the first."""
        labels = self._labels.get(image_id, [])
        for place, (role, score, text) in enumerate(labels):
            if texts and row.get("i2c") == score and all(line in text for part in texts for line in part.split("\n")):
                del labels[place]
                return role
        return None


def _truth(
    pool: Pool,
    pairs: Sequence[ShownPair],
    texts: Sequence[tuple[str, str] | None],
    image_ids: Sequence[str | None],
) -> list[bool | None]:
    truth: list[bool | None] = [None] * len(pairs)
    known = [
        (place, pair.type, of_pair, image_id)
        for place, (pair, of_pair, image_id) in enumerate(zip(pairs, texts, image_ids))
        if pair.type is not None and of_pair is not None and image_id is not None
    ]
    if pool.are_true is not None and known:
        places, types, of_pairs, ids = zip(*known)
        for place, true in zip(places, pool.are_true(types, of_pairs, ids), strict=True):
            truth[place] = true
    return truth


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
