"""Files of prompt templates: read and checked before any work, each mistake in one line with its file and line."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from c3l_hf.common.errors import RowError, RunError
from c3l_hf.common.names import listed, nearest, nearest_path
from c3l_hf.files.image import open_image
from c3l_hf.prompts.parsing import IMAGE_MARKER
from c3l_hf.prompts.reply_checks import LANGUAGES, unfit_characters
from c3l_hf.prompts.reply_forms import ReplyForm, Turn, sample_conversation
from c3l_hf.prompts.templates import Example, Template, TemplateSet

if TYPE_CHECKING:
    from transformers import ProcessorMixin

__all__ = ["check_control_tokens", "check_fields", "load_templates", "shipped_sets", "written_control_token"]

_FOLDER = Path(__file__).parent / "template_sets"
_DEFAULTS = ("system", "reply", "language", "turns", "pairs", "weight", "max_new_tokens")
_TOP = ("description", "templates", *_DEFAULTS)
_OF_TEMPLATE = ("id", "type", "user", "examples", *_DEFAULTS)
_OF_REPLY = ("form", "question", "answer", "pattern", "write", "list", "schema")
_LARGEST_FILE = 10_000_000
_LARGEST_NUMBER = 1_000_000
# What can stand in a column, in a file's name, and among the words of a flag.
_NAME = re.compile(r"[^\W_][\w.-]{0,59}")
_SPAN = re.compile(r"([0-9]{1,3})(?:\s*[-–]\s*([0-9]{1,3}))?")
# Control tokens of the common families, for servers whose tokenizer is not here.
_WRITTEN_OUT = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>\s]{1,40}｜>|</?s>|<(?:pad|unk|bos|eos|mask|video|audio)>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_\w{1,20}>|<end_of_utterance>|<row_\d+_col_\d+>|<fake_token_around_image>|<IMG_CONTEXT>"
)


class _Loader(yaml.SafeLoader):
    """Nodes without references to others: a small file with them can stand for an endless one."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"*{event.anchor} refers to another place; write the text out, or give it once at the top",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)


def load_templates(name_or_path: str | Path) -> TemplateSet:
    """The prompt templates of a shipped set, or of a YAML file. `docs/prompts.md` describes the files.

    Args:
        name_or_path: "scenes", "instruct", ...; or a file.

    Raises:
        RunError: If there is no such set or file, or something in it is wrong; one line with the file and the line.
    """
    name = str(name_or_path)
    sets = shipped_sets()
    if name in sets:
        return _shipped(name)
    path = Path(name_or_path)
    if not path.is_file():
        raise RunError(
            f"templates {name}: there is no such file, and the shipped sets are {', '.join(sets)}"
            f"{nearest(name, sets) or nearest_path(path)}"
        )
    return _read(path)


