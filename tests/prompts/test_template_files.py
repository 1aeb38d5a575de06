"""Files of templates: what they say is what is there, and every mistake is told with its line, before any work."""

import re

import pytest
from scored_rows import picture
from tiny_models import tiny_gemma3

from c3l_hf.common.errors import RunError
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.prompts.template_files import (
    check_control_tokens,
    check_fields,
    load_templates,
    shipped_sets,
    written_control_token,
)
from c3l_hf.prompts.templates import GENERAL, Template
from c3l_hf.scenes.templates import QUESTION_TYPES

WHOLE = """\
description: Everything that a file can say.
language: de
reply:
  question: [Frage, F]
  answer: Antwort
weight: 2
templates:
  - id: gespräch-1
    type: conversation
    system: Du siehst {{ caption }}.
    user: |
      Schreibe {{ turns }} Fragen.
        Eingerückt.
    turns: 2-4
    max_new_tokens: 512
    examples:
      - image: pictures/a.png
        fields: {caption: eine Katze, n: 3}
        turns:
          - {question: Ist es rot, answer: No}
          - question: Wann?
            answer: 12:30
  - id: json-1
    type: short
    user: "{{ pairs }} pairs"
    language: no
    pairs: 3
    weight: 1
    reply: {form: json, question: frage, list: paare}
  - id: regex-1
    type: short
    user: a
    system:
    language: null
    reply:
      form: regex
      pattern: '<q>(?P<question>[^<]+)</q><a>(?P<answer>[^<]+)</a>'
      write: <q>{question}</q><a>{answer}</a>
  - id: schema-1
    type: short
    user: a
    turns: 2
    reply:
      form: json
      schema:
        type: array
        items: {type: object, required: [question, answer]}
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "pictures").mkdir()
    picture(0).save(tmp_path / "pictures" / "a.png")

    def write(content):
        file = tmp_path / "my.yaml"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


def test_what_a_file_says(write, tmp_path):
    templates = load_templates(write(WHOLE))
    assert templates.name == "my" and templates.description == "Everything that a file can say."
    first, second, third, fourth = templates.templates
    assert (first.id, first.type, first.language, first.turns, first.pairs) == (
        "gespräch-1",
        "conversation",
        "de",
        (2, 4),
        1,
    )
    assert first.user == "Schreibe {{ turns }} Fragen.\n  Eingerückt."
    assert first.system == "Du siehst {{ caption }}." and first.weight == 2 and first.max_new_tokens == 512
    assert first.reply == ReplyForm(question=("Frage", "F"), answer=("Antwort",))
    # What YAML would take for false and for a number of minutes.
    assert first.examples[0].turns == (("Ist es rot", "No"), ("Wann?", "12:30"))
    assert first.examples[0].fields == {"caption": "eine Katze", "n": 3}
    assert first.examples[0].image == (tmp_path / "pictures" / "a.png").resolve()
    assert (second.language, second.pairs, second.weight) == ("no", 3, 1)
    assert second.reply == ReplyForm("json", question=("frage",), list_key="paare")
    assert third.reply.read("<q>a?</q> <a>b</a>") == ["the pattern does not match"]
    assert third.language is third.system is None and third.weight == 2
    assert fourth.reply.list_key == "" and fourth.reply.write([("a?", "b"), ("c?", "d")]).startswith("[{")
    assert [template.place for template in templates.templates][1:3] == [
        f"{tmp_path}/my.yaml:{line}" for line in (23, 30)
    ]


def test_a_file_of_five_lines(write):
    (template,) = load_templates(write("templates:\n  - id: a\n    type: b\n    user: |\n      c\n")).templates
    assert template == Template("a", "b", "c")
    assert load_templates(write("\ufefftemplates:\n- {id: a, type: b, user: c}\r\n")).templates == (template,)


ONE = "templates:\n  - id: a\n    type: b\n    user: c\n"
MISTAKES = {
    "1: the file is empty": "",
    "1: the file must have lines like": "- a",
    "1: the file has no templates": "language: de",
    "2: the file has no key 'template'; it has .*; did you mean 'templates'": "language: de\ntemplate: []",
    "1: templates must be a list": "templates: {a: b}",
    "1: templates has nothing": "templates: []",
    "2: a template has no id": "templates:\n  - type: b\n    user: c",
    "2: a template must have lines like": "templates:\n  - a",
    "3: a template has no key 'typ'; .*; did you mean 'type'": "templates:\n  - id: a\n    typ: b\n    user: c",
    "5: a template has the key 'user' twice": ONE + "    user: d\n",
    "5: the id 'a' is that of the template in line 2, too": ONE + "  - {id: a, type: b, user: c}",
    "2: id is 'a b'; it must be letters": "templates:\n  - {id: a b, type: b, user: c}",
    "3: type is '../b'": "templates:\n  - id: a\n    type: ../b\n    user: c",
    "4: user must be a text": "templates:\n  - id: a\n    type: b\n    user:\n",
    "4: template 'a': user: line 2 of the text cannot be read as Jinja": (
        "templates:\n  - id: a\n    type: b\n    user: |\n      a\n      {{ b\n"
    ),
    "5: turns is 'two'; it must be a number": ONE + "    turns: two\n",
    "5: template 'a': turns is 4-2": ONE + "    turns: 4-2\n",
    "5: pairs is '0'; it must be a whole number": ONE + "    pairs: 0\n",
    "5: weight is '1.5'; it must be a whole number": ONE + "    weight: 1.5\n",
    "5: max_new_tokens must be a text": ONE + "    max_new_tokens: [1]\n",
    "5: language is 'deutsch', no code": ONE + "    language: deutsch\n",
    "4: template 'a': user does not use {{ pairs }}": ONE + "    pairs: 2\n",
    "5: reply has no key 'from'; .*; did you mean 'form'": ONE + "    reply: {from: json}\n",
    "6: reply.form is 'xml'; it must be one of": ONE + "    reply:\n      form: xml\n",
    "7: reply.pattern cannot be read": ONE + "    reply:\n      form: regex\n      pattern: (\n",
    "7: reply.schema is no JSON schema": ONE + "    reply:\n      form: json\n      schema: {type: text}\n",
    "6: reply.schema has something that JSON has not": ONE + "    reply:\n      schema: {const: 2024-01-01}\n",
    "5: template 'a': reply.schema: one pair cannot be written": ONE
    + "    reply: {form: json, schema: {required: [topic]}}\n",
    "5: examples must be a list": ONE + "    examples: a\n",
    "5: examples\\[0\\] has no image": ONE + "    examples: [{turns: [{question: a, answer: b}]}]\n",
    "5: examples\\[0\\].image cannot be used": ONE
    + "    examples: [{image: b.png, turns: [{question: a, answer: b}]}]\n",
    "5: examples\\[0\\].turns must be a list": ONE + "    examples: [{image: pictures/a.png, turns: a}]\n",
    "5: examples\\[0\\].turns\\[0\\] has no answer": ONE
    + "    examples: [{image: pictures/a.png, turns: [{question: a}]}]\n",
    "5: template 'a': examples\\[0\\] has 2 turns, and 1 are asked for": ONE
    + "    examples: [{image: pictures/a.png, turns: [{question: a, answer: b}, {question: c, answer: d}]}]\n",
    "4: .*mapping values are not allowed": "templates:\n  - id: a\n    type: b\n    user: c: d\n",
    "2: .*expected .,. or .]., but got": "language: de\ntemplates: [a }\n",
    "2: .*refers to another place": "language: &a de\ntemplates: *a",
    "2: this is not text in UTF-8": b"language: de\ntemplates: \xff",
    "2: the character U\\+0007 is not allowed": "language: de\ntemplates: \a",
    "4: user has the character U\\+202E": ONE.replace("c\n", "c\u202e\n"),
    "4: user has the character U\\+001B": ONE.replace("c\n", '"c\\e"\n'),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_told_with_their_line(message, write, tmp_path):
    with pytest.raises(RunError) as error:
        load_templates(write(MISTAKES[message]))
    line = str(error.value)
    assert line.startswith(f"{tmp_path}/my.yaml:") and "\n" not in line
    assert re.match(message.replace("{{ pairs }}", r"\{\{ pairs \}\}"), line.removeprefix(f"{tmp_path}/my.yaml:")), line


def test_nested_to_no_end(write):
    with pytest.raises(RunError, match=r"my\.yaml"):
        load_templates(write("templates: " + "[" * 100_000))


def test_a_set_or_file_that_is_not_there(tmp_path):
    with pytest.raises(RunError, match="instruc: there is no such file, .* are instruct, .*; did you mean 'instruct'"):
        load_templates("instruc")
    with pytest.raises(RunError, match="no such file"):
        load_templates(tmp_path)


def test_fields_are_columns(write, tmp_path):
    templates = load_templates(write(WHOLE)).templates
    check_fields(templates, ["image", "caption"])
    message = f"{tmp_path}/my.yaml:8: template 'gespräch-1' uses the field 'caption', .* captions, image; did you mean"
    with pytest.raises(RunError, match=message):
        check_fields(templates, ["image", "captions"])
    with pytest.raises(RunError, match="^template 'a' uses the field 'x', .*; they have none"):
        check_fields([Template("a", "b", "{{ x }}")], [])


def test_control_tokens_of_a_model(llava):
    _, gemma = tiny_gemma3()
    for text, processor in (("a <image> b", llava[1]), ("a</s>", llava[1]), ("<end_of_turn>", gemma)):
        for key in ("user", "system"):
            template = Template(**{"id": "a", "type": "b", "user": "c"} | {key: text}, place="my.yaml:2")
            with pytest.raises(RunError, match=f"^my.yaml:2: template 'a' has the control token .* in {key}"):
                check_control_tokens([template], processor)
    check_control_tokens([Template("a", "b", "</s> <image>")], gemma)  # letters, for this model
    with pytest.raises(RunError, match="'</s>' in the form of its reply"):
        check_control_tokens([Template("a", "b", "c", reply=ReplyForm(question=("</s>",)))], None)


def test_a_pattern_that_wants_longer_texts_is_tried_with_longer_texts():
    pattern = "<q>(?P<question>[^<]{5,60})</q><a>(?P<answer>[^<]{5,60})</a>"
    form = ReplyForm("regex", expression=pattern, written="<q>{question}</q><a>{answer}</a>")
    check_control_tokens([Template("a", "b", "c", turns=(3, 3), reply=form)], None)


def test_control_tokens_in_examples(write, llava):
    content = WHOLE.replace("Ist es rot", '"<s> rot"').replace("eine Katze", "</s>")
    with pytest.raises(RunError, match=r"control token '<s>' in examples\[0\]"):
        check_control_tokens(load_templates(write(content)).templates, llava[1])
    with pytest.raises(RunError, match=r"control token '</s>' in examples\[0\]"):
        check_control_tokens(load_templates(write(content.replace("<s> rot", "rot"))).templates, llava[1])
    check_control_tokens(load_templates(write(WHOLE)).templates, llava[1])


@pytest.mark.parametrize(
    "token",
    "<|im_start|> <|image_pad|> </s> <s> <image> [INST] [IMG] <start_of_turn> <end_of_utterance> <<SYS>> <pad>"
    " <｜begin▁of▁sentence｜> <IMG_CONTEXT> <row_1_col_2> <start_of_image> <|begin_of_text|>".split(),
)
def test_control_tokens_of_common_families(token):
    assert written_control_token(f"a{token}b") == token


@pytest.mark.parametrize("text", ["<b>a</b>", "a < b > c", "<think>", "[a]", "{{ a | join('|') }}", "<the question>"])
def test_no_control_tokens(text):
    assert written_control_token(text) is None


@pytest.mark.parametrize("name", shipped_sets())
def test_shipped_sets(name, llava):
    templates = load_templates(name)
    assert templates.name == name and templates.description
    check_control_tokens(templates.templates, None)
    check_control_tokens(templates.templates, llava[1])
    for template in templates.templates:
        assert not template.fields and len(templates.of_type(template.type)) >= 1
        labels = template.reply.labels
        # The form that is asked for is the form that is read.
        assert re.search(rf"{labels.question[0]}: \.\.\.\s+{labels.answer[0]}: \.\.\.$", template.user)


def test_the_kinds_of_the_shipped_sets():
    assert load_templates("scenes").types == QUESTION_TYPES
    kinds = ("conversation", "description", "reasoning", "short", "counting", "text", "unanswerable")
    assert load_templates("instruct").types == kinds
    assert set(load_templates("instruct-de").types) == set(kinds) - {"text"}
    for name in ("instruct", "instruct-de"):
        assert load_templates(name).of_type(GENERAL)
        for template in load_templates(name).templates:
            # None may be answered by a guess.
            assert re.search(r"be seen|can be read|zu sehen", template.user), template.id
    german = load_templates("instruct-de").get("gespraech-1")
    assert german.turns == (3, 3) and german.system and german.reply.labels.question == ("Frage",)
