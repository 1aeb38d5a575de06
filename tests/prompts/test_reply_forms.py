"""Forms of replies: what is written is read, what is read wrongly has a reason, and no text takes long."""

import json
import random
import re
import string

import pytest

from c3l_hf.common.errors import RowError
from c3l_hf.prompts.parsing import PairParseError, parse_pair
from c3l_hf.prompts.reply_forms import ReplyForm

GERMAN = ReplyForm(question=("Frage", "F"), answer=("Antwort", "A"))
CHINESE = ReplyForm(question=("问题", "问"), answer=("回答", "答"))
JSON = ReplyForm("json")
LIST = ReplyForm("json", list_key="turns")
BARE = ReplyForm("json", list_key="")
OWN_KEYS = ReplyForm("json", question=("frage",), answer=("antwort",))
SCHEMA = {
    "type": "object",
    "properties": {
        "topic": {"type": "string"},
        "dialogue": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"user": {"type": "string"}, "bot": {"type": "string", "pattern": "^[^!]*$"}},
                "required": ["user", "bot"],
            },
            "maxItems": 3,
        },
    },
    "required": ["dialogue"],
}
BY_SCHEMA = ReplyForm("json", question=("user",), answer=("bot",), json_schema=json.dumps(SCHEMA), list_key="dialogue")
REGEX = ReplyForm(
    "regex",
    expression=r"(?s)<q>(?P<question>.*?)</q>\s*<a>(?P<answer>.*?)</a>",
    written="<q>{question}</q><a>{answer}</a>",
)
FORMS = {
    "labelled": ReplyForm(),
    "german": GERMAN,
    "chinese": CHINESE,
    "json": JSON,
    "list": LIST,
    "bare list": BARE,
    "own keys": OWN_KEYS,
    "schema": BY_SCHEMA,
    "regex": REGEX,
}
# Each letter can be matched in two ways.
WORDS = r"(?P<question>(?:[\w,?]+\s?)*)\|(?P<answer>.*)"
ONE, TWO = [("Is it a dog?", "Yes, a {big} one.")], [("Is it a dog?", "Yes."), ("Where?", "On the\nlawn, 'here'.")]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_is_written_is_read(form):
    assert form.read(form.write(ONE)) == [ONE]
    assert form.read(form.write(TWO), (2, 4)) == [TWO]
    assert form.read(form.write(TWO), pairs=2) == [TWO[:1], TWO[1:]]
    assert form.read(f"<think>\n{form.write(TWO)}\n</think>\n\n{form.write(ONE)}") == [ONE]
    assert ReplyForm.from_json(form.to_json()) == form
    assert json.loads(form.to_json())["form"] == form.form


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_any_text_is_written_so_that_it_is_read_or_refused(form):
    pieces = [
        *string.printable[:94],
        " ",
        "\n",
        "Question: ",
        "Antwort: ",
        "A: ",
        "答：",
        '"',
        "</a>",
        "```",
        "é",
        "词",
        "{",
        ".",
    ]
    rng = random.Random(0)
    written = 0
    for _ in range(300):
        turns = [
            tuple("".join(rng.choices(pieces, k=rng.randrange(1, 12))) for _ in "qa") for _ in range(rng.choice((1, 2)))
        ]
        try:
            text = form.write(turns)
        except RowError:
            continue
        written += 1
        (read,) = form.read(text, (len(turns), len(turns)))
        assert [[one.split() for one in turn] for turn in read] == [[one.split() for one in turn] for turn in turns]
    assert written > 60


def test_what_cannot_be_written_says_why():
    with pytest.raises(RowError, match=r"the form of the reply \(labelled\) the conversation would be read otherwise"):
        ReplyForm().write([("a?", "b\nQuestion: c?\nAnswer: d")])
    with pytest.raises(RowError, match="would be read otherwise"):
        ReplyForm().write([("a?", "Line 5. 2."), ("c?", "d")])
    with pytest.raises(RowError, match="read otherwise: empty answer"):
        JSON.write([("a?", "...")])
    with pytest.raises(RowError, match="image token"):
        JSON.write([("a?", "<image>")])
    with pytest.raises(RowError, match="does not fit"):
        BY_SCHEMA.write([("a?", "b!")])


