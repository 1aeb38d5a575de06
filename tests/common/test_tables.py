"""Tables as text and in Markdown; texts between marks."""

import pytest

from c3l_hf.common.tables import fill_marks, format_table, markdown_table


def test_first_column_to_the_left_numbers_to_the_right():
    lines = format_table([("", "pairs", "share"), ("  all", 15_000, "1.0"), ("b", 5, "0.25")]).splitlines()
    assert lines[1].replace(" ", "").strip("-") == ""
    assert [line.split() for line in lines[2:]] == [["all", "15,000", "1.0"], ["b", "5", "0.25"]]
    assert lines[2].startswith("  all") and len({len(line) for line in lines[1:]}) == 1
    assert lines[2].index("15,000") + 6 == lines[3].index("5") + 1


def test_numbers_as_text_stay_as_they_are():
    assert "0.10" in format_table([("a", "b"), ("x", "0.10")])
    assert format_table([("a", "b")]).splitlines()[0].split() == ["a", "b"]


def test_markdown():
    assert markdown_table([("name", "n"), ("a", 1), ("b", 2.5)]) == (
        "| name | n |\n| --- | --- |\n| a | 1 |\n| b | 2.5 |"
    )


def test_marks_are_filled():
    text = "a\n<!-- evidence: one -->\nold\n<!-- end -->\nb\n<!-- evidence: two -->\n<!-- end -->\n"
    filled = fill_marks(text, {"one": "1", "absent": "x", "two": "2"})
    assert filled == "a\n<!-- evidence: one -->\n1\n<!-- end -->\nb\n<!-- evidence: two -->\n2\n<!-- end -->\n"
    assert fill_marks(filled, {"one": "1", "two": "2"}) == filled
    with pytest.raises(ValueError, match="no <!-- end --> after <!-- evidence: one -->"):
        fill_marks("<!-- evidence: one -->\nmore", {"one": "x"})
