"""Scored pairs → pseudo-labels: per image the best pair is chosen, the others are rejected.

`select_pseudo_labels` takes a dataset. `choose_labels` does its work, on a table without images and with the texts of
few pairs as Python objects at a time.
"""

import functools
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, concatenate_datasets

from c3l_hf.common.choices import check_choice
from c3l_hf.common.errors import RowError
from c3l_hf.data.pair_columns import read_pair_columns
from c3l_hf.data.row_texts import as_one
from c3l_hf.data.schema import PSEUDO_LABEL_FEATURES
from c3l_hf.generation.reply_forms import ReplyForm
from c3l_hf.generation.templates import get_template
from c3l_hf.selection.columns import ChunkedColumn, blocks, check_columns, encode, pieces
from c3l_hf.selection.label_images import label_images
from c3l_hf.selection.pair_texts import PairTexts
from c3l_hf.selection.reports import QUANTILES, SelectionReport
from c3l_hf.selection.scored_pairs import (
    SCORED_PAIR_COLUMNS,
    ScoredPairs,
    quantile_ranks,
    read_scored_pairs,
    unread_rows,
)

__all__ = [
    "ASKED_COLUMNS",
    "LABEL_COLUMNS",
    "LABEL_SCHEMA",
    "SelectionReport",
    "Within",
    "choose_labels",
    "select_pseudo_labels",
]

Within = Literal["type", "all"]
# What `choose_labels` reads besides the score column, and what it reads if it is there.
LABEL_COLUMNS = ("template", *SCORED_PAIR_COLUMNS)
ASKED_COLUMNS = ("generation_prompt", "reply_form")

_TEXT_FEATURES = Features({name: type for name, type in PSEUDO_LABEL_FEATURES.items() if name != "images"})
LABEL_SCHEMA = _TEXT_FEATURES.arrow_schema.remove_metadata().append(pa.field("row", pa.int64()))
_MESSAGES, _REJECTED, _SCORES = (LABEL_SCHEMA.field(name).type for name in ("chosen", "rejected", "rejected_scores"))

# The rules that leave an image out, in the order in which they are applied.
_TOO_FEW = "fewer than two scored pairs"
_IDENTICAL = "all texts identical to the chosen one"
_MARGIN = "margin too small"
# Why other pairs of an image are not among its rejected ones. The last is so of a text that would be read as another
# one in a reply, as an answer with "Question:" in it.
_LEFT_OUT = (
    "same text as the chosen one",
    "same text as another",
    "above max_rejected",
    "does not fit the form of the reply",
)


def select_pseudo_labels(
    dataset: Dataset,
    *,
    score: str = "i2c",
    within: Within = "type",
    max_rejected: int = 4,
    min_margin: float = 0.0,
    image_folder: str | Path | None = None,
) -> tuple[Dataset, SelectionReport]:
    """Make one pseudo-label row per image from its scored pairs: the best pair is chosen, the others are rejected.

    Pairs without a score (`i2c_status` not "ok", or a score that is null, NaN or infinite) never take part. The other
    pairs of an image that read like the chosen one, or like each other, are used once. Ties are broken by `pair_id`.

    Args:
        dataset: Scored rows in any layout of `data.layouts`, as `score_dataset` gives them: with `i2c_status` and
            `score`. `image_id`, `pair_id`, `type` and `template` count where they are there; else rows with the same
            image, by its content or path, are about one image, all are of one type, and the instruction is that of
            "general-1", which the report says. `generation_prompt` and `reply_form` of rows that have them say what the
            generator was asked, and how it replies. Conversations take part as a whole. Pixels are not decoded.
        score: Column to rank by; higher is better.
        within: "type" ranks pairs of one question type only, because scores differ more between types than within them:
            of an image with several types that type is used whose best pair stands highest among all pairs of its type
            in the dataset. "all" lets all pairs of an image compete by raw score.
        max_rejected: How many of the others are kept at most, lowest score first.
        min_margin: Images whose best minus worst score (after the other rules) is smaller are dropped.
        image_folder: Where images are that the rows name by a relative path; by default the working folder.

    Returns:
        The rows (`images`, `image_id`, `prompt`: what the generator is asked for a pair like the chosen one, `chosen`
        and `rejected`: replies to it, in its form, `chosen_score`, `rejected_scores`, `weight`, `type`, `template`), in
        the order in which the images first appear, and the report. `images` (lists, in whatever form the pairs have
        them) and `image_row` are there if the pairs have them. `weight` is for those who want pairs of high score to
        count more in training (`C3LConfig.weight_column`): twice the quantile of the chosen score among those of its
        type, so that it is in (0, 2), with mean 1, whatever the scale of the scores.

    Raises:
        TypeError: If the dataset is streamed, or a `DatasetDict`.
        ValueError: If the pairs are not as for `curate`, a template is not known, an option is out of range, no image
            is left, or one that a row names by its path is not there.
    """
    asked = [name for name in ASKED_COLUMNS if name in dataset.column_names]
    columns = read_pair_columns(dataset, (*LABEL_COLUMNS, score, *asked), conversations=True)
    table, report = choose_labels(
        columns.table,
        score=score,
        within=within,
        max_rejected=max_rejected,
        min_margin=min_margin,
    )
    report.assumed = columns.assumed
    labels = Dataset(table.drop_columns("row"))
    images = label_images(dataset, table["row"].to_numpy(), image_folder)
    # Joining columns copies the encoded images; nothing is decoded.
    return (labels if images is None else concatenate_datasets([images, labels], axis=1)), report


