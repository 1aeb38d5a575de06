"""What the page's script reads: numbers, scales, columns."""

import json

import pytest
from report_content import report_content, shown_pair

from c3l_hf.report.content import ShownTurn
from c3l_hf.report.page_data import script_json, write_pieces


def written(content, folder):
    data = write_pieces(content, folder)
    return data, {piece.name: json.loads(piece.path.read_text("utf-8")) for piece in data.pieces}


def turn(*gain, divergence=()):
    return ShownTurn("q", "a", ["a"] * len(gain), gain, divergence)


def test_columns_hold_all_pairs_and_pieces_their_texts(tmp_path):
    rows = [shown_pair(number) for number in range(250)]
    data, pieces = written(report_content(rows), tmp_path)
    assert set(pieces) == {"texts-0", "texts-1", "texts-2", "pictures-0", "pictures-1", "pictures-2", "columns-0"}
    assert [len(pieces[f"texts-{n}"]) for n in range(3)] == [100, 100, 50]
    assert pieces["texts-2"][49][0] == "pair-249"
    assert pieces["columns-0"]["key"] == [row.key for row in rows]
    types = data.head["facets"][1]
    assert types == ["type", ["count", "colour"]] and pieces["columns-0"]["facets"][1] == [0, 1] * 125
    assert data.size == sum(piece.path.stat().st_size for piece in data.pieces)


def test_scores_that_some_pairs_lack_are_null(tmp_path):
    rows = [shown_pair(0, scores={}), shown_pair(1, scores={"pmi": 1 / 3}), shown_pair(2, scores={"pmi": float("nan")})]
    data, pieces = written(report_content(rows, threshold_score="other"), tmp_path)
    assert data.head["scores"] == ["pmi"] and pieces["columns-0"]["scores"] == [[None, 0.3333333, None]]
    assert data.head["threshold_score"] is None  # no pair has it


def test_scores_stay_in_their_order(tmp_path):
    names = [f"score-{n}" for n in (5, 3, 8, 1, 9, 2)]
    rows = [shown_pair(0, scores={names[0]: 1.0}), shown_pair(1, scores=dict.fromkeys(names, 2.0))]
    data, pieces = written(report_content(rows), tmp_path)
    assert data.head["scores"] == names and pieces["columns-0"]["scores"] == [[1, 2], *[[None, 2]] * 5]


def test_numbers_of_tokens_are_short(tmp_path):
    numbers = (1.23456, -0.000123456, 1e-30, 12345.6, float("inf"), None, 2.0)
    _, pieces = written(report_content([shown_pair(0, turns=[turn(*numbers)])]), tmp_path)
    assert pieces["texts-0"][0][2][0][3] == [1.23, -0.000123, 1e-30, 12300, None, None, 2]


def test_the_scale_ends_where_half_of_the_answers_have_their_strongest_token(tmp_path):
    rows = [shown_pair(n, turns=[turn(0.0, -strongest)]) for n, strongest in enumerate((0.1, 0.23, 50.0))]
    head = written(report_content(rows), tmp_path)[0].head
    assert head["gain_scale"] == 0.3 and head["divergence_scale"] is None


def test_pictures_that_no_pair_is_about_are_left_out(tmp_path):
    content = report_content([shown_pair(3)], alike={1: [0, 1], 0: [1]})
    _, pieces = written(content, tmp_path)
    assert pieces["pictures-0"][0] is None and pieces["pictures-0"][1][:3] == ["image-1", 160, 96]
    assert pieces["columns-0"]["alike"] == [[1], [1]]


def test_the_report_s_id_is_that_of_its_rows(tmp_path):
    def identity(name, *rows):
        (tmp_path / name).mkdir()
        return write_pieces(report_content(rows), tmp_path / name).head["id"]

    first = identity("a", shown_pair(0), shown_pair(1))
    assert identity("b", shown_pair(0), shown_pair(1, scores={})) == first
    assert identity("c", shown_pair(0), shown_pair(1, digest="other texts")) != first


@pytest.mark.parametrize("text", ["</script>", "\u2028\u2029", "\ud83d", "\udc00\ud800", "\x00\x1f", "שלום", "😀"])
def test_json_of_any_text_is_utf_8_without_markup(text):
    written = script_json([text])
    written.encode("utf-8")
    assert "<" not in written and json.loads(written) == [text]


def test_numbers_that_json_does_not_have_are_refused():
    with pytest.raises(ValueError):
        script_json(float("nan"))


def test_a_status_with_a_name_or_a_number_is_whole_in_its_pair_and_one_in_the_filter(tmp_path):
    statuses = [f"the image /a/{n}.png cannot be read: it is cut off" for n in range(2)] + ["ok"]
    data, pieces = written(report_content([shown_pair(n, status=s) for n, s in enumerate(statuses)]), tmp_path)
    facets = dict(data.head["facets"])
    assert facets["status"] == ["the image cannot be read: it is cut off", "ok"]
    # As pages are sent to others, without the folders of this machine.
    told = [status.replace("/a/", "") for status in statuses]
    assert [pair[4:] for pair in pieces["texts-0"]] == [[told[0]], [told[1]], []]
