"""The page on prompts: its files can be read, its tables name every key and every reason, and replies get these."""

import re
from pathlib import Path

import pytest
from scored_rows import picture

from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.prompts.template_files import _OF_REPLY, _OF_TEMPLATE, _TOP, load_templates, shipped_sets
from c3l_hf.prompts.templates import Template

PAGE = (Path(__file__).parents[1] / "docs" / "prompts.md").read_text("utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
FILES = [block for block in BLOCKS if "templates:" in block]
FORMS = [block for block in BLOCKS if block.startswith("reply:")]
REASONS = re.findall(r"^\| `([^`|]+)` \| [^|]+ \|$", PAGE.partition("## What becomes of a reply")[2], re.MULTILINE)

PAIR = "Question: a?\nAnswer: b"
JSON, SCHEMA = ReplyForm("json"), ReplyForm("json", json_schema='{"required": ["topic"]}')
TAGS = ReplyForm("regex", expression="<q>(?P<question>.*)<a>(?P<answer>.*)", written="<q>{question}<a>{answer}")
WORDS = ReplyForm("regex", expression=r"(?P<question>(?:[\w,?]+\s?)*)\|(?P<answer>.*)", written="{question}|{answer}")
# A reply of each reason, and what of its template matters.
REPLIES = {
    "empty output": ("", {}),
    "nothing but thoughts": (f"<think>{PAIR}", {}),
    "longer than 50,000 characters": (PAIR + "b" * 50_000, {}),
    "image token in the text": (f"{PAIR} <image>", {}),
    "no question": ("A dog.", {}),
    "no answer": ("Question: a?", {}),
    "empty question": ("Question: ...\nAnswer: b", {}),
    "empty answer": ("Question: a?\nAnswer: ...", {}),
    "no JSON": (PAIR, {"reply": JSON}),
    "the JSON is cut off": ('{"question": "a?", "ans', {"reply": JSON}),
    "the JSON does not fit the schema": ('{"question": "a?", "answer": "b"}', {"reply": SCHEMA}),
    "the pattern does not match": (PAIR, {"reply": TAGS}),
    "the pattern takes too long": ("a" * 3000 + "!|", {"reply": WORDS}),
    "another number of turns than asked for": (PAIR, {"turns": (2, 2)}),
    "fewer pairs than asked for": (PAIR, {"pairs": 2, "user": "{{ pairs }}"}),
    "the same pair again in one reply": (f"{PAIR}\n{PAIR}", {"pairs": 2, "user": "{{ pairs }}"}),
    "a turn is there twice": (f"{PAIR}\n{PAIR}", {"turns": (2, 2)}),
    "a refusal": ("I cannot see the image.", {}),
    "endless repetition": (PAIR + " b" * 60, {}),
    "control characters": (f"{PAIR}\0", {}),
    "another language than the template's": (
        "Question: What is there?\nAnswer: A man rides a bicycle along a narrow street with old houses on both sides.",
        {"language": "de"},
    ),
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: re.search(r"id: (\S+)", file)[1])
def test_its_files_can_be_read(file, tmp_path):
    (tmp_path / "my.yaml").write_text(file, "utf-8")
    for template in load_templates(tmp_path / "my.yaml").templates:
        assert template.chat({"caption": "A street"}, images=1) and template.instruction({"caption": None})


def test_its_forms_and_examples_can_be_read(tmp_path):
    assert len(FORMS) == 3 and len(FILES) == 3 and len(BLOCKS) == 7
    (tmp_path / "pictures").mkdir()
    picture(0).save(tmp_path / "pictures" / "street.jpg")
    head = "templates:\n  - id: a\n    type: b\n    user: '{{ caption }}'\n    turns: 2\n"
    (example,) = [block for block in BLOCKS if "examples:" in block]
    for form in FORMS:
        (tmp_path / "my.yaml").write_text(f"{form}{head}{example}", "utf-8")
        (template,) = load_templates(tmp_path / "my.yaml").templates
        answers = [answer for _, answer in template.read(template.reply.write(template.examples[0].turns))[0]]
        assert answers == ["A green umbrella.", "No, it is wet."]


def test_its_tables_name_every_key():
    for head, keys in (("key of the file", _TOP), ("key of a template", _OF_TEMPLATE), ("key of `reply`", _OF_REPLY)):
        table = PAGE.partition(f"| {head} |")[2].partition("\n\n")[0]
        named = [
            name
            for cell in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
            for name in re.findall(r"`(\w+)`", cell)
        ]
        assert sorted(named) == sorted(keys)
    defaults = dict(re.findall(r"^\| `(turns|pairs|weight|max_new_tokens)` \|.*\| (\d+) \|$", PAGE, re.MULTILINE))
    bare = Template("a", "b", "c")
    assert {name: int(value) for name, value in defaults.items()} == {
        "turns": bare.turns[0],
        "pairs": bare.pairs,
        "weight": bare.weight,
        "max_new_tokens": bare.max_new_tokens,
    }


def test_its_sets_are_those_that_are_shipped():
    table = PAGE.partition("| shipped set |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == list(shipped_sets())


def test_it_has_every_reason():
    assert REASONS == list(REPLIES)


@pytest.mark.parametrize("reason", REPLIES)
def test_replies_get_its_reasons(reason):
    raw, about = REPLIES[reason]
    fields = {"id": "a", "type": "b", "user": "c"} | about
    if about.get("reply") in (SCHEMA, WORDS):  # which no template takes: one has no place for a topic, one is too slow
        assert fields["reply"].read(raw) == [reason]
    else:
        assert reason in Template(**fields).read(raw)
