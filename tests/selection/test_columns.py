"""Columns as selection reads them: rows in any order, wrong values named by column and row."""

import numpy as np
import pyarrow as pa
import pytest
from scored_rows import FEATURES, pair

from c3l_hf.selection import columns
from c3l_hf.selection.columns import ChunkedColumn, blocks, encode, pieces, place_in_group, text_order
from c3l_hf.selection.curation import choose_pairs
from c3l_hf.selection.pair_texts import PairTexts
from c3l_hf.selection.pseudo_labels import choose_labels
from c3l_hf.selection.random_choice import choose_random


def table_of(*pairs):
    return pa.Table.from_pylist(list(pairs), FEATURES.arrow_schema).drop_columns("images")


def test_rows_of_a_chunked_column_come_in_the_order_asked_for():
    generator = np.random.default_rng(0)
    column = pa.chunked_array([[0, 1, 2], [], [3], [4, 5, None, 7], []], pa.int64())
    for _ in range(50):
        rows = generator.integers(0, 8, generator.integers(0, 12))
        assert ChunkedColumn(column).take(rows).to_pylist() == [None if row == 6 else row for row in rows.tolist()]
    assert ChunkedColumn(column.slice(2, 3)).take(np.array([2, 0])).to_pylist() == [4, 2]


def test_equal_values_have_equal_numbers_in_the_order_of_appearance():
    codes, values = encode(pa.chunked_array([["b", "a"], [], [None, "b", "c"]]))
    assert codes.tolist() == [0, 1, -1, 0, 2] and values.to_pylist() == ["b", "a", "c"]
    assert encode(pa.chunked_array([], pa.string()))[0].tolist() == []


def test_texts_are_ordered_as_in_python():
    texts = ["b", "a", "Z", "", "ä", "犬", "🐕", "\uffff", "a\x00", "aa"]
    order = text_order(pa.array(texts)).tolist()
    assert sorted(range(len(texts)), key=order.__getitem__) == sorted(range(len(texts)), key=texts.__getitem__)


def test_places_count_within_each_group():
    assert place_in_group(np.array([3, 1, 3, 3, 1, 0])).tolist() == [0, 0, 1, 2, 1, 0]
    assert place_in_group(np.array([], np.int64)).tolist() == []


def test_blocks_cut_no_group(monkeypatch):
    monkeypatch.setattr(columns, "_BLOCK", 3)
    groups = np.array([0, 0, 1, 2, 2, 2, 2, 2, 5, 6])
    cuts = [(block.start, block.stop, bounds.tolist()) for block, bounds in blocks(groups)]
    assert cuts == [(0, 3, [0, 2, 3]), (3, 8, [0, 5]), (8, 10, [0, 1, 2])]
    assert list(blocks(groups[:0])) == [] == list(pieces(0))
    assert list(pieces(7)) == [slice(0, 3), slice(3, 6), slice(6, 7)]


def test_null_ids_and_contents_are_errors_that_name_the_row():
    good = [pair("a", k, k / 10) for k in range(3)]
    for name in ("image_id", "pair_id", "type"):
        table = table_of(*good, pair("a", 3, 1.0) | {name: None})
        for choose in (choose_pairs, choose_labels, lambda table: choose_random(table, 2)):
            with pytest.raises(ValueError, match=f"column '{name}' is null in row 3"):
                choose(table)
        # a row without a pair may be without all else
        table = table_of(*good, pair("a", 3, 1.0) | {name: None, "prompt": None})
        assert choose_pairs(table)[0].tolist() == [0, 1, 2]
        labels, report = choose_labels(table)
        assert len(labels) == 1 and report.images == (2 if name == "image_id" else 1)
        assert choose_random(table, 3).tolist() == [0, 1, 2]
    table = table_of(*good, pair("a", 3, 1.0) | {"completion": [{"role": "assistant", "content": None}]})
    for choose in (choose_pairs, choose_labels):
        with pytest.raises(ValueError, match="column 'completion', row 3: the last message of the assistant"):
            choose(table)
    labels, _ = choose_labels(table_of(good[0], pair("a", 3, 1.0) | {"template": None}))
    assert labels["template"].to_pylist() == ["general-1"]  # of the set "instruct"


