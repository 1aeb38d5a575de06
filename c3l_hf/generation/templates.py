"""Prompt templates: how the generator is asked, by question type; and the text format of a generated pair."""

from dataclasses import dataclass

__all__ = [
    "GENERAL",
    "QUESTION_TYPES",
    "TEMPLATES",
    "Template",
    "format_pair",
    "get_template",
    "split_pair",
    "templates_for",
]

QUESTION_TYPES = ("presence", "count", "colour", "where", "relation", "group", "description")
GENERAL = "general"

_FORMAT = "Reply in the form: Question: ... Answer: ..."


@dataclass(frozen=True)
class Template:
    """An instruction that asks a vision-language model for one question about an image and its answer.

    Attributes:
        id: Unique name, stored in the `template` column.
        type: One of `QUESTION_TYPES`, or `GENERAL` when the model may choose.
        text: The user message that goes with the image.
    """

    id: str
    type: str
    text: str


def _template(type: str, number: int, request: str) -> Template:
    return Template(id=f"{type}-{number}", type=type, text=f"{request} {_FORMAT}")


TEMPLATES: tuple[Template, ...] = (
    _template("presence", 1, "Ask whether an object is in this picture, and answer the question."),
    _template("presence", 2, "Write a yes or no question about what can be seen in this picture, with its answer."),
    _template("count", 1, "Ask how many objects of one kind are in this picture, and answer the question."),
    _template("count", 2, "Write a question about the number of objects in this picture, with its answer."),
    _template("colour", 1, "Ask about a colour in this picture, and answer the question."),
    _template("colour", 2, "Write a question about the colour of something in this picture, with its answer."),
    _template("where", 1, "Ask where an object is in this picture, and answer the question."),
    _template("where", 2, "Write a question about the position of one object in this picture, with its answer."),
    _template("relation", 1, "Ask how two objects in this picture are placed to each other, and answer the question."),
    _template("relation", 2, "Write a question about one object next to another in this picture, with its answer."),
    _template("group", 1, "Ask which objects of one group are in this picture, and answer the question."),
    _template("group", 2, "Write a question about all objects of some category in this picture, with its answer."),
    _template("description", 1, "Ask for a description of this picture, and describe it."),
    _template("description", 2, "Write a request to describe this whole picture, with its answer."),
    _template(GENERAL, 1, "Ask a question about this picture, and answer it."),
    _template(GENERAL, 2, "Write one question about this picture, with its answer."),
)

_BY_ID = {template.id: template for template in TEMPLATES}


def templates_for(type: str) -> tuple[Template, ...]:
    """The templates of one type.

    Raises:
        ValueError: If no template has this type; the message lists the types.
    """
    found = tuple(template for template in TEMPLATES if template.type == type)
    if not found:
        raise ValueError(f"no template of type {type!r}; the types are {', '.join((*QUESTION_TYPES, GENERAL))}")
    return found


def get_template(id: str) -> Template:
    """The template with this id.

    Raises:
        ValueError: If there is none; the message lists the ids.
    """
    if id not in _BY_ID:
        raise ValueError(f"no template {id!r}; the templates are {', '.join(_BY_ID)}")
    return _BY_ID[id]


def format_pair(question: str, answer: str) -> str:
    """A pair in the text format that the templates ask for, which `generation.parsing.parse_pair` reads back."""
    return f"Question: {question}\nAnswer: {answer}"


def split_pair(text: str) -> tuple[str, str]:
    """What `format_pair` was given, whatever words the texts contain; the question is on one line."""
    question, _, answer = text.removeprefix("Question: ").partition("\nAnswer: ")
    return question, answer
