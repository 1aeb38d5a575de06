"""Templates: what is asked, what a pseudo-label asks, how replies are read, and what identifies all that."""

import json
import pickle
import re
from dataclasses import replace

import pytest
from scored_rows import picture

from c3l_hf.common.errors import RowError
from c3l_hf.prompts.parsing import parse_pair
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.prompts.templates import GENERAL, Example, Template, TemplateSet
from c3l_hf.scenes.templates import QUESTION_TYPES, TEMPLATES, format_pair

CAPTIONED = Template(
    "a-1", "a", "About {{ caption }}, {{ turns }} turns.", system="You see {{ caption }}.", turns=(2, 4), language="en"
)


def text(content):
    return {"type": "text", "text": content}


def test_what_is_asked():
    messages, images = CAPTIONED.chat({"caption": "a cat", "other": None}, images=2)
    assert messages == [
        {"role": "system", "content": [text("You see a cat.")]},
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, text("About a cat, 2-4 turns.")]},
    ]
    assert images == [] and CAPTIONED.fields == {"caption"}


def test_examples_are_shown_first(tmp_path):
    picture(0).save(tmp_path / "a.png")
    example = Example(tmp_path / "a.png", (("Is it?", "Yes."), ("Why?", "So.")), {"caption": "a dog"})
    template = replace(CAPTIONED, examples=(example,))
    messages, images = template.chat({"caption": "a cat"}, images=1)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[1]["content"] == [{"type": "image"}, text("About a dog, 2-4 turns.")]
    assert messages[2]["content"] == [text("Question: Is it?\nAnswer: Yes.\nQuestion: Why?\nAnswer: So.")]
    assert images == [{"bytes": None, "path": str(tmp_path / "a.png")}]
    assert template.read(messages[2]["content"][0]["text"]) == [list(example.turns)]
    assert len(template.instruction({"caption": "a cat"})) == 2


def test_a_pseudo_label_asks_for_one_pair():
    template = Template("a", "b", "{{ pairs }} pair{% if pairs > 1 %}s{% endif %}, {{ turns }} turn", pairs=3)
    assert template.chat({}, 1)[0][0]["content"][1] == text("3 pairs, 1 turn")
    assert template.instruction({}) == [{"role": "user", "content": "1 pair, 1 turn"}]
    assert CAPTIONED.instruction({"caption": "a cat"})[0] == {"role": "system", "content": "You see a cat."}


def test_a_row_without_a_value_names_template_and_field():
    for ask in (lambda: CAPTIONED.chat({"caption": None}, 1), lambda: CAPTIONED.instruction({})):
        with pytest.raises(RowError, match="^template 'a-1': field 'caption' has no value$"):
            ask()


REFUSAL = "I'm sorry, but I cannot see the image."
READ = [
    (Template("a", "b", "c"), "Question: a? Answer: b", [[("a?", "b")]]),
    (Template("a", "b", "c"), REFUSAL, ["a refusal"]),
    (Template("a", "b", "c", reply=ReplyForm("json")), REFUSAL, ["a refusal"]),
    (Template("a", "b", "c"), f"<think>{REFUSAL}</think>Hello.", ["no question"]),
    (Template("a", "b", "c"), format_pair("a?", REFUSAL), ["a refusal"]),
    (
        Template("a", "unanswerable", "c"),
        format_pair("Who is it?", "That cannot be seen in the picture."),
        [[("Who is it?", "That cannot be seen in the picture.")]],
    ),
    (Template("a", "b", "c"), format_pair("a?", "ha " * 40), ["endless repetition"]),
    (Template("a", "b", "c"), format_pair("a?", "b\ufffd"), ["control characters"]),
    (Template("a", "b", "c", turns=(2, 2)), f"{format_pair('a?', 'b')}\n" * 2, ["a turn is there twice"]),
    (
        Template("a", "b", "{{ pairs }}", pairs=4),
        "\n".join([format_pair("a?", "b"), format_pair("a?", "b"), format_pair("c?", REFUSAL)]),
        [[("a?", "b")], "the same pair again in one reply", "a refusal", "fewer pairs than asked for"],
    ),
    (
        Template("a", "b", "c", language="de"),
        format_pair(
            "What is the man doing?", "He rides a bicycle along a narrow street with old houses on both sides."
        ),
        ["another language than the template's"],
    ),
]


@pytest.mark.parametrize(("template", "raw", "read"), READ)
def test_replies(template, raw, read):
    assert template.read(raw) == read


def test_lists_in_json_are_written_as_they_are_asked_for():
    assert Template("a", "b", "c", reply=ReplyForm("json")).reply.write([("a?", "b")]).startswith('{"question"')
    assert (
        Template("a", "b", "c", reply=ReplyForm("json"), turns=(1, 3)).reply.write([("a?", "b")]).startswith('{"turns"')
    )
    assert Template("a", "b", "{{ pairs }}", reply=ReplyForm("json"), pairs=2).reply.list_key == "pairs"