def test_one_labelled_pair_is_read_as_ever():
    """Whatever else there is, the first whole pair, or the same reason."""
    pieces = [
        "Question:",
        "Answer:",
        " A: ",
        "Q:",
        "\n",
        " ",
        "1. ",
        "**",
        "a b",
        "yes.",
        '{"question": "c?", "answer": 3}',
        "```",
        "...",
        '"',
    ]
    rng = random.Random(0)
    for _ in range(3000):
        raw = "".join(rng.choices(pieces, k=rng.randrange(1, 14)))
        try:
            expected = [parse_pair(raw)]
        except PairParseError as error:
            expected = error.reason
        assert ReplyForm().read(raw) == [expected], raw


READ = {
    "several turns on their lines": (
        GERMAN,
        "Gerne!\n\n**Frage:** Was ist das?\n**Antwort:** Ein Hund.\n\nFRAGE: Wo?\nANTWORT: Auf dem Rasen.",
        [("Was ist das?", "Ein Hund."), ("Wo?", "Auf dem Rasen.")],
    ),
    "within a line": (
        GERMAN,
        "Frage: Was? Antwort: Das. Frage: Wo? Antwort: Hier.",
        [("Was?", "Das."), ("Wo?", "Hier.")],
    ),
    "letters": (GERMAN, "F: Was?\nA: Das.\nF: Wo?\nA: Hier.", [("Was?", "Das."), ("Wo?", "Hier.")]),
    "no blanks": (
        CHINESE,
        "问题：是什么？回答：一只狗。问题：在哪？回答：草地上。",
        [("是什么？", "一只狗。"), ("在哪？", "草地上。")],
    ),
    "letters, no blanks": (
        CHINESE,
        "问：是什么？答：狗。\n问：在哪？\n答：草地。",
        [("是什么？", "狗。"), ("在哪？", "草地。")],
    ),
    "headings that count": (
        ReplyForm(),
        "### Turn 1\nQuestion: a?\nAnswer: b\n\n### Turn 2\nQuestion: c?\nAnswer: d, No. 3",
        [("a?", "b"), ("c?", "d, No. 3")],
    ),
    "an answer as a heading": (
        ReplyForm(),
        "Question: a?\nAnswer: Platform 2\nQuestion: c?\nAnswer: 5. 2.",
        [("a?", "Platform 2"), ("c?", "5. 2.")],
    ),
    "a last line that does not count": (
        ReplyForm(),
        "Question: a?\nAnswer: In\nRoom 12\nQuestion: c?\nAnswer: d",
        [("a?", "In\nRoom 12"), ("c?", "d")],
    ),
    "the form repeated first": (
        ReplyForm(),
        "Reply in this form:\nQuestion: ...\nAnswer: ...\n\nQuestion: a?\nAnswer: b\nQuestion: c?\nAnswer: d",
        [("a?", "b"), ("c?", "d")],
    ),
    "JSON in place of labels": (
        ReplyForm(),
        '[{"question": "a?", "answer": "b"}, {"question": "c?", "answer": "d"}]',
        [("a?", "b"), ("c?", "d")],
    ),
    "a fence and words around JSON": (
        JSON,
        '{x}\n```json\n{"turns": [{"question": "a?", "answer": "b\n1"}, {"Question": "c?", "answer": 2}]}\n```\nBye',
        [("a?", "b\n1"), ("c?", "2")],
    ),
    "objects in objects": (
        JSON,
        '{"a": {"question": "a?", "answer": "b"}, "b": [{"question": "c?", "answer": "d"}]}',
        [("a?", "b"), ("c?", "d")],
    ),
}


