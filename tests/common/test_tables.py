"""Tables as text."""

from c3l_hf.common.tables import format_table


def test_first_column_to_the_left_numbers_to_the_right():
    lines = format_table([("", "pairs", "share"), ("  all", 15_000, "1.0"), ("b", 5, "0.25")]).splitlines()
    assert lines[1].replace(" ", "").strip("-") == ""
    assert [line.split() for line in lines[2:]] == [["all", "15,000", "1.0"], ["b", "5", "0.25"]]
    assert lines[2].startswith("  all") and len({len(line) for line in lines[1:]}) == 1
    assert lines[2].index("15,000") + 6 == lines[3].index("5") + 1


def test_numbers_as_text_stay_as_they_are():
    assert "0.10" in format_table([("a", "b"), ("x", "0.10")])
    assert format_table([("a", "b")]).splitlines()[0].split() == ["a", "b"]