def choose_labels(
    table: pa.Table,
    *,
    score: str = "i2c",
    within: Within = "type",
    max_rejected: int = 4,
    min_margin: float = 0.0,
) -> tuple[pa.Table, SelectionReport]:
    """`select_pseudo_labels` on a table.

    With 5 M pairs about 1 M images (a table of 1.3 GB): 1.7 GB of memory besides the table, the labels among them
    (2.2 GB with `within="all"`), and a minute on one core, measured by `recipes/benchmarks/selection.py`.

    Args:
        table: The columns `LABEL_COLUMNS` and `score` of scored pairs, messages being plain texts, and perhaps
            `UNREAD`, as `data.pair_columns` reads them of other layouts; others are not looked at.
        score: This and the other options are those of `select_pseudo_labels`.

    Returns:
        The labels (`LABEL_SCHEMA`): the columns of `select_pseudo_labels` without `images`, and `row` (int64), the row
        of the chosen pair in `table`. And the report.

    Raises:
        ValueError: As `select_pseudo_labels`.
    """
    check_choice("within", within, get_args(Within))
    if max_rejected < 1:
        raise ValueError(f"max_rejected must be at least 1, not {max_rejected}: a pseudo-label needs a rejected pair")
    if not min_margin >= 0:
        raise ValueError(f"min_margin must be at least 0, not {min_margin}")
    check_columns(table.column_names, (*LABEL_COLUMNS, score))

    scored, texts = read_scored_pairs(table, score), PairTexts(table)
    forms = ChunkedColumn(table["reply_form"]) if "reply_form" in table.column_names else None
    rank = quantile_ranks(scored.score, scored.pairs.type)
    by_image = np.argsort(scored.pairs.image, kind="stable")
    dropped = dict.fromkeys((_TOO_FEW, _IDENTICAL, _MARGIN), 0)
    rejected_left_out = dict.fromkeys(_LEFT_OUT, 0)
    parts, images_with_scores = [], 0
    for block, bounds in blocks(scored.pairs.image[by_image]):
        positions = by_image[block]
        candidates = _read_candidates(scored, rank, texts, forms, positions, one_group=within == "all")
        outcomes = [
            _choose(candidates[first:end], max_rejected, min_margin) for first, end in pairwise(bounds.tolist())
        ]
        images_with_scores += len(outcomes)
        choices = []
        for outcome in outcomes:
            if isinstance(outcome, str):
                dropped[outcome] += 1
            else:
                choices.append(outcome)
                for reason, count in zip(rejected_left_out, outcome.left_out):
                    rejected_left_out[reason] += count
        parts.append(_part(choices))
    images, image_ids = encode(table["image_id"])
    # Pairs whose image has no id count as those of one; rows without an image do not.
    images_in_all = len(image_ids) + bool(((images < 0) & ~unread_rows(table)).any())
    dropped[_TOO_FEW] += images_in_all - images_with_scores

    chosen = np.concatenate([np.empty(0, np.int64), *(part.chosen for part in parts)])
    report = SelectionReport(
        images=images_in_all,
        labels=len(chosen),
        pairs=len(table),
        pairs_left_out=scored.left_out,
        rejected_left_out=rejected_left_out,
        images_dropped=dropped,
        types=scored.pairs.type_counts(chosen),
    )
    if not len(chosen):
        raise ValueError(f"no image has a pseudo-label:\n{report}")
    report.quantiles = _quantiles(scored.score, parts)
    return _label_table(table, scored, chosen, parts), report


class _Candidate(NamedTuple):
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


