"""Texts with fields: a row's values are put in, and what a row lacks is never left out unsaid."""

import re

import pytest

from c3l_hf.common.errors import RowError
from c3l_hf.prompts.template_texts import fields_of, render, uses


def test_fields_are_the_columns_that_a_text_uses():
    text = "{% set n = namespace(i=0) %}{% for word in words %}{{ word }}{% endfor %}{{ turns }}{{ a.b }}"
    text += "{% if c %}{% endif %}"
    assert fields_of(text) == {"words", "a", "c"}
    assert uses(text, "turns") and not uses(text, "pairs")


@pytest.mark.parametrize(
    ("text", "values", "rendered"),
    [
        (" {{ caption }}\n", {"caption": "A cat."}, "A cat."),
        ("{{ n }} of {{ share }}", {"n": 3, "share": 0.5, "other": None}, "3 of 0.5"),
        ("{% if caption %}About {{ caption }}: {% endif %}go", {"caption": None}, "go"),
        ("{% if caption %}About {{ caption }}: {% endif %}go", {"caption": "  "}, "go"),
        ("{{ caption or 'nothing' }} {{ caption | default('else') }}", {}, "nothing else"),
        ("{{ words | join(', ') }}", {"words": ["a", "b"]}, "a, b"),
        ("{{ box.x }}", {"box": {"x": 1}}, "1"),
        ("{{ caption }}", {"caption": "{{ n }} <b> & {% raw"}, "{{ n }} <b> & {% raw"),
        ("{% if turns > 1 %}{{ turns }} turns{% endif %} {{ pairs }}", {"turns": 9}, "3 turns 1"),
    ],
)
def test_values_are_put_in(text, values, rendered):
    assert render(text, values, turns=3, pairs=1) == rendered


@pytest.mark.parametrize(
    ("text", "values", "reason"),
    [
        ("{{ caption }}", {}, "field 'caption' has no value"),
        ("{{ caption }}", {"caption": None}, "field 'caption' has no value"),
        ("{{ caption }}", {"caption": " \n"}, "field 'caption' has no value"),
        ("{{ n }}", {"n": float("nan")}, "field 'n' has no value"),
        ("{{ caption | upper }}", {"caption": None}, "field 'caption' has no value"),
        ("{% for word in words %}{{ word }}{% endfor %}", {"words": None}, "field 'words' has no value"),
        ("{% if a == 'b' %}c{% endif %}d", {}, "field 'a' has no value"),
        ("{{ box.y }}", {"box": {"x": 1}}, "field 'y' has no value"),
        ("{{ box.x }}", {"box": {"x": None}}, "a NoneType is no text"),
        ("{{ words }}", {"words": ["a"]}, "a list is no text"),
        ("{{ image }}", {"image": {"bytes": b"a"}}, "a dict is no text"),
        ("{{ n + 'a' }}", {"n": 1}, "the text cannot be filled in (TypeError)"),
        ("{{ ''.__class__.__mro__ }}", {}, "the text cannot be filled in (SecurityError)"),
        ("{{ words.append(1) }}", {"words": []}, "the text cannot be filled in (SecurityError)"),
        ("{% for i in range(999999999) %}{% endfor %}", {}, "the text cannot be filled in (OverflowError)"),
        ("{% if a %}b{% endif %}", {"a": None}, "the text is empty"),
        ("{{ a }}", {"a": "b\u202e"}, "the text has a control character (U+202E)"),
    ],
)
def test_what_cannot_be_put_in_has_a_reason(text, values, reason):
    with pytest.raises(RowError, match=re.escape(reason)):
        render(text, values)


@pytest.mark.parametrize("text", ["{{ a", "{% if %}", "{{ a | nosuch }}", "{% endfor %}", "{% include 'a' %}{{"])
def test_what_cannot_be_read(text):
    with pytest.raises(ValueError, match="cannot be read as Jinja"):
        fields_of(text)


@pytest.mark.parametrize(
    "text", ["{% include 'a' %}", "{% import 'a' as b %}", "{% extends a %}", "{% from 'a' import b %}"]
)
def test_a_text_takes_in_no_other(text):
    with pytest.raises(ValueError, match="takes in another"):
        fields_of(f"{text} Question: ... Answer: ...")


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 1000000000 }}",
        "{{ 9 ** 99999999 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ caption }}{% endfor %}{% endfor %}",
    ],
)
def test_no_text_grows_without_bound(text):
    with pytest.raises(RowError, match="is for numbers|has no value|longer than|cannot be filled in|no text"):
        render(text, {"caption": "a cat"}, turns=1, pairs=1)
    with pytest.raises(ValueError, match="center"):
        fields_of("{{ caption | center(1000000000) }}")
    assert render("{{ 2 * n }} {{ n % 2 }}", {"n": 3}, turns=1, pairs=1) == "6 1"
