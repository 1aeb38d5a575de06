"""What a notebook shows."""

import html
import re

import pytest
from datasets import Dataset, Image
from scored_rows import png

from c3l_hf import report


def rows(count=4):
    answers = ["<script>alert(1)</script>\" onload='x'", "plain"]
    data = [{"image": png(n), "question": f"q{n}?", "answer": answers[n % 2], "i2c": float(n)} for n in range(count)]
    return Dataset.from_list(data).cast_column("image", Image())


def test_a_page_in_a_frame_of_its_own():
    shown = report.show(rows())
    assert repr(shown) == "<report of 4 pairs; a notebook shows it>"
    text = shown._repr_html_()
    # One element, whose attributes nothing in the rows can leave.
    match = re.fullmatch(r'<iframe sandbox="([^"]*)" srcdoc="([^"<>]*)" style="[^"]*" title="report"></iframe>', text)
    assert match and "same-origin" not in match[1]
    page = html.unescape(match[2])
    assert page.startswith("<!doctype html>") and "<script>alert(1)" not in page


def test_many_rows_are_sampled_and_others_refused():
    assert repr(report.show(rows(8), num_pairs=3)).startswith("<report of 3 pairs")
    with pytest.raises(ValueError, match="cannot find pairs in the columns a"):
        report.show(Dataset.from_dict({"a": [1]}))
    with pytest.raises(TypeError, match="give a Dataset"):
        report.show([1])
    with pytest.raises(AttributeError, match="has no attribute 'shows'"):
        getattr(report, "shows")  # noqa: B009
