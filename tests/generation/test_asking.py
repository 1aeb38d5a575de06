"""What is asked about each image: templates that are drawn, fields of the row, and rows that nothing is asked about."""

from collections import Counter

import pytest
from datasets import Dataset, Features, Image, List, Value
from scored_rows import png

from c3l_hf.common.errors import RowError
from c3l_hf.generation.asking import draw_templates, requests_of
from c3l_hf.prompts.template_files import load_templates
from c3l_hf.prompts.templates import Template, TemplateSet

FIELDS = TemplateSet(
    "mine",
    (
        Template("short-1", "short", "About {{ caption }}?"),
        Template("long-1", "long", "Tell.{% if note %} Note: {{ note }}{% endif %}", system="You see {{ caption }}."),
    ),
)


def images(*rows):
    """Rows of (image_id, pictures, caption, note)."""
    values = [
        {
            "image_id": image_id,
            "images": pictures and [p and {"bytes": p, "path": None} for p in pictures],
            "caption": caption,
            "note": note,
        }
        for image_id, pictures, caption, note in rows
    ]
    texts = {name: Value("string") for name in ("image_id", "caption", "note")}
    return Dataset.from_list(values, features=Features({**texts, "images": List(Image())}))


def asked(dataset, templates=FIELDS, types=("short", "long"), **options):
    options = {"pairs_per_image": 2, "types_per_image": 2, "seed": 0} | options
    return list(requests_of(dataset, templates, types, **options))


def test_fields_of_the_row_stand_in_the_messages():
    rows = images(("a", [png(0)], "a dog", None), ("b", [png(1), png(2)], "two cats", "old"))
    found = {(one.image_id, one.template.id): one for one in asked(rows)}
    assert [one.template.id for one in asked(rows)] == ["long-1", "long-1", "short-1", "short-1"]
    for one in found.values():
        assert one.problem is None and one.request.ks == one.ks and len(one.ks) == 1
    long = found["b", "long-1"]
    assert long.instruction == [
        {"role": "system", "content": "You see two cats."},
        {"role": "user", "content": "Tell. Note: old"},
    ]
    system, user = long.request.messages
    assert system["content"] == [{"type": "text", "text": "You see two cats."}]
    assert user["content"] == [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Tell. Note: old"}]
    assert [picture["bytes"] for picture in long.request.images] == [png(1), png(2)]
    assert found["a", "long-1"].instruction[1]["content"] == "Tell."
    assert found["a", "short-1"].instruction == [{"role": "user", "content": "About a dog?"}]


@pytest.mark.parametrize(
    ("pictures", "caption", "reason"),
    [
        (None, "a dog", "no image"),
        ([], "a dog", "no image"),
        ([png(0), None], "a dog", r"images\[1\] is null"),
        ([png(0)], None, "template '(short|long)-1': .*caption"),
    ],
)
def test_rows_that_nothing_is_asked_about_keep_their_place_with_the_reason(pictures, caption, reason):
    ones = asked(images(("a", [png(0)], "a dog", None), ("b", pictures, caption, None)))
    assert len(ones) == 4 and [one.problem for one in ones if one.image_id == "a"] == [None, None]
    for one in (one for one in ones if one.image_id == "b"):
        assert one.request is None and one.instruction is None
        with pytest.raises(RowError, match=reason):
            raise RowError(one.problem)


def test_each_template_is_asked_for_its_own_length():
    templates = TemplateSet("mine", (Template("a", "x", "A?", max_new_tokens=7), Template("b", "y", "B?")))
    rows = images(("a", [png(0)], None, None))
    assert [one.request.max_new_tokens for one in asked(rows, templates, ("x", "y"))] == [7, 128]
    assert [one.request.max_new_tokens for one in asked(rows, templates, ("x", "y"), max_new_tokens=9)] == [9, 9]


def test_replies_are_spread_over_types_as_evenly_as_they_go():
    scenes = load_templates("scenes")
    for k in range(1, 9):
        for types_per_image in range(1, min(k, 7) + 1):
            drawn = draw_templates(scenes, scenes.types, "a", k, types_per_image, 0)
            ks = [k for _, ks in drawn for k in ks]
            assert sorted(ks) == list(range(k)) and len({template.type for template, _ in drawn}) == types_per_image
            sizes = [len(ks) for _, ks in drawn]
            assert max(sizes) - min(sizes) <= 1


def test_types_and_templates_are_drawn_by_weight():
    """Of 4,000 images the shares are within three standard errors of the weights' shares."""
    weighted = (("a", "x", 1), ("b", "x", 3), ("c", "y", 4), ("d", "z", 8))
    templates = TemplateSet("mine", tuple(Template(id, type, "?", weight=weight) for id, type, weight in weighted))
    counts = Counter()
    for number in range(4000):
        [(template, _)] = draw_templates(templates, ("x", "y", "z"), str(number), 1, 1, seed=3)
        counts[template.id] += 1
    for id, _, weight in weighted:
        share = weight / 16
        assert abs(counts[id] / 4000 - share) < 3 * (share * (1 - share) / 4000) ** 0.5
    # Without replacement: the second type is one of the two that are left, by their weights.
    second = Counter(
        tuple(template.type for template, _ in draw_templates(templates, ("x", "y", "z"), str(number), 2, 2, seed=3))
        for number in range(4000)
    )
    assert abs(second["z", "x"] / 4000 - 8 / 16 * 4 / 8) < 3 * (0.25 * 0.75 / 4000) ** 0.5


def test_what_is_drawn_depends_on_seed_and_image_alone():
    rows = images(*((name, [png(0)], "c", None) for name in "abcdef"))
    whole = {one.image_id: one.template.id for one in asked(rows, pairs_per_image=1, types_per_image=1)}
    part = {one.image_id: one.template.id for one in asked(rows.select([4, 1]), pairs_per_image=1, types_per_image=1)}
    assert part == {name: whole[name] for name in "eb"} and len(set(whole.values())) == 2
