"""A sandbox for Jinja in which no text can run for long or grow large: files of prompt templates come from others, too.

Jinja's own sandbox keeps a text from Python, but not from counting to 10^15 or doubling a word forty times. Here each
rendering has so many steps: an item of a loop is one, and a text or list that is made has as many as it is long.
"""

import contextlib
import contextvars
import numbers
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from jinja2 import Template as JinjaTemplate
from jinja2 import (
    TemplateSyntaxError,
    Undefined,
    UndefinedError,
    nodes,
    pass_context,
    pass_environment,
    pass_eval_context,
)
from jinja2.filters import do_join, do_replace, do_tojson, make_attrgetter, sync_do_map, sync_do_sum
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from c3l_hf.common.errors import RowError

__all__ = ["LONGEST", "BoundedSandbox", "bounded"]

# Characters of a text, and items of a list, wherever they come up.
LONGEST = 1_000_000
_STEPS = 2 * LONGEST
_left: contextvars.ContextVar[list[int] | None] = contextvars.ContextVar("steps that are left", default=None)

# They repeat a text as often as a number says.
_WITHOUT = ("batch", "center", "format", "indent", "slice", "wordwrap", "urlize", "xmlattr")


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """A context with the steps of one rendering.

    Raises:
        RowError: Within it, if a text of `BoundedSandbox` takes more steps, or makes something that is too long.
    """
    token = _left.set([_STEPS])
    try:
        yield
    finally:
        _left.reset(token)


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """In which a text has neither Python's objects nor the time and memory for more than a prompt."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, **options: Any):
        super().__init__(**options)
        for name in _WITHOUT:
            del self.filters[name]
        self.filters |= {"replace": _replace, "join": _join, "map": _map, "sum": _sum, "tojson": _tojson}
        self.filters |= {"_made": _made, "_counted": _counted}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(one, numbers.Number) for one in (left, right)):
            raise UndefinedError(f"{operator} is for numbers, and ** for nothing")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        # Methods of texts, as `ljust`; filters do what they do.
        return not isinstance(obj, str) and super().is_safe_attribute(obj, attr, value)

    def compiled(self, text: str) -> JinjaTemplate:
        """A text, ready to be rendered within `bounded`.

        Raises:
            TemplateSyntaxError: If it cannot be read, or has a macro, or a loop that calls itself.
        """
        return self.from_string(_Bound().visit(self.parse(text)))


class _Bound(NodeTransformer):
    """Has the steps counted wherever a text loops, or makes something new."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise TemplateSyntaxError("a loop calls itself (recursive); write it out", node.lineno)
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_counted")  # type: ignore[arg-type]  # jinja2 has it as any node
        return node

    def visit_Macro(self, node: nodes.Macro | nodes.CallBlock) -> nodes.Node:
        raise TemplateSyntaxError("there are no macros here; write it out", node.lineno)

    visit_CallBlock = visit_Macro

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:
        self.generic_visit(node)
        node.filter = _filtered(node.filter, "_made")
        return node

    def _making(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "_made")

    visit_Concat = visit_Add = visit_Call = _making

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        return node if node.node is None else _filtered(node, "_made")


def _filtered(node: nodes.Expr | None, name: str) -> Any:
    return nodes.Filter(node, name, [], [], None, None, lineno=1 if node is None else node.lineno)


def _take(steps: int) -> None:
    if (left := _left.get()) is not None:
        left[0] -= steps
        if left[0] < 0:
            raise RowError(f"the text takes more than {_STEPS:,} steps to fill in")


def _check(length: int) -> None:
    if length > LONGEST:
        raise RowError(f"the text is longer than {LONGEST:,} characters")


def _made(value: Any) -> Any:
    if isinstance(value, Sized) and not isinstance(value, Undefined):
        _check(len(value))
        _take(len(value))
    return value


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _take(1)
        yield value


@pass_eval_context
def _replace(context: Any, text: str, old: str, new: str, count: int | None = None) -> str:
    found = str(text).count(str(old))
    _check(len(str(text)) + (found if count is None else min(found, count)) * len(str(new)))
    return do_replace(context, text, old, new, count)


@pass_eval_context
def _join(context: Any, values: Iterable[Any], between: str = "", attribute: Any = None) -> str:
    parts = list(_counted(values))
    if attribute is not None:
        parts = list(map(make_attrgetter(context.environment, attribute), parts))
    _check(len(parts) * len(str(between)))
    length = 0
    for part in parts:
        length += len(part) if isinstance(part, str) else 1
        _check(length)
    return do_join(context, parts, between)


@pass_context
def _map(context: Any, values: Iterable[Any], *how: Any, **options: Any) -> Iterator[Any]:
    return map(_made, sync_do_map(context, values, *how, **options))


@pass_environment
def _sum(environment: Any, values: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
    if not isinstance(start, numbers.Number):
        raise UndefinedError("sum is for numbers")
    return sync_do_sum(environment, _counted(values), attribute, start)


@pass_eval_context
def _tojson(context: Any, value: Any) -> str:
    return do_tojson(context, value)
