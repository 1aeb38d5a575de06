"""Pairs in a reply that is JSON: found wherever they stand in it, and checked by the user's schema."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import regex
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry

from c3l_hf.prompts.parsing import has_content, json_values, pair_in

__all__ = ["NO_JSON", "PATTERN_SECONDS", "built_in_schema", "check_schema", "json_pairs", "list_key_of"]

# An object or list, not a brace or bracket of other text.
_VALUE = re.compile(r'\{(?=\s*+")|\[(?=\s*+[\[{])')
# A schema can make the comparison of some thousand values, or of references within references, last for ever.
_MOST_VALUES = 1_000
_MOST_REFERENCES = 10_000
# A pattern that is no good can take for ever on a text that somebody chose.
PATTERN_SECONDS = 1.0

NO_JSON = "no JSON"
CUT_OFF = "the JSON is cut off"
NOT_BY_SCHEMA = "the JSON does not fit the schema"


def json_pairs(
    text: str, question: Sequence[str], answer: Sequence[str], schema: str | None, whole: bool
) -> list[tuple[str, str] | str] | str:
    """The pairs of the first JSON value in a text that has any.

    Args:
        text: The text; there may be others around the JSON, and code fences.
        question: Keys of a question, in lower case, the most wanted first.
        answer: The same of an answer.
        schema: A JSON schema that the value has to fit, as text; None for none.
        whole: Whether a value that the text breaks off has no pairs; else those in it that are whole are found.

    Returns:
        The pairs in their order, each object with one of the keys, or the reason why an object is none; or the reason
        why there are none at all.
    """
    cut_off = False
    for value, is_cut in json_values(text, _VALUE, strict=False):
        if is_cut and whole:
            return CUT_OFF
        cut_off |= is_cut
        objects = [] if is_cut else list(_pieces(value, tuple(question), tuple(answer)))
        if objects:
            if schema is not None and not _fits(value, schema):
                return NOT_BY_SCHEMA
            return objects
    return CUT_OFF if cut_off else NO_JSON


def _pieces(value: Any, question: tuple[str, ...], answer: tuple[str, ...]) -> Iterator[tuple[str, str] | str]:
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict) and (piece := pair_in(value, question, answer)):
            yield _texts(*piece)
        elif isinstance(value, dict | list):
            left += reversed(list(value.values()) if isinstance(value, dict) else value)


def _texts(question: str | None, answer: str | None) -> tuple[str, str] | str:
    """As they are: JSON says where a text ends."""
    for name, text in (("question", question), ("answer", answer)):
        if text is None:
            return f"no {name}"
        if not has_content(text):
            return f"empty {name}"
    assert question is not None and answer is not None
    return question.strip(), answer.strip()


def built_in_schema(question: str, answer: str, list_key: str | None, fewest: int, most: int) -> dict[str, Any]:
    """The schema of a reply: an object with a question and an answer, or a list of so many.

    Args:
        question: Key of a question.
        answer: Key of an answer.
        list_key: Key of the list; "" if the list is the whole; None if there is no list.
        fewest: Of the list.
        most: Of the list.
    """
    text = {"type": "string", "minLength": 1}
    pair = {
        "type": "object",
        "properties": {question: text, answer: text},
        "required": [question, answer],
        "additionalProperties": False,
    }
    if list_key is None:
        return pair
    several = {"type": "array", "items": pair, "minItems": fewest, "maxItems": most}
    if not list_key:
        return several
    return {
        "type": "object",
        "properties": {list_key: several},
        "required": [list_key],
        "additionalProperties": False,
    }


def list_key_of(schema: str, question: str) -> str | None:
    """Where a schema has the list of its pairs: a key; "" if it is a list itself; None if it is a pair."""
    content = json.loads(schema)
    if content.get("type") == "array":
        return ""
    properties = content.get("properties", {})
    if question in properties:
        return None
    lists = (name for name, about in properties.items() if isinstance(about, dict) and about.get("type") == "array")
    return next(lists, None)


def check_schema(schema: str) -> None:
    """Raises a ValueError if a text is no JSON schema, or one that looks elsewhere."""
    content = json.loads(schema)
    if not isinstance(content, dict):
        raise ValueError(f"schema is {type(content).__name__}, not a mapping")
    try:
        validator_for(content).check_schema(content)
    except SchemaError as error:
        raise ValueError(f"schema is no JSON schema: {error.message} (at {error.json_path})") from None
    for reference in _references(content):
        if not reference.startswith("#"):
            raise ValueError(f"schema refers to {reference!r}; only what is in the schema itself ('#/...') is read")


def _references(content: Any) -> Iterator[str]:
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from (value[key] for key in ("$ref", "$dynamicRef") if isinstance(value.get(key), str))
        if isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value


class _TooMuch(Exception):
    """A value that a schema takes too long for."""


def _fits(value: Any, schema: str) -> bool:
    left, count = [value], 0
    while left:
        inner = left.pop()
        count += 1
        if isinstance(inner, dict | list):
            left += inner.values() if isinstance(inner, dict) else inner
        if count > _MOST_VALUES:
            return False
    validator, counter = _validator(schema)
    counter.clear()
    try:
        return validator.is_valid(value)
    except (_TooMuch, TimeoutError, RecursionError):
        return False


@lru_cache(maxsize=64)
def _validator(schema: str) -> tuple[Validator, list[None]]:
    """What checks by a schema, in bounded time; and the references that it has followed."""
    content = json.loads(schema)
    base = validator_for(content)
    followed: list[None] = []

    def counted(follow: Any) -> Any:
        def check(*arguments: Any) -> Iterator[ValidationError]:
            followed.append(None)
            if len(followed) > _MOST_REFERENCES:
                raise _TooMuch
            yield from follow(*arguments) or ()

        return check

    keywords = {name: counted(base.VALIDATORS[name]) for name in ("$ref", "$dynamicRef") if name in base.VALIDATORS}
    keywords |= {"pattern": _pattern, "patternProperties": _pattern_properties}
    return extend(base, keywords)(content, registry=Registry()), followed


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not regex.search(pattern, instance, timeout=PATTERN_SECONDS):
        yield ValidationError("does not match")


def _pattern_properties(
    validator: Any, properties: Mapping[str, Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, inner in properties.items():
            for key, value in instance.items():
                if regex.search(pattern, key, timeout=PATTERN_SECONDS):
                    yield from validator.descend(value, inner, path=key, schema_path=pattern)
