"""Which modules of ours another one loads: read from the files, as importing them takes seconds."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


def loaded_by(name: str) -> set[str]:
    """The modules with code that a module loads by the imports at the top of files, itself among them."""
    found, open_ = set[str](), [name]
    while open_:
        module = open_.pop()
        if module not in found:
            found.add(module)
            open_ += imports_of(module)
    return {module for module in found if not file_of(module).name == "__init__.py"}


def file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def imports_of(module: str) -> tuple[str, ...]:
    names = []
    for node in ast.parse(file_of(module).read_text()).body:  # not what functions import, or `if TYPE_CHECKING`
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "c3l_hf":
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.split(".")[0] == "c3l_hf"]
    return tuple(name for name in names if file_of(name).is_file())
