"""Texts that would run for ever, fill the memory, or reach Python: refused at once, and the ordinary ones as ever."""

import tracemalloc

import pytest

from c3l_hf.common.errors import RowError
from c3l_hf.prompts.bounded_jinja import LONGEST, BoundedSandbox, bounded
from c3l_hf.prompts.template_texts import render

TOO_LONG, TOO_MUCH = "is longer than 1,000,000 characters", "takes more than 2,000,000 steps"
GROWING = "{% set n = namespace(x='ab', y=[1]) %}{% for i in range(40) %}"
ATTACKS = {
    "loops in loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}x",
        TOO_MUCH,
    ),
    "loops over a text": ("{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}x", TOO_MUCH),
    "a long range": ("{% for a in range(1000000000) %}{% endfor %}x", r"OverflowError"),
    "~": (GROWING + "{% set n.x = n.x ~ n.x %}{% endfor %}x", TOO_LONG),
    "+": (GROWING + "{% set n.x = n.x + n.x %}{% endfor %}x", TOO_LONG),
    "lists": (GROWING + "{% set n.y = n.y + n.y %}{% endfor %}x", TOO_LONG),
    "replace": (GROWING + "{% set n.x = n.x | replace('a', n.x ~ 'a') %}{% endfor %}x", TOO_LONG),
    "replace nothing": ("{{ x | replace('', x) }}", TOO_LONG),
    "blocks": ("{% set x %}ab{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40 + "x", TOO_LONG),
    "filtered blocks": (
        "{% set y | upper %}ab{% endset %}" + "{% set y | lower %}{{ y ~ y }}{% endset %}" * 40,
        f"{TOO_LONG}|{TOO_MUCH}",
    ),
    "join": ("{{ range(99999) | join(x) }}", TOO_LONG),
    "join of attributes": ("{{ (range(99999) | map('replace', '', x) | list) | join }}", f"{TOO_LONG}|{TOO_MUCH}"),
    "map": ("{{ range(99999) | map('string') | map('replace', '', x) | list | length }}", TOO_MUCH),
    "sum": ("{{ [[1], [2]] | sum(start=[]) }}", "sum is for numbers"),
    "work in a loop": ("{% for a in range(9999) %}{% if x | upper == a %}b{% endif %}{% endfor %}x", TOO_MUCH),
    "output": ("{% for a in range(99999) %}{{ x }}{% endfor %}", TOO_LONG),
    "powers": ("{{ 9 ** 9 ** 9 }}", "for nothing"),
    "repeated": ("{{ 'a' * 1000000000 }}", "is for numbers"),
    "classes": ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    "classes by a filter": (
        "{{ ['a'] | map(attribute='__class__') | map(attribute='__mro__') | list }}",
        "SecurityError",
    ),
    "methods": ("{{ 'a'.ljust(1000000000) }}", "SecurityError"),
    "globals": ("{{ range.__globals__ }}", "SecurityError|no value"),
}


@pytest.mark.parametrize(("text", "message"), ATTACKS.values(), ids=ATTACKS)
def test_texts_that_would_not_end(text, message):
    if message != TOO_MUCH:
        tracemalloc.start()  # which takes time for each step
    try:
        with pytest.raises(RowError, match=message):
            render(text, {"x": "x" * 20_000})
        assert tracemalloc.get_traced_memory()[1] < 40 * LONGEST  # 0 where it is not measured
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(9) }}", "there are no macros here; write it out"),
        ("{% call f() %}x{% endcall %}", "there are no macros here"),
        ("a\n{% for i in x recursive %}{{ loop(x) }}{% endfor %}", r"line 2 .* a loop calls itself \(recursive\)"),
        *(
            (f"{{{{ 'a' | {name}(9) }}}}", f"No filter named '{name}'")
            for name in ("batch", "slice", "wordwrap", "center")
        ),
    ],
)
def test_texts_that_are_not_read(text, message):
    with pytest.raises(ValueError, match=message):
        render(text, {"x": "a"})


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        (
            "{% for a in x %}{{ loop.index }}/{{ loop.length }}{{ a }}{% if not loop.last %}, {% endif %}{% endfor %}",
            "1/2p, 2/2q",
        ),
        ("{% for k, v in d.items() if v > 1 %}{{ k }}{% else %}none{% endfor %}", "b"),
        ("{% for a in [] %}{{ a }}{% else %}none{% endfor %}", "none"),
        (
            "{{ x | join(', ') }} {{ x | map('upper') | join }} {{ [1, 2] | sum }} {{ 1 + 2 }} {{ 'a' + 'b' ~ 3 }}",
            "p, q PQ 3 3 ab3",
        ),
        ("{% set y | upper %}a{{ x[0] }}{% endset %}{{ y }} {{ y | replace('A', 'b', 1) }}", "AP bP"),
        ("{{ l | join('-', attribute='n') }} {{ l | sum('n') }} {{ d | tojson }}", '1-2 3 {"a": 1, "b": 2}'),
    ],
)
def test_ordinary_texts_are_as_ever(text, rendered):
    assert render(text, {"x": ["p", "q"], "d": {"a": 1, "b": 2}, "l": [{"n": 1}, {"n": 2}]}) == rendered


def test_each_rendering_has_its_own_steps():
    text = "{% for a in range(9999) %}{% for b in range(60) %}{% endfor %}{% endfor %}x"
    assert [render(text, {}) for _ in range(2)] == ["x", "x"]
    template = BoundedSandbox().compiled("{{ range(9) | join }}")
    with bounded():
        assert template.render() == "012345678"