class _Choice(NamedTuple):
    chosen: _Candidate
    rejected: list[_Candidate]
    # Of the chosen one and of the rejected, in the form of the chosen one's generator.
    replies: list[str]
    # How many others are not among the rejected, by the reasons of `_LEFT_OUT`.
    left_out: tuple[int, int, int, int]


class _Part(NamedTuple):
    """The labels of some images, by column; positions among the scored pairs."""

    chosen: np.ndarray
    rejected: np.ndarray  # of all labels one after the other, lowest score first
    rejected_counts: np.ndarray  # by label
    chosen_words: np.ndarray  # lengths of the answers
    rejected_words: np.ndarray
    chosen_messages: pa.Array
    rejected_messages: pa.Array


def _read_candidates(
    scored: ScoredPairs,
    rank: np.ndarray,
    texts: PairTexts,
    forms: ChunkedColumn | None,
    positions: np.ndarray,
    one_group: bool,
) -> list[_Candidate]:
    pairs = scored.pairs
    rows = pairs.row[positions]
    columns = (
        scored.score[positions].tolist(),
        pairs.ids(positions).to_pylist(),
        rank[positions].tolist(),
        [0] * len(positions) if one_group else pairs.type[positions].tolist(),
        positions.tolist(),
        texts.conversations(rows),
        [None] * len(rows) if forms is None else forms.take(rows).to_pylist(),
    )
    return [_Candidate(*values) for values in zip(*columns)]