@pytest.mark.parametrize(("form", "raw", "turns"), READ.values(), ids=READ)
def test_several_turns(form, raw, turns):
    assert form.read(raw, (2, 4)) == [turns]
    assert form.read(raw, pairs=2) == [turns[:1], turns[1:]]


REASONS = {
    "empty output": (ReplyForm(), " \n"),
    "nothing but thoughts": (ReplyForm(), "<think>Question: a?\nAnswer: b"),
    "longer than 50,000 characters": (ReplyForm(), "Question: a?\nAnswer: " + "b" * 50_000),
    "image token in the text": (JSON, '{"question": "a?", "answer": "<|image_pad|>"}'),
    "no question": (GERMAN, "Question: a?\nAnswer: b"),
    "no answer": (ReplyForm(), "Question: a?"),
    "empty question": (JSON, '{"question": "...", "answer": "b"}'),
    "empty answer": (REGEX, "<q>a?</q><a> </a>"),
    "no JSON": (JSON, "Question: a?\nAnswer: b"),
    "the JSON is cut off": (JSON, '{"question": "a?", "answer": "b'),
    "the JSON does not fit the schema": (BY_SCHEMA, '{"dialogue": [{"user": "a?", "bot": "b!"}]}'),
    "the pattern does not match": (REGEX, "Question: a?\nAnswer: b"),
    "the pattern takes too long": (
        ReplyForm("regex", expression=WORDS, written="{question}|{answer}"),
        "a" * 3000 + "!|",
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_reasons(reason):
    form, raw = REASONS[reason]
    assert form.read(raw) == [reason]
    assert form.read(raw, pairs=3) == [reason] * 3 or reason in ("no answer", "empty question", "empty answer")


def test_another_number_than_asked_for():
    text = ReplyForm().write(TWO)
    assert (
        ReplyForm().read(text, (3, 4))
        == ReplyForm().read(text + "\n" + text, (2, 3))
        == ["another number of turns than asked for"]
    )
    assert ReplyForm().read(text, pairs=3) == [TWO[:1], TWO[1:], "fewer pairs than asked for"]
    assert ReplyForm().read(f"{text}\n{text}", pairs=3) == [TWO[:1], TWO[1:], TWO[:1]]


def test_a_turn_that_is_none_spoils_a_conversation_but_not_other_pairs():
    text = "Question: a?\nAnswer: b\nQuestion: c?\nQuestion: d?\nAnswer: e"
    assert ReplyForm().read(text, (1, 4)) == ["no answer"]
    assert ReplyForm().read(text, pairs=3) == [[("a?", "b")], "no answer", [("d?", "e")]]


def test_json_that_is_cut_off_has_no_conversation():
    text = '{"turns": [{"question": "a?", "answer": "b"}, {"question": "c?", "answer": "d"}, {"question": "e'
    assert JSON.read(text, (2, 4)) == ["the JSON is cut off"]
    assert JSON.read(text) == [[("a?", "b")]]


def test_schemas_for_servers():
    jsonschema = pytest.importorskip("jsonschema")
    for turns, pairs, several in (((1, 1), 1, ONE), ((2, 4), 1, TWO), ((1, 1), 2, TWO)):
        form = JSON.for_several(turns, pairs)
        schema = form.schema(turns, pairs)
        jsonschema.validate(json.loads(form.write(several)), schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"question": "a?"}, schema)
    assert BY_SCHEMA.schema() == SCHEMA
    assert ReplyForm().schema() is REGEX.schema() is None


def test_patterns_for_servers():
    plain = ReplyForm(
        "regex", expression=r"Q: (?P<question>[^\n]+)\nA: (?P<answer>[^\n]+)", written="Q: {question}\nA: {answer}"
    )
    assert re.fullmatch(plain.pattern(), plain.write(ONE)) and "?P<" not in plain.pattern()
    assert plain.pattern((2, 2)) is plain.pattern(pairs=2) is REGEX.pattern() is JSON.pattern() is None
    assert ReplyForm().pattern() is None


WRONG = {
    "form is 'xml'; it must be one of labelled, json, regex": {"form": "xml"},
    "pattern is for replies of the form regex, and this is labelled": {"expression": "a"},
    "schema is for replies of the form json": {"json_schema": "{}"},
    "pattern is missing": {"form": "regex"},
    "pattern cannot be read": {"form": "regex", "expression": "("},
    "pattern has no group (?P<answer>...)": {"form": "regex", "expression": "(?P<question>a)"},
    "write has no {answer}": {"form": "regex", "expression": "(?P<question>a)(?P<answer>b)", "written": "{question}"},
    "question and answer are groups": {
        "form": "regex",
        "expression": "(?P<question>a)(?P<answer>b)",
        "written": "{question}{answer}",
        "question": ("Q",),
    },
    "question is 'Q:'; a label has no colon": {"question": ("Q:",)},
    "question is '...'; a label or key": {"question": ("...",)},
    "question and answer both have 'a'": {"question": ("A",), "answer": ("a",)},
    "schema is no JSON schema": {"form": "json", "json_schema": '{"type": "text"}'},
    "schema refers to 'http://a/b'": {"form": "json", "json_schema": '{"items": {"$ref": "http://a/b"}}'},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_go_together(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ReplyForm(**WRONG[message])


def test_a_form_that_cannot_hold_what_is_asked_for():
    one_line = ReplyForm("regex", expression=r"Q(?P<question>.*)A(?P<answer>.*)$", written="Q{question}A{answer}")
    one_line.check()
    with pytest.raises(ValueError, match="write: a conversation of 2 turns cannot be written so that it is read back"):
        one_line.check((1, 2))
    needs_a_topic = json.dumps(SCHEMA | {"required": ["dialogue", "topic"]})
    form = ReplyForm("json", question=("user",), answer=("bot",), json_schema=needs_a_topic)
    with pytest.raises(ValueError, match="schema: one pair cannot be written"):
        form.for_several((1, 1), 1).check()


def test_a_pattern_that_takes_too_long_is_refused_at_once():
    with pytest.raises(ValueError, match="pattern takes too long on a text like 'a"):
        ReplyForm("regex", expression=WORDS, written="{question}|{answer}").check()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"forms": "json"}', '{"question": "a"}', '{"written": 3}', '{"form": "xml"}']
)
def test_what_is_no_form(text):
    with pytest.raises(ValueError):
        ReplyForm.from_json(text)


HOSTILE = [
    "Question: a? ",
    "Frage:\n",
    "问：a答：b。",
    "\n",
    "**",
    "{",
    "[{",
    '{"a":',
    '{"question":"a","answer":"b"},',
    "<think>",
    "</think>",
    "<q>",
    "\nTurn 2",
    "“",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_replies_are_read_in_no_time(unit):
    """Minutes, if some reading went through such a text again and again."""
    for form in FORMS.values():
        for length in (49_000, 1_000_000):
            assert form.read((unit * (length // len(unit) + 1))[:length], (1, 3))


def test_schemas_that_would_take_for_ever():
    twice = {"$ref": "#/$defs/a"}
    schema = {
        "$defs": {"a": {"anyOf": [{"items": twice, "minItems": 9}, {"items": twice, "minItems": 9}, {"items": twice}]}}
    }
    form = ReplyForm("json", json_schema=json.dumps(schema | twice))
    deep = "[" * 60 + '{"question": "a", "answer": "b"}' + "]" * 60
    assert form.read(deep) == ["the JSON does not fit the schema"]
    slow = ReplyForm("json", json_schema=json.dumps({"properties": {"answer": {"pattern": WORDS}}}))
    assert slow.read(json.dumps({"question": "a", "answer": "a" * 3000 + "!|"})) == ["the JSON does not fit the schema"]
    many = ReplyForm("json", json_schema=json.dumps({"properties": {"list": {"uniqueItems": True}}}))
    long = json.dumps({"question": "a", "answer": "b", "list": [{"a": number} for number in range(3000)]})
    assert many.read(long) == ["the JSON does not fit the schema"]
