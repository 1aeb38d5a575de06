"""Scored pairs → pseudo-labels: per image the best pair is chosen, the others are rejected.

`select_pseudo_labels` takes a dataset. `choose_labels` does its work, on a table without images and with the texts of
few pairs as Python objects at a time.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets

from c3l_hf.common.choices import check_choice
from c3l_hf.data.pair_columns import read_pair_columns
from c3l_hf.data.schema import PSEUDO_LABEL_FEATURES, TURNS
from c3l_hf.prompts.templates import TemplateSet
from c3l_hf.selection.columns import blocks, check_columns, encode, pieces
from c3l_hf.selection.label_choice import LEFT_OUT, RULES, TOO_FEW, Candidate, Choice, choose
from c3l_hf.selection.label_images import label_images
from c3l_hf.selection.label_prompts import ASKED_COLUMNS, Asked, by_number
from c3l_hf.selection.label_tokens import CHOSEN_TOKENS_FIELD, chosen_tokens
from c3l_hf.selection.pair_texts import PairTexts, with_earlier_turns_unread
from c3l_hf.selection.reports import QUANTILES, SelectionReport
from c3l_hf.selection.scored_pairs import (
    SCORED_PAIR_COLUMNS,
    ScoredPairs,
    quantile_ranks,
    read_scored_pairs,
    unread_rows,
)
from c3l_hf.selection.token_weights import GAIN_COLUMNS

__all__ = [
    "LABEL_COLUMNS",
    "LABEL_SCHEMA",
    "SelectionReport",
    "Within",
    "choose_labels",
    "select_pseudo_labels",
]

Within = Literal["type", "all"]
# What `choose_labels` reads besides the score column; and `ASKED_COLUMNS`, if they are there.
LABEL_COLUMNS = ("template", *SCORED_PAIR_COLUMNS)

# Of chosen pairs, for `chosen_tokens`; `TURNS` perhaps.
_TOKENS = (*GAIN_COLUMNS, TURNS)

_TEXT_FEATURES = Features({name: type for name, type in PSEUDO_LABEL_FEATURES.items() if name != "images"})
LABEL_SCHEMA = _TEXT_FEATURES.arrow_schema.remove_metadata().append(pa.field("row", pa.int64()))
_MESSAGES, _REJECTED, _SCORES = (LABEL_SCHEMA.field(name).type for name in ("chosen", "rejected", "rejected_scores"))


def select_pseudo_labels(
    dataset: Dataset,
    *,
    score: str = "i2c",
    within: Within = "type",
    max_rejected: int = 4,
    min_margin: float = 0.0,
    templates: TemplateSet | None = None,
    image_folder: str | Path | None = None,
) -> tuple[Dataset, SelectionReport]:
    """Make one pseudo-label row per image from its scored pairs: the best pair is chosen, the others are rejected.

    Pairs without a score (`i2c_status` not "ok", or a score that is null, NaN or infinite) never take part. The other
    pairs of an image that read like the chosen one, or like each other, are used once. Ties are broken by `pair_id`.

    Args:
        dataset: Scored rows in any layout of `data.layouts`, as `score_dataset` gives them: with `i2c_status` and
            `score`. `image_id`, `pair_id` and `type` count where they are there; else rows with the same image, by its
            content or path, are about one image, and all are of one type, which the report says. Conversations take
            part as a whole. `generation_prompt` and `reply_form` say what the generator was asked for each row, and how
            it replies; for rows without them a template is taken, and the report says which: that of the set "scenes"
            which the row names in `template`, as the rows of earlier versions do, else one of `templates`. Pixels are
            not decoded.
        score: Column to rank by; higher is better.
        within: "type" ranks pairs of one question type only, because scores differ more between types than within them:
            of an image with several types that type is used whose best pair stands highest among all pairs of its type
            in the dataset. "all" lets all pairs of an image compete by raw score.
        max_rejected: How many of the others are kept at most, lowest score first.
        min_margin: Images whose best minus worst score (after the other rules) is smaller are dropped.
        templates: What rows are asked for by that do not say it, see `label_prompts.Asked`; by default those of the set
            "instruct" for a pair of any kind, and for a conversation.
        image_folder: Where images are that the rows name by a relative path; by default the working folder.

    Returns:
        The rows (`images`, `image_id`, `prompt`: what the generator is asked for a pair like the chosen one, `chosen`
        and `rejected`: replies to it, in its form, `chosen_score`, `rejected_scores`, `weight`, `type`, `template`), in
        the order in which the images first appear, and the report. `images` (lists, in whatever form the pairs have
        them) and `image_row` are there if the pairs have them. `weight` is for those who want pairs of high score to
        count more in training (`C3LConfig.weight_column`): twice the quantile of the chosen score among those of its
        type, so that it is in (0, 2), with mean 1, whatever the scale of the scores. If the pairs have the scores of
        their tokens, `chosen_tokens` has those of the chosen reply, for `C3LConfig.token_weights`.

    Raises:
        TypeError: If the dataset is streamed, or a `DatasetDict`.
        ValueError: If the pairs are not as for `curate`, `generation_prompt` or `reply_form` are something else, an
            option is out of range, no image is left, or one that a row names by its path is not there.
    """
    asked = [name for name in ASKED_COLUMNS if name in dataset.column_names]
    columns = read_pair_columns(dataset, (*LABEL_COLUMNS, score, *asked), conversations=True)
    table, report = choose_labels(
        columns.table,
        score=score,
        within=within,
        max_rejected=max_rejected,
        min_margin=min_margin,
        templates=templates,
        tokens=_tokens_of(dataset),
    )
    report.assumed = [*columns.assumed, *report.assumed]
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
    templates: TemplateSet | None = None,
    tokens: Callable[[np.ndarray], pa.Table] | None = None,
) -> tuple[pa.Table, SelectionReport]:
    """`select_pseudo_labels` on a table.

    With 500,000 pairs about 100,000 images, whose prompts come as dictionaries (a table of 0.13 GB): 0.4 GB of memory
    besides the table, the labels among them, measured by `recipes/benchmarks/selection.py`.

    Args:
        table: The columns `LABEL_COLUMNS` and `score` of scored pairs, messages being plain texts, and perhaps
            `ASKED_COLUMNS`, and `UNREAD`, as `data.pair_columns` reads them of other layouts; others are not looked at.
        score: This and the other options are those of `select_pseudo_labels`.
        tokens: Reads the columns `GAIN_COLUMNS`, and `turns` if it is there, of some rows: with all rows they would be
            many times the table.

    Returns:
        The labels (`LABEL_SCHEMA`): the columns of `select_pseudo_labels` without `images`, and `row` (int64), the row
        of the chosen pair in `table`; with `tokens` also `chosen_tokens`. And the report.

    Raises:
        ValueError: As `select_pseudo_labels`.
    """
    check_choice("within", within, get_args(Within))
    if max_rejected < 1:
        raise ValueError(f"max_rejected must be at least 1, not {max_rejected}: a pseudo-label needs a rejected pair")
    if not min_margin >= 0:
        raise ValueError(f"min_margin must be at least 0, not {min_margin}")
    check_columns(table.column_names, (*LABEL_COLUMNS, score))

    texts, asked = PairTexts(table), Asked(table, templates)
    # Alone, as in a label, a question that follows earlier turns would mean something else.
    scored = read_scored_pairs(with_earlier_turns_unread(table), score)
    rank = quantile_ranks(scored.score, scored.pairs.type)
    by_image = np.argsort(scored.pairs.image, kind="stable")
    dropped, rejected_left_out = dict.fromkeys(RULES, 0), dict.fromkeys(LEFT_OUT, 0)
    parts, images_with_scores = [], 0
    for block, bounds in blocks(scored.pairs.image[by_image], texts.sizes[scored.pairs.row[by_image]]):
        positions = by_image[block]
        candidates = _read_candidates(scored, rank, texts, asked, positions, one_group=within == "all")
        outcomes = [choose(candidates[first:end], max_rejected, min_margin) for first, end in pairwise(bounds.tolist())]
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
    dropped[TOO_FEW] += images_in_all - images_with_scores

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
        usable = len(table) - sum(scored.left_out.values())
        why = "no image has two of them that differ enough"
        if not usable:
            why = "generation_status, raw and i2c_status say what became of each"
        raise ValueError(
            f"no image has a pseudo-label: of {len(table):,} rows {usable:,} are pairs with a score; {why}\n{report}"
        )
    report.quantiles = _quantiles(scored.score, parts)
    labels, report.assumed = _label_table(asked, scored, chosen, parts)
    if tokens is not None:
        column, without = _chosen_tokens(tokens, texts, asked, labels["row"].to_numpy())
        labels = labels.append_column(CHOSEN_TOKENS_FIELD, column)
        if without:
            report.assumed.append(f"{without:,} pseudo-labels have no scores of their tokens (chosen_tokens is null)")
    return labels, report


def _tokens_of(dataset: Dataset) -> Callable[[np.ndarray], pa.Table] | None:
    """Reads the scores of the tokens of some rows; None if the dataset has none."""
    columns = [name for name in _TOKENS if name in dataset.column_names]
    if not set(GAIN_COLUMNS) <= set(columns):
        return None
    scores = dataset.select_columns(columns).with_format("arrow")
    return lambda rows: scores.select(rows)[:]


def _chosen_tokens(
    tokens: Callable[[np.ndarray], pa.Table], texts: PairTexts, asked: Asked, rows: np.ndarray
) -> tuple[pa.ChunkedArray, int]:
    chunks, without = [], 0
    for piece in pieces(len(rows)):
        conversations = texts.conversations(rows[piece])
        forms = asked.forms(rows[piece], list(map(len, conversations)))
        chunk, count = chosen_tokens(tokens(rows[piece]), conversations, forms)
        chunks.append(chunk)
        without += count
    return pa.chunked_array(chunks, CHOSEN_TOKENS_FIELD.type), without


class _Part(NamedTuple):
    """The labels of some images, by column; positions among the scored pairs."""

    chosen: np.ndarray
    rejected: np.ndarray  # of all labels one after the other, lowest score first
    rejected_counts: np.ndarray  # by label
    turns: np.ndarray  # of the chosen one
    chosen_words: np.ndarray  # lengths of the answers
    rejected_words: np.ndarray
    chosen_messages: pa.Array
    rejected_messages: pa.Array


def _read_candidates(
    scored: ScoredPairs,
    rank: np.ndarray,
    texts: PairTexts,
    asked: Asked,
    positions: np.ndarray,
    one_group: bool,
) -> list[Candidate]:
    pairs = scored.pairs
    rows = pairs.row[positions]
    conversations = texts.conversations(rows)
    columns = (
        scored.score[positions].tolist(),
        pairs.ids(positions).to_pylist(),
        rank[positions].tolist(),
        [0] * len(positions) if one_group else pairs.type[positions].tolist(),
        positions.tolist(),
        conversations,
        asked.forms(rows, list(map(len, conversations))),
    )
    return [Candidate(*values) for values in zip(*columns)]


def _part(choices: list[Choice]) -> _Part:
    chosen = [choice.chosen for choice in choices]
    rejected = [pair for choice in choices for pair in choice.rejected]
    counts = np.array([len(choice.rejected) for choice in choices], np.int64)
    return _Part(
        chosen=np.array([pair.position for pair in chosen], np.int64),
        rejected=np.array([pair.position for pair in rejected], np.int64),
        rejected_counts=counts,
        turns=np.array([len(pair.turns) for pair in chosen], np.int64),
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


def _label_table(
    asked: Asked, scored: ScoredPairs, chosen: np.ndarray, parts: list[_Part]
) -> tuple[pa.Table, list[str]]:
    """The labels, and what was assumed for them."""
    pairs = scored.pairs
    rows = pairs.row[chosen]
    rejected_scores = [
        _lists(part.rejected_counts, pa.array(scored.score[part.rejected].astype(np.float32)), _SCORES)
        for part in parts
    ]
    prompts, templates, assumed = asked.prompts(rows, np.concatenate([part.turns for part in parts]))
    columns = {
        "image_id": by_number(pairs.image[chosen], pairs.image_ids.cast(pa.string())),
        "prompt": prompts,
        "chosen": pa.chunked_array([part.chosen_messages for part in parts], _MESSAGES),
        "rejected": pa.chunked_array([part.rejected_messages for part in parts], _REJECTED),
        "chosen_score": scored.score[chosen].astype(np.float32),
        "rejected_scores": pa.chunked_array(rejected_scores, _SCORES),
        "weight": (2 * quantile_ranks(scored.score[chosen], pairs.type[chosen])).astype(np.float32),
        "type": by_number(pairs.type[chosen], pa.array(pairs.types, pa.string())),
        "template": templates,
        "row": rows,
    }
    return pa.table([columns[name] for name in LABEL_SCHEMA.names], schema=LABEL_SCHEMA), assumed


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