def shipped_sets() -> tuple[str, ...]:
    """The names of the sets that come with the package."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.yaml")))


def check_fields(templates: Iterable[Template], columns: Sequence[str]) -> None:
    """Raises a RunError if a template uses a field that is no column of the images' rows; it names the template's file
    and line."""
    for template in templates:
        for name in sorted(template.fields - set(columns)):
            raise RunError(
                f"{_where(template)} uses the field {name!r}, and the rows of the images have no such column; they "
                f"have {listed(sorted(columns)) or 'none'}{nearest(name, columns)}"
            )


def check_control_tokens(templates: Iterable[Template], processor: "ProcessorMixin | None") -> None:
    """Raises a RunError if a text of a template has a control token written out; it names the template's file and line.

    Args:
        templates: The templates.
        processor: The generator's; None for a server's, of which the tokens of the common families are looked for.
    """
    known = None
    if processor is not None:
        from c3l_hf.models.control_tokens import control_of  # loads transformers, which reading a file does not need

        known = control_of(processor).pattern
    for template in templates:
        for what, text in _texts(template):
            hit = known.search(text) if known else None
            token = hit[0] if hit else None if known else written_control_token(text)
            if token:
                raise RunError(
                    f"{_where(template)} has the control token {token!r} in {what}; write the text without it: the "
                    "model's chat template puts in images, turns and ends by itself"
                )


def written_control_token(text: str) -> str | None:
    """A control token of a common family that is written out in a text; None if there is none."""
    hit = _WRITTEN_OUT.search(text) or IMAGE_MARKER.search(text)
    return hit[0] if hit else None


def _texts(template: Template) -> list[tuple[str, str]]:
    texts = [("user", template.user), ("system", template.system or "")]
    texts.append(("the form of its reply", template.reply.write(sample_conversation(template.turns[0]))))
    for number, example in enumerate(template.examples):
        texts += [(f"examples[{number}]", text) for turn in example.turns for text in turn]
        texts += [(f"examples[{number}]", value) for value in example.fields.values() if isinstance(value, str)]
    return texts


def _where(template: Template) -> str:
    return f"{template.place}: template {template.id!r}" if template.place else f"template {template.id!r}"


@lru_cache(maxsize=16)
def _shipped(name: str) -> TemplateSet:
    return _read(_FOLDER / f"{name}.yaml")


def _read(path: Path) -> TemplateSet:
    return _File(path).template_set()


class _File:
    """One file, whose nodes know their lines."""

    def __init__(self, path: Path):
        self.path = path

    def template_set(self) -> TemplateSet:
        root = self._composed()
        top = self.mapping(root, _TOP, "the file", needed=("templates",))
        if not isinstance(top["templates"], yaml.SequenceNode):
            self.fail(top["templates"], "templates must be a list, each template after a '-'")
        defaults = {key: node for key, node in top.items() if key in _DEFAULTS}
        templates: dict[str, Template] = {}
        for node in top["templates"].value:
            template = self.template(node, defaults)
            if template.id in templates:
                first = (templates[template.id].place or "").rpartition(":")[2]
                self.fail(node, f"the id {template.id!r} is that of the template in line {first}, too")
            templates[template.id] = template
        description = self.text(top["description"], "description") if "description" in top else ""
        try:
            return TemplateSet(self.path.stem, tuple(templates.values()), description)
        except ValueError as error:
            self.fail(top["templates"], str(error))

    def fail(self, node: yaml.Node | None, message: str) -> NoReturn:
        line = 1 if node is None else node.start_mark.line + 1
        raise RunError(f"{self.path}:{line}: {message}")

    def _composed(self) -> yaml.Node:
        if self.path.stat().st_size > _LARGEST_FILE:
            raise RunError(f"{self.path}: this is no file of templates: it has {self.path.stat().st_size:,} bytes")
        content = self.path.read_bytes()
        try:
            root = yaml.compose(content.decode("utf-8-sig"), _Loader)
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise RunError(f"{self.path}:{line}: this is not text in UTF-8") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            words = " ".join(f"{error.context or ''} {error.problem or ''}".split())
            raise RunError(f"{self.path}:{mark.line + 1 if mark else 1}: {words}") from None
        except yaml.reader.ReaderError as error:
            line = content.decode("utf-8-sig")[: error.position].count("\n") + 1
            code = error.character if isinstance(error.character, int) else ord(error.character)
            raise RunError(f"{self.path}:{line}: the character U+{code:04X} is not allowed") from None
        except RecursionError:
            raise RunError(f"{self.path}: too many things within things") from None
        if root is None:
            self.fail(None, "the file is empty; it needs `templates:`")
        return root

    def template(self, node: yaml.Node, defaults: Mapping[str, yaml.Node]) -> Template:
        own = self.mapping(node, _OF_TEMPLATE, "a template", needed=("id", "type", "user"))
        nodes = {**defaults, **own}
        id = self.name(nodes["id"], "id")
        readers = {
            "user": self.text,
            "system": self.optional_text,
            "reply": self.reply,
            "language": self.language,
            "turns": self.span,
            "pairs": self.whole,
            "weight": self.whole,
            "max_new_tokens": self.whole,
            "examples": self.examples,
        }
        values: dict[str, Any] = {key: read(nodes[key], key) for key, read in readers.items() if key in nodes}
        place = f"{self.path}:{node.start_mark.line + 1}"
        try:
            return Template(id=id, type=self.name(nodes["type"], "type"), place=place, **values)
        except ValueError as error:
            key = re.match(r"\w*", str(error))
            self.fail(nodes.get(key[0] if key else "", node), f"template {id!r}: {error}")

    def reply(self, node: yaml.Node, what: str) -> ReplyForm:
        nodes = self.mapping(node, _OF_REPLY, what)
        values: dict[str, Any] = {}
        for key, name in (("form", "form"), ("pattern", "expression"), ("write", "written"), ("list", "list_key")):
            if key in nodes:
                values[name] = self.text(nodes[key], f"{what}.{key}", may_be_empty=key == "list")
        for key in ("question", "answer"):
            if key in nodes:
                values[key] = self.words(nodes[key], f"{what}.{key}")
        if "schema" in nodes:
            values["json_schema"] = json.dumps(self.content(nodes["schema"], f"{what}.schema"), ensure_ascii=False)
        try:
            return ReplyForm(**values)
        except ValueError as error:
            key_at_start = re.match(r"\w*", str(error))
            self.fail(nodes.get(key_at_start[0] if key_at_start else "", node), f"{what}.{error}")

    def examples(self, node: yaml.Node, what: str) -> tuple[Example, ...]:
        if not isinstance(node, yaml.SequenceNode):
            self.fail(node, f"{what} must be a list")
        return tuple(self.example(inner, f"{what}[{number}]") for number, inner in enumerate(node.value))

    def example(self, node: yaml.Node, what: str) -> Example:
        nodes = self.mapping(node, ("image", "fields", "turns"), what, needed=("image", "turns"))
        image = (self.path.parent / self.text(nodes["image"], f"{what}.image")).resolve()
        try:
            open_image({"bytes": None, "path": str(image)})
        except (RowError, OSError) as error:
            self.fail(nodes["image"], f"{what}.image cannot be used: {error}")
        if not isinstance(nodes["turns"], yaml.SequenceNode) or not nodes["turns"].value:
            self.fail(nodes["turns"], f"{what}.turns must be a list of questions and answers")
        turns: list[Turn] = []
        for number, inner in enumerate(nodes["turns"].value):
            where = f"{what}.turns[{number}]"
            turn = self.mapping(inner, ("question", "answer"), where, needed=("question", "answer"))
            question, answer = (self.text(turn[key], f"{where}.{key}") for key in ("question", "answer"))
            turns.append((question, answer))
        fields = self.content(nodes["fields"], f"{what}.fields") if "fields" in nodes else {}
        if not isinstance(fields, dict):
            self.fail(nodes["fields"], f"{what}.fields must be a mapping")
        return Example(image, tuple(turns), fields)

    def mapping(
        self, node: yaml.Node, allowed: Sequence[str], what: str, needed: Sequence[str] = ()
    ) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            self.fail(node, f"{what} must have lines like '{allowed[0]}: ...'")
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            if name not in allowed:
                self.fail(key, f"{what} has no key {name!r}; it has {', '.join(allowed)}{nearest(name, allowed)}")
            if name in found:
                self.fail(key, f"{what} has the key {name!r} twice")
            found[name] = value
        for name in needed:
            if name not in found:
                self.fail(node, f"{what} has no {name}")
        return found

    def text(self, node: yaml.Node, what: str, may_be_empty: bool = False) -> str:
        # As it is written: YAML takes a bare No, 3 or 12:30 for something else.
        text = node.value.strip() if isinstance(node, yaml.ScalarNode) else None
        if text is None or self.is_null(node) or not (text or may_be_empty):
            self.fail(node, f"{what} must be a text")
        if character := unfit_characters(text):
            self.fail(node, f"{what} has the character {character}, which no text may have")
        return text

    def is_null(self, node: yaml.Node) -> bool:
        return node.tag == "tag:yaml.org,2002:null"

    def optional_text(self, node: yaml.Node, what: str) -> str | None:
        return None if self.is_null(node) else self.text(node, what)

    def name(self, node: yaml.Node, what: str) -> str:
        name = self.text(node, what)
        if not _NAME.fullmatch(name):
            self.fail(node, f"{what} is {name[:60]!r}; it must be letters, digits, '-', '_' and '.', at most 60")
        return name

    def language(self, node: yaml.Node, what: str) -> str | None:
        language = self.optional_text(node, what)
        if language is not None and language not in LANGUAGES:
            self.fail(
                node, f"{what} is {language!r}, no code (en, de, zh) of a language that can be told; leave it out"
            )
        return language

    def whole(self, node: yaml.Node, what: str) -> int:
        text = self.text(node, what)
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _LARGEST_NUMBER):
            self.fail(node, f"{what} is {text[:60]!r}; it must be a whole number, at least 1")
        return int(text)

    def span(self, node: yaml.Node, what: str) -> tuple[int, int]:
        text = self.text(node, what)
        match = _SPAN.fullmatch(text)
        if not match:
            self.fail(node, f"{what} is {text[:60]!r}; it must be a number, or a range as 2-4")
        return int(match[1]), int(match[2] or match[1])

    def words(self, node: yaml.Node, what: str) -> tuple[str, ...]:
        if isinstance(node, yaml.SequenceNode):
            return tuple(self.text(inner, what) for inner in node.value)
        return (self.text(node, what),)

    def content(self, node: yaml.Node, what: str) -> Any:
        """Anything that JSON can hold."""
        try:
            value = yaml.SafeLoader("").construct_document(node)
            json.dumps(value, allow_nan=False)
        except (yaml.YAMLError, ValueError, TypeError):
            self.fail(node, f"{what} has something that JSON has not, as a date; put it in quotation marks")
        return value
