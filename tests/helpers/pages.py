"""The pages of the documentation: their code blocks, headings and links."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
# All that people read; `recipes/` has the experiments' own.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCED = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        place: Its page and the line of its first line.
        language: As the fence has it. `python` is run by a test; `py` needs a network or a large model, and is not.
    """

    place: str
    language: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path, *languages: str) -> list[Block]:
    text = page.read_text("utf-8")
    found = []
    for match in _FENCED.finditer(text):
        indent, language, content = match.groups()
        line = text.count("\n", 0, match.start(3)) + 1
        if not languages or language in languages:
            content = "".join(part.removeprefix(indent) for part in content.splitlines(keepends=True))
            found.append(Block(f"{name_of(page)}:{line}", language, content))
    return found


def prose_of(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCED.sub("", page.read_text("utf-8"))


def links_of(page: Path) -> Iterator[tuple[str, str]]:
    """(target, anchor) of its links that are no addresses; the target is empty if it is the page itself."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if "://" not in target and not target.startswith("mailto:"):
            yield target.partition("#")[0], target.partition("#")[2]


def anchors_of(page: Path) -> set[str]:
    """The anchors of its headings, as forges and the site make them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def commands_of(page: Path) -> list[Block]:
    """The lines of its bash blocks, those that end in a backslash joined with the next ones."""
    found = []
    for block in blocks_of(page, "bash"):
        name, line = block.place.split(":")
        start, joined = int(line), ""
        for number, text in enumerate(block.text.splitlines(), int(line)):
            start = start if joined else number
            joined += text.removesuffix("\\")
            if not text.endswith("\\"):
                if joined.strip() and not joined.lstrip().startswith("#"):
                    found.append(Block(f"{name}:{start}", "bash", joined))
                joined = ""
    return found


def imports_of(block: Block) -> Iterator[tuple[str, Any]]:
    """(name as the code has it, what it is) of all that a block imports from the package."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "c3l_hf":
            module = importlib.import_module(node.module)
            for alias in node.names:
                try:
                    found = getattr(module, alias.name)
                except AttributeError:
                    found = importlib.import_module(f"{node.module}.{alias.name}")
                yield alias.asname or alias.name, found


CODE = [block for page in PAGES for block in blocks_of(page, "python", "py")]
