"""The messages of the package, read from its sources: what its errors say, and the reasons that rows are kept with."""

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "c3l_hf"

# Calls whose first argument a user reads: errors, and what makes them.
ERRORS = {
    "RunError",
    "UsageError",
    "HubError",
    "HubUnreachable",
    "LicenceError",
    "FolderError",
    "Mismatch",
    "NoReply",
    "RowError",
    "PairParseError",
}
ERRORS |= {"ValueError", "TypeError", "RuntimeError", "NotImplementedError", "FileNotFoundError", "FileExistsError"}
ERRORS |= {"OSError", "AttributeError", "_Problem", "_NotAsked", "_end", "_unreadable", "fail", "drop"}
# Reasons that are no error: constants of these files, and what these functions return or assign.
REASONS: dict[str, tuple[str, ...]] = {
    "data/messages.py": ("message_problem",),
    "files/other_kinds.py": ("_KINDS", "other_than_rows"),
    "files/unreadable.py": ("kind_of",),
    "generation/sampling.py": ("NON_FINITE",),
    "generation/server.py": ("_PROBLEMS", "_STATUS", "_reply"),
    "prompts/json_replies.py": ("NO_JSON", "CUT_OFF", "NOT_BY_SCHEMA"),
    "prompts/parsing.py": ("as_pair", "parse_pair"),
    "prompts/reply_checks.py": ("REFUSAL", "REPETITION", "SAME_TURN", "CONTROL_CHARACTERS", "OTHER_LANGUAGE"),
    "prompts/reply_forms.py": (
        "EMPTY",
        "ONLY_THOUGHTS",
        "TOO_LONG",
        "OTHER_TURNS",
        "FEWER_PAIRS",
        "NO_MATCH",
        "SLOW_PATTERN",
    ),
    "scoring/batch.py": ("reasons",),
    "scoring/embeddings.py": ("status",),
    "scoring/replies.py": ("NO_VERDICT",),
    "selection/label_choice.py": ("TOO_FEW", "_UNFIT", "_IDENTICAL", "_MARGIN", "LEFT_OUT"),
}
HOLE = "…"
_FEW = 3  # fixed words; a message with fewer is looked into: its holes are other texts of the package
_MOST = 40  # variants of one message


@dataclass(frozen=True)
class Message:
    """What a user may read. `text` has `…` for what is filled in."""

    text: str
    file: str
    line: int
    kind: str


@cache
def messages() -> list[Message]:
    """All of the package, without those that only hand on the text of another."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for message in _of_file(file):
            if words_of(message.text):
                found.setdefault((message.text, message.kind), message)
    return list(found.values())


def words_of(text: str) -> list[str]:
    """The words that are always there."""
    return re.findall(r"[^\W\d_][\w'’]*", text)


def _of_file(file: Path) -> Iterator[Message]:
    tree = ast.parse(file.read_text())
    name = file.relative_to(PACKAGE).as_posix()
    scopes: dict[ast.AST, ast.AST] = {}  # a function's nodes, each with the innermost function
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            scopes |= dict.fromkeys(ast.walk(function), function)
    for node in ast.walk(tree):
        kind = _called(node) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and kind in ERRORS:
            place = int(kind in ("_unreadable", "fail") and len(node.args) > 1)
            for argument in node.args[place : place + 1]:
                for text in _texts(argument, tree, scopes.get(node)):
                    yield Message(_plain(text), name, node.lineno, kind)
    for reason in REASONS.get(name, ()):
        values = list(_values(reason, tree))
        assert values, f"{name} has no {reason} any more: mend REASONS in {Path(__file__).name}"
        for value in values:
            for text in _texts(value, tree, scopes.get(value)):
                yield Message(_plain(text), name, value.lineno, "reason of a row")


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def _values(name: str, tree: ast.AST) -> Iterator[ast.expr]:
    """What a name is assigned, and what a function of that name returns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            yield from (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return) and inner.value)
            yield from _values("problem", node)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                yield node.value


def _texts(node: ast.expr, tree: ast.AST, scope: ast.AST | None, depth: int = 0) -> list[str]:
    """The texts that an expression can be, with `…` for what is not known."""

    def inner(part: ast.expr, deeper: int = 0) -> list[str]:
        return _texts(part, tree, scope, depth + deeper)

    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            plain = [part.value if isinstance(part, ast.Constant) else HOLE for part in parts]
            if len(words_of("".join(plain))) >= _FEW or depth > 2:
                return ["".join(plain)]
            choices = [inner(part.value, 1) if isinstance(part, ast.FormattedValue) else [part.value] for part in parts]
            return ["".join(choice) for choice in itertools.islice(itertools.product(*choices), _MOST)]
        case ast.IfExp(body=body, orelse=orelse):
            return [*inner(body), *inner(orelse)]
        case ast.BoolOp(values=values) | ast.Tuple(elts=values) | ast.Dict(values=values):
            return [text for value in values for text in inner(value)]
        case ast.ListComp(elt=value):
            return inner(value)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [f"{one}{other}" for one in inner(left) for other in inner(right)][:_MOST]
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
            return [re.sub(r"\{\w*\}", HOLE, text)]
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="format")):
            found = [text for value in _values(name, tree) for text in inner(value, 1)]
            return [re.sub(r"\{\w*\}", HOLE, text) for text in found] or [HOLE]
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)) if depth < 3:
            local = list(_values(name, scope)) if scope and isinstance(node, ast.Name) else []
            found = [text for value in local or _values(name, tree) for text in inner(value, 1)]
            return [text for text in found if words_of(text)] or [HOLE]
    return [HOLE]


def _plain(text: str) -> str:
    return re.sub(r"(…[ ,;:]*)+…", HOLE, " ".join(text.replace("`", "'").replace("|", "/").split()))