WRONG = {
    "pairs is 0; it must be at least 1": {"pairs": 0},
    "weight is 0": {"weight": 0},
    "max_new_tokens is 0": {"max_new_tokens": 0},
    "turns is 3-2; it must be a number, or a range as 2-4": {"turns": (3, 2)},
    "pairs is 2 and turns 2; a reply has several of one of them": {"pairs": 2, "turns": (2, 2)},
    "user: line 1 of the text cannot be read as Jinja": {"user": "{{ a"},
    "system: line 2 of the text cannot be read as Jinja": {"system": "a\n{% if"},
    "user does not use {{ pairs }}": {"pairs": 2},
    "reply.write: a conversation of 3 turns cannot be written": {
        "reply": ReplyForm("regex", expression="Q(?P<question>.*)A(?P<answer>.*)$", written="Q{question}A{answer}"),
        "turns": (1, 3),
    },
    "examples[0] has 1 turns, and 2 are asked for": {"turns": (2, 2), "examples": (Example("a", (("a?", "b"),)),)},
    "examples[0]: template 'a': field 'x' has no value": {
        "user": "{{ x }}",
        "examples": (Example("a", (("a?", "b"),)),),
    },
    "examples[0]: in the form of the reply": {"examples": (Example("a", (("Question: a?", "b"),)),)},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_go_together(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Template(**{"id": "a", "type": "b", "user": "c"} | WRONG[message])


def test_the_identity_has_all_that_is_asked_and_read(tmp_path):
    for name, number in (("a.png", 0), ("b.png", 0), ("c.png", 1)):
        picture(number).save(tmp_path / name)
    example = Example(tmp_path / "a.png", (("Is it?", "Yes."), ("Why?", "So.")), {"caption": "a dog"})
    template = replace(CAPTIONED, examples=(example,), place="a.yaml:3")
    identity = template.identity()
    assert json.loads(json.dumps(identity)) == identity
    # Not where it is from, or where the picture lies; but what is in the picture.
    elsewhere = replace(template, place="b.yaml:9", examples=(replace(example, image=tmp_path / "b.png"),))
    assert elsewhere.identity() == identity
    changes = {
        "id": "a-2",
        "type": "c",
        "user": "{{ caption }}, {{ turns }}",
        "system": None,
        "reply": ReplyForm(question=("Q",)),
        "language": "de",
        "turns": (2, 3),
        "weight": 2,
        "max_new_tokens": 64,
        "examples": (replace(example, image=tmp_path / "c.png"),),
    }
    assert changes.keys() == identity.keys() - {"pairs"}
    others = [replace(template, **{name: value}).identity() for name, value in changes.items()]
    others += [replace(template, examples=(replace(example, fields={"caption": "x"}),)).identity()]
    others += [replace(template, examples=(replace(example, turns=(*example.turns, ("c?", "d"))),)).identity()]
    assert all(other != identity for other in others)
    assert len({json.dumps(other) for other in others}) == len(others)


def test_templates_go_to_other_processes():
    assert pickle.loads(pickle.dumps(CAPTIONED)) == CAPTIONED
    assert len({CAPTIONED, replace(CAPTIONED, place="x")}) == 1


def test_sets():
    templates = [Template(f"{type}-{number}", type, "{{ x }}") for type in ("b", GENERAL, "a") for number in (1, 2)]
    several = TemplateSet("s", tuple(templates))
    assert several.types == ("b", "a") and several.fields == {"x"}
    assert TemplateSet("s", tuple(templates[2:4])).types == (GENERAL,)
    assert [template.id for template in several.of_type("a")] == ["a-1", "a-2"]
    assert several.get("general-2") is templates[3]
    with pytest.raises(ValueError, match="no template of type 'generals'; the types are b, general, a; did you mean"):
        several.of_type("generals")
    with pytest.raises(ValueError, match="no template 'a-3'; the templates are b-1, .*; did you mean"):
        several.get("a-3")
    with pytest.raises(ValueError, match="two templates have the id 'b-1'"):
        TemplateSet("s", (*templates, templates[0]))
    with pytest.raises(ValueError, match="nothing"):
        TemplateSet("s", ())
    assert several.identity() == {"templates": [template.identity() for template in templates]}


def test_the_scenes_are_asked_as_ever():
    """By the very sentences that the shipped generator was trained with."""
    assert TEMPLATES.get("where-1").user == (
        "Ask where an object is in this picture, and answer the question. Reply in the form: Question: ... Answer: ..."
    )
    for type in (*QUESTION_TYPES, GENERAL):
        assert [template.id for template in TEMPLATES.of_type(type)] == [f"{type}-1", f"{type}-2"]
        for template in TEMPLATES.of_type(type):
            assert template.instruction({}) == [{"role": "user", "content": template.user}]
            assert template.reply == ReplyForm() and template.turns == (1, 1) and template.max_new_tokens == 128


def test_a_pair_is_written_and_read():
    assert parse_pair(format_pair("a?", "b")) == ("a?", "b")
    assert ReplyForm().write([("a?", "b")]) == format_pair("a?", "b")