def _choose(pairs: list[_Candidate], max_rejected: int, min_margin: float) -> _Choice | str:
    """The label of an image from its scored pairs, or the rule that leaves it out."""
    groups: dict[int, list[_Candidate]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    outcomes = [_choose_in_group(group, max_rejected, min_margin) for group in groups.values()]
    choices = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    if choices:
        return min(choices, key=lambda choice: (-choice.chosen.rank, choice.chosen.pair_id))
    # With several types: the rule that stopped the type that came furthest.
    return max(outcomes, key=(_TOO_FEW, _IDENTICAL, _MARGIN).index)


def _choose_in_group(pairs: list[_Candidate], max_rejected: int, min_margin: float) -> _Choice | str:
    ranked = sorted(pairs, key=lambda pair: (-pair.score, pair.pair_id))
    replies, unfit = [], 0
    while len(ranked) > 1 and not replies:
        if (reply := _reply(ranked[0], ranked[0])) is None:
            unfit += 1
            del ranked[0]
        else:
            replies.append(reply)
    if len(ranked) < 2:
        return _TOO_FEW
    chosen, *others = ranked
    chosen_text = chosen.text
    # Of equal texts the lowest score stays; a dict keeps the order.
    by_text: dict[str, _Candidate] = {}
    same_as_chosen = 0
    for pair in sorted(others, key=lambda pair: (pair.score, pair.pair_id)):
        text = pair.text
        if text == chosen_text:
            same_as_chosen += 1
        else:
            by_text.setdefault(text, pair)
    rejected: list[_Candidate] = []
    looked_at = 0
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
        return _IDENTICAL if not by_text else _TOO_FEW
    if chosen.score - rejected[0].score < min_margin:
        return _MARGIN
    same_as_another = len(others) - same_as_chosen - len(by_text)
    return _Choice(chosen, rejected, replies, (same_as_chosen, same_as_another, len(by_text) - looked_at, unfit))


def _reply(pair: _Candidate, chosen: _Candidate) -> str | None:
    """A pair as the generator of the chosen one writes it; None if it would be read as something else then."""
    try:
        return _form(chosen.form).write(pair.turns)
    except RowError:
        return None


@functools.lru_cache
def _form(text: str | None) -> ReplyForm:
    return ReplyForm() if text is None else ReplyForm.from_json(text)


def _part(choices: list[_Choice]) -> _Part:
    chosen = [choice.chosen for choice in choices]
    rejected = [pair for choice in choices for pair in choice.rejected]
    counts = np.array([len(choice.rejected) for choice in choices], np.int64)
    return _Part(
        chosen=np.array([pair.position for pair in chosen], np.int64),
        rejected=np.array([pair.position for pair in rejected], np.int64),
        rejected_counts=counts,
        chosen_words=np.array([len(pair.answer.split()) for pair in chosen], np.int64),
        rejected_words=np.array([len(pair.answer.split()) for pair in rejected], np.int64),
        chosen_messages=_messages("assistant", [choice.replies[0] for choice in choices]),
        rejected_messages=_lists(
            counts, _messages("assistant", [reply for choice in choices for reply in choice.replies[1:]]), _REJECTED
        ),
    )


def _messages(role: str, contents: list[str]) -> pa.Array:
    """For each text a list with one message."""
    fields = list(_MESSAGES.value_type)
    columns = {"role": pa.repeat(role, len(contents)), "content": pa.array(contents, pa.string())}
    message = pa.StructArray.from_arrays([columns[field.name] for field in fields], fields=fields)
    return _lists(np.ones(len(contents), np.int64), message, _MESSAGES)


def _lists(counts: np.ndarray, values: pa.Array, type: pa.DataType) -> pa.Array:
    """Values one after the other as lists of so many."""
    return pa.ListArray.from_arrays(np.r_[0, np.cumsum(counts)].astype(np.int32), values, type=type)


def _label_table(table: pa.Table, scored: ScoredPairs, chosen: np.ndarray, parts: list[_Part]) -> pa.Table:
    pairs = scored.pairs
    rows = pairs.row[chosen]
    rejected_scores = [
        _lists(part.rejected_counts, pa.array(scored.score[part.rejected].astype(np.float32)), _SCORES)
        for part in parts
    ]
    template, templates = encode(pa.chunked_array([ChunkedColumn(table["template"]).take(rows)]))
    if (template < 0).any():
        raise ValueError(f"column 'template' is null in row {rows[(template < 0).argmax()]}")
    columns = {
        "image_id": _by_number(pairs.image[chosen], pairs.image_ids.cast(pa.string())),
        "prompt": _prompts(table, rows, template, templates),
        "chosen": pa.chunked_array([part.chosen_messages for part in parts], _MESSAGES),
        "rejected": pa.chunked_array([part.rejected_messages for part in parts], _REJECTED),
        "chosen_score": scored.score[chosen].astype(np.float32),
        "rejected_scores": pa.chunked_array(rejected_scores, _SCORES),
        "weight": (2 * quantile_ranks(scored.score[chosen], pairs.type[chosen])).astype(np.float32),
        "type": _by_number(pairs.type[chosen], pa.array(pairs.types, pa.string())),
        "template": _by_number(template, templates.cast(pa.string())),
        "row": rows,
    }
    return pa.table([columns[name] for name in LABEL_SCHEMA.names], schema=LABEL_SCHEMA)


def _prompts(table: pa.Table, rows: np.ndarray, template: np.ndarray, templates: pa.Array) -> pa.ChunkedArray:
    """What the generator is asked for each of these pairs: as the row says, or the text of its template."""
    said = np.zeros(len(rows), bool)
    chunks: list[pa.Array] = []
    if "generation_prompt" in table.column_names:
        column = ChunkedColumn(table["generation_prompt"])
        chunks = [column.take(rows[piece]).cast(_MESSAGES) for piece in pieces(len(rows))]
        said = np.concatenate([said[:0], *(chunk.is_valid().to_numpy(zero_copy_only=False) for chunk in chunks)])
    if said.all() and len(rows):
        return pa.chunked_array(chunks, _MESSAGES)
    # Only the templates of the others have to be known.
    unsaid = set(np.unique(template[~said]).tolist())
    texts = [get_template(id).text if n in unsaid else "" for n, id in enumerate(templates.to_pylist())]
    known = _by_number(template, _messages("user", texts))
    if not said.any():
        return known
    return pa.chunked_array(
        [pc.if_else(pa.array(said[p]), c, k) for p, c, k in zip(pieces(len(rows)), chunks, known.chunks)]
    )


def _by_number(numbers: np.ndarray, values: pa.Array) -> pa.ChunkedArray:
    return pa.chunked_array([values.take(pa.array(numbers[piece])) for piece in pieces(len(numbers))], values.type)


def _quantiles(score: np.ndarray, parts: list[_Part]) -> dict[str, tuple[float, ...]]:
    chosen = np.concatenate([score[part.chosen] for part in parts])
    rejected = np.concatenate([score[part.rejected] for part in parts])
    counts = np.concatenate([part.rejected_counts for part in parts])
    worst = rejected[np.cumsum(counts) - counts]
    # Length must not be what ranks: a chosen answer that is always the longer one shows here.
    values = {
        "chosen score": chosen,
        "rejected score": rejected,
        "margin (best - worst)": chosen - worst,
        "chosen answer, words": np.concatenate([part.chosen_words for part in parts]),
        "rejected answer, words": np.concatenate([part.rejected_words for part in parts]),
    }
    return {name: tuple(np.quantile(series, QUANTILES).tolist()) for name, series in values.items()}
