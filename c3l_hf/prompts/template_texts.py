"""The texts of prompt templates: Jinja in a sandbox, with the columns of a row as fields."""

import math
import numbers
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template as JinjaTemplate
from jinja2 import TemplateSyntaxError, Undefined, UndefinedError, meta

from c3l_hf.common.errors import RowError
from c3l_hf.prompts.bounded_jinja import LONGEST, BoundedSandbox, bounded
from c3l_hf.prompts.reply_checks import unfit_characters

__all__ = ["OWN_FIELDS", "fields_of", "render", "uses"]

# What a text is told by its template, not by a row.
OWN_FIELDS = frozenset({"turns", "pairs"})


class _Absent(Undefined):
    """A field without a value: false in `{% if caption %}`, an error where it would be put out."""

    def _fail(self, *_: Any, **__: Any) -> NoReturn:
        raise UndefinedError(f"field {self._undefined_name!r} has no value")

    __str__ = __iter__ = __len__ = __eq__ = __ne__ = _fail  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


def _put_out(value: Any) -> Any:
    """What a text takes: texts and numbers. Python's words for lists, images and nothing are no prompt."""
    if isinstance(value, Undefined):
        return str(value)
    if not isinstance(value, str | numbers.Number):
        raise UndefinedError(f"a {type(value).__name__} is no text")
    return value


@lru_cache(maxsize=1)
def _environment() -> BoundedSandbox:
    environment = BoundedSandbox(undefined=_Absent, finalize=_put_out, trim_blocks=True, lstrip_blocks=True)
    # Others are names that a column may have.
    environment.globals = {name: environment.globals[name] for name in ("range", "namespace")}
    return environment


@lru_cache(maxsize=1024)
def _compiled(text: str) -> JinjaTemplate:
    return _environment().compiled(text)


def fields_of(text: str) -> frozenset[str]:
    """The columns that a text uses.

    Raises:
        ValueError: If the text cannot be read.
    """
    return _names_in(text) - OWN_FIELDS - _environment().globals.keys()


def uses(text: str, name: str) -> bool:
    """Whether a text uses a field, of a row or of `OWN_FIELDS`."""
    return name in _names_in(text)


@lru_cache(maxsize=1024)
def _names_in(text: str) -> frozenset[str]:
    try:
        _compiled(text)
        parsed = _environment().parse(text)
    except TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno} of the text cannot be read as Jinja: {error.message}") from None
    except Exception as error:  # a text that Python cannot compile
        raise ValueError(f"the text cannot be read as Jinja: {error}") from None
    if any(True for _ in meta.find_referenced_templates(parsed)):
        raise ValueError("the text takes in another (include, import, extends), and there is none; write it out")
    return frozenset(meta.find_undeclared_variables(parsed))


def render(text: str, values: Mapping[str, Any], **own: Any) -> str:
    """A text with the values of a row.

    Args:
        text: The Jinja text.
        values: Column → value; others than the text uses may be there.
        own: Of `OWN_FIELDS`.

    Returns:
        The text, without blanks around it.

    Raises:
        RowError: If a field that is put out has no value (null, missing, not a number, blanks), or one that is no text;
            or if there is no text, or one with control characters.
    """
    context = {name: value for name in fields_of(text) if not _is_missing(value := values.get(name))}
    try:
        rendered = ""
        with bounded():
            for piece in _compiled(text).generate(**context, **own):
                rendered += piece
                if len(rendered) > LONGEST:
                    raise RowError(f"the text is longer than {LONGEST:,} characters")
        rendered = rendered.strip()
    except RowError:
        raise
    except UndefinedError as error:
        raise RowError(str(error)) from None
    except Exception as error:  # whatever the filters of a text make of a row's values
        raise RowError(f"the text cannot be filled in ({type(error).__name__})") from error
    if not rendered:
        raise RowError("the text is empty")
    if character := unfit_characters(rendered):
        raise RowError(f"the text has a control character ({character})")
    return rendered


def _is_missing(value: Any) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or isinstance(value, str) and not value.strip()