def test_columns_of_a_wrong_type_are_errors():
    table = table_of(pair("a", 0, 0.0), pair("a", 1, 1.0))
    texts = table.set_column(table.column_names.index("prompt"), "prompt", [["what?", "who?"]])
    for choose in (choose_pairs, choose_labels):
        with pytest.raises(ValueError, match="column 'prompt' must have lists of messages.*not string"):
            choose(texts)
        with pytest.raises(ValueError, match="column 'template' has values of type string; a score must be a number"):
            choose(table, score="template")


def test_tables_without_rows_or_pairs():
    empty = table_of()
    for table in (empty, pa.table([pa.nulls(2) for _ in empty.schema], empty.schema.names)):
        rows, report = choose_pairs(table)
        assert rows.tolist() == [] and report.kept == 0 and report.pairs == len(table)
        assert choose_random(table, 0).tolist() == []
        with pytest.raises(ValueError, match="no image has a pseudo-label"):
            choose_labels(table)
    with pytest.raises(ValueError, match="size must be at least 0, not -1"):
        choose_random(empty, -1)


def test_scores_may_be_whole_numbers_and_ids_numbers():
    rows = [pair("a", k, float(k)) for k in range(3)]
    table = table_of(*rows)
    for name, values in {"i2c": [2, 0, 1], "image_id": [10, 9, 10], "pair_id": [1, 11, 2]}.items():
        table = table.set_column(table.column_names.index(name), name, [values])
    assert choose_pairs(table)[0].tolist() == [1, 0, 2]
    [label] = choose_labels(table)[0].to_pylist()
    assert (label["image_id"], label["row"], label["chosen_score"], label["rejected_scores"]) == ("10", 0, 2.0, [1.0])


def test_the_last_message_of_the_role_is_the_text():
    question = [{"role": "user", "content": text} for text in ("one", "two")]
    rows = [
        pair("a", 0, 0.0) | {"prompt": [*question, {"role": "system", "content": "three"}]},
        pair("a", 1, 0.0) | {"prompt": []},
        pair("a", 2, 0.0, answer="a\u00a0b  c\n"),
    ]
    texts = PairTexts(table_of(*rows))
    assert texts.questions(np.array([2, 1, 0])) == ["question 2 about a?", "", "two"]
    assert texts.answers(np.array([2])) == ["a\u00a0b  c\n"]
    assert texts.answer_words(np.array([2, 0])).tolist() == [3, 2]


def test_long_texts_are_few_in_a_piece(monkeypatch):
    monkeypatch.setattr(columns, "_BLOCK", 4)
    monkeypatch.setattr(columns, "_BYTES", 10)
    table = table_of(*(pair("a", n, 1.0, answer="x" * size) for n, size in enumerate((1, 5, 900, 1, 25, 1))))
    rows = np.arange(6)[::-1]
    texts = PairTexts(table)
    questions, answers = (texts.questions(rows), texts.answers(rows))
    assert texts.sizes[rows].tolist() == [len(q) + len(a) for q, a in zip(questions, answers, strict=True)]
    sizes = np.array([1, 5, 900, 1, 25, 1])
    assert [list(range(6))[piece] for piece in pieces(6, sizes)] == [[0, 1], [2], [3, 4, 5]]
    assert [list(range(6))[piece] for piece in pieces(6)] == [[0, 1, 2, 3], [4, 5]]
    groups = np.array([0, 0, 1, 1, 2, 3])
    assert [list(range(6))[block] for block, _ in blocks(groups, sizes)] == [[0, 1], [2, 3], [4, 5]]
